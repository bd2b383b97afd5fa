//! The smallest playout delay worth having, from when frames become playable.
//!
//! A frame's *transit* is when it could first be played (its own packet arrived, or a later one
//! repaired it) minus its timestamp. A packet leaves when its frame ends, so the path's part of the
//! transit is what exceeds the frame's length; the base is the least of that in the last
//! [`BASE_WINDOW_MS`], the same for frames of all lengths. Under jitter the base goes up and down
//! by chance, by 10 ms and more; so a frame's *lateness* is its transit above an *origin* that
//! follows the base no faster than clocks drift, unless it is far off (the path changed).
//! Two histograms of
//! lateness forget with time constants of about 4 s and 10 s. Each asks for the delay `d` that
//! minimises `d + COST · P(lateness > d)`: a delay is paid for every millisecond, a missed frame
//! once. The target rises at once to the larger of the two and falls by [`FALL_MS_PER_S`] at most:
//! every change of delay is itself heard, so what was needed lately is kept a while. Only a queue
//! that stood and is gone (a call that began too fast for its path) is forgotten at once: it left
//! a high target, far above all lateness of the last [`RECENT_MS`].
//!
//! Times are milliseconds as `f64`: exact to a microsecond for millennia.

/// Window of the base, in ms: long enough to see an undelayed packet in any queue that drains,
/// short enough that 200 ppm of drift moves it by 2 ms at most. Chosen.
const BASE_WINDOW_MS: f64 = 10_000.0;

const BASE_BUCKETS: usize = 10;

/// Width of a histogram bin, in ms.
const BIN_MS: f64 = 1.0;

/// Bins: lateness above 1 s counts as 1 s.
const BINS: usize = 1_000;

/// Milliseconds of delay that avoiding all loss is worth, by the long and the short histogram: 1 %
/// of missed frames costs as much as 30 ms in the long run, and 12 ms on the evidence of a few
/// frames. Chosen on the conditions of `docs/measurements/voice.md`.
const LOSS_COST_LONG_MS: f64 = 3_000.0;
const LOSS_COST_SHORT_MS: f64 = 1_200.0;

/// So many times the jitter are added, for what is seldom is not in the histograms yet; and by as
/// much the delay may be off before it is changed, for every change is heard. Chosen.
const JITTER_SHARE: f64 = 3.0;
const JITTER_SHARE_MS_MAX: f64 = 40.0;

/// Jitter that counts for neither: of threads and sound servers on a quiet path. Chosen.
const JITTER_SMALL_MS: f64 = 8.0;

/// Time constant of the jitter of these two; but jitter that passes (a queue that comes and goes)
/// is left behind: no more than [`PASSING_FACTOR`] times the jitter over [`PASSING_MS`]. Chosen.
const STEADY_MS: f64 = 10_000.0;
const PASSING_MS: f64 = 2_000.0;
const PASSING_FACTOR: f64 = 2.0;

/// How fast the target falls, in ms per second, and how much faster from [`HIGH_MS`] on. Chosen.
const FALL_MS_PER_S: f64 = 2.0;
const FALL_SHARE_PER_S: f64 = 0.1;
const HIGH_MS: f64 = 100.0;

/// How fast the origin follows the base: as two clocks may drift; what is more than
/// [`ORIGIN_NEAR_MS`] with a time constant of 1 s, and so all of it without jitter, where the base
/// does not move by chance (a virtual sound device was seen to be off by 1,300 ppm). Chosen.
const ORIGIN_MS_PER_S: f64 = 0.25;
const ORIGIN_NEAR_MS: f64 = 25.0;

/// Lateness of the first bin: transits may fall below the origin.
const LATENESS_MS_MIN: f64 = -40.0;

/// A target above this, and so many times the greatest lateness of the last [`RECENT_MS`], is due
/// to a queue that is gone; it falls by [`FORGET_MS_PER_S`].
const FORGET_ABOVE_MS: f64 = 80.0;
/// The same where something was repaired within [`REPAIRS_MS`]. Chosen: loss, repaired late, asks
/// for less.
const FORGET_ABOVE_REPAIRS_MS: f64 = 300.0;
const REPAIRS_MS: f64 = 10_000.0;
const FORGET_FACTOR: f64 = 2.5;

