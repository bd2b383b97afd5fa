//! Whether a call of this node has little room for its voice.
//!
//! Each media leg says what rate control lets its voice have; who has something else to say on the
//! same access asks here. Where there is little room, a connection that seems dead most likely
//! waits in the voice's own queue, and a new one would take seconds of the link.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Below this much for the voice on the wire there is little room, in bit/s: 4 kB/s, as for the
/// reports of a session.
const LITTLE_BITS_PER_S: u32 = 32_000;

/// How long after the start of a leg its room is not known yet (chosen: above what rate control
/// takes to find a slow path).
const UNKNOWN: Duration = Duration::from_secs(20);

/// How long chores wait for room at most: a call may take hours.
const CHORES_WAIT_MAX: Duration = Duration::from_secs(600);

/// How often waiting chores look again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One for a node and all its legs; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Room {
    legs: Arc<AtomicUsize>,
    crowded_legs: Arc<AtomicUsize>,
    newest_leg: Arc<Mutex<Option<Instant>>>,
}

impl Room {
    /// Whether a call has little room now.
    pub fn is_little(&self) -> bool {
        self.crowded_legs.load(Ordering::Relaxed) > 0
    }

    /// Waits until what nobody waits for (kilobytes of a buddy list) takes nothing from a call:
    /// until none is young or has little room.
    pub async fn for_chores(&self) {
        let until = Instant::now() + CHORES_WAIT_MAX;
        while self.is_wanted(Instant::now()) && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// A call needs all the room there is, or may.
    fn is_wanted(&self, now: Instant) -> bool {
        let newest = *self.newest_leg.lock().unwrap_or_else(PoisonError::into_inner);
        let is_young = newest.is_some_and(|at| now < at + UNKNOWN);
        self.is_little() || is_young && self.legs.load(Ordering::Relaxed) > 0
    }

    /// The part of one leg, which ends with it.
    pub(crate) fn leg(&self) -> LegRoom {
        self.legs.fetch_add(1, Ordering::Relaxed);
        let mut newest = self.newest_leg.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = Some(Instant::now());
        LegRoom { room: self.clone(), is_little: false }
    }
}

/// What one leg has said.
#[derive(Debug)]
pub(crate) struct LegRoom {
    room: Room,
    is_little: bool,
}

impl LegRoom {
    /// Rate control lets the voice have so many bit/s on the wire.
    pub(crate) fn set_voice_rate(&mut self, bits_per_s: u32) {
        self.set_little(bits_per_s < LITTLE_BITS_PER_S);
    }

    fn set_little(&mut self, is_little: bool) {
        match (self.is_little, is_little) {
            (false, true) => drop(self.room.crowded_legs.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.room.crowded_legs.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.is_little = is_little;
    }
}

impl Drop for LegRoom {
    fn drop(&mut self) {
        self.set_little(false);
        self.room.legs.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chores_wait_for_young_calls_and_for_room() {
        let room = Room::default();
        let begin = Instant::now();
        assert!(!room.is_wanted(begin), "no call");
        let mut leg = room.leg();
        assert!(room.is_wanted(Instant::now()));
        let later = Instant::now() + UNKNOWN;
        assert!(!room.is_wanted(later), "not young any more");
        leg.set_voice_rate(12_000);
        assert!(room.is_wanted(later));
        drop(leg);
        assert!(!room.is_wanted(Instant::now()));
    }

    #[test]
    fn there_is_little_room_while_any_leg_says_so() {
        let room = Room::default();
        let (mut one, mut other) = (room.leg(), room.leg());
        one.set_voice_rate(110_000);
        assert!(!room.is_little());
        one.set_voice_rate(12_000);
        one.set_voice_rate(9_000);
        other.set_voice_rate(12_000);
        other.set_voice_rate(64_000);
        assert!(room.is_little());
        drop(one);
        assert!(!room.is_little());
    }
}
