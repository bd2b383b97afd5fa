//! The part of a session that sends reports: when, on which path, and what they say.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    MediaSession, PathKind,
    path::{Path, PathNumber},
    report::{ENTRIES_MAX, Heard, Report},
};

/// Reports on hold: the paper's keep-alive.
pub(super) const HOLD_INTERVAL: Duration = Duration::from_secs(3);
/// Reports on other paths that work.
pub(super) const OTHER_INTERVAL: Duration = Duration::from_secs(5);
/// Attempts on paths that never worked, while the media is not direct: UDP tried again.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(3);
/// The same while the media is direct, or on hold.
pub(super) const IDLE_RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// Reports while something is wrong, per path.
pub(super) const TROUBLE_INTERVAL: Duration = Duration::from_millis(100);
/// Reports on the warm path.
pub(super) const WARM_INTERVAL: Duration = Duration::from_millis(500);
/// The same for paths that are neither media nor warm, and on hold.
pub(super) const FRESH_SLOW: Duration = Duration::from_millis(11_000);

/// Reports where there is little room: on the path of the media (feedback comes with them), on the
/// warm path, on others. Chosen: 8 % of 1.5 kB/s. The voice engine's feedback, each second at least
/// while packets arrive, is a report too: another one beside it would be too many.
const CROWDED_INTERVAL: Duration = Duration::from_millis(1_700);
const CROWDED_WARM_INTERVAL: Duration = Duration::from_millis(5_000);
const CROWDED_OTHER_INTERVAL: Duration = Duration::from_secs(20);
/// Paths that a report tells of there.
const CROWDED_ENTRIES: usize = 2;
/// Reports on hold on the warm path, and on others.
const HOLD_WARM_INTERVAL: Duration = Duration::from_secs(6);
const HOLD_OTHER_INTERVAL: Duration = Duration::from_secs(60);

impl MediaSession {
    /// Something is wrong or changed: every path says so at once.
    pub(super) fn hasten_reports(&mut self, now: Instant) {
        let crowded = self.pace.is_crowded(now);
        let kept = [self.liveness.media, self.liveness.warm];
        for path in self.paths.iter_mut() {
            let spacing = match (crowded, kept.contains(&Some(path.number))) {
                (false, _) => TROUBLE_INTERVAL,
                (true, true) => CROWDED_INTERVAL,
                (true, false) => RETRY_INTERVAL,
            };
            let spaced = path.reported_at.map_or(now, |at| at + spacing);
            path.next_report = path.next_report.min(spaced.max(now));
        }
    }

    /// The media's paths first, then those that work, the nearest of them first; while something is
    /// wrong, that on which nothing was said for the longest.
    pub(super) fn send_due_reports(&mut self, now: Instant) {
        let kept = [self.liveness.media, self.liveness.warm];
        let is_wrong = self.liveness.in_trouble(now);
        let order = |path: &Path| {
            let kept = kept.contains(&Some(path.number));
            let reported_at = path.reported_at.filter(|_| is_wrong);
            (!kept, !path.is_fresh(now, FRESH_SLOW), reported_at, path.score_ms(), path.number)
        };
        let due = self.paths.iter().filter(|path| path.next_report <= now);
        let mut due: Vec<_> = due.map(order).collect();
        due.sort_unstable();
        for (other, .., number) in due {
            let admitted = if other { self.pace.admit_report(now) } else { Ok(()) };
            match (admitted, self.paths.get_mut(number)) {
                (Ok(()), _) => self.send_report(now, number, Bytes::new()),
                (Err(at), Some(path)) => path.next_report = at,
                (Err(_), None) => {}
            }
        }
    }

