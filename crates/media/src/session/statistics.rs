//! What a session measured, for the call record and the person who asks.

use std::time::{Duration, Instant};

use super::candidate::PathDescription;

/// Counters and estimates of one session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionStatistics {
    /// Voice packets given to the session and sent at least once.
    pub voice_packets_sent: u64,
    /// Bytes of voice payload in them.
    pub voice_bytes_sent: u64,
    /// Voice packets received, without duplicates.
    pub voice_packets_received: u64,
    /// Bytes of voice payload in them.
    pub voice_bytes_received: u64,
    /// Voice packets that should have come and have not (RFC 3550 appendix A.3).
    pub voice_packets_lost: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    /// Messages that a stream did not take in time and that were dropped (voice, reports).
    pub stale_messages: u64,
    /// Datagrams and stream writes sent, everything included.
    pub datagrams_sent: u64,
    /// Bytes in them, without IP and UDP headers.
    pub bytes_sent: u64,
    /// Datagrams and stream pieces received.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Smoothed round trip of the media path.
    pub round_trip: Option<Duration>,
    /// The path that carries the media now.
    pub path: Option<PathDescription>,
    /// How often the media changed its path.
    pub path_changes: u32,
    /// With what the voice should start, in bit/s on the wire, if the handshake told of little
    /// room.
    pub start_bits_per_s: Option<u32>,
    /// What protects the media, once the keys exist.
    pub cipher: Option<&'static str>,
    /// From the first call of the session to its keys.
    pub setup: Option<Duration>,
}

impl SessionStatistics {
    /// Lost share of the voice packets that were to come, 0 to 1.
    pub fn loss_ratio(&self) -> f64 {
        let expected = self.voice_packets_received + self.voice_packets_lost;
        if expected == 0 { 0.0 } else { self.voice_packets_lost as f64 / expected as f64 }
    }
}

/// Loss and jitter of the incoming voice (RFC 3550 appendices A.3 and A.8).
#[derive(Debug, Default)]
pub(super) struct Reception {
    first_sequence: Option<u64>,
    highest_sequence: u64,
    received: u64,
    transit: Option<(u32, Instant)>,
    jitter_samples: f64,
}

/// Voice is timed at 48 kHz whatever the codec does inside (RFC 7587).
const CLOCK_HZ: f64 = 48_000.0;

impl Reception {
    pub(super) fn observe(&mut self, now: Instant, sequence: u64, timestamp: u32) {
        let first = *self.first_sequence.get_or_insert(sequence);
        self.first_sequence = Some(first.min(sequence));
        self.highest_sequence = self.highest_sequence.max(sequence);
        self.received += 1;
        if let Some((last_timestamp, last_at)) = self.transit {
            let sent_apart = f64::from(timestamp.wrapping_sub(last_timestamp) as i32);
            let came_apart = now.saturating_duration_since(last_at).as_secs_f64() * CLOCK_HZ;
            let deviation = (came_apart - sent_apart).abs();
            self.jitter_samples += (deviation - self.jitter_samples) / 16.0;
        }
        self.transit = Some((timestamp, now));
    }

    pub(super) fn lost(&self) -> u64 {
        let expected = self.first_sequence.map_or(0, |first| self.highest_sequence - first + 1);
        expected.saturating_sub(self.received)
    }

    pub(super) fn jitter(&self) -> Duration {
        Duration::from_secs_f64(self.jitter_samples / CLOCK_HZ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrival_has_no_jitter_and_a_hole_is_one_loss() {
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        let mut reception = Reception::default();
        for index in (0..100_u32).filter(|index| *index != 50) {
            let at = start + Duration::from_millis(20) * index;
            reception.observe(at, u64::from(index) + 7, index * 960);
        }
        assert_eq!(reception.lost(), 1);
        assert!(reception.jitter() < Duration::from_micros(10));
    }
}
