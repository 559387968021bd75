//! The shell's own commands: lines that begin with a backslash, and the words `help`, `exit` and `quit` at a prompt.

use super::view::Expanded;

/// What `\?` prints.
pub(super) const HELP: &str = "\
Statements end with a semicolon and may span lines. Ctrl-C drops an unfinished statement or cancels the query that
runs, Ctrl-D leaves. Alone at a prompt, help, exit and quit work too.

  \\d                tables and views
  \\dt               tables
  \\d NAME           columns of a table or view
  \\x [on|off|auto]  one line per column; auto: where a table is wider than the terminal
  \\rows N|all       how many rows of a result are shown, unless the statement has a LIMIT
  \\pager [on|off]   results through $PAGER
  \\timing [on|off]  time of each statement
  \\?                this text
  \\q                leave
";

/// A parsed command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// SQL that the server runs.
    Sql(String),
    /// `\x`: sets it, or toggles it without a value.
    Expanded(Option<Expanded>),
    /// `\rows`: the most rows to show; none for all.
    Rows(Option<u64>),
    /// `\pager`: sets it, or toggles it without a value.
    Pager(Option<bool>),
    /// `\timing`: sets it, or toggles it without a value.
    Timing(Option<bool>),
    /// `\?`.
    Help,
    /// `\q`.
    Quit,
}

const RELATIONS: &str = "SELECT table_schema AS \"schema\", table_name AS \"name\", \
     CASE table_type WHEN 'BASE TABLE' THEN 'table' ELSE lower(table_type) END AS \"type\" \
     FROM information_schema.tables WHERE table_schema <> 'information_schema'";

impl Command {
    /// Parses a line that begins with a backslash.
    ///
    /// # Errors
    ///
    /// A sentence that names the line and `\?`.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let line = without_end(line);
        let (name, argument) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(name, rest)| (name, rest.trim()));
        let command = match (name, argument) {
            ("\\d", "") => Some(Self::Sql(format!("{RELATIONS} ORDER BY 1, 2"))),
            ("\\dt", "") => Some(Self::Sql(format!(
                "{RELATIONS} AND table_type = 'BASE TABLE' ORDER BY 1, 2"
            ))),
            ("\\d", relation) => Some(Self::Sql(format!("DESCRIBE {relation}"))),
            ("\\x", "auto") => Some(Self::Expanded(Some(Expanded::Auto))),
            ("\\x", argument) => parse_switch(argument)
                .map(|value| Self::Expanded(value.map(|on| if on { Expanded::On } else { Expanded::Off }))),
            ("\\rows", argument) => parse_rows(argument).map(Self::Rows),
            ("\\pager", argument) => parse_switch(argument).map(Self::Pager),
            ("\\timing", argument) => parse_switch(argument).map(Self::Timing),
            ("\\?", "") => Some(Self::Help),
            ("\\q", "") => Some(Self::Quit),
            _ => None,
        };
        command.ok_or_else(|| format!("{line:?} is no command of the shell; \\? lists them"))
    }
}

/// The command that a word means which stands alone in the first line of an input.
pub(super) fn meant_by(line: &str) -> Option<&'static str> {
    let word = without_end(line);
    let is = |other: &str| word.eq_ignore_ascii_case(other);
    if is("help") {
        Some("\\?")
    } else if is("exit") || is("quit") {
        Some("\\q")
    } else {
        None
    }
}

/// A line without the semicolon and the blanks that people add out of habit.
fn without_end(line: &str) -> &str {
    line.trim().trim_end_matches(';').trim_end()
}

/// `on`, `off` or nothing; the outer `None` for anything else.
fn parse_switch(argument: &str) -> Option<Option<bool>> {
    match argument {
        "" => Some(None),
        "on" => Some(Some(true)),
        "off" => Some(Some(false)),
        _ => None,
    }
}

/// A number from 1, or `all`, which is the inner `None`.
fn parse_rows(argument: &str) -> Option<Option<u64>> {
    match argument {
        "all" => Some(None),
        number => number.parse::<u64>().ok().filter(|rows| *rows > 0).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_command_parses() {
        let listed: Vec<_> = HELP
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix('\\'))
            .collect();
        assert_eq!(listed.len(), 9);
        for line in listed {
            let usage = line.split("  ").next().unwrap();
            let command = usage
                .replace("[on|off|auto]", "auto")
                .replace("[on|off]", "on")
                .replace("N|all", "7");
            assert!(Command::parse(&format!("\\{command}")).is_ok(), "{command}");
        }
    }

    #[test]
    fn describe_keeps_names_as_written() {
        assert_eq!(
            Command::parse("\\d  \"My Table\" ;"),
            Ok(Command::Sql("DESCRIBE \"My Table\"".into()))
        );
    }

    #[test]
    fn switches_toggle_or_set() {
        assert_eq!(Command::parse("\\timing"), Ok(Command::Timing(None)));
        assert_eq!(Command::parse("\\timing off"), Ok(Command::Timing(Some(false))));
        assert_eq!(Command::parse("\\pager on"), Ok(Command::Pager(Some(true))));
        assert_eq!(Command::parse("\\x"), Ok(Command::Expanded(None)));
        assert_eq!(Command::parse("\\x off"), Ok(Command::Expanded(Some(Expanded::Off))));
    }

    #[test]
    fn rows_are_a_number_or_all() {
        assert_eq!(Command::parse("\\rows 50;"), Ok(Command::Rows(Some(50))));
        assert_eq!(Command::parse("\\rows all"), Ok(Command::Rows(None)));
    }

    #[test]
    fn unknown_command_error_names_help() {
        for line in [
            "\\y",
            "\\x maybe",
            "\\rows",
            "\\rows 0",
            "\\rows -1",
            "\\timing maybe",
            "\\q now",
            "\\",
        ] {
            assert!(Command::parse(line).unwrap_err().contains("\\?"), "{line}");
        }
    }

    #[test]
    fn lone_words_mean_commands() {
        for (line, command) in [
            ("help", Some("\\?")),
            (" Help ; ", Some("\\?")),
            ("EXIT", Some("\\q")),
            ("quit;", Some("\\q")),
            ("help me", None),
            ("exit\nselect 1", None),
            ("select quit", None),
            ("", None),
        ] {
            assert_eq!(meant_by(line), command, "{line:?}");
        }
    }
}
