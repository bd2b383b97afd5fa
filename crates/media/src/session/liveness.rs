//! The part of a session that notices deafness, its own and the peer's, by what the reports say.
//!
//! Each side reports on the path of its media every 250 ms (3 s on hold), on the warm path
//! every 500 ms, on the others now and then. Silence on the way in makes it report at once on
//! every path that works and send its voice twice; a report that says "I hear nothing on your
//! media path" makes the other side switch. So the death of a relay costs the 200 ms until
//! silence is suspicious and one way through the network. A path on which only one direction
//! died is replaced for that direction alone.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Direction, LocalPath, MediaSession, Output, PathKind, Phase, SessionEvent, TimerReason,
    choice::FRESH_CROWDED,
    path::{Path, PathNumber},
    profile::CIPHER,
    report::{Heard, Report},
    reporting::{FRESH_SLOW, HOLD_INTERVAL, WARM_INTERVAL},
};
use crate::rate::VoiceRate;

/// Silence while voice flows that is suspicious (chosen: ten packets of 20 ms).
const SILENCE_MIN: Duration = Duration::from_millis(200);
/// The same where there is little room: a queue of half a second each way, and what it drops.
const SILENCE_MIN_CROWDED: Duration = Duration::from_millis(1_500);
/// On a path with pauses in it: so many tenths of the longest lately, up to this.
const SILENCE_TENTHS: u32 = 15;
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// In so long a pause is forgotten by half.
const PAUSE_HALVED: Duration = Duration::from_secs(10);
/// How long voice leaves twice after a suspicion.
const DUPLICATION: Duration = Duration::from_millis(500);
/// On how many other paths at first, each by another local way if possible; then by turns. Mostly
/// the peer's report is there by then, and if what is wrong is a queue, copies make it worse.
const COPIES_MAX: usize = 4;
const SPREAD: Duration = Duration::from_millis(150);
/// Voice packets further apart than this are pauses.
const SPACING_MAX: Duration = Duration::from_millis(300);
/// A side that sent voice this lately is sending it: bundles of 240 ms and some.
const SENDING: Duration = Duration::from_millis(400);
/// The peer heard nothing of flowing voice for so long: worse than jitter (chosen).
const UNHEARD_MIN: Duration = Duration::from_millis(150);
/// The same where there is little room.
const UNHEARD_MIN_CROWDED: Duration = Duration::from_millis(1_500);
/// Nothing heard for so long, on any path: say so.
const DEAF_AFTER: Duration = Duration::from_millis(1_800);
/// Then: lost, and a restart is wanted.
const LOST_AFTER: Duration = Duration::from_secs(6);
/// At most one answer to a probe on the same path within this.
const ANSWER_SPACING: Duration = Duration::from_millis(40);
/// The same where there is little room.
const ANSWER_SPACING_CROWDED: Duration = Duration::from_millis(800);
/// No direct path so long after it was first tried: another local port may do.
const NEW_PORT_AFTER: Duration = Duration::from_secs(4);
const NEW_PORTS_MAX: u32 = 2;

