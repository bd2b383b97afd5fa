//! The paths of a session after its keys exist: which work, which carries the media.
//!
//! A path is (by what we send, the peer's address). It works when the peer's reports say that
//! they heard us on it; nothing else counts, so a path on which the peer is deaf is never
//! chosen. The table is pure bookkeeping: it sends nothing and has no timers of its own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::candidate::{LocalPath, PathDescription, PathKind};

/// Paths per session (chosen: 3 sockets and 3 relays towards 8 addresses).
pub(super) const PATHS_MAX: usize = 48;
/// How much better, in milliseconds of score, another path must be to take over (chosen).
const HYSTERESIS_MS: u64 = 15;
/// Confirmations before a path may take over a working one (chosen).
const CONFIRMATIONS_MIN: u32 = 2;
/// How long a path that went deaf is not chosen again: a machine that stalled looks like a deaf
/// path, and is back at once; each time within [`PENALTY_FORGOTTEN`] it takes twice as long
/// (chosen).
const PENALTY_FIRST: Duration = Duration::from_millis(750);
const PENALTY_DOUBLINGS_MAX: u32 = 4;
const PENALTY_FORGOTTEN: Duration = Duration::from_secs(30);

/// The shortest round trip is forgotten after one or two of these: the network behind an address
/// may have become another (chosen).
const LEAST_REMEMBERED: Duration = Duration::from_secs(15);

/// Index into the table; also the number by which reports name the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathNumber(pub(super) u8);

#[derive(Debug)]
pub(super) struct Path {
    pub(super) number: PathNumber,
    pub(super) description: PathDescription,
    /// Anything authenticated came in here.
    pub(super) heard_at: Option<Instant>,
    /// The peer's number for the path by which it sends what comes in here.
    pub(super) peer_number: Option<u8>,
    /// Clock of the last report that came in here, and when.
    pub(super) echo: Option<(u32, Instant)>,
    /// When, at the latest, the peer is known to have heard us here.
    pub(super) confirmed_at: Option<Instant>,
    pub(super) confirmations: u32,
    pub(super) round_trip: Option<Duration>,
    /// The shortest of this while and of the while before.
    least: [Option<Duration>; 2],
    least_since: Instant,
    /// When to send a report here next.
    pub(super) next_report: Instant,
    pub(super) reported_at: Option<Instant>,
    pub(super) attempts: u32,
    not_before: Option<Instant>,
    condemned_at: Option<Instant>,
    condemnations: u32,
}

impl Path {
    pub(super) fn score_ms(&self) -> u64 {
        let round_trip = self.round_trip.unwrap_or(Duration::from_millis(500));
        self.description.kind.handicap_ms() + round_trip.as_millis() as u64
    }

    pub(super) fn is_fresh(&self, now: Instant, span: Duration) -> bool {
        self.confirmed_at.is_some_and(|at| now.saturating_duration_since(at) <= span)
    }

    /// The shortest round trip lately, `sample` included.
    pub(super) fn observe_round_trip(&mut self, now: Instant, sample: Duration) -> Duration {
        if self.least_since + LEAST_REMEMBERED <= now {
            self.least = [None, self.least[0]];
            self.least_since = now;
        }
        self.least[0] = Some(self.least[0].map_or(sample, |least| least.min(sample)));
        self.round_trip = Some(match self.round_trip {
            // RFC 6298's smoothing, gain 1/8.
            Some(old) => old * 7 / 8 + sample / 8,
            None => sample,
        });
        self.least.iter().flatten().min().copied().unwrap_or(sample)
    }
}

#[derive(Debug, Default)]
pub(super) struct Paths {
    entries: Vec<Path>,
    next_number: u8,
}

