//! What the packets of the last second say together: delay, its trend and spread, loss, rate.

/// Least queueing delay of a window from which the queue counts as standing, in ms. Chosen: two
/// to three packets; a user notices from about 100 ms on.
const STANDING_MS: f64 = 25.0;

/// On slow paths a packet alone takes longer than that: there the time of this many bits counts.
const STANDING_BITS: f64 = 600.0;

/// Jitter lifts even the least delay of a window. What counts as standing is higher by this many
/// mean deviations of the delay from its own trend; a queue without jitter has next to none.
const STANDING_DEVIATIONS: f64 = 2.0;

/// Share of the standing queue below which the rate may rise.
const CLEAR_SHARE: f64 = 0.4;

/// A packet that was late by so much beyond its own length waited behind another, and so many that
/// did tell what the path carries. Chosen: reports count in ms.
const WAITED_MS: f64 = 15.0;
const BUSY_PAIRS_MIN: u32 = 3;

/// Packets looked back on, in ms of sending and in number at most and least.
pub(super) const WINDOW_MS: f64 = 800.0;
pub(super) const WINDOW_PACKETS: usize = 96;
const WINDOW_PACKETS_MIN: usize = 5;

/// So many packets are looked at in any case, if they are not older than this.
const WINDOW_PACKETS_LONG: usize = 6;
const WINDOW_MS_LONG: f64 = 1_600.0;

/// Loss that is never random: no redundancy makes up for it. A queue that has been full for longer
/// than receivers remember the least transit shows no delay any more, only this.
const LOST_MAX: f64 = 0.75;

/// So much is enough where the round trip is longer than any path's without a queue, in ms.
const LOST_MAX_SLOW: f64 = 0.25;
const SLOW_MS: f64 = 700.0;

/// Loss from which a queue that grows counts as full.
pub(super) const FULL_LOST: f64 = 0.08;

/// Longest delay that a report can tell, in ms.
pub(super) const QUEUEING_MS_MAX: f64 = 254.0;

/// One packet of which a report told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) sent_ms: f64,
    pub(super) wire_bytes: usize,
    pub(super) queueing_ms: Option<f64>,
    /// How much longer than the shortest packets of late this one took to be sent; counted in the
    /// delay that was told, not in `queueing_ms`.
    pub(super) longer_ms: f64,
}

impl Told {
    /// When it arrived, less the least time that a packet of late was on the way.
    fn arrived_ms(&self) -> Option<f64> {
        Some(self.sent_ms + self.queueing_ms? + self.longer_ms)
    }
}

/// Bit/s between the arrivals of packets that waited behind the one before them.
fn busy<'t>(told: impl Iterator<Item = &'t Told> + Clone) -> Option<f64> {
    let (mut pairs, mut bytes, mut ms) = (0, 0.0, 0.0);
    for (before, after) in told.clone().zip(told.skip(1)) {
        let (Some(first_ms), Some(last_ms)) = (before.arrived_ms(), after.arrived_ms()) else {
            continue;
        };
        let tells = |told: &Told| told.queueing_ms.is_some_and(|ms| ms < QUEUEING_MS_MAX);
        let waited = after.queueing_ms.is_some_and(|ms| ms >= WAITED_MS);
        if tells(before) && tells(after) && waited && last_ms > first_ms {
            pairs += 1;
            bytes += after.wire_bytes as f64;
            ms += last_ms - first_ms;
        }
    }
    (pairs >= BUSY_PAIRS_MIN).then(|| bytes * 8e3 / ms)
}

/// What the packets of the last [`WINDOW_MS`] say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) least_ms: f64,
    pub(super) mean_ms: f64,
    /// Milliseconds of queue per millisecond of sending.
    pub(super) slope: f64,
    /// Mean absolute deviation from that line.
    deviation_ms: f64,
    pub(super) lost: f64,
    /// Bit/s that arrived.
    pub(super) through: f64,
    /// The same counted only where a packet waited behind the one before it, which says what the
    /// path can carry; `None` unless [`BUSY_PAIRS_MIN`] packets did.
    pub(super) busy: Option<f64>,
    /// Milliseconds of sending that were looked at.
    pub(super) span_ms: f64,
}

