//! From reports to the sender's point of operation, changed no more often than is good.

use std::time::{Duration, Instant};

use super::{
    Feedback,
    estimator::PathEstimator,
    plan::{Severity, plan},
};
use crate::voice::{OperatingPoint, SenderStatistics, VoiceConfig};

/// A better step of loss is believed after it held this long; a worse one at once.
const BETTER_AFTER: Duration = Duration::from_secs(8);

/// The rate is raised when the path allows this much more than is used, and where every bit counts;
/// it is lowered at once.
const RAISE_FACTOR: f64 = 1.15;
const RAISE_FACTOR_LOW: f64 = 1.03;

/// Bit/s on the wire below which every bit counts.
const LOW: f64 = 24_000.0;

/// What rate control lets the voice have on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoiceRate {
    /// Headers included.
    pub bits_per_s: u32,
    /// A queue stands on the way and is being drained.
    pub has_queue: bool,
}

/// The controller of one direction.
#[derive(Clone, Debug)]
pub struct RateControl {
    overhead_bytes: usize,
    payload_bits_per_s_max: f64,
    /// The other side can play bundles.
    bundles: bool,
    path: PathEstimator,
    severity: Severity,
    better_since: Option<Instant>,
    /// Bit/s on the wire that the point was made for.
    planned: f64,
    point: OperatingPoint,
}

impl RateControl {
    /// A controller that knows nothing of the path yet.
    pub fn new(config: &VoiceConfig) -> Self {
        let max = f64::from(config.payload_bits_per_s_max);
        let path = PathEstimator::new(config.wire_bits_per_s_start);
        let planned = path.rate();
        let point = plan(planned, config.overhead_bytes, max, (Severity::None, false));
        Self {
            overhead_bytes: config.overhead_bytes,
            payload_bits_per_s_max: max,
            bundles: false,
            path,
            severity: Severity::None,
            better_since: None,
            planned,
            point,
        }
    }

    /// The point to use.
    pub fn point(&self) -> OperatingPoint {
        self.point
    }

    /// What the point was made for.
    pub fn wire_rate(&self) -> VoiceRate {
        VoiceRate { bits_per_s: self.planned as u32, has_queue: self.path.has_queue() }
    }

    /// Notes a packet sent.
    pub fn sent(&mut self, now: Instant, sequence: u16, payload_bytes: usize) {
        self.path.sent(now, sequence, payload_bytes + self.overhead_bytes);
        self.follow_rate();
    }

    /// Takes a report.
    pub fn handle_feedback(&mut self, now: Instant, feedback: &Feedback) {
        let using = f64::from(self.point.wire_bits_per_s(self.overhead_bytes));
        self.path.handle_feedback(now, feedback, using);
        let severity = Severity::of(self.path.losses().share(), self.path.losses().burst());
        let mut replan = severity > self.severity;
        if severity < self.severity {
            let since = *self.better_since.get_or_insert(now);
            replan |= now.saturating_duration_since(since) >= BETTER_AFTER;
        } else {
            self.better_since = None;
        }
        if replan {
            self.severity = severity;
            self.better_since = None;
        }
        if replan {
            self.replan();
        }
        self.follow_rate();
    }

    fn follow_rate(&mut self) {
        let rate = self.path.rate();
        let raise = if self.planned < LOW { RAISE_FACTOR_LOW } else { RAISE_FACTOR };
        if rate < self.planned * 0.97 || rate > self.planned * raise {
            self.replan();
        }
    }

    fn replan(&mut self) {
        self.planned = self.path.rate();
        let (overhead_bytes, max) = (self.overhead_bytes, self.payload_bits_per_s_max);
        self.point = plan(self.planned, overhead_bytes, max, (self.severity, self.bundles));
    }

    /// Whether the other side can play bundles.
    pub fn set_bundles(&mut self, taken: bool) {
        if taken != self.bundles {
            self.bundles = taken;
            self.replan();
        }
    }

    /// Header bytes of each packet on the path.
    pub fn set_overhead_bytes(&mut self, overhead_bytes: usize) {
        self.overhead_bytes = overhead_bytes;
        self.replan();
    }

    /// Forgets what was learnt of the path, but not that there was little room: the narrowest
    /// place is mostly one's own access, which all paths share. Where it is not, the rate soon
    /// grows as fast as at the start.
    pub fn path_changed(&mut self) {
        self.path = self.path.for_another_path();
        self.severity = Severity::None;
        self.better_since = None;
        self.replan();
    }

    /// Starts with another rate, as long as nothing was learnt of the path.
    pub fn start_at(&mut self, bits_per_s: u32) {
        self.path.start_at(bits_per_s);
        self.replan();
    }

