//! An end's access to the network, a rate and a queue, and what passes it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// One direction of an end's access to the network.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Access {
    /// With IP and UDP headers; unlimited if `None`.
    pub(crate) bits_per_s: Option<u64>,
    pub(crate) queue_max: Duration,
    free_at: Option<Instant>,
}

impl Access {
    /// How long a datagram takes to pass; `None` if the queue is full.
    pub(crate) fn pass(&mut self, now: Instant, bytes: usize) -> Option<Duration> {
        let Some(bits_per_s) = self.bits_per_s else { return Some(Duration::ZERO) };
        let begin = self.free_at.map_or(now, |at| at.max(now));
        if begin - now > self.queue_max {
            return None;
        }
        let end = begin + Duration::from_secs_f64((bytes + 28) as f64 * 8.0 / bits_per_s as f64);
        self.free_at = Some(end);
        Some(end - now)
    }
}
