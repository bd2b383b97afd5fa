//! What the packets of the last second say together: delay, its trend and spread, loss, rate.

/// Least queueing delay of a window from which the queue counts as standing, in ms. Chosen: two
/// to three packets; a user notices from about 100 ms on.
const STANDING_MS: f64 = 25.0;

/// On slow paths a packet alone takes longer than that: there the time of this many bits counts.
const STANDING_BITS: f64 = 600.0;

/// Jitter lifts even the least delay of a window, most where packets keep their order: one that is
/// late holds up all behind it. What counts as standing is higher by this many mean deviations of
/// the delay from its own trend; a queue without jitter has next to none. Below [`NARROW`] a packet
/// more or less in the queue is a deviation too.
const STANDING_DEVIATIONS: f64 = 4.0;
const STANDING_DEVIATIONS_NARROW: f64 = 2.0;

/// Share of the standing queue below which the rate may rise.
const CLEAR_SHARE: f64 = 0.4;

/// A packet that was late by so much beyond its own length waited behind another, and so many that
/// did tell what the path carries. Chosen: reports count in ms.
const WAITED_MS: f64 = 15.0;
const BUSY_PAIRS_MIN: u32 = 3;

/// Up to this mean deviation from the line, in ms, the spacing is that of one queue; jitter that
/// keeps the order spaces packets too, and says nothing of what the path carries.
const ONE_QUEUE_MS: f64 = 3.0;

/// The newest packets, by ms of sending, need no window's time to say that a queue has come up:
/// late by so much, as evenly as in one queue and not less and less, as after a machine that
/// stalled. Beyond what a report can tell nothing is known of that: then it takes longer.
const NEWEST_MS: f64 = 120.0;
const NEWEST_SPAN_MS: f64 = 60.0;
const NEWEST_LATE_MS: f64 = 100.0;
const NEWEST_LEFT: f64 = 0.85;
const NEWEST_EVEN_MS: f64 = 6.0;
const NEWEST_SATURATED_MS: f64 = 350.0;
/// So many packets, each later than the one before by as much as the others, up to this, say what
/// the path carries. Jitter does that once in an hour.
const RISING: usize = 5;
const RISING_EVEN_MS: f64 = 3.0;
const RISING_MS_MIN: f64 = 0.5;
const RISING_LATE_MS: f64 = 5.0;

/// Milliseconds of queue more or less per millisecond of sending, from which it changes: a delay
/// that stays is no queue, but a longer way.
const CHANGING_SLOPE: f64 = 0.02;

/// Below this many bit/s packets are too few for that, and the narrow place is most likely one's
/// own access.
pub(super) const NARROW: f64 = 32_000.0;

/// Packets looked back on, in ms of sending and in number at most and least.
pub(super) const WINDOW_MS: f64 = 800.0;
const WINDOW_PACKETS: usize = 96;
const WINDOW_PACKETS_MIN: usize = 5;

/// Packets that a report tells of before it is decided whether others overtook them.
const UNDECIDED: usize = 2;

/// So many packets are looked at in any case, if they are not older than this.
const WINDOW_PACKETS_LONG: usize = 6;
const WINDOW_MS_LONG: f64 = 1_600.0;

/// Loss that is never random: no redundancy makes up for it. A queue that has been full for longer
/// than receivers remember the least transit shows no delay any more, only this.
const LOST_MAX: f64 = 0.75;

/// So much is enough where the round trip is longer than any path's without a queue, in ms.
const LOST_MAX_SLOW: f64 = 0.25;
const SLOW_MS: f64 = 900.0;

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

/// The newest packets of which reports told.
#[derive(Clone, Debug)]
pub(super) struct ToldLog {
    packets: Box<[Told; WINDOW_PACKETS]>,
    length: usize,
    next: usize,
    /// Packets after those, between which others may still arrive.
    undecided: [Option<Told>; UNDECIDED],
}

impl Default for ToldLog {
    fn default() -> Self {
        Self {
            packets: Box::new([Told::default(); WINDOW_PACKETS]),
            length: 0,
            next: 0,
            undecided: [None; UNDECIDED],
        }
    }
}

impl ToldLog {
    pub(super) fn push(&mut self, told: Told) {
        self.packets[self.next] = told;
        self.next = (self.next + 1) % WINDOW_PACKETS;
        self.length = (self.length + 1).min(WINDOW_PACKETS);
    }

    /// Those of the last report are decided now, or told of again.
    pub(super) fn forget_undecided(&mut self) {
        self.undecided = [None; UNDECIDED];
    }

    /// A packet of which the next report will tell again.
    pub(super) fn push_undecided(&mut self, told: Told) {
        if let Some(slot) = self.undecided.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(told);
        }
    }

    /// What they say together, if they are enough.
    pub(super) fn window(&self) -> Option<Window> {
        let (newer, older) = self.packets.split_at(self.next);
        let told = older.iter().chain(newer).skip(WINDOW_PACKETS - self.length);
        let newest_ms = newer.last().or(older.last()).map_or(0.0, |told| told.sent_ms);
        let newest = told.clone().chain(self.undecided.iter().flatten());
        Some(Window { newest: Newest::of(newest, newest_ms), ..Window::of(told, newest_ms)? })
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

/// What the newest packets say, which need no window's time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Newest {
    /// Least delay where they are certainly in a queue, else 0.
    queue_ms: f64,
    /// Bit/s that came out of it.
    carried: Option<f64>,
}