/// What the session remembers about hearing and being heard.
#[derive(Debug)]
pub(super) struct Liveness {
    pub(super) media: Option<PathNumber>,
    pub(super) warm: Option<PathNumber>,
    pub(super) hold: bool,
    /// As of the last look.
    crowded: bool,
    pub(super) first_path: Option<(LocalPath, SocketAddr)>,
    pub(super) media_since: Instant,
    heard_at: Instant,
    voice_heard_at: Option<Instant>,
    /// By which the last voice packet came.
    pub(super) voice_path: Option<PathNumber>,
    voice_spacing: Duration,
    /// The longest time between two voice packets by the same path, lately.
    voice_pause: Duration,
    voice_sent_at: Option<Instant>,
    /// Usual time between voice packets sent.
    voice_sent_spacing: Duration,
    peer_next: Duration,
    suspect_since: Option<Instant>,
    deaf_told: bool,
    pub(super) lost_told: bool,
    duplicate_until: Option<Instant>,
    /// When the trouble began that is or was last.
    trouble_since: Instant,
    /// Voice packets of which copies left.
    copied: usize,
    direct_tried_at: Option<Instant>,
    new_ports: u32,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            media: None,
            warm: None,
            hold: false,
            crowded: false,
            first_path: None,
            media_since: now,
            heard_at: now,
            voice_heard_at: None,
            voice_path: None,
            voice_spacing: Duration::from_millis(20),
            voice_pause: Duration::ZERO,
            voice_sent_at: None,
            voice_sent_spacing: Duration::from_millis(20),
            peer_next: WARM_INTERVAL,
            suspect_since: None,
            deaf_told: false,
            lost_told: false,
            duplicate_until: None,
            trouble_since: now,
            copied: 0,
            direct_tried_at: None,
            new_ports: 0,
        }
    }

    pub(super) fn note_voice_sent(&mut self, now: Instant) {
        if let Some(last) = self.voice_sent_at.replace(now) {
            let spacing = now.saturating_duration_since(last).min(SPACING_MAX);
            self.voice_sent_spacing = (self.voice_sent_spacing * 7 + spacing) / 8;
        }
    }

    pub(super) fn note_direct_tried(&mut self, now: Instant) {
        self.direct_tried_at = Some(now);
    }

    pub(super) fn in_trouble(&self, now: Instant) -> bool {
        self.suspect_since.is_some() || self.duplicate_until.is_some_and(|until| until > now)
    }

    /// Voice came in, by the same path as before or by another.
    fn note_voice_heard(&mut self, now: Instant, is_same: bool) {
        let Some(last) = self.voice_heard_at.replace(now) else { return };
        let gap = now.saturating_duration_since(last);
        self.voice_spacing =
            self.voice_spacing * 15 / 16 + gap.min(Duration::from_millis(100)) / 16;
        let forgotten = 0.5_f64.powf(gap.as_secs_f64() / PAUSE_HALVED.as_secs_f64());
        self.voice_pause = self.voice_pause.mul_f64(forgotten);
        if is_same {
            self.voice_pause = self.voice_pause.max(gap.min(PAUSE_MAX));
        }
    }

    /// Something begins to be wrong, if it was not already.
    fn note_trouble(&mut self, now: Instant) {
        if !self.in_trouble(now) {
            self.trouble_since = now;
        }
    }

    /// Silence longer than this is suspicious.
    fn silence_max(&self) -> Duration {
        let flowing = self.voice_heard_at.is_some_and(|at| {
            at + Duration::from_secs(1) > self.heard_at && at >= self.media_since
        });
        if flowing && !self.hold {
            let least = if self.crowded { SILENCE_MIN_CROWDED } else { SILENCE_MIN };
            let pause = self.voice_pause * SILENCE_TENTHS / 10;
            least.max(self.voice_spacing * 4).max(pause)
        } else {
            self.peer_next * 2 + Duration::from_millis(300)
        }
    }

    fn is_sending_voice(&self, now: Instant) -> bool {
        self.voice_sent_at.is_some_and(|at| at + SENDING > now)
    }
}

impl MediaSession {
    pub(super) fn note_first_path(&mut self, via: LocalPath, to: SocketAddr) {
        if self.phase == Phase::Connecting {
            self.liveness.first_path = Some((via, to));
        }
    }