    pub(super) fn send_report(&mut self, now: Instant, number: PathNumber, feedback: Bytes) {
        let Some(path) = self.paths.get(number) else { return };
        let interval = self.interval(now, path);
        let spares = self.liveness.hold || self.pace.is_crowded(now);
        // The peer's own reports, as rare as ours, confirm the path.
        let patience = if spares { interval * 2 } else { Duration::ZERO };
        let fresh = WARM_INTERVAL * 2 + patience;
        let report = Report {
            media_path: self.liveness.media == Some(number),
            hold: self.liveness.hold,
            answer_wanted: !path.is_fresh(now, fresh) || self.liveness.in_trouble(now),
            path: number.0,
            clock_ms: self.clock_ms(now),
            next_ms: u16::try_from(interval.as_millis()).unwrap_or(u16::MAX),
            heard: self.heard_entries(now),
            feedback,
        };
        if let Some(path) = self.paths.get_mut(number) {
            path.attempts = path.attempts.saturating_add(1);
            path.reported_at = Some(now);
            path.next_report = now + interval;
        }
        self.report_path = Some(number);
        self.engine.send_report(now, report.clock_ms, &report.encode());
        self.pump_engine(now);
        self.report_path = None;
    }

    /// What was heard, by the numbers that the peer gave its paths: first where voice came in last,
    /// then the latest.
    fn heard_entries(&self, now: Instant) -> Vec<Heard> {
        let age_ms = |at: Instant| {
            let age = now.saturating_duration_since(at).as_millis();
            u16::try_from(age).unwrap_or(u16::MAX)
        };
        let mut heard: Vec<_> = self
            .paths
            .iter()
            .filter_map(|path| {
                let is_voice = self.liveness.voice_path == Some(path.number);
                Some((!is_voice, Reverse(path.heard_at?), path.peer_number?, path.echo?))
            })
            .collect();
        heard.sort_by_key(|(other, at, number, _)| (*other, *at, *number));
        let entries = if self.pace.is_crowded(now) { CROWDED_ENTRIES } else { ENTRIES_MAX };
        heard.truncate(entries);
        heard
            .into_iter()
            .map(|(_, Reverse(at), path, (echo_ms, echo_at))| Heard {
                path,
                echo_ms,
                echo_age_ms: age_ms(echo_at),
                heard_age_ms: age_ms(at),
            })
            .collect()
    }

    fn interval(&self, now: Instant, path: &Path) -> Duration {
        let number = Some(path.number);
        let liveness = &self.liveness;
        let media = liveness.media.and_then(|media| self.paths.get(media));
        let direct = media.is_some_and(|path| path.description.kind == PathKind::Direct);
        let fresh = path.is_fresh(now, FRESH_SLOW);
        if self.pace.is_crowded(now) && !liveness.hold {
            let useful = liveness.in_trouble(now) && !fresh;
            if number == liveness.media {
                CROWDED_INTERVAL
            } else if number == liveness.warm {
                CROWDED_WARM_INTERVAL
            } else if useful {
                RETRY_INTERVAL
            } else {
                CROWDED_OTHER_INTERVAL
            }
        } else if liveness.lost_told && path.attempts > 60 {
            RETRY_INTERVAL
        } else if liveness.in_trouble(now) {
            let useful = number == liveness.media || number == liveness.warm || fresh;
            if useful { TROUBLE_INTERVAL } else { TROUBLE_INTERVAL * 5 }
        } else if number == liveness.media {
            if liveness.hold { HOLD_INTERVAL } else { self.config.report_interval }
        } else if liveness.hold {
            if number == liveness.warm { HOLD_WARM_INTERVAL } else { HOLD_OTHER_INTERVAL }
        } else if number == liveness.warm {
            WARM_INTERVAL
        } else if fresh {
            if path.confirmations < 3 { TROUBLE_INTERVAL * 2 } else { OTHER_INTERVAL }
        } else if path.attempts < 6 {
            TROUBLE_INTERVAL * (1 << path.attempts)
        } else if direct {
            IDLE_RETRY_INTERVAL
        } else {
            RETRY_INTERVAL
        }
    }

    pub(super) fn clock_ms(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started_at).as_millis() as u32
    }
}
