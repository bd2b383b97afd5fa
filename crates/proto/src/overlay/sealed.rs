//! Sealed datagrams: confidential and authentic messages between two certified nodes, without a
//! handshake once both know each other's certificates.
//!
//! ```text
//!   sealed:  0xC0 0x00 | sender id 16 | nonce 24 | XChaCha20-Poly1305(message)
//!   hello:   0xC0 0x01 | ephemeral 32 | zeros up to 1000
//!   answer:  0xC0 0x02 | ephemeral 32 (of the hello) | ephemeral 32 | sealed certificate
//!   finish:  0xC0 0x03 | ephemeral 32 (of the hello) | sealed certificate
//! ```
//!
//! The key of a direction is HKDF-SHA256 over the X25519 secret of the two device keys. The nonce
//! is the
//! sender's time in milliseconds, a random number per start, and a counter: it never repeats, and
//! gives the receiver a replay window. Super nodes learn each other's certificates from the
//! membership; a stranger introduces itself with `hello`, which is longer than its answer, and
//! which is answered without keeping state. Ephemeral keys hide the certificates from who only
//! listens.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use indexmap::IndexMap;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{limits::Rate, trust::Trust};
use crate::{
    clock::Now,
    identity::{NodeId, NodeKey, NodePublicKey},
};

/// First byte of every overlay datagram (outside the ranges of RFC 9443).
pub const FIRST_BYTE: u8 = 0xC0;

const SEALED: u8 = 0;
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const FINISH: u8 = 3;

/// Length of a hello: longer than any answer, so that nobody's answers can be aimed at another.
const HELLO_BYTES: usize = 1000;

const HEADER_BYTES: usize = 2 + 16 + 24;

/// Bytes that sealing adds to a message.
pub const SEAL_BYTES: usize = HEADER_BYTES + 16;

/// How far a sender's clock may be from ours (chosen: clocks of home computers).
const CLOCK_SKEW_MS: u64 = 10 * 60_000;

/// Peers whose keys and replay windows are kept (chosen: 2 megabytes).
const PEERS_MAX: usize = 16_384;

/// Strangers met through a hello (chosen).
const STRANGERS_MAX: usize = 256;

/// Introductions under way (chosen).
const INTRODUCTIONS_MAX: usize = 64;

/// Hellos answered: each costs two X25519 operations (chosen: 1 % of a core).
const HELLO_RATE: Rate = Rate { burst: 200, per_second: 100.0 };

/// What came of a datagram.
#[derive(Debug)]
pub enum Opened {
    /// A message from a certified node.
    Message {
        /// Who sent it.
        from: NodeId,
        /// The message.
        payload: Bytes,
    },
    /// An introduction goes on: send this back to where the datagram came from.
    Reply(Bytes),
    /// A stranger has shown its certificate; perhaps with something to send back.
    Met {
        /// Who it is.
        node: NodeId,
        /// To send back.
        reply: Option<Bytes>,
    },
    /// Malformed, forged, replayed, or from nobody known: dropped.
    Nothing,
}

/// Seals and opens datagrams. The simulator puts a cheap one in the place of [`Sealed`].
pub trait Protection: Send {
    /// Seals a message to a node whose key is known.
    fn seal(
        &mut self,
        now: Now,
        to: (NodeId, Option<NodePublicKey>),
        message: &[u8],
    ) -> Option<Bytes>;

    /// Opens what came from `source`.
    fn open(
        &mut self,
        now: Now,
        source: SocketAddr,
        datagram: &Bytes,
        known: &dyn Fn(&NodeId) -> Option<NodePublicKey>,
        trust: &dyn Trust,
    ) -> Opened;

    /// The datagram that introduces this node to an address where it knows nobody.
    fn introduce(&mut self, now: Now, to: SocketAddr) -> Bytes;
}

struct Peer {
    send: XChaCha20Poly1305,
    receive: XChaCha20Poly1305,
    window: ReplayWindow,
}

/// The real protection: X25519 of the device keys, HKDF, XChaCha20-Poly1305.
pub struct Sealed {
    node: NodeId,
    secret: StaticSecret,
    rng: ChaCha12Rng,
    hello_secret: [u8; 32],
    start: u64,
    counter: u64,
    peers: IndexMap<NodeId, Peer>,
    strangers: IndexMap<NodeId, NodePublicKey>,
    introductions: IndexMap<[u8; 32], StaticSecret>,
    hellos: super::limits::Limits,
}

impl Sealed {
    /// Protection with this node's device key. `seed` must differ at every start.
    pub fn new(key: &NodeKey, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut hello_secret = [0; 32];
        rng.fill_bytes(&mut hello_secret);
        Self {
            node: key.node_id(),
            secret: StaticSecret::from(*key.x25519()),
            hello_secret,
            start: rng.random(),
            rng,
            counter: 0,
            peers: IndexMap::new(),
            strangers: IndexMap::new(),
            introductions: IndexMap::new(),
            hellos: super::limits::Limits::new(HELLO_RATE, 1),
        }
    }

