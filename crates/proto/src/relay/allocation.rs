//! Allocations: who holds which relayed address, for how long, and whom it may talk to.
//!
//! ```text
//!   Allocate ─▶ binding ──(shell bound the port)──▶ standing ──(expiry, Refresh 0, stream
//!   closed)─▶ gone
//! ```
//! Lifetimes: allocation 10 to 60 min, permission 5 min, channel 10 min (RFC 8656 sections 3.3,
//! 9 and 12), each renewed by the client.

use std::{
    collections::BTreeMap,
    hash::{BuildHasherDefault, Hasher},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use indexmap::IndexMap;

use super::credentials::RelayUser;
use crate::identity::NodeId;

/// RFC 8656 section 9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 section 12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// Peers of one allocation. Chosen: more than any list of candidates of one call.
const PEERS_MAX: usize = 32;

/// A slot of the table; reused after the allocation is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(pub u32);

/// The client's end of the 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// Over UDP: its address, and which of our sockets it talks to.
    Udp {
        /// Its address.
        remote: SocketAddr,
        /// Our socket, by index.
        socket: u8,
    },
    /// Over TCP or TLS: the shell's number of the connection.
    Stream {
        /// Number that the shell gave.
        number: u64,
        /// Its address.
        remote: SocketAddr,
    },
}

impl ClientId {
    /// Its address as we see it.
    pub fn remote(&self) -> SocketAddr {
        match *self {
            Self::Udp { remote, .. } | Self::Stream { remote, .. } => remote,
        }
    }

    /// Whether a handshake has proved the address.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) peer: SocketAddr,
    expires: Instant,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) client: ClientId,
    /// Our address that the client used, for answers from the same one.
    pub(super) local_ip: Option<IpAddr>,
    pub(super) user: RelayUser,
    pub(super) relayed: SocketAddr,
    pub(super) expires: Instant,
    /// Transaction of the Allocate request, to know a retransmission.
    pub(super) transaction: u128,
    /// False until the shell has bound the relayed port.
    pub(super) standing: bool,
    permissions: Vec<(IpAddr, Instant)>,
    channels: Vec<Channel>,
}

/// No room for another peer, or the binding contradicts one that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerError {
    Full,
    Conflict,
}

impl Allocation {
    pub(super) fn new(
        client: ClientId,
        local_ip: Option<IpAddr>,
        user: RelayUser,
        relayed: SocketAddr,
        expires: Instant,
        transaction: u128,
    ) -> Self {
        Self {
            client,
            local_ip,
            user,
            relayed,
            expires,
            transaction,
            standing: false,
            permissions: Vec::new(),
            channels: Vec::new(),
        }
    }

    pub(super) fn permits(&self, now: Instant, peer: IpAddr) -> bool {
        self.permissions.iter().any(|(ip, expires)| *ip == peer && *expires > now)
    }

    pub(super) fn channel(&self, now: Instant, number: u16) -> Option<SocketAddr> {
        let found = self.channels.iter().find(|channel| channel.number == number)?;
        (found.expires > now).then_some(found.peer)
    }

    pub(super) fn channel_of(&self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let found = self.channels.iter().find(|channel| channel.peer == peer)?;
        (found.expires > now).then_some(found.number)
    }

    pub(super) fn install_permissions(
        &mut self,
        now: Instant,
        peers: &[IpAddr],
    ) -> Result<(), PeerError> {
        self.permissions.retain(|(_, expires)| *expires > now);
        let known = |ip: &&IpAddr| self.permissions.iter().any(|(other, _)| other == *ip);
        let new = peers.iter().filter(|ip| !known(ip)).count();
        if self.permissions.len() + new > PEERS_MAX {
            return Err(PeerError::Full);
        }
        for ip in peers {
            let expires = now + PERMISSION_LIFETIME;
            match self.permissions.iter_mut().find(|(other, _)| other == ip) {
                Some(permission) => permission.1 = expires,
                None => self.permissions.push((*ip, expires)),
            }
        }
        Ok(())
    }

    /// Binds or renews a channel; it brings a permission (RFC 8656 section 12).
    pub(super) fn bind_channel(
        &mut self,
        now: Instant,
        number: u16,
        peer: SocketAddr,
    ) -> Result<(), PeerError> {
        self.channels.retain(|channel| channel.expires > now);
        let clash = |c: &Channel| (c.number == number) != (c.peer == peer);
        if self.channels.iter().any(clash) {
            return Err(PeerError::Conflict);
        }
        let known = self.channels.iter().position(|channel| channel.number == number);
        if known.is_none() && self.channels.len() >= PEERS_MAX {
            return Err(PeerError::Full);
        }
        self.install_permissions(now, &[peer.ip()])?;
        let expires = now + CHANNEL_LIFETIME;
        match known {
            Some(at) => self.channels[at].expires = expires,
            None => self.channels.push(Channel { number, peer, expires }),
        }
        Ok(())
    }
}

/// All allocations, found by client, by slot and by relayed port. Bounded by its callers' quotas.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Allocation>>>,
    free: Vec<u32>,
    clients: IndexMap<ClientId, AllocationId, BuildHasherDefault<MixHasher>>,
    relayed: IndexMap<SocketAddr, AllocationId, BuildHasherDefault<MixHasher>>,
    per_node: BTreeMap<NodeId, u32>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn of_node(&self, node: NodeId) -> u32 {
        self.per_node.get(&node).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.slots.get(id.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slots.get_mut(id.0 as usize)?.as_deref_mut()
    }

    pub(super) fn by_client(&self, client: &ClientId) -> Option<AllocationId> {
        self.clients.get(client).copied()
    }

    pub(super) fn by_relayed(&self, relayed: &SocketAddr) -> Option<AllocationId> {
        self.relayed.get(relayed).copied()
    }

    pub(super) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("quotas keep the table far below 2^32")
        });
        let id = AllocationId(slot);
        self.clients.insert(allocation.client, id);
        self.relayed.insert(allocation.relayed, id);
        *self.per_node.entry(allocation.user.node).or_default() += 1;
        self.slots[slot as usize] = Some(Box::new(allocation));
        id
    }

    /// Moves an allocation that is not yet standing to another relayed address.
    pub(super) fn change_relayed(&mut self, id: AllocationId, relayed: SocketAddr) {
        let Some(allocation) = self.slots.get_mut(id.0 as usize).and_then(Option::as_deref_mut)
        else {
            return;
        };
        self.relayed.swap_remove(&allocation.relayed);
        allocation.relayed = relayed;
        self.relayed.insert(relayed, id);
    }

    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        let allocation = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        self.clients.swap_remove(&allocation.client);
        self.relayed.swap_remove(&allocation.relayed);
        if let Some(count) = self.per_node.get_mut(&allocation.user.node) {
            *count -= 1;
            if *count == 0 {
                self.per_node.remove(&allocation.user.node);
            }
        }
        Some(allocation)
    }

    pub(super) fn expired(&self, now: Instant) -> Vec<AllocationId> {
        let slots = self.slots.iter().zip(0..);
        let expired = |slot: &Option<Box<Allocation>>| {
            slot.as_ref().is_some_and(|allocation| allocation.expires <= now)
        };
        slots.filter(|(slot, _)| expired(slot)).map(|(_, at)| AllocationId(at)).collect()
    }
}

/// A quick hash for the per-packet look-ups. It resists nobody who chooses the keys: only clients
/// that hold minted credentials put keys in, and quotas bound how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing (Knuth): the multiplier is 2^64 over the golden ratio.
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
