//! The record of one device in the Global Index, and the departure that ends it early.
//!
//! A record is signed by the device and names the super nodes through which the device is reached;
//! it never holds an address of the device (Le Blond et al. 2011 found anyone's address by calling
//! quietly). A keeper can withhold a record, never forge one.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::{
    clock::UnixTime,
    identity::{NameKey, NetworkId, NodeId, UserName},
    overlay::mix::{mix64, node64, prefix64},
    wire::v1,
};

/// Longest life of a record (specified: a user seen in the last 72 hours is found, paper section
/// III).
pub const RECORD_LIFE_HOURS: u64 = 72;

/// Most super nodes in one record (chosen: one in use, one warm, one spare).
pub const RECORD_SUPER_NODES_MAX: usize = 3;

/// Longest display name in a record, in bytes (chosen).
pub const DISPLAY_NAME_BYTES_MAX: usize = 64;

/// Characters of a word that make a search term (chosen: fewer would make terms of whole percents
/// of all users).
pub const TERM_CHARACTERS: usize = 3;

/// Most search terms of one record: the user name and two words of the display name (chosen).
pub(super) const TERMS_MAX: usize = 3;

/// How far in the future a record may claim to be signed (chosen: clocks of home computers).
const CLOCK_SKEW_MINUTES: u64 = 10;

/// Moves these fields into a buffer of their own. Decoding shares the bytes of the datagram or file
/// that they came in; what is held for days must not keep all of that.
pub fn compact<'a>(fields: impl IntoIterator<Item = &'a mut Bytes>) {
    let fields: Vec<&mut Bytes> = fields.into_iter().collect();
    let mut joined = BytesMut::with_capacity(fields.iter().map(|field| field.len()).sum());
    fields.iter().for_each(|field| joined.extend_from_slice(field));
    let mut joined = joined.freeze();
    for field in fields {
        *field = joined.split_to(field.len());
    }
}

/// A departure in a buffer of its own.
pub(super) fn compact_departure(departure: &v1::Departure) -> v1::Departure {
    let mut departure = departure.clone();
    let v1::Departure { device, super_node, signature, certificate, .. } = &mut departure;
    compact([device, super_node, signature, certificate]);
    departure
}

/// A checked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// The device.
    pub device: NodeId,
    /// Its user.
    pub user: UserName,
    /// What the record is filed under.
    pub name_key: NameKey,
    /// Super nodes through which the device is reached, the one in use first.
    pub super_nodes: Vec<NodeId>,
    /// Higher replaces lower.
    pub sequence: u64,
    /// End of its life.
    pub expiry: UnixTime,
    /// As the device says.
    pub presence: v1::Presence,
    /// As it came, for passing on unchanged.
    pub wire: v1::UserRecord,
}

impl UserRecord {
    /// Reads a record whose certificate and signature the caller has checked.
    pub fn from_wire(
        network: NetworkId,
        device: NodeId,
        user: UserName,
        wire: &v1::UserRecord,
    ) -> Option<Self> {
        let super_nodes: Option<Vec<NodeId>> =
            wire.super_nodes.iter().map(|bytes| NodeId::from_slice(bytes)).collect();
        let super_nodes = super_nodes.filter(|list| list.len() <= RECORD_SUPER_NODES_MAX)?;
        let life_ms = wire.expiry_unix_ms.checked_sub(wire.sequence)?;
        if life_ms > RECORD_LIFE_HOURS * 3_600_000
            || wire.display_name.len() > DISPLAY_NAME_BYTES_MAX
            || wire.signature.len() > 64
        {
            return None;
        }
        let mut wire = wire.clone();
        let v1::UserRecord { certificate, super_nodes: named, signature, .. } = &mut wire;
        compact(named.iter_mut().chain([certificate, signature]));
        Some(Self {
            device,
            name_key: user.key(network),
            user,
            super_nodes,
            sequence: wire.sequence,
            expiry: UnixTime(wire.expiry_unix_ms),
            presence: wire.presence(),
            wire,
        })
    }

    /// Whether it may be held and given out at `now`.
    pub fn is_live(&self, now: UnixTime) -> bool {
        self.expiry > now && self.sequence <= now.0 + CLOCK_SKEW_MINUTES * 60_000
    }

    /// The super node in use, if the device is attached.
    pub fn home(&self) -> Option<NodeId> {
        self.super_nodes.first().copied()
    }

    /// Whether wildcard search may show it.
    pub fn is_listed(&self) -> bool {
        self.wire.listed
    }

    /// The search terms under which a listed record is filed, besides its name.
    pub fn terms(&self, network: NetworkId) -> Vec<NameKey> {
        if !self.is_listed() {
            return Vec::new();
        }
        let words = std::iter::once(self.user.as_str().to_owned())
            .chain(self.wire.display_name.split_whitespace().map(fold));
        let mut terms: Vec<NameKey> =
            words.filter_map(|word| term_key(network, &word)).take(TERMS_MAX).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    }
}

/// Folds text for searching: lower case, without the marks that people leave out when typing.
pub fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The key of the search term that a folded word begins with; `None` for a word too short.
pub fn term_key(network: NetworkId, word: &str) -> Option<NameKey> {
    let term: String = word.chars().take(TERM_CHARACTERS).collect();
    if term.chars().count() < TERM_CHARACTERS {
        return None;
    }
    let hash = Sha256::new()
        .chain_update(b"cooee term")
        .chain_update(network.0)
        .chain_update(term.as_bytes())
        .finalize();
    Some(NameKey(hash.into()))
}

/// What the device's signature of a record covers.
pub fn record_signed_part(device: NodeId, wire: &v1::UserRecord) -> Vec<u8> {
    let mut part = Vec::with_capacity(160);
    part.extend_from_slice(b"cooee record v1");
    part.extend_from_slice(&device.0);
    part.push(wire.super_nodes.len() as u8);
    for super_node in &wire.super_nodes {
        part.extend_from_slice(super_node);
    }
    part.extend_from_slice(&wire.sequence.to_be_bytes());
    part.extend_from_slice(&wire.expiry_unix_ms.to_be_bytes());
    part.extend_from_slice(&wire.presence.to_be_bytes());
    part.push(u8::from(wire.listed));
    part.push(wire.display_name.len() as u8);
    part.extend_from_slice(wire.display_name.as_bytes());
    part
}

/// What the super node's signature of a departure covers.
pub fn departure_signed_part(wire: &v1::Departure) -> Vec<u8> {
    let mut part = Vec::with_capacity(80);
    part.extend_from_slice(b"cooee departure v1");
    part.extend_from_slice(&wire.device);
    part.extend_from_slice(&wire.super_node);
    part.extend_from_slice(&wire.sequence.to_be_bytes());
    part.extend_from_slice(&wire.at_unix_ms.to_be_bytes());
    part
}

/// One entry of a shard digest.
pub fn entry_hash(key: &NameKey, device: NodeId, sequence: u64, departed: bool) -> u64 {
    mix64(prefix64(&key.0) ^ mix64(node64(device) ^ mix64(sequence << 1 | u64::from(departed))))
}