    /// The keys exist: the path on which the handshake ran is the first media path.
    pub(super) fn become_secure(&mut self, now: Instant) {
        if self.phase != Phase::Connecting {
            return;
        }
        self.phase = Phase::Secure;
        self.statistics.cipher = Some(CIPHER);
        self.statistics.start_bits_per_s = self.handshake.start_bits_per_s(now);
        if let Some(bits_per_s) = self.statistics.start_bits_per_s {
            let rate = VoiceRate { bits_per_s, has_queue: false };
            self.pace.set_voice_rate(now, rate);
        }
        self.statistics.setup = Some(now.saturating_duration_since(self.started_at));
        self.liveness.heard_at = now;
        let first = self.liveness.first_path.or(self.arrival);
        let number = first.and_then(|(via, to)| self.ensure_path(now, via, to));
        if let Some(path) = number.and_then(|number| self.paths.get_mut(number)) {
            // The handshake went both ways here.
            path.confirmed_at = Some(now);
            path.heard_at = Some(now);
            let path = path.description;
            self.outputs.push_back(Output::Event(SessionEvent::Connected { path, cipher: CIPHER }));
        }
        self.set_media(now, number);
        self.spread_paths(now);
        self.send_due_reports(now);
    }

    /// An encrypted voice packet leaves on the media path, and on others that work when in doubt.
    pub(super) fn send_voice_bytes(&mut self, now: Instant, bytes: Vec<u8>) {
        let media = self.liveness.media;
        self.pace.note_voice(now);
        if self.liveness.in_trouble(now) && !self.pace.is_crowded(now) {
            self.send_copies(now, &bytes);
        }
        if let Some(path) = media.and_then(|number| self.paths.get(number)) {
            let path = path.description;
            self.send_via(now, path.local, path.remote, bytes);
        }
    }

    /// By all of them at first, and where there is ample room; else by one after the other: each
    /// path that works gets something through in no time.
    fn send_copies(&mut self, now: Instant, bytes: &[u8]) {
        let liveness = &mut self.liveness;
        let paths = self.paths.copies(now, FRESH_SLOW, (liveness.media, liveness.warm), COPIES_MAX);
        liveness.copied = liveness.copied.wrapping_add(1);
        let turn = liveness.copied.checked_rem(paths.len());
        let is_spread = now < liveness.trouble_since + SPREAD || self.pace.is_ample(now);
        for (index, path) in paths.iter().enumerate() {
            if is_spread || turn == Some(index) {
                self.send_via(now, path.local, path.remote, bytes.to_vec());
            }
        }
    }

    /// An authenticated packet came in: its path is alive in this direction.
    fn heard(&mut self, now: Instant) -> Option<PathNumber> {
        let (via, from) = self.arrival?;
        let number = self.ensure_path(now, via, from)?;
        self.paths.get_mut(number)?.heard_at = Some(now);
        Some(number)
    }

    fn heard_media(&mut self, now: Instant) {
        let liveness = &mut self.liveness;
        liveness.heard_at = now;
        liveness.suspect_since = None;
        liveness.deaf_told = false;
        if std::mem::take(&mut liveness.lost_told) {
            self.outputs.push_back(Output::Event(SessionEvent::PathRestored));
        }
    }

    pub(super) fn heard_voice(&mut self, now: Instant) {
        let path = self.heard(now);
        let is_same = std::mem::replace(&mut self.liveness.voice_path, path) == path;
        self.liveness.note_voice_heard(now, is_same);
        self.heard_media(now);
    }

    pub(super) fn handle_report(&mut self, now: Instant, payload: &[u8]) {
        let Ok(report) = Report::decode(payload) else { return };
        let Some(arrived) = self.heard(now) else { return };
        if report.media_path {
            self.liveness.peer_next = Duration::from_millis(u64::from(report.next_ms));
            self.heard_media(now);
        }
        let crowded = self.pace.is_crowded(now);
        let spacing = if crowded { ANSWER_SPACING_CROWDED } else { ANSWER_SPACING };
        if let Some(path) = self.paths.get_mut(arrived) {
            path.echo = Some((report.clock_ms, now));
            path.peer_number = Some(report.path);
            let rested = path.reported_at.is_none_or(|at| at + spacing <= now);
            if report.answer_wanted && rested {
                path.next_report = now;
            }
        }
        for heard in &report.heard {
            self.note_confirmation(now, heard);
        }
        self.judge_media_path(now, &report);
        self.choose_paths(now);
        if !report.feedback.is_empty() {
            self.outputs.push_back(Output::Feedback(report.feedback));
        }
        self.send_due_reports(now);
    }

