//! The sender's queue in front of a stream transport (TCP): old voice is dropped, not delayed.
//!
//! A reliable stream keeps every byte it was given, so the only place to drop is before it. The
//! shell pushes packets here and pops one whenever the socket takes bytes; what waited longer than
//! the age limit never goes out. Bound: 64 packets, then the oldest gives way.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::VoicePacket;

/// Packets held at most.
const PACKETS_MAX: usize = 64;

/// The queue.
#[derive(Debug)]
pub struct FreshQueue {
    packets: VecDeque<(Instant, VoicePacket)>,
    age_max: Duration,
    dropped: u64,
}

impl FreshQueue {
    /// A queue that drops what is older than `age_max`.
    pub fn new(age_max: Duration) -> Self {
        Self { packets: VecDeque::with_capacity(PACKETS_MAX), age_max, dropped: 0 }
    }

    /// Adds a packet that was captured now.
    pub fn push(&mut self, now: Instant, packet: VoicePacket) {
        if self.packets.len() == PACKETS_MAX {
            self.packets.pop_front();
            self.dropped += 1;
        }
        self.packets.push_back((now, packet));
    }

    /// The oldest packet still worth sending.
    pub fn pop(&mut self, now: Instant) -> Option<VoicePacket> {
        while let Some((pushed, packet)) = self.packets.pop_front() {
            if now.saturating_duration_since(pushed) <= self.age_max {
                return Some(packet);
            }
            self.dropped += 1;
        }
        None
    }

    /// Packets dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn a_stalled_stream_resumes_with_fresh_voice() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = FreshQueue::new(Duration::from_millis(60));
        for sequence in 0..50 {
            let packet = VoicePacket {
                sequence,
                timestamp: u32::from(sequence) * 480,
                payload_type: 111,
                marker: false,
                payload: bytes::Bytes::from_static(b"voice"),
            };
            queue.push(at(u64::from(sequence) * 10), packet);
        }
        assert_eq!(queue.pop(at(490)).map(|packet| packet.sequence), Some(43));
        assert_eq!(queue.dropped(), 43);
    }
}
