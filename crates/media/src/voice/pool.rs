//! Payload memory that is used again once the packets made from it are gone.
//!
//! A packet's payload is a shared slice of a large buffer. When a buffer is used up and all its
//! packets have been dropped it is reclaimed without asking the allocator. Only if the transport
//! holds on to packets from all buffers at once is a new one allocated.

use bytes::{Bytes, BytesMut};

/// Buffers, and bytes of each: together several seconds of packets.
const BUFFERS: usize = 4;
const BUFFER_BYTES: usize = 32 * 1_024;

/// The buffers.
pub(super) struct PayloadPool {
    buffers: [BytesMut; BUFFERS],
    current: usize,
}

impl Default for PayloadPool {
    fn default() -> Self {
        let buffers = core::array::from_fn(|_| {
            // Splitting once makes the buffer shared now, so that no later split allocates.
            let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
            buffer.extend_from_slice(&[0]);
            drop(buffer.split());
            buffer
        });
        Self { buffers, current: 0 }
    }
}

impl PayloadPool {
    /// A payload with these bytes.
    pub(super) fn payload(&mut self, bytes: &[u8]) -> Bytes {
        let left = self.buffers[self.current].capacity() - self.buffers[self.current].len();
        if left < bytes.len() {
            // Another buffer's rest is not used: packets in the rests of all would hold all.
            let mut next = (0..BUFFERS).map(|step| (self.current + step) % BUFFERS);
            let free = next.find(|i| self.buffers[*i].try_reclaim(BUFFER_BYTES / 2));
            if let Some(free) = free {
                self.current = free;
            } else {
                self.buffers[self.current] = BytesMut::with_capacity(BUFFER_BYTES);
            }
        }
        let buffer = &mut self.buffers[self.current];
        buffer.extend_from_slice(bytes);
        buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_keep_their_bytes_while_memory_is_used_again() {
        let mut pool = PayloadPool::default();
        let mut held = std::collections::VecDeque::new();
        for packet in 0..5_000_u32 {
            let bytes = packet.to_be_bytes().repeat(30);
            held.push_back((bytes.clone(), pool.payload(&bytes)));
            if held.len() > 50 {
                let (expected, payload) = held.pop_front().unwrap();
                assert_eq!(expected, payload);
            }
        }
    }
}
