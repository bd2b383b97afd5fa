//! Delivers the messages of one leg in order and exactly once over peer connections that may be
//! lost and found again, or replay what they carried.
//!
//! Each direction counts its messages from 1. The receiver takes only the next number, answers
//! everything with the highest number it has, and drops the rest; the sender repeats all that is
//! not acknowledged, in order, when the connection is found again and on a timer.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::wire::v1::{CallMessage, call_message::Body};

/// Messages that may wait for an acknowledgement; above it the peer is treated as lost. Chosen:
/// twice what a set-up with all its candidates needs.
pub(crate) const UNACKNOWLEDGED_MAX: usize = 160;

/// First repetition. Chosen: above any sane round trip, as the stream below already repeats.
const REPEAT_FIRST: Duration = Duration::from_secs(1);

/// Longest time between repetitions. Chosen.
const REPEAT_MAX: Duration = Duration::from_secs(4);

/// Where acknowledgements come slowly, as through a full queue, a repetition only fills it more:
/// so many times the slowest of late, at most so long. Chosen.
const SLOWEST_FACTOR: u32 = 2;
const REPEAT_SLOW_MAX: Duration = Duration::from_secs(10);

/// More messages wait than [`UNACKNOWLEDGED_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
pub(crate) struct Sequencer {
    sent: u32,
    received: u32,
    acknowledged: u32,
    /// With the moment at which each was sent first.
    waiting: VecDeque<(u32, Instant, Body)>,
    /// The longest that an acknowledgement took of late.
    slowest: Duration,
    repeat_at: Option<Instant>,
    repeat_after: Duration,
    /// The oldest was repeated already.
    is_repeated: bool,
}

/// What became of a message that arrived.
#[derive(Debug, PartialEq)]
pub(crate) enum Arrival {
    /// It is the next one.
    Deliver(Body),
    /// Not numbered.
    Unnumbered(Option<Body>),
    /// Seen before, or its predecessor is missing: only the acknowledgement is due again.
    Again,
}

impl Sequencer {
    /// Numbers `body` and keeps it until it is acknowledged.
    pub(crate) fn send(&mut self, now: Instant, body: Body) -> Result<CallMessage, Full> {
        // The end of a call must be said even to a peer that took nothing else.
        if !self.has_room() && !matches!(body, Body::Bye(_)) {
            return Err(Full);
        }
        self.sent += 1;
        self.waiting.push_back((self.sent, now, body.clone()));
        if self.repeat_at.is_none() {
            self.repeat_after = self.repeat_first();
            self.repeat_at = Some(now + self.repeat_after);
        }
        Ok(self.message(self.sent, Some(body)))
    }

    /// A message that is not numbered: a keep-alive, or a bare acknowledgement with no body.
    pub(crate) fn unnumbered(&self, body: Option<Body>) -> CallMessage {
        self.message(0, body)
    }

    /// Takes in what arrived.
    pub(crate) fn receive(&mut self, now: Instant, message: CallMessage) -> Arrival {
        self.handle_acknowledged(now, message.acknowledged);
        if message.sequence == 0 {
            return Arrival::Unnumbered(message.body);
        }
        match message.body {
            Some(body) if message.sequence == self.received.wrapping_add(1) => {
                self.received = message.sequence;
                Arrival::Deliver(body)
            }
            _ => Arrival::Again,
        }
    }

    /// What to repeat because it is time: the oldest alone at first, for its acknowledgement tells
    /// of all, and everything when that did not help.
    pub(crate) fn repeat_due(&mut self, now: Instant) -> Vec<CallMessage> {
        let was_repeated = std::mem::replace(&mut self.is_repeated, true);
        let mut messages = self.repeat(now);
        messages.truncate(if was_repeated { messages.len() } else { 1 });
        messages
    }

    /// Everything that is not acknowledged, in order.
    pub(crate) fn repeat(&mut self, now: Instant) -> Vec<CallMessage> {
        if self.waiting.is_empty() {
            self.repeat_at = None;
            return Vec::new();
        }
        let first = self.repeat_first();
        self.repeat_after = (self.repeat_after * 2).clamp(first, REPEAT_MAX.max(first));
        self.repeat_at = Some(now + self.repeat_after);
        self.waiting.iter().map(|(n, _, body)| self.message(*n, Some(body.clone()))).collect()
    }

