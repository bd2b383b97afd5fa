//! What must be found: the newest record of every user, and what each look-up gave instead.

use cooee_proto::index::{Answer, Source};

use super::world::{Micros, SECOND};

/// A published record may take this long to reach every keeper and outlive every cache: an answer
/// with one that was the newest within this time is right (stated bound of the caches).
const SETTLING: Micros = 65 * SECOND;

/// What is true of a user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Truth {
    /// Sequence of the newest record; 0 before the first.
    pub(super) sequence: u64,
    /// When the newest was published.
    pub(super) since: Micros,
    /// Sequences of those before, the newest first, and until when each was the newest.
    before: [(u64, Micros); 3],
}

/// What a look-up gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The newest record.
    Right,
    /// The record before, within the time that records settle and caches live.
    Settling,
    /// An older record than that.
    Wrong,
    /// Nothing, though the user was seen in the last 72 hours.
    Missing,
    /// Nothing at the keepers, but the login server says that there is such a user; and the user is
    /// attached nowhere, so that nobody could say more.
    Registered,
}

/// Counts of what look-ups gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Look-ups answered.
    pub(super) look_ups: u64,
    /// Right or settling.
    pub(super) found: u64,
    /// Of these not the newest, but the newest within the last 65 s.
    pub(super) settling: u64,
    /// Older than allowed.
    pub(super) wrong: u64,
    /// The first of these in words.
    pub(super) failed_answers: Vec<String>,
    /// Nothing found.
    pub(super) missing: u64,
    /// Of these asked later than a minute after the fault.
    pub(super) missing_late: u64,
    /// Nothing found at the keepers; the login server, asked last, knew the user, who was in truth
    /// not attached anywhere.
    pub(super) by_login_server: u64,
    /// Calls placed to whoever was found and is there.
    pub(super) calls: u64,
    /// Of these at a super node that holds the callee.
    pub(super) calls_connected: u64,
    /// Answered from the cache: one round trip.
    pub(super) by_cache: u64,
    /// Answered by the first keepers: two round trips.
    pub(super) by_keepers: u64,
    /// Sixteen more were asked: three round trips.
    pub(super) by_more: u64,
    /// Delay of each in milliseconds.
    pub(super) delays_ms: Vec<f32>,
    /// Delay of those that the cache did not answer, in milliseconds.
    pub(super) uncached_ms: Vec<f32>,
    /// Share of keepers that held the newest record when the scenario looked, in percent.
    pub(super) consistent_at_check: Option<f64>,
    /// Records that no living keeper held when the scenario looked.
    pub(super) lost_at_check: Option<u64>,
}

impl Tally {
    /// Counts one answer.
    pub(super) fn count(&mut self, answer: &Answer, verdict: Verdict, delay_ms: f32) {
        self.look_ups += 1;
        self.settling += u64::from(verdict == Verdict::Settling);
        match verdict {
            Verdict::Right | Verdict::Settling => self.found += 1,
            Verdict::Registered => self.by_login_server += 1,
            Verdict::Wrong => self.wrong += 1,
            Verdict::Missing => self.missing += 1,
        }
        match answer.source {
            Source::Cache => self.by_cache += 1,
            Source::Keepers => self.by_keepers += 1,
            Source::MoreKeepers | Source::Nobody => self.by_more += 1,
        }
        self.delays_ms.push(delay_ms);
    }

    /// The delay below which this share of look-ups lies, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.delays_ms, share)
    }

    /// The same of those that the cache did not answer.
    pub(super) fn uncached_quantile(&self, share: f64) -> f64 {
        quantile(&self.uncached_ms, share)
    }
}

/// The value below which this share of them lies; 0 of none.
pub(super) fn quantile(values: &[f32], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(place).copied().map_or(0.0, f64::from)
}

impl Truth {
    /// A new record is published.
    pub(super) fn publish(&mut self, now: Micros, sequence: u64) {
        self.before.rotate_right(1);
        self.before[0] = (self.sequence, now);
        self.sequence = sequence;
        self.since = now;
    }

    /// Judges an answer to a look-up that was asked at `asked`.
    pub(super) fn judge(&self, asked: Micros, answer: &Answer) -> Verdict {
        let Some(newest) = answer.found.iter().map(|found| found.record.sequence).max() else {
            return Verdict::Missing;
        };
        let lately =
            |(sequence, until): &(u64, Micros)| *sequence == newest && asked < *until + SETTLING;
        if newest >= self.sequence {
            Verdict::Right
        } else if self.before.iter().any(lately) {
            Verdict::Settling
        } else {
            Verdict::Wrong
        }
    }
}
