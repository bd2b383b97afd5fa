//! Attachment: the login race, one super node in use, a second one warm.
//!
//! The paper's client (section IV.B, figure 3) sends UDP to its host cache and waits 5 s, then
//! tries TCP to the port, 443 and 80, each with a wait, then waits 6 s more. Here everything races:
//! UDP probes go out at once, TCP attempts start one every [`Config::stagger`] (RFC 8305) over
//! hosts and ports, an answered probe brings its host forward, a failure starts the next attempt at
//! once. The first authenticated connection wins; the second to another super node is kept warm.
//!
//! ```text
//!            ┌───────────── round failed: back-off with full jitter ──────────┐
//!            ▼                                                                │
//!   start ─▶ racing ── first connection ─▶ attached ── second ─▶ attached + warm
//!            ▲                               │  ▲                  │
//!            └────────── lost, no warm ──────┘  └── lost: the warm one takes over
//! ```
//!
//! It opens no sockets: the shell carries out [`Output`] and reports back.

mod output;
mod race;
mod shunned;
mod trouble;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use output::{AttemptId, Event, Output, Status, Udp};
use race::{Attempt, GRACE, PATIENCE, Round, Target};
pub use race::{Config, PortKind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use shunned::Shunned;
pub use trouble::{Failure, Trouble};

use crate::{
    clock::Now,
    host_cache::{HostCache, back_off},
    identity::NodeId,
};

/// Pause between two searches for a warm super node. Chosen: full jitter around a minute.
const WARM_RETRY: Duration = Duration::from_secs(60);
/// After a loss the search for a new warm super node is spread over this span, so that the nodes of
/// a lost super node do not storm the others. Chosen.
const WARM_SPREAD: Duration = Duration::from_millis(1000);

/// How long after a login the search for a warm super node begins: its handshake must not compete
/// with what the user is waiting for. Chosen.
const WARM_AFTER: Duration = Duration::from_millis(1500);

/// An attempt younger than this is waited for by who wants a super node now. Chosen: above three
/// round trips of 400 ms.
const WANTED_AFTER: Duration = Duration::from_millis(1500);

/// A connection that is authenticated and greeted.
#[derive(Clone, Debug)]
struct Held {
    attempt: AttemptId,
    node: NodeId,
    target: Target,
    since: Instant,
    draining: bool,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Attachment {
    config: Config,
    own: NodeId,
    host_cache: HostCache,
    randomness: ChaCha12Rng,
    in_use: Option<Held>,
    warm: Option<Held>,
    attempts: BTreeMap<AttemptId, Attempt>,
    round: Round,
    next_attempt: u64,
    shunned: Shunned,
    failed_rounds: u32,
    /// Why the last of them failed.
    trouble: Option<Trouble>,
    /// When the first round of these failed.
    failing_since: Option<Instant>,
    waiting_until: Option<Instant>,
    warm_at: Option<Instant>,
    udp: Udp,
    port_kind: PortKind,
    status: Status,
    outputs: VecDeque<Output>,
}

impl Attachment {
    /// A machine that is idle until [`Self::start`]. `port_kind` is what worked the last time.
    pub fn new(
        config: Config,
        own: NodeId,
        host_cache: HostCache,
        port_kind: PortKind,
        seed: [u8; 32],
    ) -> Self {
        Self {
            config,
            own,
            host_cache,
            randomness: ChaCha12Rng::from_seed(seed),
            in_use: None,
            warm: None,
            attempts: BTreeMap::new(),
            round: Round::default(),
            next_attempt: 0,
            shunned: Shunned::default(),
            failed_rounds: 0,
            trouble: None,
            failing_since: None,
            waiting_until: None,
            warm_at: None,
            udp: Udp::Unknown,
            port_kind,
            status: Status::Idle,
            outputs: VecDeque::new(),
        }
    }

    /// Begins the first race.
    pub fn start(&mut self, now: Now) {
        self.new_round(now);
        self.advance(now);
    }

    /// The network under us changed: look whether the connections still work, and race anew without
    /// waiting.
    pub fn handle_network_change(&mut self, now: Now) {
        for held in [&self.in_use, &self.warm].into_iter().flatten() {
            self.outputs.push_back(Output::Check { attempt: held.attempt });
        }
        self.failed_rounds = 0;
        self.trouble = None;
        self.failing_since = None;
        self.waiting_until = None;
        self.udp = Udp::Unknown;
        self.abandon_where(|_| true);
        self.new_round(now);
        self.advance(now);
    }

    /// Somebody waits for a super node: pauses end, and attempts that began while the network was
    /// worse are not waited for. They stay; within their bound others begin beside them.
    pub fn handle_wanted(&mut self, now: Now) {
        let is_young = |attempt: &Attempt| now.instant < attempt.started + WANTED_AFTER;
        if self.in_use.is_none() && !self.attempts.values().any(is_young) {
            self.new_round(now);
            self.round.next_start = Some(now.instant);
            self.advance(now);
        }
    }

    /// A probe was answered.
    pub fn handle_probe_answer(&mut self, now: Now, from: SocketAddr) {
        let is_first = self.udp != Udp::Works;
        if is_first {
            self.udp = Udp::Works;
            self.event(Event::UdpChanged(Udp::Works));
            self.publish_status();
        }
        let is_under_way = self.attempts.values().any(|attempt| attempt.target.entry == from);
        if is_under_way {
            // It is alive: its login may take its time before others are bothered.
            self.round.next_start = Some(now.instant + self.config.stagger * PATIENCE);
        } else if self.round.bring_forward(from) && is_first && self.in_use.is_none() {
            // An attempt whose host answers just after this one's keeps its place.
            let alone = self.attempts.is_empty();
            let grace = if alone { Duration::ZERO } else { self.config.stagger / GRACE };
            let soon = now.instant + grace;
            self.round.next_start = Some(self.round.next_start.map_or(soon, |at| at.min(soon)));
        }
        self.advance(now);
    }

    /// The TCP connection of an attempt is open: it is alive, and the rest of its handshake may
    /// take its time before others are bothered.
    pub fn handle_progress(&mut self, now: Now, attempt: AttemptId) {
        if let Some(attempt) = self.attempts.get(&attempt) {
            // On a slow link the rest takes as much longer.
            let opening = now.instant.saturating_duration_since(attempt.started);
            let patience = (self.config.stagger * PATIENCE).max(opening * PATIENCE);
            self.round.next_start = Some(now.instant + patience);
        }
        self.advance(now);
    }

    /// The address by which the super node in use is known, whichever of its ports is used.
    pub fn entry_in_use(&self) -> Option<SocketAddr> {
        self.in_use.as_ref().map(|held| held.target.entry)
    }

    /// A connection is authenticated and greeted. `round_trip` is that of its handshake.
    pub fn handle_attached(
        &mut self,
        now: Now,
        attempt: AttemptId,
        node: NodeId,
        round_trip: Duration,
    ) {
        let Some(Attempt { target, .. }) = self.attempts.remove(&attempt) else {
            self.outputs.push_back(Output::Close { attempt });
            return;
        };
        if node == self.own {
            self.outputs.push_back(Output::Close { attempt });
            self.round.failed_fast(now);
            self.advance(now);
            return;
        }
        self.host_cache.handle_success(target.entry, round_trip, now.unix);
        let held = Held { attempt, node, target, since: now.instant, draining: false };
        let same = |held: &Option<Held>| held.as_ref().is_some_and(|held| held.node == node);
        if self.in_use.as_ref().is_none_or(|held| held.draining && held.node != node) {
            self.port_kind = held.target.kind;
            self.failed_rounds = 0;
            self.trouble = None;
            self.failing_since = None;
            if same(&self.warm) {
                self.close_warm();
            }
            self.take_into_use(held, false);
            if self.warm.is_none() {
                self.round.targets.clear();
                self.warm_at = Some(now.instant + WARM_AFTER);
            }
        } else if !same(&self.in_use) && self.warm.is_none() {
            self.event(Event::WarmReady { attempt, node });
            self.warm = Some(held);
        } else {
            self.outputs.push_back(Output::Close { attempt });
        }
        if self.warm.is_some() {
            self.abandon_where(|_| true);
            self.round.targets.clear();
        }
        self.publish_status();
        self.advance(now);
    }

    /// An attempt failed.
    pub fn handle_failure(&mut self, now: Now, attempt: AttemptId, failure: Failure) {
        let Some(Attempt { target, .. }) = self.attempts.remove(&attempt) else { return };
        if target.kind == PortKind::Own && failure.is_the_entrys() {
            self.host_cache.handle_failure(target.entry, now.unix);
        }
        if let Failure::Busy { try_these } = &failure {
            self.host_cache.handle_report(try_these.iter().copied(), now.unix);
            self.round.redirect(try_these);
        }
        self.round.failures.push(failure);
        self.round.failed_fast(now);
        self.advance(now);
    }

    /// A connection in use or warm ended.
    pub fn handle_lost(&mut self, now: Now, attempt: AttemptId) {
        if let Some(lost) = self.warm.take_if(|held| held.attempt == attempt) {
            self.note_end(&lost, now);
            self.event(Event::WarmLost { attempt });
            self.seek_warm_soon(now);
        } else if let Some(lost) = self.in_use.take_if(|held| held.attempt == attempt) {
            self.note_end(&lost, now);
            self.event(Event::Lost { attempt, node: lost.node });
            match self.warm.take() {
                Some(warm) => {
                    self.take_into_use(warm, true);
                    self.seek_warm_soon(now);
                }
                None => self.new_round(now),
            }
        }
        self.publish_status();
        self.advance(now);
    }

    /// The super node announced that it closes soon.
    pub fn handle_drain(&mut self, now: Now, attempt: AttemptId, try_these: &[SocketAddr]) {
        self.host_cache.handle_report(try_these.iter().copied(), now.unix);
        if let Some(leaving) = self.warm.take_if(|held| held.attempt == attempt) {
            self.event(Event::WarmLost { attempt: leaving.attempt });
            self.outputs.push_back(Output::Close { attempt });
            self.seek_warm_soon(now);
        } else if self.in_use.as_ref().is_some_and(|held| held.attempt == attempt) {
            if let Some(warm) = self.warm.take() {
                self.take_into_use(warm, true);
                self.seek_warm_soon(now);
            } else if let Some(held) = &mut self.in_use {
                held.draining = true;
                self.new_round(now);
            }
            self.round.redirect(try_these);
        }
        self.publish_status();
        self.advance(now);
    }

    /// A super node reported others.
    pub fn handle_report(&mut self, now: Now, super_nodes: &[SocketAddr]) {
        self.host_cache.handle_report(super_nodes.iter().copied(), now.unix);
        if self.in_use.is_some() && self.warm.is_none() && self.attempts.is_empty() {
            // There may be a warm one among them.
            self.seek_warm_soon(now);
        }
        self.advance(now);
    }

    /// Time has passed. May be late, early or needless.
    pub fn handle_timeout(&mut self, now: Now) {
        self.advance(now);
    }

    /// What the shell must do next; `Timeout` when there is nothing more for now.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.next_timeout()))
    }

    /// The host cache, to store it.
    pub fn host_cache(&self) -> &HostCache {
        &self.host_cache
    }

    /// Replaces the bootstrap entries, after their names were resolved again.
    pub fn set_bootstrap(&mut self, now: Now, bootstrap: impl IntoIterator<Item = SocketAddr>) {
        self.host_cache.set_bootstrap(bootstrap);
        if self.in_use.is_none() && self.attempts.is_empty() {
            self.waiting_until = None;
            self.new_round(now);
            self.advance(now);
        }
    }

    /// Which port worked, to start with it the next time.
    pub fn port_kind(&self) -> PortKind {
        self.port_kind
    }

    /// What a person may be shown.
    pub fn status(&self) -> &Status {
        &self.status
    }

    fn take_into_use(&mut self, held: Held, was_warm: bool) {
        let (attempt, node, address) = (held.attempt, held.node, held.target.to);
        self.in_use = Some(held);
        self.event(Event::Attached { attempt, node, address, was_warm });
    }

    fn close_warm(&mut self) {
        if let Some(warm) = self.warm.take() {
            self.outputs.push_back(Output::Close { attempt: warm.attempt });
        }
    }

    fn note_end(&mut self, lost: &Held, now: Now) {
        let lasted = now.instant.saturating_duration_since(lost.since);
        self.host_cache.handle_uptime(lost.target.entry, lasted);
        if !lost.draining {
            self.shunned.note_end(now.instant, lost.target.entry, lasted);
            self.host_cache.handle_failure(lost.target.entry, now.unix);
        }
    }

    fn seek_warm_soon(&mut self, now: Now) {
        let spread = self.randomness.random_range(Duration::ZERO..=WARM_SPREAD);
        self.warm_at = Some(now.instant + spread);
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn publish_status(&mut self) {
        let status = match (&self.in_use, self.waiting_until) {
            (Some(held), _) => Status::Attached {
                node: held.node,
                address: held.target.to,
                warm: self.warm.as_ref().map(|warm| warm.node),
                udp: self.udp,
            },
            (None, Some(until)) => {
                let why = Trouble::of(&self.round.failures, self.udp);
                Status::Waiting { why, until }
            }
            (None, None) => Status::Racing { before: self.trouble.clone() },
        };
        if status != self.status {
            self.status = status.clone();
            self.event(Event::StatusChanged(status));
        }
    }
}

#[cfg(test)]
mod tests;
