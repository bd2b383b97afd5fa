//! What the handshake tells of the room on the way, before the first word.
//!
//! DTLS is some kilobytes both ways, in flights of several datagrams. The client sees how far apart
//! those of the server's flight arrive; the server, how long its flight and the client's answer
//! take together. Where that is long there is little room, or a datagram was lost, or (for the
//! server) the way is long. In the latter cases a low start costs a second of lower quality; in the
//! first a high one costs seconds in which nothing is understood. Nothing counts before the first
//! datagram from the peer: until then it may not have been there.

use std::time::{Duration, Instant};

/// A handshake slower than this tells of little room, in bit/s (chosen).
const NARROW_BITS_PER_S: f64 = 48_000.0;
/// A quicker one tells nothing: a machine may stall as long (chosen).
const SLOW: Duration = Duration::from_millis(300);
/// Less was never meant to carry voice (chosen: just above the paper's 1.5 kB/s).
const START_MIN: f64 = 13_000.0;
/// Nor does less than this, in bytes (chosen).
const BYTES_MIN: usize = 500;
/// UDP and IPv4 in front of each message.
const HEADER_BYTES: usize = 28;

/// The handshake of one session.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    heard_at: Option<Instant>,
    bytes: usize,
}

impl Handshake {
    /// A datagram leaves; `answered` if the other side's come only after it.
    pub(super) fn sent(&mut self, datagram: &[u8], answered: bool) {
        if is_dtls(datagram) && answered && self.heard_at.is_some() {
            self.bytes += datagram.len() + HEADER_BYTES;
        }
    }

    /// A datagram came in.
    pub(super) fn received(&mut self, now: Instant, datagram: &[u8]) {
        if is_dtls(datagram) {
            if self.heard_at.is_some() {
                self.bytes += datagram.len() + HEADER_BYTES;
            }
            self.heard_at.get_or_insert(now);
        }
    }

    /// With what the voice should start, in bit/s, if there is little room.
    pub(super) fn start_bits_per_s(&self, now: Instant) -> Option<u32> {
        let lasted = now.saturating_duration_since(self.heard_at?);
        let through = self.bytes as f64 * 8.0 / lasted.as_secs_f64().max(0.001);
        let is_narrow = lasted >= SLOW && self.bytes >= BYTES_MIN && through < NARROW_BITS_PER_S;
        is_narrow.then_some(through.max(START_MIN) as u32)
    }
}

/// Among what shares its path (RFC 9443).
fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram, [20..=63, ..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    /// What the callee learns of a handshake of usual flights over a link of so many bit/s.
    fn start(bits_per_s: f64, round_trip_ms: u64) -> Option<u32> {
        let mut handshake = Handshake::default();
        let mut now = Instant::now();
        let carry = |bytes: usize| Duration::from_secs_f64((bytes + 28) as f64 * 8.0 / bits_per_s);
        let datagram = |bytes| [vec![22], vec![0; bytes - 1]].concat();
        for bytes in [875, 873] {
            now += carry(bytes);
            handshake.received(now, &datagram(bytes));
        }
        handshake.sent(&datagram(875), true);
        now += carry(875) + Duration::from_millis(round_trip_ms) + carry(420);
        handshake.received(now, &datagram(420));
        handshake.start_bits_per_s(now)
    }

    #[test]
    fn a_narrow_link_is_known_before_the_first_word() {
        let narrow = start(12_000.0, 50).unwrap();
        assert!((10_000..=14_000).contains(&narrow), "{narrow} bit/s");
        let wider = start(25_000.0, 50).unwrap();
        assert!((18_000..=26_000).contains(&wider), "{wider} bit/s");
    }

    #[test]
    fn a_wide_link_and_a_short_stall_are_not_taken_for_narrow() {
        for round_trip_ms in [10, 100, 250] {
            assert_eq!(start(200_000.0, round_trip_ms), None, "{round_trip_ms} ms");
            assert_eq!(start(20e6, round_trip_ms), None, "{round_trip_ms} ms");
        }
    }
}