impl Newest {
    fn of<'t>(told: impl Iterator<Item = &'t Told> + Clone, newest_ms: f64) -> Self {
        let before_ms = |told: &Told| newest_ms - told.sent_ms;
        let arrived = || told.clone().filter_map(|told| Some((told, told.queueing_ms?)));
        let beyond = |ms: f64| ms >= QUEUEING_MS_MAX;
        let late = || arrived().filter(|(told, _)| before_ms(told) < NEWEST_SATURATED_MS);
        let is_long = arrived().any(|(told, _)| before_ms(told) >= NEWEST_SATURATED_MS);
        if is_long && late().count() > 0 && late().all(|(_, ms)| beyond(ms)) {
            return Self { queue_ms: QUEUEING_MS_MAX, carried: None };
        }
        let carried = rising(arrived());
        let newest = || arrived().filter(|(told, _)| before_ms(told) < NEWEST_MS);
        let (Some((first, first_ms)), Some((last, last_ms))) = (newest().next(), newest().last())
        else {
            return Self { queue_ms: 0.0, carried };
        };
        let span_ms = last.sent_ms - first.sent_ms;
        let line_ms =
            |at_ms: f64| first_ms + (last_ms - first_ms) * (at_ms - first.sent_ms) / span_ms;
        let is_even =
            |(told, ms): (&Told, f64)| (ms - line_ms(told.sent_ms)).abs() < NEWEST_EVEN_MS;
        let is_queue = span_ms >= NEWEST_SPAN_MS
            && last_ms > first_ms * NEWEST_LEFT
            && newest().all(|(told, ms)| !beyond(ms) && is_even((told, ms)));
        let least_ms = newest().map(|(_, ms)| ms).fold(f64::INFINITY, f64::min);
        Self { queue_ms: if is_queue { least_ms } else { 0.0 }, carried }
    }
}

/// Bit/s that came out of the queue in which the newest packets waited ever longer.
fn rising<'t>(arrived: impl Iterator<Item = (&'t Told, f64)> + Clone) -> Option<f64> {
    let skipped = arrived.clone().count().checked_sub(RISING)?;
    let newest = || arrived.clone().skip(skipped);
    let ((first, first_ms), (last, last_ms)) = (newest().next()?, newest().last()?);
    let step_ms = (last_ms - first_ms) / (RISING - 1) as f64;
    let is_even = newest().zip(newest().skip(1)).all(|((_, before_ms), (_, after_ms))| {
        (after_ms - before_ms - step_ms).abs() < RISING_EVEN_MS
    });
    let is_certain = is_even
        && step_ms > RISING_MS_MIN
        && first_ms > RISING_LATE_MS
        && last_ms < QUEUEING_MS_MAX;
    let bytes: usize = newest().skip(1).map(|(told, _)| told.wire_bytes).sum();
    let spread_ms = last.sent_ms + last_ms - first.sent_ms - first_ms;
    is_certain.then(|| bytes as f64 * 8e3 / spread_ms)
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
    newest: Newest,
}

impl Window {
    /// Of the packets told of, oldest first.
    fn of<'t>(told: impl Iterator<Item = &'t Told> + Clone, newest_ms: f64) -> Option<Self> {
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
            newest: Newest::default(),
        })
    }

    /// Bit/s that the path carries, if that is certain.
    pub(super) fn carried(&self) -> Option<f64> {
        let is_certain = self.deviation_ms < ONE_QUEUE_MS && self.slope.abs() > CHANGING_SLOPE;
        self.newest.carried.or(self.busy.filter(|_| is_certain))
    }

    /// The path certainly carries less than `rate` bit/s, and its queue grows.
    pub(super) fn is_overfilled(&self, rate: f64) -> bool {
        let grows = self.newest.carried.is_some() || self.slope > CHANGING_SLOPE;
        grows && self.carried().is_some_and(|carried| rate > carried)
    }

    /// Least delay from which the queue counts as standing, at `rate` bit/s.
    fn standing_ms(&self, foreign_ms: f64, rate: f64) -> f64 {
        let least_ms = STANDING_MS.max(STANDING_BITS * 1e3 / rate);
        let deviations =
            if rate < NARROW { STANDING_DEVIATIONS_NARROW } else { STANDING_DEVIATIONS };
        least_ms + deviations * self.deviation_ms + foreign_ms
    }

    pub(super) fn is_clear(&self, foreign_ms: f64, rate: f64) -> bool {
        let clear_ms = foreign_ms + self.standing_ms(0.0, rate) * CLEAR_SHARE;
        let stands_now =
            rate >= NARROW && (self.newest.carried.is_some() || self.newest.queue_ms >= clear_ms);
        self.least_ms < clear_ms && !self.is_saturated() && !stands_now
    }

    /// None of its packets found the queue empty.
    pub(super) fn stands(&self, foreign_ms: f64, rate: f64) -> bool {
        self.least_ms > self.standing_ms(foreign_ms, rate)
    }

    pub(super) fn is_saturated(&self) -> bool {
        self.least_ms >= QUEUEING_MS_MAX
    }

    /// The newest packets alone say that a queue has come up, beyond `other_ms` that is not ours.
    pub(super) fn is_suddenly_deep(&self, other_ms: f64) -> bool {
        self.newest.queue_ms > NEWEST_LATE_MS + other_ms
    }

    pub(super) fn is_congested(&self, foreign_ms: f64, rate: f64, round_trip_ms: f64) -> bool {
        // A queue that grows fast needs no window's time to be known, nor one that drops.
        let standing_ms = self.standing_ms(foreign_ms, rate);
        let growing = self.slope > 0.15 && self.mean_ms > standing_ms;
        // What somebody else's queue was taken for is no excuse for one beyond all telling.
        let lost_max = if round_trip_ms > SLOW_MS { LOST_MAX_SLOW } else { LOST_MAX };
        let full = self.is_saturated() || self.lost > lost_max;
        self.stands(foreign_ms, rate) || full || (self.lost > FULL_LOST && growing)
    }
}
