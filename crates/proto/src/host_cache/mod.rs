//! Host cache: the super nodes that a node knows, and in which order it tries them.
//!
//! The paper (section II.B): a list of address and port pairs of super nodes, at most 200, built
//! and refreshed regularly, with bootstrap entries as the last resort.
//!
//! What others tell us is hearsay until we have attached there ourselves. The rules that keep bad,
//! stale or hostile entries from ever locking a node out:
//!
//! * hearsay never displaces a proven entry, and fills at most [`HEARSAY_MAX`] places;
//! * one report adds at most [`REPORT_MAX`] entries, and one address block (IPv4 /16, IPv6 /32)
//!   holds at most [`BLOCK_MAX`] of the hearsay;
//! * every third place of a login order is a bootstrap entry until they are used up;
//! * an entry that keeps failing sinks, then leaves; a bootstrap entry never leaves.
//!
//! It does not open connections: `attachment` does, and reports back here. It resolves no names and
//! stores nothing: the shell does.

mod block;
mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

pub use block::AddressBlock;
pub use order::{PATIENT_AFTER, back_off};

use crate::clock::UnixTime;

/// Most entries held. The paper's client held at most 200.
pub const ENTRIES_MAX: usize = 200;
/// Most entries that were never attached to. Chosen: a quarter of the cache stays for proven ones.
pub const HEARSAY_MAX: usize = 150;
/// Most entries taken from one report of one super node. Chosen: three reports fill the hearsay.
pub const REPORT_MAX: usize = 50;
/// Most hearsay entries in one address block. Chosen: an attacker needs 8 blocks to fill the half.
pub const BLOCK_MAX: usize = 10;

/// An unproven entry leaves after so many failures in a row. Chosen.
const HEARSAY_FAILURES_MAX: u32 = 3;
/// A proven entry leaves after so many failures in a row, unless it is a bootstrap entry. Chosen:
/// at the back-off of `attachment` this is hours of absence.
const PROVEN_FAILURES_MAX: u32 = 12;
/// An entry without a success for this long counts as hearsay again. Chosen.
const PROVEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// One super node as this node has met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it listens.
    pub address: SocketAddr,
    /// Attachments that succeeded.
    pub successes: u32,
    /// Attempts that failed since the last success.
    pub failures_in_row: u32,
    /// Smoothed round trip, in milliseconds, once measured.
    pub round_trip_ms: Option<u32>,
    /// Longest time that a connection to it has lasted, in seconds.
    pub uptime_seconds: u64,
    /// When an attachment last succeeded.
    pub last_success: Option<UnixTime>,
    /// When it was last heard of, from itself or from others.
    pub last_heard: UnixTime,
}

impl Entry {
    fn heard(address: SocketAddr, at: UnixTime) -> Self {
        Self {
            address,
            successes: 0,
            failures_in_row: 0,
            round_trip_ms: None,
            uptime_seconds: 0,
            last_success: None,
            last_heard: at,
        }
    }

    /// Whether this node has attached here itself, lately enough to count.
    pub fn is_proven(&self, now: UnixTime) -> bool {
        self.last_success.is_some_and(|at| now.since(at) <= PROVEN_LIFETIME)
    }

    fn is_hopeless(&self, now: UnixTime) -> bool {
        let bound = if self.is_proven(now) { PROVEN_FAILURES_MAX } else { HEARSAY_FAILURES_MAX };
        self.failures_in_row >= bound
    }
}

/// The cache. See the module's header for its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCache {
    entries: BTreeMap<SocketAddr, Entry>,
    bootstrap: BTreeSet<SocketAddr>,
}

/// Most bootstrap entries. Chosen: the paper's client carried seven.
const BOOTSTRAP_MAX: usize = 32;

impl HostCache {
    /// An empty cache over the given bootstrap entries (at most 32 are kept).
    pub fn new(bootstrap: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut cache = Self::default();
        cache.set_bootstrap(bootstrap);
        cache
    }

    /// Restores stored entries. Entries that make no sense are left out, the rest obeys the bounds.
    pub fn restore(
        bootstrap: impl IntoIterator<Item = SocketAddr>,
        stored: impl IntoIterator<Item = Entry>,
        now: UnixTime,
    ) -> Self {
        let mut cache = Self::new(bootstrap);
        let mut stored: Vec<Entry> =
            stored.into_iter().filter(|entry| is_usable(entry.address)).collect();
        for entry in &mut stored {
            // A clock that once ran ahead must not make an entry immortal.
            entry.last_heard = entry.last_heard.min(now);
            entry.last_success = entry.last_success.map(|at| at.min(now));
        }
        stored.sort_by_key(|entry| (!entry.is_proven(now), entry.address));
        for entry in stored {
            if cache.has_room_for(entry.address, entry.is_proven(now), now) {
                cache.entries.insert(entry.address, entry);
            }
        }
        cache
    }

