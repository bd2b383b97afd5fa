//! What to play next: the frame that is due, or what stands in for it.
//!
//! When the frame that is due is missing:
//!
//! - later frames are there: it is lost. In-band or deep redundancy of the next frame fills the
//!   gap if there is any, concealment otherwise, and media time goes on;
//! - nothing is there: it may only be late. Concealment plays and media time stands still (*debt*).
//!   When frames come back, a small debt is paid by skipping what it covered; a large one (a delay
//!   spike) is kept as delay, so that no word is lost, and played off a little faster.

use super::VoiceReceiver;
use crate::{
    codec::{FRAME_SAMPLES_MAX, FRAME_SAMPLES_MIN, SAMPLES_PER_MS, opus},
    jitter::buffer::Frame,
};

/// Debt up to which what concealment covered is skipped: 30 ms. Chosen.
const DEBT_SKIPPED_MAX: usize = 30 * SAMPLES_PER_MS;

/// Longest standstill of media time: 200 ms. After that time goes on without sound.
const DEBT_MAX: usize = 200 * SAMPLES_PER_MS;

/// A gap in timestamps that is jumped, not concealed: 1 s (a hold, a sender that restarted).
const GAP_MAX: i64 = 1_000 * SAMPLES_PER_MS as i64;

/// Concealment is made in pieces of at most 10 ms, so that it never runs past a late frame.
const CONCEALED_AT_ONCE: usize = 10 * SAMPLES_PER_MS;

/// Deep redundancy is looked for this far back from a packet, in samples: 1 s.
const DEEP_SAMPLES_MAX: usize = 48_000;

impl VoiceReceiver {
    /// Makes at least one more sample, or moves media time on.
    pub(super) fn decode_next(&mut self) {
        let Some(playing) = &mut self.playing else { return };
        let tail = playing.tail;
        let Some(next) = self.buffer.next_from(tail) else {
            let samples = playing.frame_samples.min(CONCEALED_AT_ONCE);
            self.conceal_late(samples);
            return;
        };
        let gap = next.timestamp - tail;
        if playing.debt > 0 {
            let debt = core::mem::take(&mut playing.debt) as i64;
            // As much as the delay is short of its target is kept as delay in any case.
            let excess = (debt - self.deficit).max(0);
            if gap > 0 || excess <= DEBT_SKIPPED_MAX as i64 {
                // What the concealment covered is lost, or not worth the delay.
                playing.tail += excess.min(gap.max(DEBT_SKIPPED_MAX as i64));
            }
            return;
        }
        if gap <= 0 {
            let number = next.packet;
            self.decode_frame(number);
        } else if gap > GAP_MAX {
            playing.tail = next.timestamp;
        } else {
            let number = next.packet;
            self.fill_gap(number, gap as usize);
        }
    }

    /// Nothing is there: plays on while media time stands still, up to a bound.
    fn conceal_late(&mut self, samples: usize) {
        let mut sound = [0.0; CONCEALED_AT_ONCE];
        let samples = samples.next_multiple_of(FRAME_SAMPLES_MIN).min(CONCEALED_AT_ONCE);
        self.conceal_into(&mut sound[..samples]);
        if let Some(playing) = &mut self.playing {
            playing.debt += samples;
            if playing.debt > DEBT_MAX {
                playing.debt -= samples;
                playing.tail += samples as i64;
            }
        }
    }

    fn conceal_into(&mut self, sound: &mut [f32]) {
        if self.decoder.conceal(sound).is_err() {
            sound.fill(0.0);
        }
        self.sound.push(sound);
        self.statistics.concealed_samples += sound.len() as u64;
        self.missed.add(sound.len(), true);
    }