/// The same beyond the frame's own length for frames from [`LONG_FRAME_MS`] on: they go where the
/// room is little, come without repairs, and their length is most of their lateness.
const FORGET_ABOVE_LONG_MS: f64 = 60.0;
const LONG_FRAME_MS: f64 = 120.0;
const RECENT_MS: f64 = 2_000.0;
const FORGET_MS_PER_S: f64 = 250.0;

/// The least of a stream over a sliding window of time, kept in [`BASE_BUCKETS`] buckets.
#[derive(Clone, Debug)]
pub struct WindowedMinimum {
    bucket_ms: f64,
    buckets: [f64; BASE_BUCKETS],
    newest: i64,
}

impl WindowedMinimum {
    /// An empty window of `window_ms`.
    pub fn new(window_ms: f64) -> Self {
        let bucket_ms = window_ms / BASE_BUCKETS as f64;
        Self { bucket_ms, buckets: [f64::INFINITY; BASE_BUCKETS], newest: i64::MIN }
    }

    /// Adds a value seen at `now_ms`.
    pub fn add(&mut self, now_ms: f64, value: f64) {
        let bucket = (now_ms / self.bucket_ms) as i64;
        if self.newest == i64::MIN || bucket - self.newest >= BASE_BUCKETS as i64 {
            self.buckets.fill(f64::INFINITY);
            self.newest = bucket;
        }
        while self.newest < bucket {
            self.newest += 1;
            self.buckets[self.newest.rem_euclid(BASE_BUCKETS as i64) as usize] = f64::INFINITY;
        }
        let held = &mut self.buckets[self.newest.rem_euclid(BASE_BUCKETS as i64) as usize];
        *held = held.min(value);
    }

