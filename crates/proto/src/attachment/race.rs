//! One round of the race: which hosts and ports, in which order, how many at once.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::Rng;

use super::{Attachment, AttemptId, Event, Failure, Output, Trouble, Udp, WARM_RETRY, back_off};
use crate::clock::Now;

/// Bounds and pauses of the race.
#[derive(Clone, Debug)]
pub struct Config {
    /// Hosts that a UDP probe is sent to. The paper's client probed about twenty over 5 s.
    pub probes: usize,
    /// Pause between two starts of TCP (RFC 8305 section 5: 250 ms recommended).
    pub stagger: Duration,
    /// Attempts under way at once.
    pub attempts_max: usize,
    /// Hosts in one round; each may be tried at three ports.
    pub hosts_max: usize,
    /// Time for one attempt, greeting included.
    pub attempt_time: Duration,
    /// Whether 443 and 80 are tried beside the host's own port (the paper's order).
    pub other_ports: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probes: 5,
            stagger: Duration::from_millis(250),
            attempts_max: 8,
            hosts_max: 12,
            attempt_time: Duration::from_secs(10),
            other_ports: true,
        }
    }
}

/// Which port of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortKind {
    /// The one in the host cache.
    #[default]
    Own,
    /// 443.
    Https,
    /// 80.
    Http,
}

impl PortKind {
    fn of(self, entry: SocketAddr) -> SocketAddr {
        let port = match self {
            Self::Own => entry.port(),
            Self::Https => 443,
            Self::Http => 80,
        };
        SocketAddr::new(entry.ip(), port)
    }

    /// How many places later than the likeliest port of the same host it is tried.
    fn delay(self, likeliest: Self) -> usize {
        match self {
            kind if kind == likeliest => 0,
            Self::Own => 1,
            Self::Https => 3,
            Self::Http => 6,
        }
    }
}

/// A host at one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As in the host cache.
    pub(super) entry: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) kind: PortKind,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) target: Target,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

/// Staggers to wait where there is no hurry: for the spare, and while a host logs us in that
/// answered a probe. Chosen: each needless start costs some 5 kB of handshake.
pub(super) const PATIENCE: u32 = 4;

/// The part of a stagger that the attempt under way has left when another host answers a probe: TCP
/// to one host and UDP to another, started together, come back together. Chosen: as above.
pub(super) const GRACE: u32 = 4;

/// Times after the start of a round at which probes are sent (again).
const PROBE_AT: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
/// Without an answer by then UDP is taken as blocked, if TCP works. Chosen; the paper's client
/// waited 5 s.
const PROBE_VERDICT: Duration = Duration::from_millis(3000);
/// Redirections followed in one round. Chosen: full super nodes must not send us in circles.
const REDIRECTIONS_MAX: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) targets: VecDeque<Target>,
    pub(super) failures: Vec<Failure>,
    /// Unset means at once.
    pub(super) next_start: Option<Instant>,
    probes: Vec<SocketAddr>,
    probes_sent: usize,
    started: Option<Instant>,
    redirections: usize,
    tried: Vec<SocketAddr>,
}

impl Round {
    /// Brings a host forward that answered a probe. Says whether it was still waiting.
    pub(super) fn bring_forward(&mut self, host: SocketAddr) -> bool {
        let place = self.targets.iter().position(|target| target.entry == host);
        if let Some(target) = place.and_then(|place| self.targets.remove(place)) {
            self.targets.push_front(target);
        }
        place.is_some()
    }

    /// A failure need not be waited out.
    pub(super) fn failed_fast(&mut self, now: Now) {
        self.next_start = Some(now.instant);
    }

    /// Puts the hosts that a full super node named first.
    pub(super) fn redirect(&mut self, try_these: &[SocketAddr]) {
        for host in try_these {
            if self.redirections >= REDIRECTIONS_MAX {
                return;
            }
            if !self.tried.contains(host) {
                self.redirections += 1;
                self.targets.retain(|target| target.to != *host);
                let target = Target { entry: *host, to: *host, kind: PortKind::Own };
                self.targets.push_front(target);
            }
        }
    }
}

/// Longest pause before those are tried again that were of no use lately (chosen).
const SHUNNED_PAUSE_MAX: Duration = Duration::from_secs(5);

