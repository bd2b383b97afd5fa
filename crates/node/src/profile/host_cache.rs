//! The host cache on disk, with what was learnt of our NAT. A damaged file is put aside and the
//! node starts over from the bootstrap entries.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cooee_proto::{
    attachment::PortKind,
    clock::UnixTime,
    host_cache::{ENTRIES_MAX, Entry, HostCache},
};
use serde::{Deserialize, Serialize};

use super::{ProfileError, write_atomically};

/// A larger file is damaged or not ours. Chosen: 200 entries take about 40 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug)]
pub struct HostCacheFile(PathBuf);

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// The cache.
    pub host_cache: HostCache,
    /// Port that worked the last time.
    pub port_kind: PortKind,
    /// What was learnt of our NAT, as its owner stored it.
    pub nat: Option<serde_json::Value>,
    /// What a person should know: the file was damaged.
    pub notice: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(default)]
    port: StoredPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nat: Option<serde_json::Value>,
    super_nodes: Vec<StoredEntry>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum StoredPort {
    #[default]
    Own,
    Https,
    Http,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    address: SocketAddr,
    successes: u32,
    failures_in_row: u32,
    round_trip_ms: Option<u32>,
    uptime_seconds: u64,
    last_success_unix_ms: Option<u64>,
    last_heard_unix_ms: u64,
}

impl HostCacheFile {
    /// The file at `path`; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads the file. A damaged one is put aside as `….damaged`, and the cache starts over.
    pub fn restore(
        &self,
        bootstrap: impl IntoIterator<Item = SocketAddr>,
        now: UnixTime,
    ) -> Restored {
        let bootstrap: Vec<SocketAddr> = bootstrap.into_iter().collect();
        let restored = match read(&self.0) {
            Ok(Some(bytes)) => Self::parse(&bytes, bootstrap.clone(), now),
            Ok(None) => return self.fresh(bootstrap, None),
            Err(problem) => Err(problem),
        };
        match restored {
            Ok(restored) => restored,
            Err(problem) => {
                let aside = self.0.with_extension("json.damaged");
                // If it cannot be put aside the next store overwrites it: nothing is lost but this.
                let _ = fs::rename(&self.0, &aside);
                let notice = format!(
                    "the host cache {} was damaged ({problem}): starting over from the bootstrap \
                     super nodes; the old file is kept as {}",
                    self.0.display(),
                    aside.display()
                );
                tracing::warn!("{notice}");
                self.fresh(bootstrap, Some(notice))
            }
        }
    }

    /// Reads the bytes of a file; says what is wrong with them.
    pub fn parse(
        bytes: &[u8],
        bootstrap: impl IntoIterator<Item = SocketAddr>,
        now: UnixTime,
    ) -> Result<Restored, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if stored.version != VERSION {
            return Err(format!("it has version {}", stored.version));
        }
        let entries = stored.super_nodes.into_iter().map(entry);
        Ok(Restored {
            host_cache: HostCache::restore(bootstrap, entries, now),
            port_kind: match stored.port {
                StoredPort::Own => PortKind::Own,
                StoredPort::Https => PortKind::Https,
                StoredPort::Http => PortKind::Http,
            },
            nat: stored.nat,
            notice: None,
        })
    }

    fn fresh(&self, bootstrap: Vec<SocketAddr>, notice: Option<String>) -> Restored {
        let host_cache = HostCache::new(bootstrap);
        Restored { host_cache, port_kind: PortKind::Own, nat: None, notice }
    }

    /// Replaces the file.
    pub fn store(
        &self,
        entries: &[Entry],
        port_kind: PortKind,
        nat: Option<serde_json::Value>,
    ) -> Result<(), ProfileError> {
        let port = match port_kind {
            PortKind::Own => StoredPort::Own,
            PortKind::Https => StoredPort::Https,
            PortKind::Http => StoredPort::Http,
        };
        let super_nodes = entries.iter().take(ENTRIES_MAX).map(stored_entry).collect();
        let stored = Stored { version: VERSION, port, nat, super_nodes };
        let error = |source: io::Error| ProfileError::Io { path: self.0.clone(), source };
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|source| error(source.into()))?;
        write_atomically(&self.0, &bytes, true).map_err(error)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes"));
    }
    fs::read(path).map(Some).map_err(|error| error.to_string())
}

fn entry(stored: StoredEntry) -> Entry {
    Entry {
        address: stored.address,
        successes: stored.successes,
        failures_in_row: stored.failures_in_row,
        round_trip_ms: stored.round_trip_ms,
        uptime_seconds: stored.uptime_seconds,
        last_success: stored.last_success_unix_ms.map(UnixTime),
        last_heard: UnixTime(stored.last_heard_unix_ms),
    }
}

fn stored_entry(entry: &Entry) -> StoredEntry {
    StoredEntry {
        address: entry.address,
        successes: entry.successes,
        failures_in_row: entry.failures_in_row,
        round_trip_ms: entry.round_trip_ms,
        uptime_seconds: entry.uptime_seconds,
        last_success_unix_ms: entry.last_success.map(|at| at.0),
        last_heard_unix_ms: entry.last_heard.0,
    }
}
