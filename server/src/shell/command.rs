//! The shell's own commands: lines that begin with a backslash.

/// What `\?` prints.
pub(super) const HELP: &str = "\
Statements end with a semicolon and may span lines. Ctrl-C cancels the query that runs, Ctrl-D leaves.

  \\d              tables and views
  \\dt             tables
  \\d NAME         columns of a table or view
  \\timing [on|off]  time of each statement
  \\?              this text
  \\q              leave
";

/// A parsed command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// SQL that the server runs.
    Sql(String),
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
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, argument) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(name, rest)| (name, rest.trim()));
        match (name, argument) {
            ("\\d", "") => Ok(Self::Sql(format!("{RELATIONS} ORDER BY 1, 2"))),
            ("\\dt", "") => Ok(Self::Sql(format!(
                "{RELATIONS} AND table_type = 'BASE TABLE' ORDER BY 1, 2"
            ))),
            ("\\d", relation) => Ok(Self::Sql(format!("DESCRIBE {relation}"))),
            ("\\timing", "") => Ok(Self::Timing(None)),
            ("\\timing", "on") => Ok(Self::Timing(Some(true))),
            ("\\timing", "off") => Ok(Self::Timing(Some(false))),
            ("\\?", "") => Ok(Self::Help),
            ("\\q", "") => Ok(Self::Quit),
            _ => Err(format!("{line:?} is no command of the shell; \\? lists them")),
        }
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
        assert_eq!(listed.len(), 6);
        for line in listed {
            let command = format!("\\{}", line.split("  ").next().unwrap().replace("[on|off]", "on"));
            assert!(Command::parse(&command).is_ok(), "{command}");
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
    fn timing_toggles_or_sets() {
        assert_eq!(Command::parse("\\timing"), Ok(Command::Timing(None)));
        assert_eq!(Command::parse("\\timing off"), Ok(Command::Timing(Some(false))));
    }

    #[test]
    fn unknown_command_error_names_help() {
        for line in ["\\x", "\\timing maybe", "\\q now", "\\"] {
            assert!(Command::parse(line).unwrap_err().contains("\\?"), "{line}");
        }
    }
}
