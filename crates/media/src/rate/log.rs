//! The receiver's record of arrivals, from which each report is made.

use super::feedback::{Feedback, REPORTED_MAX};

/// Packets remembered between two reports.
const LOGGED: usize = 64;

/// Reports leave this often while packets come fast, and this often at the slowest, in ms.
const INTERVAL_MS_MIN: f64 = 100.0;
const INTERVAL_MS_MAX: f64 = 1_000.0;

/// Share of the received bit rate that reports may cost, headers included. Chosen.
const REPORT_SHARE: f64 = 0.06;

/// Bytes of one report with its headers (IPv4, UDP, SRTCP, report), for the interval.
const REPORT_BYTES: f64 = 90.0;

/// Where packets are late by so much, and by so much more than when a report was made last, one
/// leaves at once, though not more often than this, nor more in a row than these, one of which
/// comes back in this time.
const URGENT_LATE_MS: f64 = 40.0;
const URGENT_MORE_MS: f64 = 20.0;
const URGENT_MS_MIN: f64 = 30.0;
const URGENT_MAX: f64 = 4.0;
const URGENT_EVERY_MS: f64 = 500.0;

/// The first reports leave as soon as may be: a start too fast for the path must end at once.
const EARLY_REPORTS: u32 = 5;

/// The record.
#[derive(Clone, Debug)]
pub struct ArrivalLog {
    arrivals: [Option<(u64, f64)>; LOGGED],
    newest: Option<(u64, f64)>,
    reported: Option<u64>,
    last_report_ms: f64,
    /// Queueing delay that the last report ended with.
    told_ms: f64,
    /// Urgent reports that may still leave, as of the last report.
    urgent_left: f64,
    bytes: f64,
    reports: u32,
}

impl Default for ArrivalLog {
    fn default() -> Self {
        Self {
            arrivals: [None; LOGGED],
            newest: None,
            reported: None,
            last_report_ms: f64::NEG_INFINITY,
            told_ms: 0.0,
            urgent_left: URGENT_MAX,
            bytes: 0.0,
            reports: 0,
        }
    }
}

impl ArrivalLog {
    /// Notes a packet; `queueing_ms` is its transit above the base.
    pub fn arrived(&mut self, now_ms: f64, packet: u64, queueing_ms: f64, wire_bytes: usize) {
        self.arrivals[(packet % LOGGED as u64) as usize] = Some((packet, queueing_ms));
        if self.newest.is_none_or(|(newest, _)| packet > newest) {
            self.newest = Some((packet, now_ms));
        }
        if self.last_report_ms == f64::NEG_INFINITY {
            self.last_report_ms = now_ms;
        }
        self.bytes += wire_bytes as f64;
    }

    /// The next report when one is due.
    pub fn poll(&mut self, now_ms: f64) -> Option<Feedback> {
        let (newest, arrived_ms) = self.newest?;
        let since_ms = now_ms - self.last_report_ms;
        // The interval at which a report is REPORT_SHARE of what came in meanwhile.
        let affordable = self.bytes * REPORT_SHARE >= REPORT_BYTES || self.reports < EARLY_REPORTS;
        let unreported = self.reported.map_or(u64::MAX, |reported| newest.saturating_sub(reported));
        let full = unreported >= REPORTED_MAX as u64 - 4;
        let slot = self.arrivals[(newest % LOGGED as u64) as usize];
        let queueing_ms = slot.map_or(0.0, |(_, ms)| ms);
        let urgent_left = (self.urgent_left + since_ms.max(0.0) / URGENT_EVERY_MS).min(URGENT_MAX);
        let urgent = since_ms >= URGENT_MS_MIN
            && queueing_ms > URGENT_LATE_MS.max(self.told_ms + URGENT_MORE_MS)
            && urgent_left >= 1.0;
        let due = since_ms >= INTERVAL_MS_MAX
            || since_ms >= INTERVAL_MS_MIN && (affordable || full)
            || urgent;
        if !due || unreported == 0 {
            return None;
        }
        let mut feedback = Feedback::new(newest as u16);
        feedback.hold_ms = (now_ms - arrived_ms).clamp(0.0, 255.0) as u8;
        // The last packets of the report before are repeated: they may have been late, not lost.
        let from = self.reported.map_or(newest, |reported| reported.saturating_sub(2));
        for packet in from.max((newest + 1).saturating_sub(REPORTED_MAX as u64))..=newest {
            let slot = self.arrivals[(packet % LOGGED as u64) as usize];
            feedback.push(slot.filter(|(held, _)| *held == packet).map(|(_, ms)| ms));
        }
        self.urgent_left = urgent_left - f64::from(u8::from(urgent));
        self.told_ms = queueing_ms;
        self.reported = Some(newest);
        self.last_report_ms = now_ms;
        self.bytes = 0.0;
        self.reports += 1;
        Some(feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_each_packet_since_the_last_and_what_was_missing() {
        let mut log = ArrivalLog::default();
        let mut reports = Vec::new();
        for packet in 1_000..1_100_u64 {
            let now_ms = packet as f64 * 20.0;
            if packet % 10 != 3 {
                log.arrived(now_ms, packet, 2.0, 136);
            }
            reports.extend(log.poll(now_ms + 1.0));
        }
        assert!((5..=20).contains(&reports.len()), "{}", reports.len());
        let mut lost = Vec::new();
        for report in &reports[1..] {
            assert!(report.packets().count() <= REPORTED_MAX);
            lost.extend(report.packets().filter(|(_, ms)| ms.is_none()).map(|(s, _)| s));
        }
        lost.dedup();
        assert!(lost.len() >= 8 && lost.iter().all(|sequence| sequence % 10 == 3), "{lost:?}");
    }

    #[test]
    fn at_low_rates_reports_are_rare() {
        let mut log = ArrivalLog::default();
        let mut reports = 0;
        for packet in 0..100_u64 {
            let now_ms = packet as f64 * 120.0;
            log.arrived(now_ms, packet, 0.0, 180);
            reports += usize::from(log.poll(now_ms).is_some());
        }
        assert!((11..=19).contains(&reports), "{reports}");
    }
}
