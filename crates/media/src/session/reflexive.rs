//! Asks a STUN server (RFC 8489) how a local socket looks from outside.
//!
//! One Binding request per server and socket, repeated after 0.25, 0.75 and 1.75 s and then every
//! 10 s, since UDP may be blocked now and not later; matched by transaction identifier and source.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngCore as _;
use rand_chacha::ChaCha12Rng;
use stun_types::{attribute::XorMappedAddress, message::Message};

/// First wait for an answer; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Quick attempts, and how often to ask after them (chosen).
const QUICK_ATTEMPTS: u32 = 4;
const SLOW_INTERVAL: Duration = Duration::from_secs(10);
/// Requests under way at once (chosen: a few sockets times a few servers).
const REQUESTS_MAX: usize = 32;
/// RFC 8489 section 5.
const MAGIC_COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();

#[derive(Debug)]
struct Request {
    local: SocketAddr,
    server: SocketAddr,
    transaction: [u8; 12],
    attempts: u32,
    due: Instant,
}

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Reflexive {
    requests: Vec<Request>,
}

impl Reflexive {
    pub(super) fn ask(
        &mut self,
        now: Instant,
        local: SocketAddr,
        server: SocketAddr,
        random: &mut ChaCha12Rng,
    ) {
        if self.requests.len() < REQUESTS_MAX {
            let mut transaction = [0; 12];
            random.fill_bytes(&mut transaction);
            self.requests.push(Request { local, server, transaction, attempts: 0, due: now });
        }
    }

    /// The next request to send at `now`: from, to, bytes.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
    ) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let request = self.requests.iter_mut().find(|request| request.due <= now)?;
        let quick = request.attempts < QUICK_ATTEMPTS;
        let wait = if quick { FIRST_WAIT * (1 << request.attempts) } else { SLOW_INTERVAL };
        request.due = now + wait;
        request.attempts = request.attempts.saturating_add(1);
        Some((request.local, request.server, header(0x0001, request.transaction)))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.requests.iter().map(|request| request.due).min()
    }

    /// The socket and its mapped address, if these bytes answer one of our requests.
    pub(super) fn handle_datagram(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<(SocketAddr, SocketAddr)> {
        let index = self.find(from, bytes)?;
        let message = Message::from_bytes(bytes).ok()?;
        let mapped = message.attribute::<XorMappedAddress>().ok()?;
        let address = mapped.addr(message.transaction_id());
        Some((self.requests.swap_remove(index).local, address))
    }

    pub(super) fn accepts(&self, from: SocketAddr, bytes: &[u8]) -> bool {
        self.find(from, bytes).is_some()
    }

    fn find(&self, from: SocketAddr, bytes: &[u8]) -> Option<usize> {
        // Only a success response to Binding, with our transaction.
        let transaction = bytes.get(8..20).filter(|_| bytes[..2] == [0x01, 0x01])?;
        self.requests
            .iter()
            .position(|request| request.server == from && request.transaction == transaction)
    }
}

/// A Binding indication: what an opener consists of. Nobody answers it.
pub(super) fn opener(random: &mut ChaCha12Rng) -> Vec<u8> {
    let mut transaction = [0; 12];
    random.fill_bytes(&mut transaction);
    header(0x0011, transaction)
}

fn header(kind: u16, transaction: [u8; 12]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(MAGIC_COOKIE);
    bytes.extend(transaction);
    bytes
}
