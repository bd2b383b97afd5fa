//! How much a session may say beside the voice, and how soon it may call a path dead.
//!
//! Where rate control has left the voice little room, silence is no sign of death: what is late or
//! lost drowned in the same queue, which copies on other paths and hurried reports would only fill.
//! Then the session says little, waits longer, and moves only to a path of a better kind. ICE's own
//! checks and RTCP are thinned out too: the reports, which are authenticated and answered, do what
//! they are for (RFC 7675 consent included).

use std::time::{Duration, Instant};

use crate::rate::VoiceRate;

/// Rate control below this leaves no room beside the voice (chosen: 4 kB/s).
const SCARCE_BITS_PER_S: u32 = 32_000;
/// Rate control above this, without a queue: copies and reports on every path do no harm. More than
/// it starts with: so the way has proven it.
const AMPLE_BITS_PER_S: u32 = 120_000;
/// Rate control knows nothing of the way while something is wrong, nor so long after; but if that
/// lasts, it is right.
const UNTOLD: Duration = Duration::from_secs(1);
const UNTOLD_MAX: Duration = Duration::from_secs(4);
/// A voice without a packet for so long has stopped.
const STOPPED: Duration = Duration::from_millis(600);
/// A round trip this much above the shortest of its path is a queue (chosen: jitter is less).
const QUEUE_MIN: Duration = Duration::from_millis(150);
/// Long round trips alone for so long are a queue that stands; those of a machine that stalled all
/// end when it goes on.
const STANDING: Duration = Duration::from_millis(200);
/// For how long a queue is remembered.
const QUEUE_REMEMBERED: Duration = Duration::from_secs(5);
/// Messages of ICE at most one in this, while there is little room, and on hold.
const ICE_SPACING: Duration = Duration::from_secs(5);
const ICE_SPACING_HOLD: Duration = Duration::from_secs(15);

/// Reports on paths that carry no media: so many at once, then one in this. RFC 8445 (14.2) spaces
/// its checks alike: a burst on every path fills a narrow access for longer than a death takes to
/// be noticed.
const REPORTS_AT_ONCE: u32 = 4;
const REPORT_SPACING: Duration = Duration::from_millis(50);

/// What is known of the room on the way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What rate control lets the voice have on the wire; nobody has said yet if `None`.
    voice: Option<VoiceRate>,
    /// Until then less than that only says that nothing comes back.
    untold_until: Option<Instant>,
    voice_at: Option<Instant>,
    queue_until: Option<Instant>,
    /// Round trips have been long since then.
    long_since: Option<Instant>,
    standing_until: Option<Instant>,
    ice_at: Option<Instant>,
    /// Reports sent so far fill their share until then.
    reports_until: Option<Instant>,
}

impl Pace {
    /// Rate control has decided. While nothing comes back it cuts the rate blindly: that is no
    /// sign of little room, and a dead path must be left as fast as ever.
    pub(super) fn set_voice_rate(&mut self, now: Instant, rate: VoiceRate) {
        let untold = self.untold_until.is_some_and(|until| until > now);
        if !untold || self.voice.is_none_or(|old| old.bits_per_s <= rate.bits_per_s) {
            self.voice = Some(rate);
        }
    }

    /// Something is wrong with the paths since then.
    pub(super) fn note_trouble(&mut self, now: Instant, since: Instant) {
        self.untold_until = Some((now + UNTOLD).min(since + UNTOLD_MAX));
    }

    /// A voice packet leaves.
    pub(super) fn note_voice(&mut self, now: Instant) {
        self.voice_at = Some(now);
    }

    /// A report came back after `sample` on a path whose shortest round trip is `least`.
    pub(super) fn note_round_trip(&mut self, now: Instant, sample: Duration, least: Duration) {
        if sample <= least + QUEUE_MIN {
            self.long_since = None;
            return;
        }
        self.queue_until = Some(now + QUEUE_REMEMBERED);
        if *self.long_since.get_or_insert(now) + STANDING <= now {
            self.standing_until = self.queue_until;
        }
    }

    /// Round trips tell of a queue, not of the way's length.
    pub(super) fn has_queue(&self, now: Instant) -> bool {
        self.queue_until.is_some_and(|until| until > now)
    }

    /// Rate control gives the voice little, or both it and a long round trip tell of a queue, or no
    /// round trip is short. A single long one is no sign: it may be that of a machine that stalled,
    /// and there a dead path must be left as fast as ever. The bytes that leave say nothing: a
    /// pause in speech is small too.
    pub(super) fn is_crowded(&self, now: Instant) -> bool {
        let is_speaking =
            self.voice_at.is_some_and(|at| now.saturating_duration_since(at) < STOPPED);
        let is_full = self.voice.is_some_and(|rate| rate.has_queue) && self.has_queue(now);
        let stands = self.standing_until.is_some_and(|until| until > now);
        is_speaking && (self.is_scarce() || is_full || stands)
    }

    /// Rate control gives the voice little, whether it speaks now or not.
    pub(super) fn is_scarce(&self) -> bool {
        self.voice.is_some_and(|rate| rate.bits_per_s < SCARCE_BITS_PER_S)
    }

    /// Rate control gives the voice much, and no queue stands.
    pub(super) fn is_ample(&self, now: Instant) -> bool {
        let has_room = |rate: VoiceRate| rate.bits_per_s >= AMPLE_BITS_PER_S && !rate.has_queue;
        let stands = self.standing_until.is_some_and(|until| until > now);
        self.voice.is_some_and(has_room) && !stands
    }

    /// Whether a report may leave now on a path that carries no media; if not, when.
    pub(super) fn admit_report(&mut self, now: Instant) -> Result<(), Instant> {
        if self.is_ample(now) {
            return Ok(());
        }
        let until = self.reports_until.map_or(now, |at| at.max(now));
        let ahead = REPORT_SPACING * (REPORTS_AT_ONCE - 1);
        if until > now + ahead {
            return Err(until - ahead);
        }
        self.reports_until = Some(until + REPORT_SPACING);
        Ok(())
    }

    /// Whether a message of ICE may leave although there is little room.
    pub(super) fn allows_ice(&mut self, now: Instant, hold: bool) -> bool {
        let spacing = if hold { ICE_SPACING_HOLD } else { ICE_SPACING };
        let is_due = self.ice_at.is_none_or(|at| at + spacing <= now);
        if is_due {
            self.ice_at = Some(now);
        }
        is_due
    }
}
