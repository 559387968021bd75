//! Cuts a script into statements at the semicolons that end them, and tells whether typed input is complete.
//!
//! A semicolon inside a string, a quoted name, a dollar-quoted string or a comment ends no statement. The tokens are
//! those of the server's SQL (a test compares both). Scanning them here, in one pass, lets the shell send each
//! statement as it was written, and go on with a long file without tokenising the rest again.

/// A statement for the server or a command for the shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// The statement without its semicolon, or the command with its backslash.
    pub(super) text: &'a str,
    /// The line of the script on which it starts, from 1.
    pub(super) line: usize,
    /// Whether the server or the shell runs it.
    pub(super) kind: Kind,
}

/// What runs a [`Piece`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server.
    Sql,
    /// The shell: a line that begins with a backslash.
    Command,
}

/// The pieces of a script, in order, without statements that are empty or hold only comments.
pub(super) fn pieces(script: &str) -> Vec<Piece<'_>> {
    let mut scanner = Scanner::new(script);
    std::iter::from_fn(|| scanner.next_piece().map(|(piece, _)| piece)).collect()
}

/// Whether `input` can be run as it is: it is empty, a command, or its last statement ends in a semicolon.
pub(super) fn is_complete(input: &str) -> bool {
    let mut scanner = Scanner::new(input);
    let mut ended = true;
    while let Some((_, end)) = scanner.next_piece() {
        ended = end == End::Marked;
    }
    ended && !scanner.inside_token
}

/// What ended a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A semicolon, or the end of a command's line.
    Marked,
    /// The end of the text.
    OutOfText,
}

/// Reads a script once, from start to end.
struct Scanner<'a> {
    script: &'a str,
    at: usize,
    /// The line of position `counted`; lines are counted only up to the start of a piece.
    line: usize,
    counted: usize,
    /// Whether the text ended within a string, a quoted name or a comment.
    inside_token: bool,
}

impl<'a> Scanner<'a> {
    fn new(script: &'a str) -> Self {
        Self {
            script,
            at: 0,
            line: 1,
            counted: 0,
            inside_token: false,
        }
    }

    fn next_piece(&mut self) -> Option<(Piece<'a>, End)> {
        self.skip_to_start()?;
        let start = self.at;
        self.line += self.script[self.counted..start].matches('\n').count();
        self.counted = start;
        let (kind, stop, end) = if self.peek(0) == Some(b'\\') {
            self.skip_until(|byte| byte == b'\n');
            (Kind::Command, self.at, End::Marked)
        } else {
            let end = self.skip_statement();
            let stop = if end == End::Marked { self.at - 1 } else { self.at };
            (Kind::Sql, stop, end)
        };
        let text = self.script[start..stop].trim_end();
        Some((
            Piece {
                text,
                line: self.line,
                kind,
            },
            end,
        ))
    }

    /// Moves to the first character of a statement or command; `None` at the end of the text.
    fn skip_to_start(&mut self) -> Option<()> {
        loop {
            match self.peek(0)? {
                b';' => self.at += 1,
                b'-' if self.peek(1) == Some(b'-') => self.skip_token(),
                b'/' if self.peek(1) == Some(b'*') => self.skip_token(),
                _ => match self.script[self.at..].chars().next()? {
                    space if space.is_whitespace() => self.at += space.len_utf8(),
                    _ => return Some(()),
                },
            }
        }
    }

    /// Moves behind the semicolon that ends the statement, or to the end of the text.
    fn skip_statement(&mut self) -> End {
        while let Some(byte) = self.peek(0) {
            if byte == b';' {
                self.at += 1;
                return End::Marked;
            }
            self.skip_token();
        }
        End::OutOfText
    }

    fn skip_token(&mut self) {
        match (self.peek(0), self.peek(1)) {
            (Some(b'-'), Some(b'-')) => self.skip_until(|byte| byte == b'\n'),
            (Some(b'/'), Some(b'*')) => self.skip_block_comment(),
            (Some(b'\''), _) => self.skip_quoted(b'\'', false),
            (Some(quote @ (b'"' | b'`')), _) => self.skip_quoted(quote, false),
            (Some(b'$'), _) => self.skip_dollar(),
            (Some(byte), _) if is_word(byte) && !byte.is_ascii_digit() => self.skip_word(),
            _ => self.at += 1,
        }
    }

    /// Skips a word, and the string behind it when the word is the prefix of one: `E'..'`, `Q'[..]'`.
    fn skip_word(&mut self) {
        let start = self.at;
        self.skip_until(|byte| !is_word(byte) && byte != b'$');
        if self.peek(0) == Some(b'\'') {
            match self.script[start..self.at].to_ascii_lowercase().as_str() {
                "e" => self.skip_quoted(b'\'', true),
                "q" | "nq" => self.skip_delimited(),
                _ => {}
            }
        }
    }

