//! What the reports say about the path: loss and its bursts, round trip, queueing, and the rate.
//!
//! The rate is that of the wire, headers included. It rises while the path's queue is short and
//! falls when the *least* queueing delay of a whole report is high: jitter leaves at least one
//! packet of ten undelayed, a standing queue none. Random loss without queueing is not congestion
//! and is answered with redundancy, not with a lower rate; loss with a queue is.

use std::time::Instant;

use super::Feedback;

/// Packets whose sending is remembered: 2.5 s of 10 ms frames.
const SENT: usize = 256;

/// Least queueing delay of a report from which the queue counts as standing, in ms. Chosen: two
/// to three packets; a user notices from about 100 ms on.
const STANDING_MS: f64 = 25.0;

/// Share of the standing queue below which the rate may rise.
const CLEAR_SHARE: f64 = 0.4;

/// On a path with much jitter even the least of a report is high, whatever the rate: what counts as
/// standing follows it by this share of a report when above, and when below, up to a bound.
const FOLLOW_UP: f64 = 0.1;
const FOLLOW_DOWN: f64 = 0.03;
const STANDING_MS_MAX: f64 = 150.0;

/// Factor on the rate that got through, when the queue stands.
const DECREASE: f64 = 0.85;

/// Growth per second while the queue is clear, and while it has never stood.
const INCREASE_PER_S: f64 = 1.08;
const INCREASE_PER_S_START: f64 = 1.5;

/// Time constants of smoothing in reports.
const LOSS_SMOOTHING_PACKETS: f64 = 150.0;

/// Packets by which one may overtake another before it counts as lost.
const REORDERED: u16 = 2;

/// Rates in bit/s between which the estimate moves: 1.2 kB/s to 24 kB/s.
const RATE_MIN: f64 = 9_600.0;
const RATE_MAX: f64 = 192_000.0;

/// Least squares of queueing delay over sending time.
#[derive(Default)]
struct Trend {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Trend {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }

    /// Milliseconds of queue per millisecond of sending; 0 with fewer than five packets.
    fn slope(&self) -> f64 {
        let spread = self.count * self.xx - self.x * self.x;
        if self.count < 5.0 || spread < 1.0 {
            return 0.0;
        }
        (self.count * self.xy - self.x * self.y) / spread
    }
}

/// The state.
#[derive(Clone, Debug)]
pub(super) struct PathEstimator {
    sent: Box<[Option<(u16, Instant, usize)>; SENT]>,
    counted: Option<u16>,
    rate: f64,
    congested_before: bool,
    last_report: Option<Instant>,
    first_sent: Option<Instant>,
    hold_until: Option<Instant>,
    loss: f64,
    loss_known: f64,
    bursts: f64,
    lost: f64,
    in_burst: bool,
    round_trip_ms: Option<f64>,
    queueing_ms: f64,
    least_ms: f64,
    standing_ms: f64,
    missed: f64,
    playout_delay_ms: f64,
}

