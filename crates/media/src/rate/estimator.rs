//! What the reports say about the path: loss and its bursts, round trip, queueing, and the rate.
//!
//! The rate is that of the wire, headers included. It rises while the path's queue is short and
//! falls when the *least* queueing delay of a window is high compared with how much the delay
//! varies: jitter leaves some packets hardly delayed, a standing queue none. Random loss without
//! queueing is not congestion and is answered with redundancy, not with a lower rate; loss with a
//! queue is.

use std::time::{Duration, Instant};

use super::{
    Feedback,
    deep::DeepQueue,
    losses::Losses,
    silence::{SILENCE_DECREASE, Silence, SilentPath},
    sizes::SentSizes,
    window::{FULL_LOST, NARROW, QUEUEING_MS_MAX, Told, ToldLog, WINDOW_MS, Window},
};

/// Packets whose sending is remembered: 2.5 s of 10 ms frames.
const SENT: usize = 256;

/// A queue of at least this many ms all through a window kept the path busy: what got through then
/// is what the path can carry.
const BUSY_MS: f64 = 15.0;

/// Delay that no change of ours changes is forgotten at this rate.
const FOREIGN_KEPT_PER_S: f64 = 0.97;

/// Factor on the rate that got through, when the queue stands.
const DECREASE: f64 = 0.93;

/// Factor on that while the queue drains, and how long at most.
const DRAIN: f64 = 0.75;
/// The same for a queue that is heard, where the rate leaves room to go lower.
const DRAIN_DEEP: f64 = 0.5;
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Mean queueing delay, in ms or bits, up to which a probe's queue drains by so little less.
const SMALL_MS: f64 = 100.0;
const SMALL_BITS: f64 = 2_400.0;
const DRAIN_SMALL: f64 = 0.95;

/// Growth per round trip, or per 100 ms if that is longer, from a start that fits nearly every path
/// to what most carry, in bit/s, while nothing speaks against it (chosen: half a second).
const INCREASE_START: f64 = 1.6;
const START_ROUND_MS_MIN: f64 = 100.0;
pub(super) const RICH: f64 = 110_000.0;

/// Growth per second while the queue is clear: where the path was never full and there below
/// [`LOW`], where it once was, and there below [`LOW`].
const INCREASE_PER_S_START: f64 = 1.5;
const INCREASE_PER_S_START_LOW: f64 = 1.25;
const INCREASE_PER_S: f64 = 1.08;
const INCREASE_PER_S_PROVEN: f64 = 1.2;
const INCREASE_PER_S_LOW: f64 = 1.015;

/// The same on another path, up to so much more than the old one carried: mostly it is the same
/// narrow place.
const INCREASE_PER_S_DOUBT: f64 = 1.15;
const DOUBT: f64 = 1.5;
const DOUBT_AFTER: Duration = Duration::from_secs(4);

/// Below this many bit/s there is hardly room for voice.
const VERY_NARROW: f64 = 20_000.0;

/// Bit/s below which more than was proven is tried with care: there a queue is deep at once.
const LOW: f64 = 16_000.0;

/// Once full, a path is filled to this share of what got through (a narrow one less: reports and
/// signalling, which are all packets of a few, need room too), and probed for more only after a
/// while, longer each time that the answer was the same.
const FILL: f64 = 0.98;
const FILL_NARROW: f64 = 0.92;
const PROBE_AFTER: Duration = Duration::from_secs(8);
const PROBE_AFTER_MAX: Duration = Duration::from_secs(64);

/// So many times longer below [`LOW`]: there a probe moves the playout delay, which is heard.
const PATIENCE_LOW: u32 = 8;

/// Rates this near each other, as shares, are the same.
const SAME: core::ops::Range<f64> = 0.85..1.18;

/// By so many packets and so much time one may overtake another; then it counts as lost.
const REORDERED: u16 = 2;
const REORDERED_TIME: Duration = Duration::from_millis(100);

/// Rates in bit/s between which the estimate moves: 1 kB/s to 24 kB/s.
const RATE_MIN: f64 = 8_000.0;
const RATE_MAX: f64 = 192_000.0;