    fn note_confirmation(&mut self, now: Instant, heard: &Heard) {
        let clock_ms = self.clock_ms(now);
        let Some(path) = self.paths.get_mut(PathNumber(heard.path)) else { return };
        // A number that we never sent by is the peer's mistake or from before a removal.
        if path.reported_at.is_none() {
            return;
        }
        let age = Duration::from_millis(u64::from(heard.heard_age_ms));
        let at = now.checked_sub(age).unwrap_or(now);
        let newer = path.confirmed_at.is_none_or(|old| at > old);
        if heard.heard_age_ms < u16::MAX && newer {
            path.confirmed_at = Some(at);
            path.confirmations = path.confirmations.saturating_add(1);
        }
        let apart = clock_ms.wrapping_sub(heard.echo_ms).checked_sub(u32::from(heard.echo_age_ms));
        // Anything above a minute is a clock that wrapped or a lie.
        if let Some(sample) = apart.filter(|sample| *sample < 60_000 && heard.echo_age_ms < 10_000)
        {
            let sample = Duration::from_millis(u64::from(sample));
            let least = path.observe_round_trip(now, sample);
            self.pace.note_round_trip(now, sample, least);
        }
    }

    /// Does the peer hear us on the media path? If not, and it hears us elsewhere, move.
    fn judge_media_path(&mut self, now: Instant, report: &Report) {
        let Some(media) = self.liveness.media else { return };
        let age_of = |number: PathNumber| {
            let heard = report.heard.iter().find(|heard| heard.path == number.0);
            heard.map_or(u64::from(u16::MAX), |heard| u64::from(heard.heard_age_ms))
        };
        let Some(path) = self.paths.get(media) else { return };
        if report.heard.is_empty() {
            // From before anything came through.
            return;
        }
        let round_trip = path.round_trip.unwrap_or(Duration::from_millis(300));
        let interval = if self.liveness.hold { HOLD_INTERVAL } else { self.config.report_interval };
        let crowded = self.pace.is_crowded(now);
        let limit = if self.liveness.is_sending_voice(now) {
            let least = if crowded { UNHEARD_MIN_CROWDED } else { UNHEARD_MIN };
            least.max(self.liveness.voice_sent_spacing * 4).max(round_trip / 2)
        } else {
            interval * 2 + Duration::from_millis(300)
        };
        let settled = self.liveness.media_since + limit + round_trip * 2 <= now;
        let age = Duration::from_millis(age_of(media));
        if !settled || age <= limit {
            return;
        }
        self.liveness.note_trouble(now);
        self.liveness.duplicate_until = Some(now + DUPLICATION);
        // Whatever else is broken too: only a path that the peer has heard since counts.
        let is_heard = |path: &Path| {
            let heard_ago = Duration::from_millis(age_of(path.number));
            path.number != media && heard_ago + SILENCE_MIN / 2 < age
        };
        let better = self.paths.best_where(now, FRESH_SLOW, is_heard).map(|path| path.number);
        if let Some(other) = better {
            let path = path.description;
            let deaf = SessionEvent::PathDeaf { direction: Direction::Outbound, path };
            self.outputs.push_back(Output::Event(deaf));
            self.paths.condemn(media, now);
            self.switch(now, other);
        } else {
            self.hasten_reports(now);
        }
    }

