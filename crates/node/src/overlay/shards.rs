//! Keeps what a super node holds of the Global Index on its disk, so that a restart of many at
//! once loses no record. Format and checks are `cooee_proto::index::stored_entries`.
//!
//! ```text
//!   start ─▶ read, check and file in small parts ─▶ join ─▶ write when changed, at most every
//!   minute
//!                                                            and once at the end
//! ```

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use cooee_proto::index::stored_entries;
use tokio::{task::spawn_blocking, time::sleep};

use super::OverlayDirectory;
use crate::profile::write_atomically;

/// Least time between two writes. Chosen: what a sudden death may lose, and other keepers repair.
const WRITE_PERIOD: Duration = Duration::from_secs(60);

/// Bytes a second that writing may take in the long run. Chosen: nothing to any disk.
const WRITE_BYTES_PER_S: u64 = 256 * 1024;

/// A larger file is not ours: the keeper's bound of 400,000 entries of 640 bytes, doubled.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Entries checked in one go, while datagrams wait. Chosen: some ten milliseconds of signatures.
const AT_ONCE: usize = 64;

/// Files what was held before; a missing or damaged file gives as much as it can.
pub(super) async fn restore(directory: &Weak<OverlayDirectory>, path: &Path) {
    let file = path.to_owned();
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

/// Writes what is held whenever it has changed, until the directory is gone.
pub(super) async fn keep_written(directory: Weak<OverlayDirectory>, path: PathBuf) {
    let mut written = None;
    let mut pause = WRITE_PERIOD;
    loop {
        sleep(pause).await;
        let Some(strong) = directory.upgrade() else { return };
        let digest = strong.state().overlay.keeper().digest();
        if written == Some(digest) {
            continue;
        }
        let bytes = strong.write_shards(&path).await;
        written = bytes.map(|_| digest);
        let length = bytes.unwrap_or(0) as u64;
        pause = WRITE_PERIOD.max(Duration::from_secs(length / WRITE_BYTES_PER_S));
    }
}

impl OverlayDirectory {
    /// Writes what is held; returns how many bytes that were, if it worked.
    pub(super) async fn write_shards(self: &Arc<Self>, path: &Path) -> Option<usize> {
        let bytes = self.state().overlay.keeper().to_file();
        let (path, length) = (path.to_owned(), bytes.len());
        match spawn_blocking(move || write_atomically(&path, &bytes, true)).await {
            Ok(Ok(())) => Some(length),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the shards of the Global Index cannot be stored");
                None
            }
            Err(_) => None,
        }
    }
}