impl PathEstimator {
    /// An estimator that starts at `rate` bit/s on the wire.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            sent: Box::new([None; SENT]),
            counted: None,
            rate: f64::from(rate).clamp(RATE_MIN, RATE_MAX),
            congested_before: false,
            last_report: None,
            first_sent: None,
            hold_until: None,
            loss: 0.0,
            loss_known: 0.0,
            bursts: 0.0,
            lost: 0.0,
            in_burst: false,
            round_trip_ms: None,
            queueing_ms: 0.0,
            least_ms: 0.0,
            standing_ms: STANDING_MS,
            missed: 0.0,
            playout_delay_ms: 0.0,
        }
    }

    /// Notes a packet sent, with its length on the wire.
    pub(super) fn sent(&mut self, now: Instant, sequence: u16, wire_bytes: usize) {
        self.sent[usize::from(sequence) % SENT] = Some((sequence, now, wire_bytes));
    }

    fn find(&self, sequence: u16) -> Option<(Instant, usize)> {
        let (held, at, bytes) = self.sent[usize::from(sequence) % SENT]?;
        (held == sequence).then_some((at, bytes))
    }

    /// Takes a report; `using` is the bit/s on the wire that the sender really uses.
    pub(super) fn handle_feedback(&mut self, now: Instant, feedback: &Feedback, using: f64) {
        self.missed = f64::from(feedback.missed) / 255.0;
        self.playout_delay_ms = f64::from(feedback.playout_delay_ms);
        if let Some((sent, _)) = self.find(feedback.newest_sequence) {
            let all_ms = now.saturating_duration_since(sent).as_secs_f64() * 1e3;
            let sample_ms = (all_ms - f64::from(feedback.hold_ms)).max(0.0);
            let before_ms = self.round_trip_ms.unwrap_or(sample_ms);
            self.round_trip_ms = Some(before_ms + 0.125 * (sample_ms - before_ms));
        }
        let congested = self.least_ms > self.standing_ms * CLEAR_SHARE;
        let mut trend = Trend::default();
        let (mut least_ms, mut sum_ms, mut arrived, mut lost) = (f64::INFINITY, 0.0, 0.0, 0.0);
        // The last two may be late only: the next report has them again.
        let decided = feedback.newest_sequence.wrapping_sub(REORDERED);
        for (sequence, queueing) in feedback.packets() {
            if sequence.wrapping_sub(decided) as i16 > 0 {
                continue;
            }
            if self.counted.is_some_and(|c| sequence.wrapping_sub(c) as i16 <= 0) {
                continue;
            }
            // What a full queue drops is no reason for redundancy, which would fill it more.
            if !congested || queueing.is_some() {
                self.count(queueing.is_none());
            }
            if let (Some(ms), Some((sent, _))) = (queueing, self.find(sequence)) {
                let since = *self.first_sent.get_or_insert(sent);
                let at_ms = sent.saturating_duration_since(since).as_secs_f64() * 1e3;
                trend.add(at_ms, f64::from(ms));
            }
            match queueing {
                Some(ms) => {
                    least_ms = least_ms.min(f64::from(ms));
                    sum_ms += f64::from(ms);
                    arrived += 1.0;
                }
                None => lost += 1.0,
            }
        }
        self.counted = Some(decided);
        if arrived == 0.0 {
            return;
        }
        self.queueing_ms += 0.3 * (sum_ms / arrived - self.queueing_ms);
        let seconds = self
            .last_report
            .map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64().min(1.0));
        self.last_report = Some(now);
        let lost = lost / (lost + arrived);
        self.adapt(now, least_ms, lost, trend.slope(), seconds, using);
    }

    fn adapt(
        &mut self,
        now: Instant,
        least_ms: f64,
        lost: f64,
        slope: f64,
        seconds: f64,
        using: f64,
    ) {
        let held = self.hold_until.is_some_and(|until| now < until);
        let standing_ms = self.standing_ms;
        let clear_ms = standing_ms * CLEAR_SHARE;
        let losing_in_queue = lost > 0.08 && least_ms > clear_ms && slope > 0.05;
        if least_ms > standing_ms || losing_in_queue {
            if !held {
                // A queue that grows by `slope` seconds a second passes 1 / (1 + slope).
                let through = using * (1.0 - lost) / (1.0 + slope.clamp(0.0, 4.0));
                // A deep queue must also be drained, not only fed no faster.
                let drain = (1.0 - (least_ms - standing_ms).max(0.0) / 1_000.0).max(0.6);
                self.rate = self.rate.min(through) * DECREASE * drain;
                self.congested_before = true;
                // The effect is seen one round trip and one report later.
                let wait_ms = self.round_trip_ms.unwrap_or(200.0) + 250.0;
                self.hold_until =
                    now.checked_add(std::time::Duration::from_secs_f64(wait_ms / 1e3));
            }
        } else if least_ms < clear_ms && !held {
            let growth = if self.congested_before { INCREASE_PER_S } else { INCREASE_PER_S_START };
            // Growing beyond what is used proves nothing about the path.
            if self.rate < using * 1.3 + 4_000.0 {
                self.rate *= growth.powf(seconds);
            }
        }
        self.rate = self.rate.clamp(RATE_MIN, RATE_MAX);
        let follow = if least_ms > standing_ms { FOLLOW_UP } else { FOLLOW_DOWN };
        let followed_ms = standing_ms + follow * (least_ms - standing_ms);
        self.standing_ms = followed_ms.clamp(STANDING_MS, STANDING_MS_MAX);
        self.least_ms += 0.3 * (least_ms - self.least_ms);
    }

    fn count(&mut self, lost: bool) {
        let keep = 1.0 - 1.0 / LOSS_SMOOTHING_PACKETS;
        self.loss_known = self.loss_known * keep + 1.0;
        self.loss = self.loss * keep + f64::from(u8::from(lost));
        let slow = 1.0 - 1.0 / 1_000.0;
        if lost {
            self.lost = self.lost * slow + 1.0;
            if !self.in_burst {
                self.bursts = self.bursts * slow + 1.0;
            }
        }
        self.in_burst = lost;
    }

    /// Smoothed loss on the path, 0 to 1, before repair.
    pub(super) fn loss(&self) -> f64 {
        // As if 50 packets had come through before: no panic on the first loss.
        self.loss / (self.loss_known + 50.0 * (1.0 - self.loss_known / LOSS_SMOOTHING_PACKETS))
    }

    /// Mean length of a loss burst in packets, at least 1.
    pub(super) fn burst(&self) -> f64 {
        if self.bursts > 0.0 { (self.lost / self.bursts).max(1.0) } else { 1.0 }
    }

    /// Bit/s on the wire, headers included.
    pub(super) fn rate(&self) -> f64 {
        self.rate
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

    /// The other side's playout delay in ms.
    pub(super) fn playout_delay_ms(&self) -> f64 {
        self.playout_delay_ms
    }
}
