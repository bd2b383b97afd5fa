//! Encoded frames waiting to be played, in order of their timestamps.
//!
//! A ring of [`SLOTS`] frames allocated at construction, keyed by packet number (the RTP sequence
//! number, unwrapped). Duplicates are refused; at the bound the oldest frame gives way.

use crate::codec::{PAYLOAD_BYTES_MAX, bundle::Bundle};

/// Frames held at most: 2 s of 10 ms frames, more of longer ones. Chosen.
pub const SLOTS: usize = 200;

type Payload = Box<[u8; PAYLOAD_BYTES_MAX]>;

/// What the bytes of a frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// One Opus packet.
    Opus,
    /// Several, as they came in one payload.
    Bundle,
}

/// The encoded sound of one packet.
#[derive(Clone)]
pub struct Frame {
    /// Packet number it belongs to.
    pub packet: u64,
    /// Media time of its first sample, in samples, unwrapped.
    pub timestamp: i64,
    /// Samples it decodes to.
    pub samples: usize,
    content: Content,
    bytes: usize,
    payload: Payload,
}

impl Frame {
    /// Its Opus packets, in order of time.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let payload = &self.payload[..self.bytes];
        let (alone, bundle) = match self.content {
            Content::Opus => (Some(payload), None),
            Content::Bundle => (None, Bundle::parse(payload).ok()),
        };
        let count = bundle.map_or(0, |bundle| bundle.parts().len());
        let part =
            move |index: usize| bundle.map_or(&[][..], |bundle| bundle.parts()[index].packet);
        alone.into_iter().chain((0..count).map(part))
    }

    /// Its first Opus packet.
    pub fn first_packet(&self) -> &[u8] {
        self.packets().next().unwrap_or_default()
    }
}

/// What became of a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// Kept.
    Kept,
    /// Already there.
    Duplicate,
    /// Too long to keep.
    TooLong,
    /// Older than everything the full ring holds.
    TooOld,
}

/// The frames that wait.
pub struct FrameBuffer {
    slots: Vec<Option<Frame>>,
    // Boxes move between here and the slots without copying.
    #[allow(clippy::vec_box)]
    spare: Vec<Payload>,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            spare: (0..SLOTS + 2).map(|_| Box::new([0; PAYLOAD_BYTES_MAX])).collect(),
        }
    }
}

impl FrameBuffer {
    /// Offers a frame.
    pub fn insert(
        &mut self,
        packet: u64,
        timestamp: i64,
        samples: usize,
        content: Content,
        payload: &[u8],
    ) -> Insertion {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Insertion::TooLong;
        }
        let index = (packet % SLOTS as u64) as usize;
        if let Some(held) = &self.slots[index] {
            if held.packet == packet {
                return Insertion::Duplicate;
            }
            if held.packet > packet {
                return Insertion::TooOld;
            }
        }
        if let Some(evicted) = self.slots[index].take() {
            self.spare.push(evicted.payload);
        }
        // There are more boxes than slots, and every box is in a slot, spare, or taken by the
        // caller for the one frame being decoded.
        let Some(mut kept) = self.spare.pop() else { return Insertion::TooOld };
        kept[..payload.len()].copy_from_slice(payload);
        self.slots[index] = Some(Frame {
            packet,
            timestamp,
            samples,
            content,
            bytes: payload.len(),
            payload: kept,
        });
        Insertion::Kept
    }

    /// The earliest frame that ends after `timestamp`.
    pub fn next_from(&self, timestamp: i64) -> Option<&Frame> {
        self.slots
            .iter()
            .flatten()
            .filter(|frame| frame.timestamp + frame.samples as i64 > timestamp)
            .min_by_key(|frame| frame.timestamp)
    }

    /// The frame of `packet`.
    pub fn get(&self, packet: u64) -> Option<&Frame> {
        self.slots[(packet % SLOTS as u64) as usize].as_ref().filter(|f| f.packet == packet)
    }

    /// Takes the frame of `packet` out; give it back with [`FrameBuffer::recycle`].
    pub fn take(&mut self, packet: u64) -> Option<Frame> {
        self.slots[(packet % SLOTS as u64) as usize].take_if(|frame| frame.packet == packet)
    }

    /// Puts a frame back that was taken out.
    pub fn put_back(&mut self, frame: Frame) {
        let index = (frame.packet % SLOTS as u64) as usize;
        match &self.slots[index] {
            None => self.slots[index] = Some(frame),
            Some(_) => self.recycle(frame),
        }
    }

    /// Returns a frame's memory.
    pub fn recycle(&mut self, frame: Frame) {
        if self.spare.len() < SLOTS + 2 {
            self.spare.push(frame.payload);
        }
    }

    /// Drops every frame that ends at or before `timestamp`; returns how many.
    pub fn drop_before(&mut self, timestamp: i64) -> usize {
        let mut dropped = 0;
        for slot in &mut self.slots {
            let old = slot.take_if(|f| f.timestamp + f.samples as i64 <= timestamp);
            if let Some(frame) = old {
                self.spare.push(frame.payload);
                dropped += 1;
            }
        }
        dropped
    }

    /// Media time at which the newest frame ends.
    pub fn newest_end(&self) -> Option<i64> {
        self.slots.iter().flatten().map(|frame| frame.timestamp + frame.samples as i64).max()
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Empties the buffer.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            if let Some(frame) = slot.take() {
                self.spare.push(frame.payload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_order_of_time_whatever_the_order_of_arrival() {
        let mut buffer = FrameBuffer::default();
        for packet in [3_u64, 1, 2] {
            let timestamp = packet as i64 * 480;
            assert_eq!(buffer.insert(packet, timestamp, 480, Content::Opus, &[1]), Insertion::Kept);
        }
        assert_eq!(buffer.insert(2, 960, 480, Content::Opus, &[1]), Insertion::Duplicate);
        assert_eq!(buffer.next_from(0).map(|f| f.packet), Some(1));
        assert_eq!(buffer.next_from(960).map(|f| f.packet), Some(2));
        assert_eq!(buffer.drop_before(1_440), 2);
        assert_eq!(buffer.len(), 1);
    }

    #[test]
    fn a_full_ring_lets_the_oldest_go() {
        let mut buffer = FrameBuffer::default();
        for packet in 0..3 * SLOTS as u64 {
            buffer.insert(packet, packet as i64 * 480, 480, Content::Opus, &[0; 80]);
        }
        assert_eq!(buffer.len(), SLOTS);
        assert_eq!(buffer.next_from(0).map(|f| f.packet), Some(2 * SLOTS as u64));
        assert_eq!(buffer.insert(1, 480, 480, Content::Opus, &[1]), Insertion::TooOld);
    }
}
