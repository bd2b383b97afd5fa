//! Keeps what a super node holds of the Global Index on its disk, so that a restart of many at
//! once loses no record. Format and checks are `cooee_proto::index::stored_entries`.
//!
//! ```text
//!   start ─▶ read, check and file in small parts ─▶ join ─▶ append what changed, each second
//!                                                     ▲         │ as much again as the whole
//!                                                     └── write the whole, also at the end
//! ```

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use cooee_proto::index::stored_entries;
use tokio::{
    sync,
    task::{JoinError, spawn_blocking},
    time::sleep,
};

use super::OverlayDirectory;
use crate::profile::write_atomically;

/// Time between two looks at what changed. Chosen: what a sudden death may lose.
const APPEND_PERIOD: Duration = Duration::from_secs(1);

/// Time until the next try after a write that failed. Chosen: a full disk is told, not shouted.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Bytes a second that writing the whole may take in the long run. Chosen: nothing to any disk.
const WRITE_BYTES_PER_S: u64 = 256 * 1024;

/// Appended bytes before the whole is written anew, at least. Chosen: seconds of a busy super node.
const APPENDED_MIN: u64 = 1024 * 1024;

/// A larger file is not ours: the keeper's bound of 400,000 entries of 640 bytes, doubled.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Entries checked in one go, while datagrams wait. Chosen: some ten milliseconds of signatures.
const AT_ONCE: usize = 64;

/// The file, written by one at a time.
pub(super) struct ShardsFile {
    path: PathBuf,
    lengths: sync::Mutex<Lengths>,
}

/// Bytes of the whole, and appended to it since.
#[derive(Default)]
struct Lengths {
    whole: u64,
    appended: u64,
}

impl ShardsFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, lengths: sync::Mutex::default() }
    }
}

/// Files what was held before; a missing or damaged file gives as much as it can.
pub(super) async fn restore(directory: &Weak<OverlayDirectory>) {
    let path = |it: Arc<OverlayDirectory>| it.shards_file.as_ref().map(|file| file.path.clone());
    let Some(file) = directory.upgrade().and_then(path) else { return };
    let read = move || {
        let length = std::fs::metadata(&file).ok()?.len();
        (length <= FILE_BYTES_MAX).then(|| std::fs::read(&file).ok()).flatten()
    };
    let Ok(Some(bytes)) = spawn_blocking(read).await else { return };
    let mut entries = stored_entries(Bytes::from(bytes)).peekable();
    let (mut read, mut taken) = (0, 0);
    while entries.peek().is_some() {
        let part: Vec<_> = entries.by_ref().take(AT_ONCE).collect();
        let Some(strong) = directory.upgrade() else { return };
        read += part.len();
        taken += strong.with(|overlay, now| overlay.restore(now, part.into_iter()));
        tokio::task::yield_now().await;
    }
    tracing::info!(read, taken, "the shards of the last run");
}

/// Writes what is held as it changes, until the directory is gone.
pub(super) async fn keep_written(directory: Weak<OverlayDirectory>) {
    loop {
        sleep(APPEND_PERIOD).await;
        let Some(strong) = directory.upgrade() else { return };
        let Some(file) = &strong.shards_file else { return };
        let pause = strong.write_changes(file).await;
        drop(strong);
        sleep(pause).await;
    }
}

impl OverlayDirectory {
    /// Appends what changed, or writes the whole where that is better. Returns the time until the
    /// disk has had its rest.
    async fn write_changes(&self, file: &ShardsFile) -> Duration {
        let mut lengths = file.lengths.lock().await;
        let may_append = lengths.appended <= lengths.whole.max(APPENDED_MIN);
        let changes = may_append.then(|| self.state().overlay.keeper_mut().to_append());
        let Some(bytes) = changes.flatten() else {
            return self.write_whole(file, &mut lengths).await;
        };
        lengths.appended += bytes.len() as u64;
        let path = file.path.clone();
        let result = spawn_blocking(move || append(&path, &bytes)).await;
        self.rest(result, Duration::ZERO)
    }

    /// Writes all that is held.
    pub(super) async fn write_all(&self, file: &ShardsFile) {
        let mut lengths = file.lengths.lock().await;
        self.write_whole(file, &mut lengths).await;
    }

    async fn write_whole(&self, file: &ShardsFile, lengths: &mut Lengths) -> Duration {
        let bytes = self.state().overlay.keeper_mut().to_file();
        *lengths = Lengths { whole: bytes.len() as u64, appended: 0 };
        let path = file.path.clone();
        let result = spawn_blocking(move || write_atomically(&path, &bytes, true)).await;
        self.rest(result, Duration::from_secs(lengths.whole / WRITE_BYTES_PER_S))
    }

    fn rest(&self, result: Result<io::Result<()>, JoinError>, after: Duration) -> Duration {
        let Err(error) = result.map_err(io::Error::other).flatten() else { return after };
        tracing::warn!(%error, "the shards of the Global Index cannot be stored");
        self.state().overlay.keeper_mut().not_written();
        TRY_AGAIN
    }
}

/// Appends without waiting for the disk: the death of the process loses nothing, and what a power
/// cut loses other keepers have.
fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    OpenOptions::new().append(true).open(path)?.write_all(bytes)
}