    /// Smoothed loss on the path, 0 to 1.
    pub fn path_loss(&self) -> f64 {
        self.path.losses().share()
    }

    /// Adds what is known to the sender's statistics.
    pub fn report(&self, statistics: &mut SenderStatistics) {
        statistics.path_loss = self.path.losses().share();
        statistics.missed = self.path.missed();
        statistics.round_trip_ms = self.path.round_trip_ms();
        statistics.queueing_ms = self.path.queueing_ms();
        statistics.remote_playout_delay_ms = self.path.playout_delay_ms();
        statistics.remote_capture_delay_ms = self.path.capture_delay_ms();
        statistics.wire_bits_per_s = self.path.rate() as u32;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::{super::estimator::RICH, *};

    /// The least rate in a minute of packets of 10 ms whose lengths `payload` gives and which a
    /// stream delivers together, `clump` at a time, so that each waits for the last of its clump.
    fn least_rate(clump: u32, payload: impl Fn(u32) -> usize) -> u32 {
        let config = VoiceConfig::default();
        let mut control = RateControl::new(&config);
        let start = Instant::now();
        let mut least = u32::MAX;
        for packet in 0..6_000 {
            let now = start + Duration::from_millis(10) * packet;
            control.sent(now, packet as u16, payload(packet));
            // A report each 250 ms, a round trip of 100 ms late.
            if packet >= 40 && packet % 25 == 0 {
                let newest = packet - 10 - (packet - 10) % clump;
                let mut feedback = Feedback::new(newest as u16);
                for told in newest - 29..=newest {
                    let waits = (clump - told % clump) % clump;
                    feedback.push(Some(f64::from(waits) * 10.0));
                }
                control.handle_feedback(now, &feedback);
            }
            least = least.min(control.wire_rate().bits_per_s);
        }
        least
    }

    #[test]
    fn a_stream_that_clumps_packets_costs_no_rate() {
        let start = VoiceConfig::default().wire_bits_per_s_start;
        for clump in [1, 2, 4, 8] {
            let least = least_rate(clump, |_| 80);
            assert!(least >= start, "{clump} together: {least} bit/s of {start}");
        }
    }

    /// Packets of 10 ms with reports that tell of a queue of so many ms, and of one packet in so
    /// many that arrives.
    fn reports(
        control: &mut RateControl,
        begin: Instant,
        packets: core::ops::Range<u32>,
        (queueing_ms, one_in): (f64, u32),
    ) {
        let first = packets.start;
        for packet in packets {
            let now = begin + Duration::from_millis(10) * packet;
            control.sent(now, packet as u16, 80);
            if packet % 25 == 0 && packet >= first + 30 {
                let mut feedback = Feedback::new(packet as u16);
                for told in packet - 29..=packet {
                    feedback.push(((packet - told) % one_in == 0).then_some(queueing_ms));
                }
                control.handle_feedback(now, &feedback);
            }
        }
    }

    #[test]
    fn another_path_of_a_slow_access_is_not_flooded() {
        let config = VoiceConfig::default();
        let mut control = RateControl::new(&config);
        let begin = Instant::now();
        // Nothing comes back for two seconds at a time: the rate is halved again and again.
        for packet in 0..600 {
            control.sent(begin + Duration::from_millis(10) * packet, packet as u16, 80);
        }
        let slow = control.wire_rate().bits_per_s;
        assert!(slow < (RICH as u32) / 4, "{slow} bit/s");
        control.path_changed();
        assert!(control.wire_rate().bits_per_s <= slow, "{} bit/s", control.wire_rate().bits_per_s);
        // And where the new path has room it is used within seconds.
        reports(&mut control, begin, 600..1_600, (0.0, 1));
        assert!(control.wire_rate().bits_per_s >= (RICH as u32));
    }

    #[test]
    fn a_longer_way_is_no_queue_and_a_shorter_one_is_soon_used() {
        let config = VoiceConfig::default();
        let mut control = RateControl::new(&config);
        let begin = Instant::now();
        reports(&mut control, begin, 0..300, (0.0, 1));
        // By a relay the way is 120 ms longer than the least that the receiver remembers.
        control.path_changed();
        let before = control.wire_rate().bits_per_s;
        reports(&mut control, begin, 300..900, (120.0, 1));
        assert!(
            control.wire_rate().bits_per_s >= before,
            "{} of {before}",
            control.wire_rate().bits_per_s
        );
        // A queue that drops is left there too, and does not rule the next path.
        reports(&mut control, begin, 900..1_300, (254.0, 8));
        let slow = control.wire_rate().bits_per_s;
        assert!(slow < before / 3, "{slow} bit/s into a full queue");
        control.path_changed();
        assert!(control.wire_rate().bits_per_s <= slow);
        reports(&mut control, begin, 1_300..2_500, (0.0, 1));
        let after = control.wire_rate().bits_per_s;
        assert!(after > before / 2, "{after} of {before}");
    }

    #[test]
    fn paths_that_change_without_any_report_are_all_full() {
        let mut control = RateControl::new(&VoiceConfig::default());
        let begin = Instant::now();
        for packet in 0..500 {
            control.sent(begin + Duration::from_millis(10) * packet, packet as u16, 80);
            if packet % 50 == 49 {
                control.path_changed();
            }
        }
        let rate = control.wire_rate().bits_per_s;
        assert!(rate < RICH as u32 / 4, "{rate} bit/s into silence");
    }

    #[test]
    fn a_slow_start_that_the_handshake_asked_for_is_left_where_there_is_room() {
        let mut control = RateControl::new(&VoiceConfig::default());
        control.start_at(25_000);
        assert!((24_000..=25_000).contains(&control.wire_rate().bits_per_s));
        let begin = Instant::now();
        reports(&mut control, begin, 0..300, (0.0, 1));
        assert!(control.wire_rate().bits_per_s >= RICH as u32 * 9 / 10, "after three seconds");
        let learnt = control.wire_rate().bits_per_s;
        control.start_at(25_000);
        assert_eq!(control.wire_rate().bits_per_s, learnt, "reports know better");
    }

    #[test]
    fn a_queue_beyond_what_reports_can_tell_is_nobody_elses() {
        let config = VoiceConfig::default();
        let mut control = RateControl::new(&config);
        let begin = Instant::now();
        // A queue that sending less did not shorten: others' packets stand in it.
        reports(&mut control, begin, 0..300, (245.0, 1));
        // Now it is full, and four of five packets are dropped.
        reports(&mut control, begin, 300..600, (254.0, 5));
        let rate = control.wire_rate().bits_per_s;
        assert!(rate < (RICH as u32) / 3, "{rate} bit/s into a full queue");
    }

    #[test]
    fn a_queue_full_for_so_long_that_it_seems_the_way_itself_is_left() {
        let config = VoiceConfig::default();
        let mut control = RateControl::new(&config);
        // The least transit that the receiver remembers is that of the full queue: no delay is
        // told, seven of eight packets are dropped.
        reports(&mut control, Instant::now(), 0..300, (0.0, 8));
        let rate = control.wire_rate().bits_per_s;
        assert!(rate < (RICH as u32) / 3, "{rate} bit/s into a full queue");
    }

    #[test]
    fn silence_ends_a_rate_that_fills_a_slow_path_too() {
        let mut control = RateControl::new(&VoiceConfig::default());
        control.start_at(14_000);
        let begin = Instant::now();
        for packet in 0..50 {
            control.sent(begin + Duration::from_millis(120) * packet, packet as u16, 150);
        }
        let rate = control.wire_rate().bits_per_s;
        assert!(rate <= 8_400, "{rate} bit/s in which reports drown");
    }

    #[test]
    fn on_a_slow_path_a_longer_packet_is_later_without_a_queue() {
        let mut control = RateControl::new(&VoiceConfig::default());
        control.start_at(11_000);
        let begin = Instant::now();
        let mut now = begin;
        for packet in 0..70_u16 {
            // Short packets at first, then bundles: 120 bytes more take 80 ms at 12 kbit/s.
            let is_bundle = packet >= 20;
            let (spacing_ms, bytes) = if is_bundle { (180, 200) } else { (60, 80) };
            now += Duration::from_millis(spacing_ms);
            control.sent(now, packet, bytes);
            if packet % 5 == 4 {
                let mut feedback = Feedback::new(packet);
                for told in packet - 4..=packet {
                    feedback.push(Some(if told >= 20 { 80.0 } else { 0.0 }));
                }
                control.handle_feedback(now, &feedback);
            }
        }
        let rate = control.wire_rate().bits_per_s;
        assert!(rate >= 11_000, "{rate} bit/s");
    }

    #[test]
    fn pauses_in_speech_teach_no_capacity() {
        let start = VoiceConfig::default().wire_bits_per_s_start;
        for clump in [1, 4] {
            // Two seconds of speech, three of a pause in which next to nothing is sent.
            let least = least_rate(clump, |packet| if packet % 500 < 200 { 80 } else { 4 });
            assert!(least >= start, "{clump} together: {least} bit/s of {start}");
        }
    }
}