    /// Whether one more message may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < UNACKNOWLEDGED_MAX
    }

    /// Forgets what is not acknowledged.
    pub(crate) fn abandon(&mut self) {
        self.waiting.clear();
        self.repeat_at = None;
    }

    /// When to repeat.
    pub(crate) fn repeat_at(&self) -> Option<Instant> {
        self.repeat_at
    }

    /// Whether the peer has everything that was sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    fn message(&self, sequence: u32, body: Option<Body>) -> CallMessage {
        CallMessage { call_id: bytes::Bytes::new(), sequence, acknowledged: self.received, body }
    }

    fn handle_acknowledged(&mut self, now: Instant, acknowledged: u32) {
        // An acknowledgement of what was never sent is a fault or a forgery by the peer itself:
        // it concerns only this leg, and ignoring it keeps both sides' numbers.
        if acknowledged <= self.acknowledged || acknowledged > self.sent {
            return;
        }
        self.acknowledged = acknowledged;
        self.is_repeated = false;
        self.slowest = self.slowest * 3 / 4;
        while let Some((_, sent, _)) = self.waiting.pop_front_if(|(n, ..)| *n <= acknowledged) {
            self.slowest = self.slowest.max(now.saturating_duration_since(sent));
        }
        self.repeat_after = self.repeat_first();
        self.repeat_at = (!self.waiting.is_empty()).then(|| now + self.repeat_after);
    }

    fn repeat_first(&self) -> Duration {
        REPEAT_FIRST.max((self.slowest * SLOWEST_FACTOR).min(REPEAT_SLOW_MAX))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // any moment will do as a beginning
mod tests {
    use super::*;
    use crate::wire::v1::{Bye, CallConfirm, Dtmf};

    fn dtmf(digit: &str) -> Body {
        Body::Dtmf(Dtmf { digit: digit.into(), duration_ms: 100 })
    }

    #[test]
    fn messages_arrive_once_and_in_order_whatever_is_lost_or_replayed() {
        let now = Instant::now();
        let (mut alice, mut bob) = (Sequencer::default(), Sequencer::default());
        let first = alice.send(now, dtmf("1")).expect("room");
        let second = alice.send(now, dtmf("2")).expect("room");
        assert_eq!(bob.receive(now, second.clone()), Arrival::Again, "the first is missing");
        assert_eq!(bob.receive(now, first.clone()), Arrival::Deliver(dtmf("1")));
        assert_eq!(bob.receive(now, first), Arrival::Again, "a replay");
        let repeated = alice.repeat(now);
        assert_eq!(repeated.len(), 2);
        assert_eq!(bob.receive(now, repeated[0].clone()), Arrival::Again);
        assert_eq!(bob.receive(now, repeated[1].clone()), Arrival::Deliver(dtmf("2")));
        assert_eq!(alice.receive(now, bob.unnumbered(None)), Arrival::Unnumbered(None));
        assert!(alice.is_settled());
        assert_eq!(alice.repeat_at(), None);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
        let now = Instant::now();
        let mut alice = Sequencer::default();
        alice.send(now, Body::Confirm(CallConfirm::default())).expect("room");
        let forged = CallMessage { acknowledged: 7, ..CallMessage::default() };
        alice.receive(now, forged);
        assert!(!alice.is_settled());
    }

    #[test]
    fn where_acknowledgements_are_slow_little_is_repeated() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut alice, mut bob) = (Sequencer::default(), Sequencer::default());
        let repeated_by = |alice: &mut Sequencer, until| {
            let mut repeated = 0;
            while let Some(due) = alice.repeat_at().filter(|due| *due <= until) {
                repeated += alice.repeat_due(due).len();
            }
            repeated
        };
        let send = |alice: &mut Sequencer, bob: &mut Sequencer, now| {
            for digit in ["1", "2", "3", "4", "5"] {
                let message = alice.send(now, dtmf(digit)).expect("room");
                bob.receive(now, message);
            }
        };
        send(&mut alice, &mut bob, start);
        assert_eq!(repeated_by(&mut alice, at(2_500)), 1, "the oldest tells of all");
        alice.receive(at(2_500), bob.unnumbered(None));
        assert!(alice.is_settled());
        send(&mut alice, &mut bob, at(3_000));
        assert_eq!(repeated_by(&mut alice, at(7_900)), 0, "twice the slowest was waited");
        assert_eq!(repeated_by(&mut alice, at(30_000)), 1 + 4 * 5, "what is lost comes again");
    }

    #[test]
    fn the_queue_is_bounded() {
        let now = Instant::now();
        let mut alice = Sequencer::default();
        for _ in 0..UNACKNOWLEDGED_MAX {
            alice.send(now, dtmf("1")).expect("room");
        }
        assert_eq!(alice.send(now, dtmf("1")), Err(Full));
        assert!(alice.send(now, Body::Bye(Bye::default())).is_ok(), "the end can always be said");
    }
}
