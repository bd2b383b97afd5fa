//! What went through the UDP port, counted without locks.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Running counts of the UDP port.
        #[derive(Debug, Default)]
        pub struct UdpCounters { $($(#[$doc])* pub(super) $name: AtomicU64),* }

        /// One reading of [`UdpCounters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct UdpCounts { $($(#[$doc])* pub $name: u64),* }

        impl UdpCounters {
            /// All counts now; each is exact, together they are one moment only roughly.
            pub fn read(&self) -> UdpCounts {
                UdpCounts { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Datagrams read from the sockets.
    received_datagrams,
    /// Their bytes.
    received_bytes,
    /// Datagrams that the kernel took for sending, the server's own left out.
    sent_datagrams,
    /// Their bytes.
    sent_bytes,
    /// Datagrams that the kernel refused to send.
    send_failures,
    /// Dropped: no protocol of ours.
    unknown_dropped,
    /// Dropped: a protocol of ours, but nobody waits for it.
    unclaimed_dropped,
    /// Dropped: the consumer's queue was full.
    queue_full_dropped,
}

impl UdpCounters {
    pub(super) fn count_sent(&self, result: &io::Result<()>, length: usize) {
        match result {
            Ok(()) => {
                add(&self.sent_datagrams, 1);
                add(&self.sent_bytes, length as u64);
            }
            Err(_) => add(&self.send_failures, 1),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
