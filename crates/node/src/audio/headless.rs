//! Microphones and speakers without hardware, paced by the monotonic clock like a sound card.
//!
//! Deadlines are absolute (origin plus samples over rate), so nothing drifts, and a stalled
//! thread finds the clock where it is:
//!
//! * a paced microphone has spoken on meanwhile: its blocks come in a burst, and what is older
//!   than its buffer is lost, as with a card;
//! * a paced speaker has played silence meanwhile: that gap is counted as an under-run and the
//!   next block is heard at its true time. Its head start (how long before being heard a block
//!   is fetched) begins at one block and grows with under-runs, up to a bound.

use super::clock::{BLOCK_SAMPLES, MonotonicNs, ns_to_samples, samples_to_ns};

/// A microphone's buffer; what is older is lost after a stall (chosen: a card's usual ring).
const MICROPHONE_BUFFER_SAMPLES: u64 = 24_000;

/// Longest head start of a paced speaker (chosen: 20 ms, a patient card).
const HEAD_START_SAMPLES_MAX: u64 = 960;

const BLOCK: u64 = BLOCK_SAMPLES as u64;

/// Says when a microphone block has been spoken.
#[derive(Clone, Debug)]
pub struct PacedMicrophone {
    origin_ns: MonotonicNs,
    delivered: u64,
    lost: u64,
}

impl PacedMicrophone {
    /// Speaks its sample 0 at `origin_ns`.
    pub fn new(origin_ns: MonotonicNs) -> Self {
        Self { origin_ns, delivered: 0, lost: 0 }
    }

    /// The position in samples of the next block if it has been spoken completely.
    pub fn next_block(&mut self, now_ns: MonotonicNs) -> Option<u64> {
        let spoken = ns_to_samples(now_ns.saturating_sub(self.origin_ns));
        let oldest = spoken.saturating_sub(MICROPHONE_BUFFER_SAMPLES) / BLOCK * BLOCK;
        if self.delivered < oldest {
            self.lost += oldest - self.delivered;
            self.delivered = oldest;
        }
        (self.delivered + BLOCK <= spoken).then(|| {
            self.delivered += BLOCK;
            self.delivered - BLOCK
        })
    }

    /// When the next block has been spoken.
    pub fn deadline_ns(&self) -> MonotonicNs {
        self.origin_ns + samples_to_ns(self.delivered + BLOCK)
    }

    /// Samples lost to stalls so far.
    pub fn lost_samples(&self) -> u64 {
        self.lost
    }
}

/// What a paced speaker wants now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeakerDue {
    /// A block, which will be heard at the end of what was fetched.
    Block,
    /// So many samples were played as silence because nothing was fetched in time.
    Gap {
        /// Their number, whole blocks.
        samples: u64,
    },
}

/// Says when a speaker needs its next block.
#[derive(Clone, Debug)]
pub struct PacedSpeaker {
    origin_ns: MonotonicNs,
    head_start: u64,
    fetched: u64,
}

impl PacedSpeaker {
    /// Fetches its first block at `now_ns`; it is heard one head start later.
    pub fn new(now_ns: MonotonicNs) -> Self {
        let head_start = BLOCK;
        Self { origin_ns: now_ns + samples_to_ns(head_start), head_start, fetched: 0 }
    }

    /// When sample 0 is heard.
    pub fn origin_ns(&self) -> MonotonicNs {
        self.origin_ns
    }

    /// How long before being heard a block is fetched, in samples.
    pub fn head_start_samples(&self) -> u64 {
        self.head_start
    }

    /// What is due; call until `None`.
    pub fn next_due(&mut self, now_ns: MonotonicNs) -> Option<SpeakerDue> {
        let heard = ns_to_samples(now_ns.saturating_sub(self.origin_ns));
        if heard > self.fetched {
            let samples = (heard - self.fetched).div_ceil(BLOCK) * BLOCK;
            self.fetched += samples;
            self.head_start = (self.head_start + BLOCK).min(HEAD_START_SAMPLES_MAX);
            return Some(SpeakerDue::Gap { samples });
        }
        (now_ns >= self.deadline_ns()).then(|| {
            self.fetched += BLOCK;
            SpeakerDue::Block
        })
    }

