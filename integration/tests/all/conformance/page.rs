//! The table in `docs/clients.md`, generated from the list; a test compares the page with it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Rpc, Standing, entries};

const BEGIN: &str =
    "<!-- The conformance suite writes this table: UPDATE_DOCS=1 cargo test --test all -- conformance::page -->\n";
const END: &str = "<!-- end of the table -->";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md")
}

fn table() -> String {
    let mut table = String::from("\n| RPC | message | | used by |\n|---|---|---|---|\n");
    for entry in entries() {
        let rpcs: Vec<_> = entry.rpcs.iter().map(Rpc::to_string).collect();
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} |",
            rpcs.join(", "),
            subject(&entry),
            standing(&entry),
            entry.used_by
        );
    }
    table.push('\n');
    table
}

fn subject(entry: &Entry) -> String {
    let is_type = entry.example.is_some();
    let name = match (entry.action(), is_type) {
        (Some(action), _) => format!("`{action}`"),
        (None, true) => format!("`{}`", entry.message),
        (None, false) => entry.message.into(),
    };
    match entry.detail {
        "" => name,
        detail => format!("{name}, {detail}"),
    }
}

fn standing(entry: &Entry) -> String {
    match entry.standing {
        Standing::Served(what) => format!("served: {what}"),
        Standing::Refused(code, why) => format!("refused, `{code:?}`: {why}"),
    }
}

#[test]
fn documented_table_is_current() {
    let path = page();
    let text = fs::read_to_string(&path).expect("docs/clients.md is there");
    let (before, rest) = text.split_once(BEGIN).expect("the page has a place for the table");
    let (found, after) = rest.split_once(END).expect("and an end of it");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let updated = format!("{before}{BEGIN}{table}{END}{after}");
        fs::write(&path, updated).expect("the page can be written");
        return;
    }
    assert_eq!(
        found, table,
        "run it again with UPDATE_DOCS=1 to write the table, and read what changed"
    );
}