    /// The least value of the window; infinite when it is empty.
    pub fn get(&self) -> f64 {
        self.buckets.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Lateness with exponential forgetting, counted from [`LATENESS_MS_MIN`].
#[derive(Clone, Debug)]
struct Histogram {
    bins: Box<[f64; BINS]>,
    total: f64,
    time_constant_ms: f64,
    loss_cost_ms: f64,
}

impl Histogram {
    fn new(time_constant_ms: f64, loss_cost_ms: f64) -> Self {
        Self { bins: Box::new([0.0; BINS]), total: 0.0, time_constant_ms, loss_cost_ms }
    }

    fn add(&mut self, lateness_ms: f64, frame_ms: f64) {
        let keep = (-frame_ms / self.time_constant_ms).exp();
        for bin in self.bins.iter_mut() {
            *bin *= keep;
        }
        self.total = self.total * keep + 1.0;
        let bin = (((lateness_ms - LATENESS_MS_MIN) / BIN_MS).max(0.0) as usize).min(BINS - 1);
        self.bins[bin] += 1.0;
    }

    fn clear(&mut self) {
        self.bins.fill(0.0);
        self.total = 0.0;
    }

    /// All was less late by so many bins.
    fn shift(&mut self, bins: usize) {
        let bins = bins.min(BINS - 1);
        self.bins[0] = self.bins[..=bins].iter().sum();
        self.bins.copy_within(bins + 1.., 1);
        self.bins[BINS - bins..].fill(0.0);
    }

    /// The delay with the least cost.
    fn target_ms(&self) -> f64 {
        if self.total < 1.0 {
            return 0.0;
        }
        let mut late = self.total;
        let (mut best_cost, mut best_ms) = (f64::INFINITY, 0.0);
        for (index, bin) in self.bins.iter().enumerate() {
            late -= bin;
            if *bin <= 0.0 && index > 0 {
                continue;
            }
            let delay_ms = LATENESS_MS_MIN + (index + 1) as f64 * BIN_MS;
            let cost = delay_ms + self.loss_cost_ms * (late / self.total).max(0.0);
            if cost < best_cost {
                (best_cost, best_ms) = (cost, delay_ms);
            }
        }
        best_ms
    }
}

/// Turns arrivals into a target.
#[derive(Clone, Debug)]
pub struct DelayEstimator {
    base: WindowedMinimum,
    short: Histogram,
    long: Histogram,
    /// The greatest lateness of late, negated.
    recent: WindowedMinimum,
    now_ms: f64,
    repaired_ms: f64,
    forgetting: bool,
    /// Transit from which lateness counts.
    origin_ms: f64,
    /// The lateness aimed at.
    aim_ms: f64,
    arrivals: u64,
    jitter_ms: f64,
    /// The same over [`STEADY_MS`], and over [`PASSING_MS`].
    steady_jitter_ms: f64,
    passing_jitter_ms: f64,
    last_transit_ms: Option<f64>,
}

impl Default for DelayEstimator {
    fn default() -> Self {
        Self {
            base: WindowedMinimum::new(BASE_WINDOW_MS),
            short: Histogram::new(4_000.0, LOSS_COST_SHORT_MS),
            long: Histogram::new(10_000.0, LOSS_COST_LONG_MS),
            recent: WindowedMinimum::new(RECENT_MS),
            now_ms: 0.0,
            repaired_ms: f64::NEG_INFINITY,
            forgetting: false,
            origin_ms: f64::NAN,
            aim_ms: f64::NEG_INFINITY,
            arrivals: 0,
            jitter_ms: 0.0,
            steady_jitter_ms: 0.0,
            passing_jitter_ms: 0.0,
            last_transit_ms: None,
        }
    }
}

impl DelayEstimator {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.base = WindowedMinimum::new(BASE_WINDOW_MS);
        self.short.clear();
        self.long.clear();
        self.recent = WindowedMinimum::new(RECENT_MS);
        self.repaired_ms = f64::NEG_INFINITY;
        self.forgetting = false;
        self.origin_ms = f64::NAN;
        self.aim_ms = f64::NEG_INFINITY;
        self.arrivals = 0;
        self.jitter_ms = 0.0;
        self.steady_jitter_ms = 0.0;
        self.passing_jitter_ms = 0.0;
        self.last_transit_ms = None;
    }

    /// A packet arrived in its own right: moves the base and the jitter, and counts as playable.
    pub fn arrived(&mut self, now_ms: f64, transit_ms: f64, frame_ms: f64) {
        self.now_ms = now_ms;
        self.base.add(now_ms, transit_ms - frame_ms);
        if let Some(last) = self.last_transit_ms.replace(transit_ms) {
            // RFC 3550 section 6.4.1.
            let step_ms = (transit_ms - last).abs();
            self.jitter_ms += (step_ms - self.jitter_ms) / 16.0;
            let least_share = 1.0 / self.arrivals.max(1) as f64;
            let share = |over_ms: f64| (frame_ms / over_ms).max(least_share).min(1.0);
            self.steady_jitter_ms += share(STEADY_MS) * (step_ms - self.steady_jitter_ms);
            self.passing_jitter_ms += share(PASSING_MS) * (step_ms - self.passing_jitter_ms);
        }
        self.playable(transit_ms, frame_ms);
    }

    /// A frame became playable by repair.
    pub fn repaired(&mut self, transit_ms: f64, frame_ms: f64) {
        self.repaired_ms = self.now_ms;
        self.playable(transit_ms, frame_ms);
    }

    fn playable(&mut self, transit_ms: f64, frame_ms: f64) {
        self.arrivals += 1;
        let base_ms = self.base.get();
        self.follow(base_ms, frame_ms);
        let lateness_ms = transit_ms - self.origin_ms;
        self.recent.add(self.now_ms, base_ms - transit_ms);
        self.forget_queue(frame_ms);
        self.short.add(lateness_ms, frame_ms);
        self.long.add(lateness_ms, frame_ms);
        let wanted_ms = self.short.target_ms().max(self.long.target_ms());
        let high_ms = (self.target_ms() - HIGH_MS).max(0.0);
        let fall_ms_per_s = match self.forgetting {
            true => FORGET_MS_PER_S,
            false => FALL_MS_PER_S + FALL_SHARE_PER_S * high_ms,
        };
        let fallen_ms = self.aim_ms - fall_ms_per_s * frame_ms / 1e3;
        self.forgetting &= fallen_ms > wanted_ms;
        self.aim_ms = wanted_ms.max(fallen_ms);
    }

    fn follow(&mut self, base_ms: f64, frame_ms: f64) {
        if !self.origin_ms.is_finite() {
            self.origin_ms = base_ms;
        }
        let off_ms = base_ms - self.origin_ms;
        let by_chance = (self.steady_jitter_ms / JITTER_SMALL_MS).min(1.0);
        if off_ms > ORIGIN_NEAR_MS && by_chance < 1.0 {
            return self.count_from(base_ms);
        }
        let far_ms = (off_ms.abs() - ORIGIN_NEAR_MS * by_chance).max(0.0);
        let step_ms = (ORIGIN_MS_PER_S + far_ms) * frame_ms / 1e3;
        self.origin_ms += off_ms.clamp(-step_ms, step_ms);
    }

    /// The path became longer: what came later than the old one is as late as the new one is long.
    fn count_from(&mut self, base_ms: f64) {
        let step_ms = base_ms - self.origin_ms;
        for histogram in [&mut self.short, &mut self.long] {
            histogram.shift((step_ms / BIN_MS) as usize);
        }
        self.aim_ms -= step_ms;
        self.origin_ms = base_ms;
    }

    fn forget_queue(&mut self, frame_ms: f64) {
        let (above_ms, frame_ms) = match () {
            () if frame_ms >= LONG_FRAME_MS => (FORGET_ABOVE_LONG_MS, frame_ms),
            () if self.now_ms - self.repaired_ms < REPAIRS_MS => (FORGET_ABOVE_REPAIRS_MS, 0.0),
            () => (FORGET_ABOVE_MS, 0.0),
        };
        let greatest_ms = -self.recent.get() - frame_ms;
        let gone = self.target_ms() - frame_ms > above_ms.max(FORGET_FACTOR * greatest_ms);
        if gone && !self.forgetting {
            self.forgetting = true;
            self.short.clear();
            self.long.clear();
        }
    }

    /// The delay above the base to aim at.
    pub fn target_ms(&self) -> f64 {
        let target_ms = self.aim_ms + self.jitter_share_ms() + self.origin_ms - self.base.get();
        if target_ms.is_finite() { target_ms.max(0.0) } else { 0.0 }
    }

    /// How far the delay may be off its target before it is worth changing.
    pub fn tolerance_ms(&self) -> f64 {
        self.jitter_share_ms()
    }

    fn jitter_share_ms(&self) -> f64 {
        let passing_ms = PASSING_FACTOR * self.passing_jitter_ms;
        let jitter_ms = self.steady_jitter_ms.min(passing_ms) - JITTER_SMALL_MS;
        (JITTER_SHARE * jitter_ms).clamp(0.0, JITTER_SHARE_MS_MAX)
    }

    /// The base: the least the path took of late, in the receiver's time minus media time.
    pub fn base_ms(&self) -> f64 {
        self.base.get()
    }

    /// Interarrival jitter of RFC 3550 section 6.4.1.
    pub fn jitter_ms(&self) -> f64 {
        self.jitter_ms
    }

    /// Frames counted.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_needs_its_frame_and_one_millisecond() {
        let mut delay = DelayEstimator::default();
        for packet in 0..500 {
            delay.arrived(f64::from(packet) * 10.0, 40.2, 10.0);
        }
        assert!((10.0..=11.0).contains(&delay.target_ms()));
    }