    /// Time passed: is there suspicious silence, is something due?
    pub(super) fn watch(&mut self, now: Instant) {
        if self.phase != Phase::Secure {
            return;
        }
        let silence = now.saturating_duration_since(self.liveness.heard_at);
        self.liveness.crowded = self.pace.is_crowded(now);
        let silence_max = self.liveness.silence_max();
        if self.liveness.in_trouble(now) {
            self.pace.note_trouble(now, self.liveness.trouble_since);
        }
        if silence >= silence_max && self.liveness.suspect_since.is_none() {
            self.liveness.note_trouble(now);
            self.liveness.suspect_since = Some(now);
            self.hasten_reports(now);
        }
        let deaf_after = DEAF_AFTER.max(silence_max);
        if silence >= deaf_after && !self.liveness.deaf_told {
            self.liveness.deaf_told = true;
            self.tell_deaf(Direction::Inbound);
        }
        if silence >= LOST_AFTER.max(silence_max * 2) && !self.liveness.lost_told {
            self.liveness.lost_told = true;
            self.outputs.push_back(Output::Event(SessionEvent::PathLost));
            self.outputs.push_back(Output::Event(SessionEvent::RestartWanted));
        }
        self.choose_paths(now);
        self.want_new_port(now);
        self.send_due_reports(now);
    }

    pub(super) fn tell_deaf(&mut self, direction: Direction) {
        let media = self.liveness.media.and_then(|number| self.paths.get(number));
        if let Some(path) = media.map(|path| path.description) {
            self.outputs.push_back(Output::Event(SessionEvent::PathDeaf { direction, path }));
        }
    }

    /// The voice has a path that works.
    fn has_path(&self, now: Instant) -> bool {
        let media = self.liveness.media.and_then(|number| self.paths.get(number));
        let works = media.is_some_and(|path| path.is_fresh(now, FRESH_CROWDED));
        works && !self.liveness.in_trouble(now)
    }

    /// Whether new streams to relays must wait: their handshakes would take what little room there
    /// is from a voice that has a path.
    pub(super) fn spares_streams(&self, now: Instant) -> bool {
        self.pace.is_scarce() && self.has_path(now)
    }

    pub(super) fn time_relays(&mut self, now: Instant) {
        let (has_path, spares) = (self.has_path(now), self.spares_streams(now));
        for relay in self.relays.values_mut() {
            if !has_path {
                relay.hasten(now);
            }
            relay.handle_timeout(now, spares);
        }
    }

    fn want_new_port(&mut self, now: Instant) {
        let kind = self.liveness.media.and_then(|number| self.paths.get(number));
        let direct = kind.is_some_and(|path| path.description.kind == PathKind::Direct);
        let direct_possible =
            self.remotes.iter().any(|remote| !remote.kind.is_relayed()) && self.revealed;
        let due = self.liveness.direct_tried_at.is_some_and(|at| at + NEW_PORT_AFTER <= now);
        if due && !direct && direct_possible && self.liveness.new_ports < NEW_PORTS_MAX {
            self.liveness.new_ports += 1;
            self.liveness.direct_tried_at = Some(now);
            self.outputs.push_back(Output::Event(SessionEvent::NewPortWanted));
        }
    }

    pub(super) fn watch_timeout(&self) -> (Instant, TimerReason) {
        let report = self.paths.iter().map(|path| path.next_report).min();
        let liveness = &self.liveness;
        let silence_max = liveness.silence_max();
        let silence = if liveness.suspect_since.is_none() {
            liveness.heard_at + silence_max
        } else if !liveness.deaf_told {
            liveness.heard_at + DEAF_AFTER.max(silence_max)
        } else {
            liveness.heard_at + LOST_AFTER.max(silence_max * 2)
        };
        let silence = if liveness.lost_told { None } else { Some(silence) };
        let mut next = (self.started_at + Duration::from_secs(86_400 * 365), TimerReason::Idle);
        for (at, reason) in [(report, TimerReason::Report), (silence, TimerReason::Liveness)] {
            if let Some(at) = at.filter(|at| *at < next.0) {
                next = (at, reason);
            }
        }
        next
    }
}
