//! A file of names that is read again when it changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use squadron_proto::{Failure, FailureKind};
use tracing::{info, warn};

/// The shortest time between two checks whether the file has changed.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Parses the text of a file; an error is the number of the line and the second half of the message.
type Parse<T> = fn(&str) -> Result<T, (usize, String)>;

/// The parsed contents of a file. When the file changes to something that cannot be parsed, the former contents stay.
pub(super) struct WatchedFile<T> {
    flag: &'static str,
    path: PathBuf,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Option<Stamp>,
    checked: Instant,
}

/// Tells one version of the file from another.
type Stamp = (SystemTime, u64);

impl<T> WatchedFile<T> {
    /// # Errors
    /// `Invalid`, naming flag, file and line.
    pub(super) fn open(flag: &'static str, path: &Path, parse: Parse<T>) -> Result<Self, Failure> {
        let stamp = stamp(path);
        let value = Arc::new(read(flag, path, parse)?);
        Ok(Self {
            flag,
            path: path.to_owned(),
            parse,
            state: Mutex::new(State {
                value,
                stamp,
                checked: Instant::now(),
            }),
        })
    }

    /// The contents of the file, at most [`CHECK_INTERVAL`] old.
    pub(super) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            let stamp = stamp(&self.path);
            if stamp != state.stamp {
                state.stamp = stamp;
                match read(self.flag, &self.path, self.parse) {
                    Ok(value) => {
                        info!(file = %self.path.display(), "read again");
                        state.value = Arc::new(value);
                    }
                    Err(failure) => warn!("{failure}; what it said before stays in force"),
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read<T>(flag: &str, path: &Path, parse: Parse<T>) -> Result<T, Failure> {
    let invalid = |why: String| Failure::new(FailureKind::Invalid, format!("{flag} {}{why}", path.display()));
    let text = fs::read_to_string(path)
        .map_err(|error| invalid(format!(" cannot be read ({error}); name a readable file")))?;
    parse(&text).map_err(|(line, why)| invalid(format!(", line {line}: {why}")))
}

/// Number, name and value of each line `name:value`; skips empty lines and those that begin with `#`.
pub(super) fn lines<'a>(
    text: &'a str,
    value: &'a str,
) -> impl Iterator<Item = Result<(usize, &'a str, &'a str), (usize, String)>> {
    (1..).zip(text.lines()).filter_map(move |(number, line)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        Some(match line.split_once(':') {
            Some((name, rest)) if is_name(name) => Ok((number, name, rest)),
            Some(_) => Err((
                number,
                "the name before the colon is empty or has spaces; correct it".into(),
            )),
            // The line itself is not shown: it may be a secret.
            None => Err((number, format!("there is no colon; write NAME:{value}"))),
        })
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<Vec<u32>, (usize, String)> {
        let number = |(at, line): (usize, &str)| line.parse().map_err(|_| (at, "is no number; write one".to_owned()));
        (1..).zip(text.lines()).map(number).collect()
    }

    #[test]
    fn changed_file_is_read_unless_invalid() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "1\n2").unwrap();
        let watched = WatchedFile::open("--numbers", file.path(), numbers).unwrap();
        let change = |text: &str| {
            fs::write(file.path(), text).unwrap();
            // As if the last check were long ago.
            watched.state.lock().unwrap().checked = Instant::now() - CHECK_INTERVAL;
            watched.current()
        };
        assert_eq!(*watched.current(), [1, 2]);
        assert_eq!(*change("1\n2\n3"), [1, 2, 3]);
        assert_eq!(*change("one"), [1, 2, 3]);
        assert_eq!(*change("77"), [77]);
    }

    #[test]
    fn open_error_names_flag_and_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "1\ntwo").unwrap();
        let name = file.path().display().to_string();
        let refusal = |path: &Path| WatchedFile::open("--numbers", path, numbers).err().unwrap().message;
        assert_eq!(
            refusal(file.path()),
            format!("--numbers {name}, line 2: is no number; write one")
        );
        assert!(refusal(Path::new("/no/such")).contains("--numbers /no/such cannot be read"));
    }

    #[test]
    fn lines_skip_comments_and_reject_invalid() {
        let text = "# people\n\nann:a:b\n  bob: c\n:x\nno colon\na b:c";
        let found: Vec<_> = lines(text, "VALUE").collect();
        assert_eq!(found[0], Ok((3, "ann", "a:b")));
        assert_eq!(found[1], Ok((4, "bob", " c")));
        let wrong: Vec<usize> = found[2..].iter().map(|line| line.as_ref().unwrap_err().0).collect();
        assert_eq!(wrong, [5, 6, 7]);
    }
}