    #[test]
    fn the_target_covers_most_of_a_wide_distribution() {
        let mut delay = DelayEstimator::default();
        for packet in 0..3_000 {
            let transit = 40.0 + f64::from(packet * 7 % 31);
            delay.arrived(f64::from(packet) * 20.0, transit, 20.0);
        }
        // 31 of lateness, a frame, and the reserve.
        assert!((46.0..=61.0).contains(&delay.target_ms()), "{}", delay.target_ms());
    }

    #[test]
    fn it_rises_within_a_second_and_falls_slowly() {
        let mut delay = DelayEstimator::default();
        let mut now = 0.0;
        let mut feed = |delay: &mut DelayEstimator, seconds: i32, jitter: f64| {
            for packet in 0..seconds * 100 {
                now += 10.0;
                let late = if packet % 5 == 0 { jitter } else { 0.0 };
                delay.arrived(now, 40.0 + late, 10.0);
            }
        };
        feed(&mut delay, 20, 0.0);
        feed(&mut delay, 1, 30.0);
        assert!(delay.target_ms() >= 40.0);
        feed(&mut delay, 4, 30.0);
        feed(&mut delay, 3, 0.0);
        assert!(delay.target_ms() >= 40.0);
        feed(&mut delay, 60, 0.0);
        assert!(delay.target_ms() <= 12.0, "{}", delay.target_ms());
    }

