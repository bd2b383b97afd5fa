//! In which order a login tries the entries.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{Rng, seq::SliceRandom};

use super::{AddressBlock, Entry, HostCache};
use crate::clock::UnixTime;

/// Round trip assumed of an entry that was never measured, in milliseconds. Chosen: worse than a
/// continent, so that measured entries come first.
const ROUND_TRIP_UNKNOWN_MS: u64 = 250;
/// Every so many places of the order belong to a bootstrap entry. Chosen, see the module
/// `host_cache`.
const BOOTSTRAP_EVERY: usize = 3;

/// What trying this entry is expected to cost, in milliseconds: its round trip, plus what failures,
/// hearsay and age make likely. Only the order matters.
pub(super) fn cost(entry: &Entry, now: UnixTime) -> u64 {
    let round_trip = entry.round_trip_ms.map_or(ROUND_TRIP_UNKNOWN_MS, u64::from).min(5_000);
    // A failure costs about a time-out of the staggered start; the second weighs double.
    let failures = 250 * (1 << entry.failures_in_row.min(6)) - 250;
    let hearsay = if entry.is_proven(now) { 0 } else { 300 };
    let absent_hours = now.since(entry.last_success.unwrap_or(entry.last_heard)).as_secs() / 3600;
    let uptime_hours = (entry.uptime_seconds / 3600).min(24);
    round_trip + failures + hearsay + absent_hours.min(240) * 2 + (24 - uptime_hours) * 4
}

impl HostCache {
    /// Up to `count` addresses to try, in order. Entries of similar cost are shuffled by up to half
    /// of it, so that a crowd of clients spreads; a block already chosen goes behind the others;
    /// bootstrap entries hold every third place.
    pub fn login_order(
        &self,
        count: usize,
        now: UnixTime,
        randomness: &mut impl Rng,
    ) -> Vec<SocketAddr> {
        let mut ranked: Vec<(u64, SocketAddr)> = self
            .entries()
            .map(|entry| {
                let cost = cost(entry, now) + 20;
                (randomness.random_range(cost / 2..=cost), entry.address)
            })
            .collect();
        ranked.sort_unstable();
        let known = spread(ranked.into_iter().map(|(_, address)| address));
        let mut bootstrap: Vec<SocketAddr> = self.bootstrap().collect();
        bootstrap.shuffle(randomness);
        interleave(known, bootstrap, count)
    }
}

/// First the best of each block, then the second of each, and so on.
fn spread(ranked: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = BTreeMap::<AddressBlock, usize>::new();
    let mut placed: Vec<(usize, SocketAddr)> = ranked
        .map(|address| {
            let block = AddressBlock::of(address.ip());
            let round = seen.entry(block).or_default();
            *round += 1;
            // One house or laboratory has only one block: nothing to spread over.
            (if block.is_private() { 0 } else { *round }, address)
        })
        .collect();
    placed.sort_by_key(|(round, _)| *round);
    placed.into_iter().map(|(_, address)| address).collect()
}

fn interleave(known: Vec<SocketAddr>, bootstrap: Vec<SocketAddr>, count: usize) -> Vec<SocketAddr> {
    let mut order: Vec<SocketAddr> = Vec::with_capacity(count);
    let (mut known, mut bootstrap) = (known.into_iter(), bootstrap.into_iter());
    while order.len() < count {
        let next = if order.len() % BOOTSTRAP_EVERY == BOOTSTRAP_EVERY - 1 {
            bootstrap.next().or_else(|| known.next())
        } else {
            known.next().or_else(|| bootstrap.next())
        };
        match next {
            Some(address) if order.contains(&address) => {}
            Some(address) => order.push(address),
            None => break,
        }
    }
    order
}

/// From then on nobody is taken to wait, and the pauses grow. Chosen.
pub const PATIENT_AFTER: Duration = Duration::from_secs(600);

/// Wait before round `failed_rounds + 1` of a login: full jitter between nothing and an
/// exponentially growing ceiling (Brooker 2015, "Exponential backoff and jitter").
/// `failing_for`: since when nothing has worked; for [`PATIENT_AFTER`] somebody is taken to wait.
pub fn back_off(failed_rounds: u32, failing_for: Duration, randomness: &mut impl Rng) -> Duration {
    /// Chosen: a router's restart is noticed within a few seconds.
    const FIRST_CEILING_MS: u64 = 2_000;
    /// Chosen: nobody waits longer than five minutes after the network is back.
    const LAST_CEILING_MS: u64 = 300_000;
    /// Chosen: who unplugged a cable or switched a firewall looks at the screen for so long.
    const WAITING_CEILING_MS: u64 = 8_000;
    /// Below this a retry would only hit the same fault. Chosen.
    const FLOOR_MS: u64 = 200;
    let last = if failing_for < PATIENT_AFTER { WAITING_CEILING_MS } else { LAST_CEILING_MS };
    let ceiling = (FIRST_CEILING_MS << failed_rounds.min(10)).min(last);
    Duration::from_millis(randomness.random_range(FLOOR_MS..=ceiling))
}