    /// Skips a quoted string or name; a doubled quote, or one escaped by a backslash, stands for itself.
    fn skip_quoted(&mut self, quote: u8, backslash: bool) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            if byte == b'\\' && backslash {
                self.at += 1;
            } else if byte == quote {
                if self.peek(0) != Some(quote) {
                    return;
                }
                self.at += 1;
            }
        }
        self.end_inside_token();
    }

    /// Skips `'[ .. ]'` behind the prefix `Q`.
    fn skip_delimited(&mut self) {
        let rest = &self.script[self.at + 1..];
        let Some(open) = rest.chars().next() else {
            return self.end_inside_token();
        };
        let close = match open {
            '[' => ']',
            '{' => '}',
            '<' => '>',
            '(' => ')',
            other => other,
        };
        match rest[open.len_utf8()..].find(&format!("{close}'")) {
            Some(found) => self.at += 1 + open.len_utf8() + found + close.len_utf8() + 1,
            None => self.end_inside_token(),
        }
    }

    /// Skips a dollar-quoted string `$tag$ .. $tag$`, or a placeholder such as `$1`.
    fn skip_dollar(&mut self) {
        let start = self.at;
        self.at += 1;
        self.skip_until(|byte| !is_word(byte) || matches!(byte, b'#' | b'@'));
        if self.peek(0) != Some(b'$') {
            return;
        }
        self.at += 1;
        let delimiter = &self.script[start..self.at];
        match self.script[self.at..].find(delimiter) {
            Some(found) => self.at += found + delimiter.len(),
            None => self.end_inside_token(),
        }
    }

    /// Skips a comment; comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.script.len() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.end_inside_token();
    }

    fn skip_until(&mut self, stop: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(|byte| !stop(byte)) {
            self.at += 1;
        }
    }

    fn end_inside_token(&mut self) {
        self.at = self.script.len();
        self.inside_token = true;
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.script.as_bytes().get(self.at + ahead).copied()
    }
}

/// Whether a byte may be part of a name; bytes of characters outside ASCII may.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'#' | b'@') || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        pieces(script).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn semicolons_end_every_statement() {
        assert_eq!(
            texts("select 1; select 2 ;;\n select 3"),
            ["select 1", "select 2", "select 3"]
        );
        assert_eq!(texts("  ;; \n"), Vec::<&str>::new());
    }

    #[test]
    fn semicolons_inside_tokens_end_nothing() {
        for statement in [
            "select ';'",
            "select 'it''s; mine'",
            "select 'a\\'",
            "select E'a\\';'",
            "select \"a;\"\"b\"",
            "select `a;b`",
            "select $$a;b$$",
            "select $tag$ a; $$ ; $tag$",
            "select $1, 'x;'",
            "select q'[a';b]'",
            "select /* ; /* ; */ ; */ 1",
            "select 1 -- ; not here\n+ 2",
            "select 'ü;' as ü",
            "select type'x;'",
        ] {
            let script = format!("{statement}; select 2");
            assert_eq!(texts(&script), [statement, "select 2"], "{script}");
        }
    }

    #[test]
    fn scanner_agrees_with_server_tokenizer() {
        let script = "select 'a;''b', e'\\';', \"c;\", `d;`, $$e;$$, $x$f;$x$, $1 /* ; /* ; */ */ -- ;\n, q'{g;}', Q'!h;!', n'i;'; \
                      select a$b, \"é;\"; ;select 7 / 2 - -1;";
        let tokens = Tokenizer::new(&GenericDialect, script).tokenize().unwrap();
        let expected = tokens
            .split(|token| *token == Token::SemiColon)
            .filter(|statement| statement.iter().any(|token| !matches!(token, Token::Whitespace(_))));
        let found = pieces(script);
        assert_eq!(found.len(), expected.clone().count());
        for (piece, expected) in found.iter().zip(expected) {
            let tokens = Tokenizer::new(&GenericDialect, piece.text).tokenize().unwrap();
            let solid = |tokens: &[Token]| -> Vec<Token> {
                tokens
                    .iter()
                    .filter(|token| !matches!(token, Token::Whitespace(_)))
                    .cloned()
                    .collect()
            };
            assert_eq!(solid(&tokens), solid(expected), "{}", piece.text);
        }
    }

    #[test]
    fn comments_alone_are_no_statement() {
        assert_eq!(texts("select 1; -- done\n/* really */"), ["select 1"]);
    }

    #[test]
    fn piece_tells_its_first_line() {
        let script = "-- head\nselect 1;\n\n\\d\nselect\n2;select 3";
        let found: Vec<_> = pieces(script)
            .into_iter()
            .map(|piece| (piece.line, piece.kind))
            .collect();
        assert_eq!(
            found,
            [(2, Kind::Sql), (4, Kind::Command), (5, Kind::Sql), (6, Kind::Sql)]
        );
    }

    #[test]
    fn command_is_a_single_line() {
        assert_eq!(texts("\\timing off\nselect 1;"), ["\\timing off", "select 1"]);
        assert_eq!(texts("select '\n\\d';"), ["select '\n\\d'"]);
    }

    #[test]
    fn input_is_complete_at_semicolon() {
        for complete in [
            "",
            "  ",
            "\\d lineitem",
            "select 1;",
            "select 1; -- done",
            "-- nothing",
            "select ';';",
        ] {
            assert!(is_complete(complete), "{complete:?}");
        }
        for open in [
            "select 1",
            "select ';",
            "select 1; select",
            "select $$;",
            "/* ;",
            "select 1; /*",
            "select q'",
            "select e'\\';",
        ] {
            assert!(!is_complete(open), "{open:?}");
        }
    }

    #[test]
    fn unfinished_tokens_never_panic() {
        for script in [
            "'", "\"", "e'\\", "q'", "q'é", "$a$", "$", "/*", "/*/", "--", "é'", "\\",
        ] {
            pieces(script);
        }
    }
}