/// The state.
#[derive(Clone, Debug)]
pub(super) struct PathEstimator {
    sent: Box<[Option<(u16, Instant, usize)>; SENT]>,
    sizes: SentSizes,
    deep: DeepQueue,
    counted: Option<u16>,
    rate: f64,
    /// Bit/s that got through when the path was last full.
    capacity: Option<f64>,
    /// The same of the path before, until this one has carried clearly more.
    doubted: Option<f64>,
    /// Bit/s that the path carried when that was certain last.
    carried: Option<f64>,
    /// Nothing has spoken against growing fast.
    is_fast: bool,
    /// Nothing is known yet of the delay that the path has.
    is_new: bool,
    probe_after: Duration,
    probe_at: Option<Instant>,
    drain_until: Option<Instant>,
    drain: f64,
    last_sent: Option<Instant>,
    silence: Silence,
    told: ToldLog,
    last_report: Option<Instant>,
    /// Bit/s that the sender uses.
    using: f64,
    first_sent: Option<Instant>,
    hold_until: Option<Instant>,
    losses: Losses,
    round_trip_ms: Option<f64>,
    queueing_ms: f64,
    congested: bool,
    /// Least delay that is not ours to change, in ms.
    foreign_ms: f64,
    /// Mean delay when the rate was lowered, until the queue is gone.
    lowered_at_ms: Option<f64>,
    missed: f64,
    playout_delay_ms: f64,
    capture_delay_ms: f64,
}