    /// The frame that is due is lost and `number` comes after it.
    fn fill_gap(&mut self, number: u64, gap: usize) {
        let Some(next) = self.buffer.take(number) else { return };
        let mut sound = [0.0; FRAME_SAMPLES_MAX];
        let aligned = gap.next_multiple_of(FRAME_SAMPLES_MIN).min(FRAME_SAMPLES_MAX);
        let first = next.first_packet();
        let in_band = gap <= FRAME_SAMPLES_MAX
            && opus::packet_samples(first) == Ok(gap)
            && opus::has_in_band_redundancy(first);
        let filled = if in_band {
            self.decoder.decode_in_band_redundancy(first, &mut sound[..gap]).ok()
        } else {
            self.decode_deep(&next, gap, &mut sound[..aligned.min(CONCEALED_AT_ONCE)])
        };
        self.buffer.put_back(next);
        let samples = match filled {
            Some(samples) => samples.min(gap),
            None => {
                let samples = aligned.min(CONCEALED_AT_ONCE);
                if self.decoder.conceal(&mut sound[..samples]).is_err() {
                    sound[..samples].fill(0.0);
                }
                samples.min(gap)
            }
        };
        self.sound.push(&sound[..samples]);
        self.statistics.concealed_samples += samples as u64;
        self.missed.add(samples, true);
        if let Some(playing) = &mut self.playing {
            playing.tail += samples as i64;
        }
    }

    /// Fills `sound` from the deep redundancy of `next`, which starts `gap` samples later.
    fn decode_deep(&mut self, next: &Frame, gap: usize, sound: &mut [f32]) -> Option<usize> {
        if self.deep_of.is_none_or(|(packet, _)| packet != next.packet) {
            let covered = self.deep.parse(next.first_packet(), DEEP_SAMPLES_MAX).unwrap_or(0);
            self.deep_of = Some((next.packet, covered));
        }
        let (_, covered) = self.deep_of?;
        if covered < gap {
            return None;
        }
        self.decoder.decode_deep_redundancy(&self.deep, gap, sound).ok()
    }

    /// Decodes of a frame what is due: its Opus packet, or the next of its bundle.
    fn decode_frame(&mut self, number: u64) {
        self.mend_state(number);
        let Some(frame) = self.buffer.take(number) else { return };
        let decoded = self.playing.as_ref().and_then(|playing| playing.decoded);
        let (mut timestamp, mut is_whole) = (frame.timestamp, true);
        for (part, packet) in frame.packets().enumerate() {
            let Ok(samples) = opus::packet_samples(packet) else { break };
            let start = timestamp;
            timestamp += samples as i64;
            if decoded.is_some_and(|decoded| decoded >= (number, part)) {
                continue;
            }
            if self.decode_packet((number, part), start, packet) {
                is_whole = timestamp >= frame.timestamp + frame.samples as i64;
                break;
            }
        }
        if is_whole {
            self.buffer.recycle(frame);
        } else {
            self.buffer.put_back(frame);
        }
        if let Some(playing) = &self.playing {
            self.buffer.drop_before(playing.tail);
        }
    }

    /// Decodes the Opus packet that starts at `timestamp`; whether some of it was to be played.
    fn decode_packet(&mut self, place: (u64, usize), timestamp: i64, packet: &[u8]) -> bool {
        let mut sound = [0.0; FRAME_SAMPLES_MAX];
        let made = self.decoder.decode(packet, &mut sound).unwrap_or_else(|_| {
            // Bytes that look like Opus and are not: conceal as long as they claimed to be.
            sound.fill(0.0);
            opus::packet_samples(packet).unwrap_or(0)
        });
        let Some(playing) = &mut self.playing else { return true };
        let played_already = usize::try_from(playing.tail - timestamp).unwrap_or(0).min(made);
        playing.tail = playing.tail.max(timestamp + made as i64);
        playing.decoded = Some(place);
        playing.frame_samples = made;
        self.sound.push(&sound[played_already..made]);
        self.missed.add(made - played_already, false);
        played_already < made
    }

    /// Frames that came after their time but before their successor was decoded still teach the
    /// decoder what its state should be.
    fn mend_state(&mut self, number: u64) {
        let Some((last, part)) = self.playing.as_ref().and_then(|playing| playing.decoded) else {
            return;
        };
        let mut sound = [0.0; FRAME_SAMPLES_MAX];
        for late in number.saturating_sub(2).max(last)..number {
            if let Some(frame) = self.buffer.take(late) {
                let done = if late == last { part + 1 } else { 0 };
                for packet in frame.packets().skip(done) {
                    let _ = self.decoder.decode(packet, &mut sound);
                }
                self.buffer.recycle(frame);
            }
        }
    }
}