    fn peer(&mut self, node: NodeId, key: NodePublicKey) -> Option<&mut Peer> {
        if !self.peers.contains_key(&node) {
            let shared = self.secret.diffie_hellman(&PublicKey::from(key.x25519()?));
            if !shared.was_contributory() {
                return None;
            }
            let cipher = |from: NodeId, to: NodeId| {
                let info = [b"cooee sealed v1".as_slice(), &from.0, &to.0].concat();
                cipher(shared.as_bytes(), &info)
            };
            let send = cipher(self.node, node);
            let receive = cipher(node, self.node);
            if self.peers.len() >= PEERS_MAX {
                self.peers.swap_remove_index(0);
            }
            self.peers.insert(node, Peer { send, receive, window: ReplayWindow::default() });
        }
        self.peers.get_mut(&node)
    }

    fn open_sealed(
        &mut self,
        now: Now,
        datagram: &[u8],
        known: &dyn Fn(&NodeId) -> Option<NodePublicKey>,
    ) -> Option<(NodeId, Bytes)> {
        let (header, sealed) = datagram.split_at_checked(HEADER_BYTES)?;
        let from = NodeId::from_slice(&header[2..18])?;
        let nonce: [u8; 24] = header[18..].try_into().ok()?;
        let (time, rest) = nonce.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*time).abs_diff(now.unix.0) > CLOCK_SKEW_MS {
            return None;
        }
        let key = known(&from).or_else(|| self.strangers.get(&from).copied())?;
        let aad = [from.0, self.node.0].concat();
        let peer = self.peer(from, key)?;
        let payload = Payload { msg: sealed, aad: &aad };
        let message = peer.receive.decrypt(&XNonce::from(nonce), payload).ok()?;
        let (start, counter) = rest.split_first_chunk::<8>()?;
        let counter = u64::from_be_bytes(counter.try_into().ok()?);
        let time = u64::from_be_bytes(*time);
        peer.window
            .accept(time, u64::from_be_bytes(*start), counter)
            .then(|| (from, message.into()))
    }

    fn answer_hello(&mut self, now: Now, datagram: &[u8], trust: &dyn Trust) -> Option<Bytes> {
        if datagram.len() < HELLO_BYTES || !self.hellos.take(now.instant, self.node) {
            return None;
        }
        let theirs: [u8; 32] = datagram[2..34].try_into().ok()?;
        let (secret, cipher) = self.hello_cipher(&theirs)?;
        let certificate = trust.certificate();
        let sealed = cipher.encrypt(&introduction_nonce(ANSWER), certificate.as_ref()).ok()?;
        let mut answer = BytesMut::with_capacity(66 + sealed.len());
        answer.put_slice(&[FIRST_BYTE, ANSWER]);
        answer.put_slice(&theirs);
        answer.put_slice(PublicKey::from(&secret).as_bytes());
        answer.put_slice(&sealed);
        (answer.len() <= HELLO_BYTES).then(|| answer.freeze())
    }

    /// Our ephemeral key for a hello is derived from it: answering keeps no state.
    fn hello_cipher(&self, theirs: &[u8; 32]) -> Option<(StaticSecret, XChaCha20Poly1305)> {
        let mut ours = [0; 32];
        let derived = Hkdf::<Sha256>::new(Some(&self.hello_secret), theirs);
        derived.expand(b"cooee hello key", &mut ours).ok()?;
        let secret = StaticSecret::from(ours);
        let shared = secret.diffie_hellman(&PublicKey::from(*theirs));
        let contributory = shared.was_contributory();
        contributory.then(|| (secret, cipher(shared.as_bytes(), b"cooee hello v1")))
    }

    fn finish_introduction(
        &mut self,
        now: Now,
        datagram: &[u8],
        trust: &dyn Trust,
    ) -> Option<(NodeId, Bytes)> {
        let ours: [u8; 32] = datagram.get(2..34)?.try_into().ok()?;
        let theirs: [u8; 32] = datagram.get(34..66)?.try_into().ok()?;
        let secret = self.introductions.get(&ours)?;
        let shared = secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return None;
        }
        let cipher = cipher(shared.as_bytes(), b"cooee hello v1");
        let node = self.meet(now, &cipher, ANSWER, &datagram[66..], trust)?;
        self.introductions.swap_remove(&ours);
        let certificate = trust.certificate();
        let sealed = cipher.encrypt(&introduction_nonce(FINISH), certificate.as_ref()).ok()?;
        let mut finish = BytesMut::with_capacity(34 + sealed.len());
        finish.put_slice(&[FIRST_BYTE, FINISH]);
        finish.put_slice(&ours);
        finish.put_slice(&sealed);
        Some((node, finish.freeze()))
    }

    fn hear_finish(&mut self, now: Now, datagram: &[u8], trust: &dyn Trust) -> Option<NodeId> {
        let theirs: [u8; 32] = datagram.get(2..34)?.try_into().ok()?;
        if !self.hellos.take(now.instant, self.node) {
            return None;
        }
        let (_, cipher) = self.hello_cipher(&theirs)?;
        self.meet(now, &cipher, FINISH, &datagram[34..], trust)
    }

    fn meet(
        &mut self,
        now: Now,
        cipher: &XChaCha20Poly1305,
        step: u8,
        sealed: &[u8],
        trust: &dyn Trust,
    ) -> Option<NodeId> {
        let certificate = cipher.decrypt(&introduction_nonce(step), sealed).ok()?;
        let certified = trust.certified(&certificate.into(), now.unix)?;
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.shift_remove_index(0);
        }
        self.strangers.insert(certified.node, certified.public_key);
        Some(certified.node)
    }
}