impl Paths {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        self.entries.iter_mut()
    }

    pub(super) fn get(&self, number: PathNumber) -> Option<&Path> {
        self.entries.iter().find(|path| path.number == number)
    }

    pub(super) fn get_mut(&mut self, number: PathNumber) -> Option<&mut Path> {
        self.entries.iter_mut().find(|path| path.number == number)
    }

    pub(super) fn find(&self, local: LocalPath, remote: SocketAddr) -> Option<PathNumber> {
        let same =
            |path: &&Path| path.description.local == local && path.description.remote == remote;
        self.entries.iter().find(same).map(|path| path.number)
    }

    /// Finds or adds a path. At the bound the one longest without sign of life makes room,
    /// unless it is protected; `None` if nothing can.
    pub(super) fn ensure(
        &mut self,
        description: PathDescription,
        now: Instant,
        protected: &[Option<PathNumber>],
    ) -> Option<PathNumber> {
        if let Some(number) = self.find(description.local, description.remote) {
            return Some(number);
        }
        if self.entries.len() >= PATHS_MAX {
            let idle = self
                .entries
                .iter()
                .filter(|path| !protected.contains(&Some(path.number)))
                .filter(|path| !path.is_fresh(now, Duration::from_secs(15)))
                .min_by_key(|path| path.heard_at)?
                .number;
            self.remove(idle);
        }
        let number = self.free_number();
        self.entries.push(Path {
            number,
            description,
            heard_at: None,
            peer_number: None,
            echo: None,
            confirmed_at: None,
            confirmations: 0,
            round_trip: None,
            least: [None; 2],
            least_since: now,
            next_report: now,
            reported_at: None,
            attempts: 0,
            not_before: None,
            condemned_at: None,
            condemnations: 0,
        });
        Some(number)
    }

    fn free_number(&mut self) -> PathNumber {
        // 256 numbers for 48 paths: the loop ends, and a number is reused as late as possible.
        loop {
            let number = PathNumber(self.next_number);
            self.next_number = self.next_number.wrapping_add(1);
            if self.get(number).is_none() {
                return number;
            }
        }
    }

    pub(super) fn remove(&mut self, number: PathNumber) {
        self.entries.retain(|path| path.number != number);
    }

    pub(super) fn remove_local(&mut self, local: LocalPath) -> Vec<PathNumber> {
        let gone = self.entries.iter().filter(|path| path.description.local == local);
        let gone: Vec<_> = gone.map(|path| path.number).collect();
        self.entries.retain(|path| path.description.local != local);
        gone
    }

    /// A path on which the peer went deaf starts over and is not chosen for a while.
    pub(super) fn condemn(&mut self, number: PathNumber, now: Instant) {
        if let Some(path) = self.get_mut(number) {
            path.confirmed_at = None;
            path.confirmations = 0;
            path.attempts = 0;
            let since = path.condemned_at.replace(now);
            let again = since.is_some_and(|at| at + PENALTY_FORGOTTEN > now);
            path.condemnations = if again { path.condemnations.saturating_add(1) } else { 0 };
            let doublings = path.condemnations.min(PENALTY_DOUBLINGS_MAX);
            path.not_before = Some(now + PENALTY_FIRST * (1 << doublings));
            path.next_report = now + Duration::from_millis(500);
        }
    }

    /// The best working path other than `except`, if it confirmed itself within `span`.
    pub(super) fn best(
        &self,
        now: Instant,
        span: Duration,
        except: Option<PathNumber>,
    ) -> Option<&Path> {
        self.best_where(now, span, |path| Some(path.number) != except)
    }

    /// The best working path for which something holds.
    pub(super) fn best_where(
        &self,
        now: Instant,
        span: Duration,
        holds: impl Fn(&Path) -> bool,
    ) -> Option<&Path> {
        self.entries
            .iter()
            .filter(|path| holds(path) && path.is_fresh(now, span))
            .filter(|path| path.not_before.is_none_or(|at| at <= now))
            .min_by_key(|path| (path.score_ms(), path.number))
    }

    /// Paths that worked lately, at most `count`, to send copies by: the warm one first, then those
    /// on which something came in last, each local way once before any is taken twice.
    pub(super) fn copies(
        &self,
        now: Instant,
        span: Duration,
        (media, warm): (Option<PathNumber>, Option<PathNumber>),
        count: usize,
    ) -> Vec<PathDescription> {
        let others = self.entries.iter().filter(|path| Some(path.number) != media);
        let mut others: Vec<_> = others.filter(|path| path.is_fresh(now, span)).collect();
        let heard_ago = |path: &Path| path.heard_at.map(|at| now.saturating_duration_since(at));
        others.sort_by_key(|path| {
            let ago = heard_ago(path).map_or(u128::MAX, |ago| ago.as_millis());
            (Some(path.number) != warm, ago, path.number)
        });
        let mut chosen: Vec<PathDescription> = Vec::new();
        let mut again = Vec::new();
        for path in others {
            let is_used = chosen.iter().any(|other| other.local == path.description.local);
            if is_used { &mut again } else { &mut chosen }.push(path.description);
        }
        chosen.extend(again);
        chosen.truncate(count);
        chosen
    }

    /// The second path to keep warm: working, and sharing as little as possible with `media`.
    pub(super) fn warm(&self, now: Instant, span: Duration, media: PathNumber) -> Option<&Path> {
        let media = self.get(media)?;
        self.entries
            .iter()
            .filter(|path| path.number != media.number && path.is_fresh(now, span))
            .min_by_key(|path| {
                let shared = u8::from(path.description.local == media.description.local)
                    + u8::from(path.description.remote.ip() == media.description.remote.ip());
                (shared, path.score_ms(), path.number)
            })
    }

    /// Whether `other` should take over from `media` although both work. Where a queue stands the
    /// round trips say when they were measured, not which path is shorter: only the kind counts.
    pub(super) fn is_clearly_better(
        &self,
        other: PathNumber,
        media: PathNumber,
        crowded: bool,
    ) -> bool {
        let (Some(other), Some(media)) = (self.get(other), self.get(media)) else { return false };
        let kind = |path: &Path| path.description.kind.handicap_ms();
        other.confirmations >= CONFIRMATIONS_MIN
            && (!crowded || kind(other) < kind(media))
            && other.score_ms() + HYSTERESIS_MS < media.score_ms()
    }
}