    #[test]
    fn one_spike_does_not_raise_the_delay_to_its_height() {
        let mut delay = DelayEstimator::default();
        for packet in 0..3_000 {
            let late = if (1_000..1_010).contains(&packet) { 300.0 } else { 0.0 };
            delay.arrived(f64::from(packet) * 10.0, 40.0 + late, 10.0);
            assert!(delay.target_ms() < 100.0);
        }
    }

    #[test]
    fn a_queue_that_is_gone_is_forgotten_within_seconds() {
        let mut delay = DelayEstimator::default();
        for packet in 0..400 {
            let queue = if packet < 40 { 500.0_f64 } else { 0.0 };
            delay.arrived(
                f64::from(packet) * 20.0,
                40.0 + queue.min(f64::from(packet) * 20.0),
                20.0,
            );
        }
        assert!(delay.target_ms() < 40.0, "{}", delay.target_ms());
    }

    /// Least and greatest of what `of` says after each packet but the first 30 s.
    fn range(delays: &[f64], of: impl Fn(&DelayEstimator) -> f64) -> (f64, f64) {
        let mut delay = DelayEstimator::default();
        let mut range = (f64::INFINITY, f64::NEG_INFINITY);
        let mut out_ms = 0.0_f64;
        for (packet, path_ms) in delays.iter().enumerate() {
            let sent_ms = packet as f64 * 10.0;
            // Order is kept: a late packet makes the next ones late.
            out_ms = out_ms.max(sent_ms + path_ms);
            delay.arrived(out_ms, out_ms - sent_ms + 10.0, 10.0);
            if packet > 3_000 {
                range = (range.0.min(of(&delay)), range.1.max(of(&delay)));
            }
        }
        range
    }

    #[test]
    fn under_jitter_the_delay_stays_though_the_base_does_not() {
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        // Nearly normal, 30 ms of deviation.
        let delays: Vec<f64> = (0..12_000)
            .map(|_| 60.0 + 30.0 * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0))
            .collect();
        let base = range(&delays, DelayEstimator::base_ms);
        let aim = range(&delays, |delay| delay.base_ms() + delay.target_ms());
        println!("base {base:?}, aim {aim:?}");
        assert!(base.1 - base.0 > 5.0, "the base moved: {base:?}");
        assert!(aim.1 - aim.0 < base.1 - base.0, "{aim:?}");
        assert!((100.0..200.0).contains(&aim.0), "{aim:?}");
    }

    #[test]
    fn a_path_that_became_shorter_or_longer_is_followed_within_seconds() {
        for (before, after) in [(100.0, 40.0), (40.0, 100.0)] {
            let mut delay = DelayEstimator::default();
            for packet in 0..5_000 {
                let path = if packet < 2_500 { before } else { after };
                delay.arrived(f64::from(packet) * 10.0, path + 10.0, 10.0);
                if packet == 2_500 + 2_000 {
                    let aim = delay.base_ms() + delay.target_ms();
                    println!("{before} to {after}: aim {aim} after 20 s");
                    assert!((after..after + 50.0).contains(&aim), "{before} to {after}: {aim}");
                }
            }
        }
    }

    #[test]
    fn clocks_that_drift_far_apart_cost_no_delay() {
        for ppm in [-1_500.0, 1_500.0] {
            let mut delay = DelayEstimator::default();
            for packet in 0..6_000 {
                let now_ms = f64::from(packet) * 10.0;
                delay.arrived(now_ms, 40.0 + now_ms * ppm / 1e6, 10.0);
            }
            let above_ms = delay.base_ms() + delay.target_ms() - (30.0 + 60_000.0 * ppm / 1e6);
            // Upwards the base lags by its window.
            assert!((9.0..14.0).contains(&above_ms), "{ppm}: {above_ms}");
        }
    }

    #[test]
    fn the_window_forgets_its_minimum() {
        let mut minimum = WindowedMinimum::new(1_000.0);
        minimum.add(0.0, 5.0);
        minimum.add(500.0, 9.0);
        assert_eq!(minimum.get(), 5.0);
        minimum.add(1_200.0, 8.0);
        assert_eq!(minimum.get(), 8.0);
        minimum.add(9_000.0, 20.0);
        assert_eq!(minimum.get(), 20.0);
    }
}