impl PathEstimator {
    /// An estimator that starts at `rate` bit/s on the wire.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            sent: Box::new([None; SENT]),
            sizes: SentSizes::default(),
            deep: DeepQueue::default(),
            counted: None,
            rate: f64::from(rate).clamp(RATE_MIN, RATE_MAX),
            capacity: None,
            doubted: None,
            carried: None,
            is_fast: true,
            is_new: false,
            probe_after: PROBE_AFTER,
            probe_at: None,
            drain_until: None,
            drain: DRAIN,
            last_sent: None,
            silence: Silence::default(),
            told: ToldLog::default(),
            last_report: None,
            using: f64::INFINITY,
            first_sent: None,
            hold_until: None,
            losses: Losses::default(),
            round_trip_ms: None,
            queueing_ms: 0.0,
            congested: false,
            foreign_ms: 0.0,
            lowered_at_ms: None,
            missed: 0.0,
            playout_delay_ms: 0.0,
            capture_delay_ms: 0.0,
        }
    }

    /// Starts with what the handshake got through, as long as there was no report.
    pub(super) fn start_at(&mut self, rate: u32) {
        if self.last_report.is_none() {
            self.rate = f64::from(rate).clamp(RATE_MIN, RATE_MAX);
            // So low it was no loss of a packet, nor a long way.
            if self.rate < VERY_NARROW {
                self.doubted = Some(self.rate);
                self.is_fast = false;
            }
        }
    }

    /// What to think of another path: [`RICH`] unless less was used, and doubts about more than the
    /// old one carried. Where a queue stands or the rate is low, it is most likely the same narrow
    /// place: then the state stays, and more is tried after a while without another change.
    pub(super) fn for_another_path(&self) -> Self {
        if self.last_report.is_none() {
            // Reports that are missed are missed on both.
            return self.clone();
        }
        let narrow = self.congested || self.queueing_ms > SMALL_MS || self.rate < NARROW;
        let rate = self.rate.min(RICH) as u32;
        let mut other = if narrow { self.clone() } else { Self::new(rate) };
        other.is_fast = self.is_fast;
        other.doubted = self.capacity.or(self.doubted);
        other.capacity = None;
        if narrow {
            other.probe_at = self.last_sent.and_then(|at| at.checked_add(DOUBT_AFTER));
        } else {
            other.is_new = true;
            (other.playout_delay_ms, other.capture_delay_ms) =
                (self.playout_delay_ms, self.capture_delay_ms);
        }
        other
    }

    /// Notes a packet sent, with its length on the wire.
    pub(super) fn sent(&mut self, now: Instant, sequence: u16, wire_bytes: usize) {
        self.sent[usize::from(sequence) % SENT] = Some((sequence, now, wire_bytes));
        self.sizes.sent(now, wire_bytes, self.rate);
        self.last_sent = Some(now);
        let path = SilentPath {
            rate: self.rate,
            lost: self.losses.share(),
            round_trip_ms: self.round_trip_ms.unwrap_or(0.0),
        };
        if self.silence.is_too_long(now, &path) {
            self.rate = (self.rate.min(self.using) * SILENCE_DECREASE).max(RATE_MIN);
            self.is_fast = false;
        }
    }

    fn find(&self, sequence: u16) -> Option<(Instant, usize)> {
        let (held, at, bytes) = self.sent[usize::from(sequence) % SENT]?;
        (held == sequence).then_some((at, bytes))
    }

    /// Takes a report; `using` is the bit/s on the wire that the sender really uses.
    pub(super) fn handle_feedback(&mut self, now: Instant, feedback: &Feedback, using: f64) {
        self.missed = f64::from(feedback.missed) / 255.0;
        self.playout_delay_ms = f64::from(feedback.playout_delay_ms);
        self.capture_delay_ms = f64::from(feedback.capture_delay_ms);
        if let Some((sent, _)) = self.find(feedback.newest_sequence) {
            let all_ms = now.saturating_duration_since(sent).as_secs_f64() * 1e3;
            let sample_ms = (all_ms - f64::from(feedback.hold_ms)).max(0.0);
            let before_ms = self.round_trip_ms.unwrap_or(sample_ms);
            self.round_trip_ms = Some(before_ms + 0.125 * (sample_ms - before_ms));
            self.deep.observe(now, sample_ms, self.rate < LOW);
        }
        let (mut sum_ms, mut arrived) = (0.0, 0.0);
        let decided = self.decided(feedback.newest_sequence);
        self.told.forget_undecided();
        for (sequence, queueing) in feedback.packets() {
            if self.counted.is_some_and(|c| sequence.wrapping_sub(c) as i16 <= 0) {
                continue;
            }
            // Sent by the path before.
            let Some(told) = self.told_of(sequence, queueing) else { continue };
            if sequence.wrapping_sub(decided) as i16 > 0 {
                self.told.push_undecided(told);
                continue;
            }
            // What a full queue drops is no reason for redundancy, which would fill it more.
            if !self.congested || queueing.is_some() {
                self.losses.count(queueing.is_none());
            }
            self.told.push(told);
            sum_ms += told.queueing_ms.unwrap_or(0.0);
            arrived += f64::from(u8::from(queueing.is_some()));
        }
        self.counted = Some(decided);
        if arrived > 0.0 {
            self.queueing_ms += 0.3 * (sum_ms / arrived - self.queueing_ms);
        }
        let seconds = self
            .last_report
            .map_or(0.1, |last| now.saturating_duration_since(last).as_secs_f64().min(1.0));
        self.last_report = Some(now);
        self.using = using;
        self.silence.heard(now);
        if let Some(window) = self.told.window() {
            self.adapt(now, window, seconds, using);
        }
    }

    fn told_of(&mut self, sequence: u16, queueing: Option<u8>) -> Option<Told> {
        let (sent, wire_bytes) = self.find(sequence)?;
        let longer_ms = self.longer_ms(wire_bytes);
        let beyond = |ms: f64| if ms >= QUEUEING_MS_MAX { ms } else { (ms - longer_ms).max(0.0) };
        let queueing_ms = queueing.map(|ms| beyond(f64::from(ms)));
        let since = *self.first_sent.get_or_insert(sent);
        let sent_ms = sent.saturating_duration_since(since).as_secs_f64() * 1e3;
        Some(Told { sent_ms, wire_bytes, queueing_ms, longer_ms })
    }

    /// How much longer than the quickest packets of late one takes on a slow path.
    fn longer_ms(&self, wire_bytes: usize) -> f64 {
        if self.rate > NARROW {
            return 0.0;
        }
        let rate = self.capacity.unwrap_or(self.rate).max(self.rate);
        self.sizes.longer_ms(wire_bytes, rate)
    }

    /// The newest packet of which a report about `newest` decides whether it was lost: the last two
    /// may be late only, and the next report has them again.
    fn decided(&self, newest: u16) -> u16 {
        let Some((sent, _)) = self.find(newest) else { return newest.wrapping_sub(REORDERED) };
        let before = self.find(newest.wrapping_sub(1));
        let is_near =
            before.is_some_and(|(at, _)| sent.saturating_duration_since(at) < REORDERED_TIME);
        // Nothing sent so long before it was overtaken.
        newest.wrapping_sub(if is_near { REORDERED } else { 0 })
    }

    fn adapt(&mut self, now: Instant, window: Window, seconds: f64, using: f64) {
        if std::mem::take(&mut self.is_new) && window.lost < FULL_LOST && !window.is_saturated() {
            // Receivers tell of delays above the least that they remember, the old path's: a
            // longer way looks like a queue until that is forgotten.
            self.foreign_ms = window.least_ms;
        }
        let held = self.hold_until.is_some_and(|until| now < until);
        // Trying more than was proven ends at the first sign of a queue.
        let full = self.capacity.is_some_and(|capacity| self.rate > capacity);
        let round_trip_ms = self.round_trip_ms.unwrap_or(0.0);
        self.congested = window.is_congested(self.foreign_ms, self.rate, round_trip_ms)
            || (self.rate >= NARROW
                && (window.is_suddenly_deep(self.foreign_ms) || window.is_overfilled(self.rate)))
            || (full && !window.is_clear(self.foreign_ms, self.rate) && window.slope > 0.0);
        self.learn_capacity(now, window);
        if self.congested {
            if !held {
                self.decrease(now, window);
            }
        } else {
            self.lowered_at_ms = None;
            if window.is_clear(self.foreign_ms, self.rate) {
                // What is held was sent before the rate was lowered, and says nothing of after.
                if !held {
                    self.drain_until = None;
                }
                // Growing beyond what is used proves nothing about the path; and a full queue that
                // receivers take for the way itself is not seen in reports.
                let hidden = self.rate < NARROW && self.deep.stands();
                if !held && !hidden && self.rate < using * 1.3 + 4_000.0 {
                    self.grow(now, seconds);
                }
            }
        }
        self.foreign_ms *= FOREIGN_KEPT_PER_S.powf(seconds);
        self.rate = self.rate.clamp(RATE_MIN, RATE_MAX);
        self.drain_until = self.drain_until.filter(|until| now < *until);
    }

    /// While a queue drains the path is busy and what gets through is all that it can carry.
    fn learn_capacity(&mut self, now: Instant, window: Window) {
        let busy = window.least_ms > BUSY_MS + self.foreign_ms && !window.is_saturated();
        if let (Some(capacity), true, true) = (self.capacity, busy, self.lowered_at_ms.is_some()) {
            self.capacity = Some(capacity.max(window.through));
        }
        if let (Some(carried), true) = (window.carried(), self.rate >= NARROW) {
            self.carried = Some(carried);
            if self.capacity.is_some() || self.rate > carried {
                self.capacity = Some(carried);
                self.probe_at = self.probe_at.or(now.checked_add(self.probe_after));
            }
        }
        let narrow = self.rate < NARROW;
        if let (Some(capacity), Some(busy), true) = (self.capacity, window.busy, narrow) {
            // Without a queue that stands, what came through is what was sent: never all there is.
            let stands = window.stands(self.foreign_ms, self.rate);
            self.capacity = Some(if stands { busy } else { capacity.max(busy) });
            if self.rate < LOW {
                self.probe_at = now.checked_add(self.probe_after * PATIENCE_LOW);
            }
        }
    }

    fn grow(&mut self, now: Instant, seconds: f64) {
        let Some(capacity) = self.capacity else {
            self.doubted = self.doubted.filter(|carried| self.rate < carried * DOUBT);
            let growth = match self.doubted {
                Some(_) if self.probe_at.is_some_and(|at| now < at) => 1.0,
                Some(_) => INCREASE_PER_S_DOUBT,
                None if self.is_fast && self.rate < RICH => {
                    let round_ms = self.round_trip_ms.unwrap_or(0.0).max(START_ROUND_MS_MIN);
                    INCREASE_START.powf(1e3 / round_ms)
                }
                None if self.rate < LOW => INCREASE_PER_S_START_LOW,
                None => INCREASE_PER_S_START,
            };
            self.rate *= growth.powf(seconds);
            return;
        };
        let full = capacity * if self.rate < NARROW { FILL_NARROW } else { FILL };
        if self.rate < full {
            let wide = self.rate > NARROW;
            let growth = if wide { INCREASE_PER_S_PROVEN } else { INCREASE_PER_S };
            self.rate = (self.rate * growth.powf(seconds)).min(full);
        } else if self.probe_at.is_none_or(|at| now >= at) {
            let growth = if self.rate < LOW { INCREASE_PER_S_LOW } else { INCREASE_PER_S };
            self.rate *= growth.powf(seconds);
        }
    }

    fn decrease(&mut self, now: Instant, window: Window) {
        self.is_fast = false;
        // The effect is seen one round trip and one window later.
        let wait_ms = self.round_trip_ms.unwrap_or(200.0) + WINDOW_MS.max(window.span_ms);
        self.hold_until = now.checked_add(Duration::from_secs_f64(wait_ms / 1e3));
        let draining = window.slope < -0.05
            || self.lowered_at_ms.is_some_and(|before_ms| window.mean_ms < 0.8 * before_ms);
        let draining = draining && !window.is_saturated();
        match self.lowered_at_ms {
            Some(_) if draining => {}
            // At low rates a queue empties slowly, and there is nobody to compete with.
            Some(_) if !window.is_saturated() && self.rate > LOW => {
                // Sending less changed nothing: jitter, or somebody else's queue.
                self.foreign_ms = 1.25 * window.least_ms;
                self.lowered_at_ms = None;
                self.capacity = None;
                self.drain_until = None;
            }
            _ => {
                // Beyond what a report can tell any delay that it can tell is less.
                self.lowered_at_ms =
                    Some(if window.is_saturated() { f64::INFINITY } else { window.mean_ms });
                let as_before = self.capacity.is_some_and(|c| SAME.contains(&(window.through / c)));
                self.probe_after = match as_before {
                    true => (self.probe_after * 2).min(PROBE_AFTER_MAX),
                    false => PROBE_AFTER,
                };
                let patience = if self.rate < LOW { PATIENCE_LOW } else { 1 };
                self.probe_at = now.checked_add(self.probe_after * patience);
                // Delays beyond what a report can tell hide how fast the queue empties: then what
                // was sent is all that is known, and what was known before is worth more.
                let through = match self.capacity.or(self.carried) {
                    Some(capacity) if window.is_saturated() => capacity,
                    _ => window.carried().unwrap_or(window.through),
                };
                // A probe's small queue is gone soon, without that being heard.
                let small_ms = SMALL_MS.max(SMALL_BITS * 1e3 / self.rate) + self.foreign_ms;
                let small = as_before && window.mean_ms < small_ms;
                self.capacity = Some(through);
                self.doubted = None;
                self.rate = self.rate.min(through.min(window.through) * DECREASE);
                self.drain_until = now.checked_add(DRAIN_MAX);
                let deep = window.is_suddenly_deep(self.foreign_ms) && self.rate > NARROW;
                self.drain = match () {
                    () if small => DRAIN_SMALL,
                    () if deep => DRAIN_DEEP,
                    () => DRAIN,
                };
                if window.lost > 0.05 {
                    // The queue dropped them: no reason for redundancy.
                    self.losses = Losses::default();
                }
            }
        }
    }

    /// What was lost on the path, before repair.
    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// A queue stands, or one for which the rate was lowered is not gone.
    pub(super) fn has_queue(&self) -> bool {
        self.congested || self.lowered_at_ms.is_some()
    }

    /// Bit/s on the wire, headers included.
    pub(super) fn rate(&self) -> f64 {
        if self.deep.drains() && self.rate < LOW {
            return RATE_MIN;
        }
        let drain = if self.drain_until.is_some() { self.drain } else { 1.0 };
        (self.rate * drain).max(RATE_MIN)
    }

    /// Round trip in ms.
    pub(super) fn round_trip_ms(&self) -> Option<f64> {
        self.round_trip_ms
    }

    /// Queueing delay in ms.
    pub(super) fn queueing_ms(&self) -> f64 {
        self.queueing_ms
    }

    /// Share of frames missed in spite of redundancy.
    pub(super) fn missed(&self) -> f64 {
        self.missed
    }

    /// The other side's delay from mouth to packet in ms; 0 is unknown.
    pub(super) fn capture_delay_ms(&self) -> f64 {
        self.capture_delay_ms
    }

    /// The other side's playout delay in ms.
    pub(super) fn playout_delay_ms(&self) -> f64 {
        self.playout_delay_ms
    }
}
