//! Files and folders beside tables that are not read, and the reason of each.

use std::fmt::Write as _;
use std::path::Path;

/// How many omissions are told one by one, and how long the name of each may be, in characters.
const MAX_TOLD: usize = 20;
const MAX_NAME: usize = 200;

/// Files and folders that are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Omissions {
    told: Vec<String>,
    more: u64,
    last: Option<String>,
}

impl Omissions {
    /// Notes that `name` is passed over. What lies in one folder is told once.
    pub(super) fn note(&mut self, name: &str, why: &str) {
        if self.last.as_deref() == Some(name) {
            return;
        }
        self.last = Some(name.to_owned());
        if self.told.len() == MAX_TOLD {
            self.more += 1;
            return;
        }
        let mut shown: String = name.chars().take(MAX_NAME).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        self.told.push(format!("{} {why}", shown.escape_debug()));
    }

    /// One line of all; none if there are none.
    pub(super) fn text(&self) -> Option<String> {
        let mut text = self.told.join("; ");
        if self.more > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "; and {} more", self.more);
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Files that tools leave beside data: `.part.crc`, `_SUCCESS`, `_delta_log`.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// What tools leave beside data, and nobody takes for data.
pub(super) fn is_mark(name: &str) -> bool {
    const NAMES: [&str; 5] = ["_SUCCESS", "_metadata", "_common_metadata", ".DS_Store", "_squadron"];
    const BEGINNINGS: [&str; 2] = ["_committed_", "_started_"];
    let begins = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    NAMES.contains(&name) || begins || is_hidden(name) && name.ends_with(".crc")
}

/// Reading a pipe or a device would wait for ever, or never end.
pub(super) fn why_no_file(path: &Path) -> &'static str {
    match path.exists() {
        true => "is a pipe, a socket or a device, no file",
        false => "is a link that leads nowhere or in a circle, no file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omissions_are_bounded() {
        let mut omissions = Omissions::default();
        assert_eq!(omissions.text(), None);
        for number in 0..30 {
            omissions.note(&format!("{number}{}\n", "x".repeat(10_000)), "is no file");
            omissions.note("folder/", "is no k=v folder");
            omissions.note("folder/", "is no k=v folder");
        }
        let text = omissions.text().unwrap();
        assert!(text.ends_with("; and 40 more"), "{text}");
        assert!(text.len() < 10_000 && !text.contains('\n'), "{text}");
    }
}