    /// Replaces the bootstrap entries, for example after their names were resolved again.
    pub fn set_bootstrap(&mut self, bootstrap: impl IntoIterator<Item = SocketAddr>) {
        self.bootstrap =
            bootstrap.into_iter().filter(|a| is_usable(*a)).take(BOOTSTRAP_MAX).collect();
    }

    /// The bootstrap entries.
    pub fn bootstrap(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.bootstrap.iter().copied()
    }

    /// All entries, by address.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Number of entries, without the bootstrap ones.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing but the bootstrap entries is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes in what a super node reported. Returns how many entries were new.
    pub fn handle_report(
        &mut self,
        reported: impl IntoIterator<Item = SocketAddr>,
        now: UnixTime,
    ) -> usize {
        let mut added = 0;
        for address in reported.into_iter().take(REPORT_MAX) {
            if let Some(entry) = self.entries.get_mut(&address) {
                entry.last_heard = now;
            } else if is_usable(address) && self.has_room_for(address, false, now) {
                self.entries.insert(address, Entry::heard(address, now));
                added += 1;
            }
        }
        added
    }

    /// An attachment succeeded; `round_trip` is what its handshake took per flight.
    pub fn handle_success(&mut self, address: SocketAddr, round_trip: Duration, now: UnixTime) {
        if !self.entries.contains_key(&address) && !self.has_room_for(address, true, now) {
            return;
        }
        let entry = self.entries.entry(address).or_insert_with(|| Entry::heard(address, now));
        entry.successes = entry.successes.saturating_add(1);
        entry.failures_in_row = 0;
        entry.last_success = Some(now);
        entry.last_heard = now;
        let sample = u32::try_from(round_trip.as_millis()).unwrap_or(u32::MAX);
        entry.round_trip_ms = Some(match entry.round_trip_ms {
            // RFC 6298's smoothing, a = 1/8.
            Some(old) => u32::try_from((u64::from(old) * 7 + u64::from(sample)) / 8)
                .expect("a mean of two u32 fits in u32"),
            None => sample,
        });
    }

    /// A connection to it ended after it had lasted for `lasted`.
    pub fn handle_uptime(&mut self, address: SocketAddr, lasted: Duration) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.uptime_seconds = entry.uptime_seconds.max(lasted.as_secs());
        }
    }

    /// An attempt failed. The caller leaves out failures that are our own (no network at all).
    pub fn handle_failure(&mut self, address: SocketAddr, now: UnixTime) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.failures_in_row = entry.failures_in_row.saturating_add(1);
            if entry.is_hopeless(now) {
                self.entries.remove(&address);
            }
        }
    }

    /// Addresses to hand to others: proven ones only, best first, at most `count`.
    pub fn proven(&self, count: usize, now: UnixTime) -> Vec<SocketAddr> {
        let mut proven: Vec<&Entry> =
            self.entries.values().filter(|entry| entry.is_proven(now)).collect();
        proven.sort_by_key(|entry| (order::cost(entry, now), entry.address));
        proven.into_iter().take(count).map(|entry| entry.address).collect()
    }

    /// Makes room for `address` if the rules allow it; says whether there is room now.
    fn has_room_for(&mut self, address: SocketAddr, proven: bool, now: UnixTime) -> bool {
        if !proven {
            let block = AddressBlock::of(address.ip());
            let (mut hearsay, mut same_block) = (0, 0);
            for entry in self.entries.values().filter(|entry| !entry.is_proven(now)) {
                hearsay += 1;
                same_block += usize::from(AddressBlock::of(entry.address.ip()) == block);
            }
            // Loopback and private blocks are whole networks of one house or laboratory.
            if same_block >= BLOCK_MAX && !block.is_private() {
                return false;
            }
            if hearsay >= HEARSAY_MAX {
                return self.evict(true, now);
            }
        }
        self.entries.len() < ENTRIES_MAX || self.evict(!proven, now)
    }

    /// Drops the worst entry. Hearsay may only push out hearsay that failed or is a day older.
    fn evict(&mut self, for_hearsay: bool, now: UnixTime) -> bool {
        let day = Duration::from_secs(24 * 3600);
        let worst = self
            .entries
            .values()
            .filter(|entry| {
                !for_hearsay
                    || !entry.is_proven(now)
                        && (entry.failures_in_row > 0 || now.since(entry.last_heard) > day)
            })
            .max_by_key(|entry| (!entry.is_proven(now), order::cost(entry, now), entry.address))
            .map(|entry| entry.address);
        worst.is_some_and(|address| self.entries.remove(&address).is_some())
    }
}

/// Whether a connection to the address can make sense at all.
fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests;
