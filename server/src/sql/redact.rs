//! Statements as others may see them: bounded, and without what may be secret.

use std::sync::Arc;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use squadron_shuffle::net::object_stores;
use squadron_shuffle::type_names::text_literal;

/// Characters of a statement that are kept.
const MAX_CHARACTERS: usize = 4096;
/// Statements up to this length are searched for OPTIONS, which is done where their client waits.
const MAX_SEARCHED_BYTES: usize = 256 * 1024;
/// What is shown of a statement whose OPTIONS cannot be taken out.
const WITH_OPTIONS: &str = "(a statement with OPTIONS)";

/// The statement without the values of its OPTIONS, which may be credentials, and cut where it is very long.
pub(crate) fn redact(sql: &str) -> Arc<str> {
    let text = match has_options(sql) {
        true if sql.len() > MAX_SEARCHED_BYTES => WITH_OPTIONS.to_owned(),
        true => without_options(sql).unwrap_or_else(|| WITH_OPTIONS.to_owned()),
        false => sql.to_owned(),
    };
    let text = text.trim();
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

fn has_options(sql: &str) -> bool {
    const WORD: &[u8] = b"options";
    let mut windows = sql.as_bytes().windows(WORD.len());
    windows.any(|window| window.eq_ignore_ascii_case(WORD))
}

/// What stands in the parentheses after each OPTIONS becomes `...`. None where it is no SQL.
fn without_options(sql: &str) -> Option<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
    let mut text = String::new();
    let mut is_after_word = false;
    let mut depth = 0_usize;
    for token in tokens {
        match &token {
            Token::LParen if depth > 0 => depth += 1,
            Token::RParen if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    text.push_str("...)");
                }
                continue;
            }
            Token::LParen if is_after_word => {
                depth = 1;
                is_after_word = false;
                text.push('(');
                continue;
            }
            Token::Word(word) if depth == 0 => {
                is_after_word = word.value.eq_ignore_ascii_case("options");
            }
            Token::Whitespace(_) => {}
            _ => is_after_word = false,
        }
        if depth == 0 {
            text.push_str(&token.to_string());
        }
    }
    Some(text)
}

/// The statement that made a table, as SHOW CREATE TABLE shows it: with its OPTIONS, but for those that may be secret.
pub(super) fn as_definition(sql: &str) -> String {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    if !has_options(sql) {
        return sql.to_owned();
    }
    without_secrets(sql).unwrap_or_else(|| redact(sql).to_string())
}

fn without_secrets(sql: &str) -> Option<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
    let mut text = String::new();
    let mut is_secret = false;
    for token in tokens {
        match &token {
            Token::SingleQuotedString(_) if is_secret => text.push_str("'...'"),
            Token::SingleQuotedString(value) => text.push_str(&text_literal(value)),
            _ => text.push_str(&token.to_string()),
        }
        is_secret = match &token {
            Token::Whitespace(_) => is_secret,
            Token::SingleQuotedString(key) => !is_secret && is_secret_key(key),
            _ => false,
        };
    }
    Some(text)
}

/// Whether an option of this name may be a credential.
fn is_secret_key(key: &str) -> bool {
    const SECRET: [&str; 6] = ["key", "secret", "token", "password", "sas", "credential"];
    let key = key.to_ascii_lowercase();
    let may_be_secret = object_stores::is_store_option(&key) || key.starts_with("format.crypto");
    may_be_secret && SECRET.iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_values_are_redacted() {
        let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/t' \
                   OPTIONS ('aws.secret_access_key' 'hush', 'aws.region' f('x'))";
        assert_eq!(
            &*redact(sql),
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/t' OPTIONS (...)"
        );
        let copy = "COPY (SELECT (1)) TO 's3://b/x' options('k' 'hush') PARTITIONED BY (a)";
        assert_eq!(
            &*redact(copy),
            "COPY (SELECT (1)) TO 's3://b/x' options(...) PARTITIONED BY (a)"
        );
        assert!(!redact("COPY t TO 'x' OPTIONS ('hush").contains("hush"));
    }

    #[test]
    fn definitions_keep_what_is_not_secret() {
        let sql = " CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://b/it''s' OPTIONS ('aws.secret_access_key' 'hush', \
                   'aws.region' 'eu', 'has_header' 'false'); ";
        assert_eq!(
            as_definition(sql),
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://b/it''s' OPTIONS ('aws.secret_access_key' '...', \
             'aws.region' 'eu', 'has_header' 'false')"
        );
        assert_eq!(as_definition("CREATE VIEW v AS SELECT 1;"), "CREATE VIEW v AS SELECT 1");
    }

    #[test]
    fn other_statements_are_only_truncated() {
        assert_eq!(&*redact(" SELECT 'it''s' "), "SELECT 'it''s'");
        assert_eq!(
            &*redact("SELECT options FROM t WHERE (a = 'b')"),
            "SELECT options FROM t WHERE (a = 'b')"
        );
        let long = format!("SELECT '{}'", "ä".repeat(2 * MAX_CHARACTERS));
        assert_eq!(redact(&long).chars().count(), MAX_CHARACTERS + 3);
    }
}
