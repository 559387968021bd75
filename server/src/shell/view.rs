//! How results are shown: what the format, the terminal, and the commands `\x`, `\rows`, `\pager` and `\timing` set.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::config::OutputFormat;

/// How many rows of a result a terminal shows, unless `\rows` says otherwise.
const TERMINAL_ROWS: u64 = 1000;

/// Whether a row is shown with one line per column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expanded {
    On,
    Off,
    /// Where a table would be wider than the terminal.
    Auto,
}

/// How a table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) expanded: Expanded,
    /// The width of the terminal; none where no person reads.
    pub(super) screen: Option<usize>,
    /// Whether rows wider than the terminal are cut.
    pub(super) cut: bool,
}

impl Style {
    /// Tables with every value whole, for files and other programs.
    pub(super) const WHOLE: Self = Self {
        expanded: Expanded::Off,
        screen: None,
        cut: false,
    };
}

/// How results are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) format: OutputFormat,
    /// Whether the time of each statement is told.
    pub(super) timing: bool,
    pub(super) expanded: Expanded,
    /// The most rows shown of a result; none for all.
    pub(super) rows: Option<u64>,
    /// Whether results go through the user's pager, where there is a terminal.
    pub(super) pager: bool,
    /// The width of the terminal at which a person types and reads.
    pub(super) terminal: Option<usize>,
}

impl View {
    /// Everything, whole: for `-c`, `-f` and pipes.
    pub(super) fn of_script(format: OutputFormat) -> Self {
        Self {
            format,
            timing: false,
            expanded: Style::WHOLE.expanded,
            rows: None,
            pager: false,
            terminal: None,
        }
    }

    /// For a person who types; `reads` is whether the results go to the terminal too. The width comes with the prompt.
    pub(super) fn of_session(format: OutputFormat, reads: bool) -> Self {
        Self {
            timing: true,
            rows: reads.then_some(TERMINAL_ROWS),
            ..Self::of_script(format)
        }
    }

    /// A pager scrolls sideways, so that nothing must be cut for it.
    pub(super) fn style(&self) -> Style {
        Style {
            expanded: self.expanded,
            screen: self.terminal,
            cut: self.terminal.is_some() && !self.pager,
        }
    }

    pub(super) fn uses_pager(&self) -> bool {
        self.pager && self.terminal.is_some()
    }

    /// The most rows to show of the result of `sql`. The other formats are for programs, which must get every row, and
    /// a statement that limits itself gets what it asks for.
    pub(super) fn row_limit(&self, sql: &str) -> Option<u64> {
        self.rows
            .filter(|_| self.format == OutputFormat::Table && !limits_itself(sql))
    }

    /// `\x`; tells what it is now, as do the other settings.
    pub(super) fn set_expanded(&mut self, expanded: Option<Expanded>) -> String {
        let toggled = match self.expanded {
            Expanded::Off => Expanded::On,
            Expanded::On | Expanded::Auto => Expanded::Off,
        };
        self.expanded = expanded.unwrap_or(toggled);
        let now = match self.expanded {
            Expanded::On => "on",
            Expanded::Off => "off",
            Expanded::Auto => "automatic",
        };
        format!("expanded display is {now}")
    }

    /// `\rows`.
    pub(super) fn set_rows(&mut self, rows: Option<u64>) -> String {
        self.rows = rows;
        match rows {
            Some(1) => "at most 1 row of a result is shown".to_owned(),
            Some(rows) => format!("at most {rows} rows of a result are shown"),
            None => "all rows of a result are shown".to_owned(),
        }
    }

    /// `\pager`.
    pub(super) fn set_pager(&mut self, pager: Option<bool>) -> String {
        self.pager = pager.unwrap_or(!self.pager);
        format!("the pager is {}", on_or_off(self.pager))
    }

    /// `\timing`.
    pub(super) fn set_timing(&mut self, timing: Option<bool>) -> String {
        self.timing = timing.unwrap_or(!self.timing);
        format!("timing is {}", on_or_off(self.timing))
    }
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// Whether the statement, and not only a query inside it, has a LIMIT or FETCH.
fn limits_itself(sql: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect, sql).tokenize() else {
        return false;
    };
    let mut depth = 0_i64;
    tokens.iter().any(|token| {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        // A quoted name is no keyword.
        depth == 0 && matches!(token, Token::Word(word) if matches!(word.keyword, Keyword::LIMIT | Keyword::FETCH))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limit_is_that_of_the_whole_statement() {
        for sql in [
            "SELECT * FROM t LIMIT 5000",
            "select * from t order by 1 fetch first 5 rows only",
            "SELECT (SELECT 1) FROM t limit all",
        ] {
            assert!(limits_itself(sql), "{sql}");
        }
        for sql in [
            "SELECT * FROM t",
            "SELECT * FROM (SELECT * FROM t LIMIT 5) CROSS JOIN t",
            "SELECT \"limit\" FROM t -- limit",
            "SELECT 'limit' FROM t",
            "SELECT 'open",
        ] {
            assert!(!limits_itself(sql), "{sql}");
        }
    }

    #[test]
    fn only_tables_at_a_terminal_are_bounded() {
        let sql = "SELECT * FROM t";
        let session = View::of_session(OutputFormat::Table, true);
        assert_eq!(session.row_limit(sql), Some(1000));
        assert_eq!(session.row_limit("SELECT * FROM t LIMIT 2000"), None);
        assert_eq!(View::of_session(OutputFormat::Table, false).row_limit(sql), None);
        assert_eq!(View::of_session(OutputFormat::Csv, true).row_limit(sql), None);
        assert_eq!(View::of_script(OutputFormat::Table).row_limit(sql), None);
    }

    #[test]
    fn only_a_terminal_without_pager_is_cut_for() {
        let script = View::of_script(OutputFormat::Table);
        assert_eq!(script.style(), Style::WHOLE);
        let redirected = View::of_session(OutputFormat::Table, false);
        assert_eq!(redirected.style(), Style::WHOLE);
        let session = View {
            terminal: Some(80),
            ..View::of_session(OutputFormat::Table, true)
        };
        assert!(session.style().cut && !session.uses_pager());
        let paged = View { pager: true, ..session };
        assert!(!paged.style().cut && paged.uses_pager());
        let scripted = View { pager: true, ..script };
        assert!(!scripted.uses_pager(), "a pager needs a terminal");
    }

    #[test]
    fn settings_toggle_or_are_set() {
        let mut view = View::of_session(OutputFormat::Table, true);
        assert_eq!(view.set_expanded(None), "expanded display is on");
        assert_eq!(view.set_expanded(Some(Expanded::Auto)), "expanded display is automatic");
        assert_eq!(view.set_expanded(None), "expanded display is off");
        assert_eq!(view.set_pager(None), "the pager is on");
        assert_eq!(view.set_pager(Some(true)), "the pager is on");
        assert_eq!(view.set_timing(None), "timing is off");
        assert_eq!(view.set_rows(Some(7)), "at most 7 rows of a result are shown");
        assert_eq!(view.row_limit("SELECT 1"), Some(7));
        assert_eq!(view.set_rows(None), "all rows of a result are shown");
        assert_eq!(view.row_limit("SELECT 1"), None);
    }
}
