//! One input at the prompt: lines, until the last statement in them has ended.

use super::{command, split};

const PROMPT: &str = "squadron> ";

/// The prompt of every further line; as wide as the first, so that the lines align.
const CONTINUATION: &str = "       -> ";

const UNFINISHED: &str = "a statement is not finished: a semicolon ends it, Ctrl-C drops it";

/// Reads lines with `read_line`, which shows the prompt that it is given, until an input can be run.
pub(super) fn read<E>(mut read_line: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
    let mut input = read_line(PROMPT)?;
    while !can_run(&input) {
        let line = read_line(CONTINUATION)?;
        if expects_a_command(&line) {
            eprintln!("{UNFINISHED}");
        }
        input.push('\n');
        input.push_str(&line);
    }
    Ok(input)
}

/// Whether an input is a lone word that means a command, or holds no unfinished statement.
fn can_run(input: &str) -> bool {
    command::meant_by(input).is_some() || split::is_complete(input)
}

/// Whether a line within a statement looks like a command: the user may not know that the statement is unfinished.
fn expects_a_command(line: &str) -> bool {
    command::meant_by(line).is_some() || line.trim_start().starts_with('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The input that typed lines make, and the prompts that were shown; no input if the lines ran out.
    fn type_lines(lines: &[&str]) -> (Option<String>, Vec<String>) {
        let mut prompts = Vec::new();
        let mut lines = lines.iter();
        let input = read(|prompt| {
            prompts.push(prompt.to_owned());
            lines.next().map(|line| (*line).to_owned()).ok_or(())
        });
        (input.ok(), prompts)
    }

    #[test]
    fn unfinished_statement_has_its_own_prompt() {
        let (input, prompts) = type_lines(&["SELECT 'a", ";", "' AS b", ";", "SELECT 2;"]);
        assert_eq!(input.as_deref(), Some("SELECT 'a\n;\n' AS b\n;"));
        assert_eq!(prompts, [PROMPT, CONTINUATION, CONTINUATION, CONTINUATION]);
        assert_eq!(PROMPT.len(), CONTINUATION.len());
    }

    #[test]
    fn finished_line_is_an_input() {
        for line in [
            "",
            "SELECT 1;",
            "SELECT 1; SELECT 2;",
            "\\d lineitem",
            "help",
            "Quit",
            "exit;",
        ] {
            assert_eq!(
                type_lines(&[line]),
                (Some(line.to_owned()), vec![PROMPT.to_owned()]),
                "{line}"
            );
        }
    }

    #[test]
    fn words_inside_a_statement_are_part_of_it() {
        let (input, prompts) = type_lines(&["SELECT", "exit", "FROM t;"]);
        assert_eq!(input.as_deref(), Some("SELECT\nexit\nFROM t;"));
        assert_eq!(prompts.len(), 3);
    }

    #[test]
    fn end_of_lines_ends_an_unfinished_input() {
        assert_eq!(type_lines(&["SELECT 1"]).0, None);
    }

    #[test]
    fn hint_is_for_lines_that_look_like_commands() {
        for line in ["exit", "QUIT;", "help", "\\q", "  \\?"] {
            assert!(expects_a_command(line), "{line}");
        }
        for line in ["exit, 1", "FROM t", ""] {
            assert!(!expects_a_command(line), "{line}");
        }
    }
}
