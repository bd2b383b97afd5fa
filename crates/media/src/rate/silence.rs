//! When missing reports mean that they drown in the queue that the voice fills.

use std::time::{Duration, Instant};

/// Without any report for so long the path counts as full. Where reports come regularly, so many of
/// them missed are enough that random loss does it once in a thousand.
const SILENCE: Duration = Duration::from_millis(1_600);
const SILENCE_MIN: Duration = Duration::from_millis(400);
const CHANCE: f64 = 1e-3;
const LOSS_MIN: f64 = 0.05;

/// From one decrease to the next while nothing comes.
const AGAIN: Duration = Duration::from_millis(500);
pub(super) const SILENCE_DECREASE: f64 = 0.5;

/// At this rate and below reports are rare, and come through a queue: there it takes longer until
/// silence says something. A rate that still fills the queue in which reports drown must end too.
const RATE_RARE: f64 = 20_000.0;
const SILENCE_RARE: Duration = Duration::from_millis(2_800);

/// A sender that was quiet for this long has no reports to miss.
const PAUSE: Duration = Duration::from_millis(500);

/// What reports are taken to come in before any did, and the gain at which that is learnt.
const REPORT_MS_START: f64 = 500.0;
const REPORT_GAIN: f64 = 0.1;

/// Watches for reports while packets are sent.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    since: Option<Instant>,
    last_sent: Option<Instant>,
    last_report: Option<Instant>,
    /// Usual time from one report to the next.
    report_ms: f64,
}

impl Default for Silence {
    fn default() -> Self {
        Self { since: None, last_sent: None, last_report: None, report_ms: REPORT_MS_START }
    }
}

impl Silence {
    /// A report came in.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(last) = self.last_report.replace(now) {
            let ms = now.saturating_duration_since(last).as_secs_f64().min(1.0) * 1e3;
            self.report_ms += REPORT_GAIN * (ms - self.report_ms);
        }
        self.since = Some(now);
    }

    /// A packet leaves at `rate` bit/s: whether it is time to send less.
    pub(super) fn is_too_long(&mut self, now: Instant, path: &SilentPath) -> bool {
        let paused =
            self.last_sent.replace(now).is_none_or(|at| now.saturating_duration_since(at) > PAUSE);
        let since = *self.since.get_or_insert(now);
        let patience = self.patience(path);
        if paused {
            self.since = Some(now);
        } else if now.saturating_duration_since(since) >= patience {
            self.since = now.checked_sub(patience.saturating_sub(AGAIN));
            return true;
        }
        false
    }

    fn patience(&self, path: &SilentPath) -> Duration {
        if path.rate <= RATE_RARE {
            return SILENCE_RARE;
        }
        let missed = CHANCE.ln() / path.lost.clamp(LOSS_MIN, 0.9).ln();
        let ms = missed.ceil() * self.report_ms + path.round_trip_ms;
        Duration::from_secs_f64(ms / 1e3).clamp(SILENCE_MIN, SILENCE)
    }
}

/// What is known of the path from which nothing comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SilentPath {
    /// Bit/s on the wire.
    pub(super) rate: f64,
    /// Share of packets lost at random.
    pub(super) lost: f64,
    pub(super) round_trip_ms: f64,
}
