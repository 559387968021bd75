//! Completes words at the prompt: SQL's keywords, and the names of schemas, tables and columns.
//!
//! The names are asked for at the first Tab, so that a session that completes nothing costs the server nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::client::Client;
use super::error::Error;

/// How long names are believed; another session may create tables.
const FRESH: Duration = Duration::from_secs(30);

/// How long a Tab may wait for the names.
const PATIENCE: Duration = Duration::from_secs(2);

const NAMES: &str = "SELECT table_schema, table_name, column_name FROM information_schema.columns LIMIT 20000";

const KEYWORDS: &str = "ALL ANALYZE AND AS ASC BETWEEN BY CASE CAST COPY CREATE CROSS DESC DESCRIBE DISTINCT DROP ELSE \
     END EXCEPT EXISTS EXPLAIN EXTERNAL FROM FULL GROUP HAVING IN INNER INSERT INTERSECT INTERVAL INTO IS JOIN LEFT \
     LIKE LIMIT NOT NULL OFFSET ON OR ORDER OUTER OVER PARTITION RIGHT SELECT SET SHOW TABLE THEN UNION USING VALUES \
     VIEW WHEN WHERE WITH";

/// The names that can be completed, and the connection that tells them.
pub(super) struct Names {
    client: RefCell<Client>,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    asked: Option<Instant>,
}

impl Names {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client: RefCell::new(client),
            known: RefCell::default(),
        }
    }

    /// Takes the connection as it is after a statement.
    pub(super) fn lend(&self, client: Client) {
        *self.client.borrow_mut() = client;
    }

    /// The connection as it is after an input: the server may have opened a session for it.
    pub(super) fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    /// Asks for the names, unless they are fresh. Without an answer the old ones stay for as long as fresh ones would, so
    /// that not every Tab waits.
    fn refresh(&self) {
        let mut known = self.known.borrow_mut();
        if known.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut client = self.client.borrow_mut();
        // The prompt waits on a thread that may block.
        match runtime.block_on(ask_in_time(&mut client)) {
            Ok(names) => known.names = names,
            Err(error) => tracing::debug!(%error, "no names to complete"),
        }
        known.asked = Some(Instant::now());
    }
}

async fn ask_in_time(client: &mut Client) -> Result<BTreeSet<String>, Error> {
    match tokio::time::timeout(PATIENCE, ask(client)).await {
        Ok(names) => names,
        Err(_) => Err(Error::Cancelled),
    }
}

async fn ask(client: &mut Client) -> Result<BTreeSet<String>, Error> {
    let mut statement = client.begin(NAMES).await?;
    while !statement.is_complete() {
        client.poll(&mut statement).await?;
    }
    let options = FormatOptions::new();
    let mut names = BTreeSet::new();
    for ticket in statement
        .info
        .endpoint
        .into_iter()
        .filter_map(|endpoint| endpoint.ticket)
    {
        let mut rows = client.fetch(ticket).await?;
        while let Some(batch) = rows.try_next().await? {
            for column in batch.columns() {
                let column = ArrayFormatter::try_new(column, &options)?;
                names.extend((0..batch.num_rows()).map(|row| quote(column.value(row).to_string())));
            }
        }
    }
    Ok(names)
}

/// A name as it must be written: unquoted names are read in lower case.
fn quote(name: String) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.bytes().all(is_plain) && !name.starts_with(|first: char| first.is_ascii_digit()) {
        name
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Where the word begins that ends at `position`.
fn word_start(line: &str, position: usize) -> usize {
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == '"';
    let before = &line[..position];
    before.trim_end_matches(is_word).len()
}

/// The keywords and names that begin with `word`; keywords in the case of the word.
fn candidates(word: &str, names: &BTreeSet<String>) -> Vec<String> {
    let upper = word.chars().any(char::is_uppercase);
    let keywords = KEYWORDS.split_whitespace().map(|keyword| {
        if upper {
            keyword.to_owned()
        } else {
            keyword.to_ascii_lowercase()
        }
    });
    let begins = |candidate: &String| {
        let start = candidate.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let found: BTreeSet<_> = keywords.chain(names.iter().cloned()).filter(begins).collect();
    found.into_iter().collect()
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let start = word_start(line, pos);
        let word = &line[start..pos];
        if word.is_empty() {
            return Ok((start, Vec::new()));
        }
        self.refresh();
        Ok((start, candidates(word, &self.known.borrow().names)))
    }
}

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {}

impl Validator for Names {}

impl Helper for Names {}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> (usize, Vec<String>) {
        let names = ["lineitem", "l_orderkey", "line_total", "My Table"].map(|name| quote(name.to_owned()));
        let start = word_start(line, line.len());
        (start, candidates(&line[start..], &BTreeSet::from(names)))
    }

    #[test]
    fn words_are_completed_from_their_start() {
        assert_eq!(complete("SELECT * FROM lineit"), (14, vec!["lineitem".to_owned()]));
        assert_eq!(complete("SELECT t.l_").0, 9);
        assert_eq!(complete("SELECT t.l_").1, ["l_orderkey"]);
        assert_eq!(complete("x,line").1, ["line_total", "lineitem"]);
        assert_eq!(complete("SELECT zz").1, Vec::<String>::new());
    }

    #[test]
    fn keywords_have_the_case_of_the_word() {
        assert_eq!(complete("sel").1, ["select"]);
        assert_eq!(complete("SEL").1, ["SELECT"]);
    }

    #[test]
    fn names_that_need_quotes_get_them() {
        assert_eq!(complete("FROM \"my").1, ["\"My Table\""]);
        assert_eq!(quote("a\"b".to_owned()), "\"a\"\"b\"");
        assert_eq!(quote("1st".to_owned()), "\"1st\"");
        assert_eq!(quote("first_1".to_owned()), "first_1");
    }

    #[test]
    fn letters_outside_ascii_are_no_harm() {
        assert_eq!(word_start("SELECT größe", "SELECT größe".len()), 7);
        assert_eq!(complete("größ").1, Vec::<String>::new());
        assert_eq!(complete("SELECT '日本").0, 8);
    }
}