impl Attachment {
    /// Begins a round: probes, and a fresh order of hosts and ports.
    pub(super) fn new_round(&mut self, now: Now) {
        let held: Vec<SocketAddr> =
            [&self.in_use, &self.warm].into_iter().flatten().map(|h| h.target.entry).collect();
        let hosts =
            self.host_cache.login_order(self.config.hosts_max, now.unix, &mut self.randomness);
        let mut hosts: Vec<SocketAddr> = hosts.into_iter().filter(|h| !held.contains(h)).collect();
        hosts.sort_by_key(|host| self.shunned.holds(now.instant, *host));
        // Where nobody else is left there is no hurry either.
        let all_shunned = hosts.first().is_some_and(|h| self.shunned.holds(now.instant, *h));
        let mut pause = Duration::ZERO;
        if all_shunned {
            pause = self.randomness.random_range(Duration::ZERO..=SHUNNED_PAUSE_MAX);
        }
        let mut ranked: Vec<(usize, Target)> = Vec::new();
        for (place, entry) in hosts.iter().enumerate() {
            for kind in [PortKind::Own, PortKind::Https, PortKind::Http] {
                let to = kind.of(*entry);
                let needless = kind != PortKind::Own
                    && (!self.config.other_ports || ranked.iter().any(|(_, t)| t.to == to));
                if !needless {
                    let target = Target { entry: *entry, to, kind };
                    ranked.push((place * 2 + kind.delay(self.port_kind), target));
                }
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        let probing = self.udp != Udp::Works;
        self.round = Round {
            targets: ranked.into_iter().map(|(_, target)| target).collect(),
            next_start: Some(now.instant + pause),
            probes: hosts.into_iter().take(if probing { self.config.probes } else { 0 }).collect(),
            started: Some(now.instant),
            ..Round::default()
        };
        self.warm_at = None;
        self.waiting_until = None;
    }

    /// Does whatever is due.
    pub(super) fn advance(&mut self, now: Now) {
        if self.waiting_until.is_some_and(|until| until <= now.instant) {
            self.new_round(now);
        }
        if self.warm_at.is_some_and(|at| at <= now.instant) && self.warm.is_none() {
            self.new_round(now);
        }
        self.send_probes(now);
        self.expire_attempts(now);
        self.start_attempts(now);
        self.end_round(now);
        self.publish_status();
    }

    fn send_probes(&mut self, now: Now) {
        let Some(started) = self.round.started else { return };
        while self.udp != Udp::Works
            && PROBE_AT.get(self.round.probes_sent).is_some_and(|at| started + *at <= now.instant)
        {
            self.round.probes_sent += 1;
            for to in &self.round.probes {
                self.outputs.push_back(Output::Probe { to: *to });
            }
        }
        let verdict_due = now.instant >= started + PROBE_VERDICT;
        if self.udp == Udp::Unknown
            && verdict_due
            && self.in_use.is_some()
            && !self.round.probes.is_empty()
        {
            self.udp = Udp::Blocked;
            self.event(Event::UdpChanged(Udp::Blocked));
        }
    }

    fn expire_attempts(&mut self, now: Now) {
        let late: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.deadline <= now.instant)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(Attempt { target, .. }) = self.attempts.remove(&id) {
                self.outputs.push_back(Output::Abandon { attempt: id });
                if target.kind == PortKind::Own {
                    self.host_cache.handle_failure(target.entry, now.unix);
                }
                self.round.failures.push(Failure::TimedOut);
            }
        }
    }

    fn is_seeking(&self) -> bool {
        self.waiting_until.is_none()
            && match &self.in_use {
                None => true,
                Some(held) => held.draining || self.warm.is_none(),
            }
    }

    fn start_attempts(&mut self, now: Now) {
        while self.is_seeking()
            && self.attempts.len() < self.config.attempts_max
            && self.round.next_start.is_none_or(|at| at <= now.instant)
        {
            let Some(target) = self.round.targets.pop_front() else { return };
            let held = [&self.in_use, &self.warm]
                .into_iter()
                .flatten()
                .any(|held| held.target.entry == target.entry);
            if held || self.round.tried.contains(&target.to) {
                continue;
            }
            let attempt = AttemptId(self.next_attempt);
            self.next_attempt += 1;
            let deadline = now.instant + self.config.attempt_time;
            self.attempts.insert(attempt, Attempt { target, started: now.instant, deadline });
            self.round.tried.push(target.to);
            self.outputs.push_back(Output::Connect { attempt, to: target.to });
            let staggers = if self.in_use.is_some() { PATIENCE } else { 1 };
            self.round.next_start = Some(now.instant + self.config.stagger * staggers);
        }
    }

    /// Looks whether the round has used itself up, and when to try again.
    fn end_round(&mut self, now: Now) {
        let spent = self.round.targets.is_empty() && self.attempts.is_empty();
        if !spent || self.round.started.is_none() || self.waiting_until.is_some() {
            return;
        }
        match &self.in_use {
            None => {
                let since = *self.failing_since.get_or_insert(now.instant);
                let failing_for = now.instant.saturating_duration_since(since);
                let wait = back_off(self.failed_rounds, failing_for, &mut self.randomness);
                self.failed_rounds = self.failed_rounds.saturating_add(1);
                self.trouble = Some(Trouble::of(&self.round.failures, self.udp));
                self.waiting_until = Some(now.instant + wait);
            }
            Some(_) if self.is_seeking() && self.warm_at.is_none() => {
                let wait = self.randomness.random_range(WARM_RETRY / 2..=WARM_RETRY * 3 / 2);
                self.warm_at = Some(now.instant + wait);
            }
            Some(_) => {}
        }
    }

    /// Gives up the attempts that match.
    pub(super) fn abandon_where(&mut self, matches: impl Fn(&Target) -> bool) {
        let ids: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| matches(&attempt.target))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.attempts.remove(&id);
            self.outputs.push_back(Output::Abandon { attempt: id });
        }
    }

    /// When the machine wants to be called next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let start = (self.is_seeking()
            && !self.round.targets.is_empty()
            && self.attempts.len() < self.config.attempts_max)
            .then_some(self.round.next_start)
            .flatten();
        let probing = self.udp == Udp::Unknown && !self.round.probes.is_empty();
        let probe = self.round.started.filter(|_| probing).and_then(|started| {
            match PROBE_AT.get(self.round.probes_sent) {
                Some(at) => Some(started + *at),
                None => self.in_use.as_ref().map(|_| started + PROBE_VERDICT),
            }
        });
        let warm = self.warm_at.filter(|_| self.warm.is_none());
        self.attempts
            .values()
            .map(|attempt| attempt.deadline)
            .chain([start, probe, warm, self.waiting_until].into_iter().flatten())
            .min()
    }
}