/// The kind of a path from what is known of its two ends.
pub(super) fn kind_of(
    relay: Option<super::RelayTransport>,
    remote: Option<super::CandidateKind>,
) -> PathKind {
    use super::{CandidateKind, RelayTransport};
    match (relay, remote) {
        (Some(RelayTransport::Tls), _) => PathKind::RelayedTls,
        (Some(RelayTransport::Tcp), _) => PathKind::RelayedTcp,
        (_, Some(CandidateKind::RelayedOverStream)) => PathKind::RelayedTcpByPeer,
        (Some(RelayTransport::Udp), _) => PathKind::RelayedUdp,
        (None, Some(CandidateKind::Relayed)) => PathKind::RelayedByPeer,
        (None, _) => PathKind::Direct,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn a_path_that_goes_deaf_again_and_again_rests_longer_each_time() {
        let start = Instant::now();
        let description = PathDescription {
            local: LocalPath::Direct(([127, 0, 0, 1], 1).into()),
            remote: ([127, 0, 0, 1], 2).into(),
            kind: PathKind::Direct,
        };
        let mut paths = Paths::default();
        let number = paths.ensure(description, start, &[]).unwrap();
        let rest = |paths: &mut Paths, at: Instant| {
            paths.condemn(number, at);
            paths.get_mut(number).unwrap().confirmed_at = Some(at);
            let mut later = at;
            while paths.best(later, Duration::from_secs(60), None).is_none() {
                later += Duration::from_millis(50);
            }
            later - at
        };
        let mut at = start;
        let rests: Vec<_> = (0..6)
            .map(|_| {
                at += Duration::from_secs(15);
                rest(&mut paths, at)
            })
            .collect();
        assert_eq!(rests[0], PENALTY_FIRST);
        assert!(rests[1..5].iter().zip(&rests).all(|(next, rest)| *next == *rest * 2), "{rests:?}");
        assert_eq!(rests[5], rests[4], "bounded");
        at += PENALTY_FORGOTTEN;
        assert_eq!(rest(&mut paths, at), PENALTY_FIRST, "forgotten");
    }
}
