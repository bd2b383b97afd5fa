//! Append-only logs in the profile: one JSON object a line, synchronised before it counts.
//!
//! A crash while a line is written leaves a torn last line, which is cut off at the next start;
//! every line before it is kept. A log that grows too long moves to `NAME.1`, replacing that.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Bytes at which a log moves aside. Chosen: about ten thousand records.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep {}: {source}", path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// A log and its latest entries in memory.
#[derive(Debug)]
pub struct Log<T> {
    path: PathBuf,
    file: File,
    bytes: u64,
    latest: VecDeque<T>,
    latest_max: usize,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Opens or creates the log; the last `latest_max` entries are kept in memory.
    pub fn open(path: &Path, latest_max: usize) -> Result<Self, LogError> {
        let fail = |source| LogError { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(fail)?;
        let text = fs::read(path).map_err(fail)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            tracing::warn!(path = %path.display(), "the last line was torn by a crash: cut off");
            file.set_len(whole as u64).map_err(fail)?;
        }
        let mut latest = VecDeque::new();
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(entry) => latest.push_back(entry),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a line is left out"),
            }
            if latest.len() > latest_max {
                latest.pop_front();
            }
        }
        Ok(Self { path: path.to_owned(), file, bytes: whole as u64, latest, latest_max })
    }

    /// Writes one entry; it is on the disk when this returns.
    pub fn append(&mut self, entry: T) -> Result<(), LogError> {
        let result = self.write(&entry);
        // Also what a full disk refused is shown while the program runs.
        self.latest.push_back(entry);
        if self.latest.len() > self.latest_max {
            self.latest.pop_front();
        }
        result.map_err(|source| LogError { path: self.path.clone(), source })
    }

    /// The latest entries, oldest first.
    pub fn latest(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.latest.iter()
    }

    fn write(&mut self, entry: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.bytes + line.len() as u64 > LOG_BYTES_MAX {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.bytes = 0;
        }
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // A part of the line must not spoil the next one.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_a_torn_line_costs_only_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calls.jsonl");
        let mut log = Log::<String>::open(&path, 10).expect("opens");
        log.append("one".into()).expect("written");
        log.append("two".into()).expect("written");
        drop(log);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(b"\"thr").expect("written");
        let mut log = Log::<String>::open(&path, 10).expect("opens");
        log.append("four".into()).expect("written");
        let log = Log::<String>::open(&path, 2).expect("opens");
        assert_eq!(log.latest().collect::<Vec<_>>(), ["two", "four"]);
    }
}