    /// When the next block must be fetched.
    pub fn deadline_ns(&self) -> MonotonicNs {
        let heard_ns = self.origin_ns + samples_to_ns(self.fetched);
        heard_ns.saturating_sub(samples_to_ns(self.head_start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 123_456_789_012;
    const BLOCK_NS: u64 = 2_500_000;

    #[test]
    fn a_block_is_spoken_only_after_its_last_sample() {
        let mut microphone = PacedMicrophone::new(START_NS);
        assert_eq!(microphone.next_block(START_NS + BLOCK_NS - 1), None);
        assert_eq!(microphone.deadline_ns(), START_NS + BLOCK_NS);
        assert_eq!(microphone.next_block(START_NS + BLOCK_NS), Some(0));
        assert_eq!(microphone.next_block(START_NS + BLOCK_NS), None);
    }

    #[test]
    fn a_day_of_late_wakeups_does_not_drift() {
        let mut microphone = PacedMicrophone::new(START_NS);
        let mut speaker = PacedSpeaker::new(START_NS);
        let day_ns = 86_400_000_000_000;
        let (mut now, mut spoken, mut fetched) = (START_NS, 0_u64, 0_u64);
        while now < START_NS + day_ns {
            now = microphone.deadline_ns().min(speaker.deadline_ns()) + now % 700_000;
            while microphone.next_block(now).is_some() {
                spoken += BLOCK;
            }
            while let Some(due) = speaker.next_due(now) {
                assert_eq!(due, SpeakerDue::Block);
                fetched += BLOCK;
            }
        }
        let expected = ns_to_samples(now - START_NS);
        assert!(expected - spoken < BLOCK);
        assert!(fetched - expected <= 2 * BLOCK);
    }

    #[test]
    fn after_a_stall_the_microphone_bursts_and_the_speaker_has_a_gap() {
        let mut microphone = PacedMicrophone::new(START_NS);
        let mut speaker = PacedSpeaker::new(START_NS);
        assert_eq!(speaker.next_due(START_NS), Some(SpeakerDue::Block));
        let late = START_NS + 40 * BLOCK_NS;
        assert_eq!((0..).take_while(|_| microphone.next_block(late).is_some()).count(), 40);
        // Heard at `late`: 39 blocks since the origin, one of them fetched.
        assert_eq!(speaker.next_due(late), Some(SpeakerDue::Gap { samples: 38 * BLOCK }));
        let heard_at = speaker.origin_ns() + samples_to_ns(39 * BLOCK);
        assert_eq!(heard_at, late);
        // The head start is two blocks from now on: those heard now, in one, in two blocks.
        for _ in 0..3 {
            assert_eq!(speaker.next_due(late), Some(SpeakerDue::Block));
        }
        assert_eq!(speaker.next_due(late), None);
        assert_eq!(speaker.deadline_ns(), late + BLOCK_NS);
    }

    #[test]
    fn a_stall_longer_than_the_microphone_buffer_loses_the_oldest() {
        let mut microphone = PacedMicrophone::new(START_NS);
        let late = START_NS + 1_000_000_000;
        assert_eq!(microphone.next_block(late), Some(24_000));
        assert_eq!(microphone.lost_samples(), 24_000);
    }

    #[test]
    fn the_head_start_is_bounded() {
        let mut speaker = PacedSpeaker::new(START_NS);
        let mut now = START_NS;
        for _ in 0..100 {
            now += 100_000_000;
            while speaker.next_due(now).is_some() {}
        }
        assert_eq!(speaker.head_start_samples(), HEAD_START_SAMPLES_MAX);
    }
}