impl Window {
    /// Of the packets told of, oldest first.
    pub(super) fn of<'t>(
        told: impl Iterator<Item = &'t Told> + Clone,
        newest_ms: f64,
    ) -> Option<Self> {
        let all = told.clone().count();
        let told = || {
            let numbered = told.clone().enumerate().filter(move |(index, told)| {
                let is_late = index + WINDOW_PACKETS_LONG >= all;
                newest_ms - told.sent_ms <= if is_late { WINDOW_MS_LONG } else { WINDOW_MS }
            });
            numbered.map(|(_, told)| told)
        };
        let oldest_ms = told().map(|told| told.sent_ms).fold(newest_ms, f64::min);
        let arrived = || told().filter_map(|t| Some((t.sent_ms - newest_ms, t.queueing_ms?)));
        let count = arrived().count() as f64;
        if told().count() < WINDOW_PACKETS_MIN || count < 2.0 {
            return None;
        }
        let (x_mean, y_mean) =
            arrived().fold((0.0, 0.0), |(x, y), (ax, ay)| (x + ax / count, y + ay / count));
        let spread: f64 = arrived().map(|(x, _)| (x - x_mean).powi(2)).sum();
        let both: f64 = arrived().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
        let slope = if spread < 1.0 { 0.0 } else { both / spread };
        let (mut first_ms, mut last_ms, mut bytes) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        for told in told() {
            let Some(queueing_ms) = told.queueing_ms else { continue };
            // What came first only marks when the counting starts.
            bytes += if first_ms.is_finite() { told.wire_bytes as f64 } else { 0.0 };
            first_ms = first_ms.min(told.sent_ms + queueing_ms);
            last_ms = last_ms.max(told.sent_ms + queueing_ms);
        }
        let off = |(x, y): (f64, f64)| (y - y_mean - slope * (x - x_mean)).abs();
        Some(Self {
            least_ms: arrived().map(|(_, y)| y).fold(f64::INFINITY, f64::min),
            mean_ms: y_mean,
            slope,
            deviation_ms: arrived().map(off).sum::<f64>() / count,
            lost: 1.0 - count / told().count() as f64,
            through: bytes * 8e3 / (last_ms - first_ms).max(1.0),
            busy: busy(told()),
            span_ms: newest_ms - oldest_ms,
        })
    }

    /// Least delay from which the queue counts as standing, at `rate` bit/s.
    fn standing_ms(&self, foreign_ms: f64, rate: f64) -> f64 {
        let least_ms = STANDING_MS.max(STANDING_BITS * 1e3 / rate);
        least_ms + STANDING_DEVIATIONS * self.deviation_ms + foreign_ms
    }

    pub(super) fn is_clear(&self, foreign_ms: f64, rate: f64) -> bool {
        let clear_ms = foreign_ms + self.standing_ms(0.0, rate) * CLEAR_SHARE;
        self.least_ms < clear_ms && !self.is_saturated()
    }

    pub(super) fn is_saturated(&self) -> bool {
        self.least_ms >= QUEUEING_MS_MAX
    }

    pub(super) fn is_congested(&self, foreign_ms: f64, rate: f64, round_trip_ms: f64) -> bool {
        // A queue that grows fast needs no window's time to be known, nor one that drops.
        let standing_ms = self.standing_ms(foreign_ms, rate);
        let growing = self.slope > 0.15 && self.mean_ms > standing_ms;
        // What somebody else's queue was taken for is no excuse for one beyond all telling.
        let lost_max = if round_trip_ms > SLOW_MS { LOST_MAX_SLOW } else { LOST_MAX };
        let full = self.is_saturated() || self.lost > lost_max;
        self.least_ms > standing_ms || full || (self.lost > FULL_LOST && growing)
    }
}
