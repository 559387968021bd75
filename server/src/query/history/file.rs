//! The history on disk, so that a server which starts anew still knows the queries of the last one: one JSON object a
//! line.
//!
//! ```text
//! <state-dir>/queries.jsonl      appended to
//! <state-dir>/queries.old.jsonl  the file before; replaced when the first is half of what both may be
//! ```
//!
//! A thread of its own writes, so that a slow disk delays no query; when it cannot follow, lines are left out and the
//! log says so. A line that cannot be read (the server died while it wrote it) is skipped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use squadron_proto::{Failure, FailureKind};
use tracing::warn;

use super::completed::CompletedQuery;
use super::entry::Entry;
use super::limits::HistoryLimits;

/// Lines that wait for the disk; more are left out.
const WAITING_LINES: usize = 4096;

/// Writes what ends. Dropping it waits until everything is written.
#[derive(Debug)]
pub(super) struct Writer {
    lines: Option<SyncSender<Entry>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the files of `folder`, with what they hold, the oldest first.
    ///
    /// # Errors
    /// `Invalid`, naming the flag, when the folder cannot be used.
    pub(super) fn open(folder: &Path, limits: &HistoryLimits) -> Result<(Self, Vec<CompletedQuery>), Failure> {
        let unusable = |error: io::Error| {
            let message = format!(
                "--state-dir {} cannot be used: {error}; give a folder that this user may write to",
                folder.display()
            );
            Failure::new(FailureKind::Invalid, message)
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        let files = Files {
            current: folder.join("queries.jsonl"),
            old: folder.join("queries.old.jsonl"),
            max_bytes: limits.max_disk_bytes / 2,
        };
        let mut completed = files.read(&files.old).map_err(unusable)?;
        completed.extend(files.read(&files.current).map_err(unusable)?);
        let file = files.append().map_err(unusable)?;
        let (lines, received) = sync_channel(WAITING_LINES);
        let thread = thread::Builder::new()
            .name("squadron-history".to_owned())
            .spawn(move || write_all(&received, &files, file))
            .map_err(unusable)?;
        let writer = Self {
            lines: Some(lines),
            thread: Some(thread),
        };
        Ok((writer, completed))
    }

    /// Never waits.
    pub(super) fn write(&self, completed: &CompletedQuery) {
        let Some(lines) = &self.lines else {
            return;
        };
        if let Err(TrySendError::Full(line)) = lines.try_send(Entry::of(completed)) {
            warn!(query_id = line.query(), "the disk is too slow: left out of the history");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the history's thread ended early");
        }
    }
}

struct Files {
    current: PathBuf,
    old: PathBuf,
    max_bytes: u64,
}

impl Files {
    fn read(&self, path: &Path) -> io::Result<Vec<CompletedQuery>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let (mut completed, mut unreadable) = (Vec::new(), 0);
        for line in BufReader::new(file).split(b'\n') {
            let parsed = serde_json::from_slice::<Entry>(&line?).ok();
            match parsed.and_then(Entry::into_completed) {
                Some(read) => completed.push(read),
                None => unreadable += 1,
            }
        }
        if unreadable > 0 {
            warn!(path = %path.display(), unreadable, "lines of the history are skipped");
        }
        Ok(completed)
    }

    /// A line that was cut off must not spoil the next one.
    fn append(&self) -> io::Result<File> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.current)?;
        if file.metadata()?.len() > 0 && !ends_with_line_break(&self.current)? {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    fn rotated(&self, file: File) -> io::Result<File> {
        if file.metadata()?.len() < self.max_bytes {
            return Ok(file);
        }
        drop(file);
        fs::rename(&self.current, &self.old)?;
        self.append()
    }
}

fn ends_with_line_break(path: &Path) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == [b'\n'])
}

fn write_all(lines: &Receiver<Entry>, files: &Files, mut file: File) {
    for line in lines {
        let written = serde_json::to_vec(&line)
            .map_err(io::Error::from)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                file.write_all(&bytes)
            })
            .and_then(|()| file.try_clone())
            .and_then(|same| files.rotated(same));
        match written {
            Ok(next) => file = next,
            Err(error) => warn!(%error, query_id = line.query(), "the history cannot be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::tests::{failed, request};
    use super::*;

    fn limits(max_disk_bytes: u64) -> HistoryLimits {
        HistoryLimits {
            max_disk_bytes,
            ..HistoryLimits::default()
        }
    }

    fn completed(id: u128) -> CompletedQuery {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        CompletedQuery {
            request: request(id).into(),
            ended: at,
            outcome: failed("no \"such\"\ntable"),
            info: None,
            released: Some(at),
            epoch: SystemTime::UNIX_EPOCH,
        }
    }

    fn ids(completed: &[CompletedQuery]) -> Vec<u128> {
        completed
            .iter()
            .map(|completed| u128::from_be_bytes(completed.request.id.to_bytes()[..].try_into().unwrap()))
            .collect()
    }

    #[test]
    fn truncated_line_is_skipped_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, before) = Writer::open(folder.path(), &limits(1 << 20)).unwrap();
        assert_eq!(before, []);
        writer.write(&completed(1));
        writer.write(&completed(2));
        drop(writer);
        let file = folder.path().join("queries.jsonl");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() - 9]).unwrap();
        let (writer, before) = Writer::open(folder.path(), &limits(1 << 20)).unwrap();
        assert_eq!(before, [completed(1)]);
        writer.write(&completed(3));
        drop(writer);
        let (_, before) = Writer::open(folder.path(), &limits(1 << 20)).unwrap();
        assert_eq!(ids(&before), [1, 3]);
    }

    #[test]
    fn files_stay_within_their_disk_limit() {
        let folder = tempfile::tempdir().unwrap();
        let most = 4096;
        let (writer, _) = Writer::open(folder.path(), &limits(most)).unwrap();
        for id in 1..=100 {
            writer.write(&completed(id));
        }
        drop(writer);
        let (_, before) = Writer::open(folder.path(), &limits(most)).unwrap();
        let ids = ids(&before);
        assert_eq!(ids.last(), Some(&100));
        assert!(ids.len() > 4 && ids.is_sorted(), "{ids:?}");
        let sizes = fs::read_dir(folder.path()).unwrap();
        let bytes: u64 = sizes.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= most + 512, "{bytes}");
    }

    #[test]
    fn unusable_folder_fails_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = Writer::open(file.path(), &limits(1)).unwrap_err();
        assert!(failure.message.contains("--state-dir"), "{failure}");
    }
}