impl Protection for Sealed {
    fn seal(
        &mut self,
        now: Now,
        to: (NodeId, Option<NodePublicKey>),
        message: &[u8],
    ) -> Option<Bytes> {
        let key = to.1.or_else(|| self.strangers.get(&to.0).copied())?;
        self.counter += 1;
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&now.unix.0.to_be_bytes());
        nonce[8..16].copy_from_slice(&self.start.to_be_bytes());
        nonce[16..].copy_from_slice(&self.counter.to_be_bytes());
        let own = self.node;
        let aad = [own.0, to.0.0].concat();
        let peer = self.peer(to.0, key)?;
        let payload = Payload { msg: message, aad: &aad };
        let sealed = peer.send.encrypt(&XNonce::from(nonce), payload).ok()?;
        let mut datagram = BytesMut::with_capacity(HEADER_BYTES + sealed.len());
        datagram.put_slice(&[FIRST_BYTE, SEALED]);
        datagram.put_slice(&own.0);
        datagram.put_slice(&nonce);
        datagram.put_slice(&sealed);
        Some(datagram.freeze())
    }

    fn open(
        &mut self,
        now: Now,
        _source: SocketAddr,
        datagram: &Bytes,
        known: &dyn Fn(&NodeId) -> Option<NodePublicKey>,
        trust: &dyn Trust,
    ) -> Opened {
        if datagram.first() != Some(&FIRST_BYTE) {
            return Opened::Nothing;
        }
        let opened = match datagram.get(1) {
            Some(&SEALED) => self
                .open_sealed(now, datagram, known)
                .map(|(from, payload)| Opened::Message { from, payload }),
            Some(&HELLO) => self.answer_hello(now, datagram, trust).map(Opened::Reply),
            Some(&ANSWER) => self
                .finish_introduction(now, datagram, trust)
                .map(|(node, reply)| Opened::Met { node, reply: Some(reply) }),
            Some(&FINISH) => {
                self.hear_finish(now, datagram, trust).map(|node| Opened::Met { node, reply: None })
            }
            _ => None,
        };
        opened.unwrap_or(Opened::Nothing)
    }

    fn introduce(&mut self, _now: Now, _to: SocketAddr) -> Bytes {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        if self.introductions.len() >= INTRODUCTIONS_MAX {
            self.introductions.shift_remove_index(0);
        }
        self.introductions.insert(*public.as_bytes(), secret);
        let mut hello = BytesMut::zeroed(HELLO_BYTES);
        hello[..2].copy_from_slice(&[FIRST_BYTE, HELLO]);
        hello[2..34].copy_from_slice(public.as_bytes());
        hello.freeze()
    }
}

fn cipher(shared: &[u8], info: &[u8]) -> XChaCha20Poly1305 {
    let mut key = [0; 32];
    let derived = Hkdf::<Sha256>::new(None, shared);
    derived.expand(info, &mut key).expect("32 bytes are within what HKDF gives");
    XChaCha20Poly1305::new(&key.into())
}

fn introduction_nonce(step: u8) -> XNonce {
    let mut nonce = [0; 24];
    nonce[0] = step;
    XNonce::from(nonce)
}

/// Which datagrams of a peer came already: one window per start of the peer.
#[derive(Debug, Default)]
struct ReplayWindow {
    start: u64,
    started_ms: u64,
    highest: u64,
    seen: u128,
}

impl ReplayWindow {
    fn accept(&mut self, time_ms: u64, start: u64, counter: u64) -> bool {
        if start != self.start || self.highest == 0 {
            if time_ms <= self.started_ms {
                return false;
            }
            *self = Self { start, started_ms: time_ms, highest: counter, seen: 1 };
            return true;
        }
        self.started_ms = self.started_ms.max(time_ms);
        if counter > self.highest {
            let shift = counter - self.highest;
            self.seen = if shift < 128 { self.seen << shift | 1 } else { 1 };
            self.highest = counter;
            return true;
        }
        let age = self.highest - counter;
        if age >= 128 || self.seen & (1 << age) != 0 {
            return false;
        }
        self.seen |= 1 << age;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_accepted_once_and_a_little_late() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(1000, 7, 10));
        assert!(!window.accept(1000, 7, 10));
        assert!(window.accept(1001, 7, 200));
        assert!(window.accept(1000, 7, 150));
        assert!(!window.accept(1000, 7, 150));
        assert!(!window.accept(1000, 7, 50));
    }

    #[test]
    fn datagrams_of_an_earlier_start_are_refused() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(1000, 7, 10));
        assert!(window.accept(2000, 8, 1));
        assert!(!window.accept(1500, 7, 11));
    }
}
