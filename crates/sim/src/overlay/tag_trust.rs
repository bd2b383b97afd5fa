//! Cheap stand-ins for signatures and sealing, so that a million users fit on one machine.
//!
//! A *tag* is a keyed 64-bit mix over the signed bytes instead of an Ed25519 signature. It is as
//! long as a signature on the wire, certificates are as long as real ones, and the clear
//! datagrams are counted as long as sealed ones, so traffic is what it would be. Hostile super
//! nodes here do not forge tags: what cryptography rules out is tested with real keys in
//! `cooee-proto`. Checked statements and records are shared between super nodes instead of copied.

// Not a machine but what the simulated machines share to save memory.
#![allow(clippy::disallowed_types)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::{BufMut, Bytes, BytesMut};
use cooee_proto::{
    clock::{Now, UnixTime},
    identity::{NameKey, NetworkId, NodeId, NodePublicKey, UserName},
    index::{UserRecord, record_signed_part},
    overlay::{
        Certified, Trust,
        mix::{mix64, node64, prefix64},
        sealed::{FIRST_BYTE, Opened, Protection},
        statement::{SuperNode, statement_signed_part},
        table::IdHasher,
    },
    wire::v1,
};
use indexmap::IndexMap;

/// Length of a certificate (measured: DER of an Ed25519 one).
const CERTIFICATE_BYTES: usize = 329;
const SIGNATURE_BYTES: usize = 64;
const NETWORK: NetworkId = NetworkId([0x51; 16]);

type Shared<K, V> = IndexMap<K, V, std::hash::BuildHasherDefault<IdHasher>>;

/// The network's key and what has been checked already.
#[derive(Default)]
pub(super) struct TagNetwork {
    statements: Mutex<Shared<NodeId, Arc<SuperNode>>>,
    records: Mutex<Shared<NodeId, Arc<UserRecord>>>,
}

fn tag(signer: NodeId, message: &[u8]) -> u64 {
    let mut tag = mix64(node64(signer) ^ 0x7a65_c0de);
    for chunk in message.chunks(8) {
        tag = mix64(tag ^ prefix64(chunk));
    }
    tag
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// The id of the super node or device with this number.
pub(super) fn node_id(number: u64, is_device: bool) -> NodeId {
    let mut id = [0; 16];
    let salt = if is_device { 0xdead } else { 0xbeef };
    id[..8].copy_from_slice(&mix64(number ^ mix64(salt)).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

fn public_key(node: NodeId) -> NodePublicKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&node.0);
    NodePublicKey(key)
}

fn certificate(node: NodeId, user: Option<&str>, not_after: UnixTime) -> Bytes {
    let mut bytes = BytesMut::with_capacity(CERTIFICATE_BYTES);
    bytes.put_slice(&node.0);
    let name = user.unwrap_or_default();
    bytes.put_u8(name.len() as u8);
    bytes.put_slice(name.as_bytes());
    bytes.put_u64(not_after.0);
    let tag = tag(NodeId([0xCA; 16]), &bytes);
    bytes.put_u64(tag);
    bytes.resize(CERTIFICATE_BYTES, 0);
    bytes.freeze()
}

/// What a certificate says, if its tag is right and it holds at this time.
fn read_certificate(certificate: &[u8], at: UnixTime) -> Option<(NodeId, &str)> {
    let node = NodeId::from_slice(certificate.get(..16)?)?;
    let end = 17 + usize::from(*certificate.get(16)?);
    let name = std::str::from_utf8(certificate.get(17..end)?).ok()?;
    let not_after = prefix64(certificate.get(end..end + 8)?);
    let tag_bytes = certificate.get(end + 8..end + 16)?;
    let is_valid =
        not_after > at.0 && prefix64(tag_bytes) == tag(NodeId([0xCA; 16]), &certificate[..end + 8]);
    is_valid.then_some((node, name))
}

fn signature(signer: NodeId, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::zeroed(SIGNATURE_BYTES);
    bytes[..8].copy_from_slice(&tag(signer, message).to_be_bytes());
    bytes.freeze()
}

/// The key of a name in the simulated network.
pub(super) fn name_key(name: &str) -> NameKey {
    name.parse::<UserName>().expect("names of simulated users are legal").key(NETWORK)
}

/// Signs a record as the device would.
pub(super) fn sign_record(
    device: NodeId,
    user: &str,
    not_after: UnixTime,
    mut record: v1::UserRecord,
) -> v1::UserRecord {
    record.certificate = certificate(device, Some(user), not_after);
    record.signature = signature(device, &record_signed_part(device, &record));
    record
}

/// One super node's view of the network's trust.
pub(super) struct TagTrust {
    node: NodeId,
    not_after: UnixTime,
    network: Arc<TagNetwork>,
}

impl TagTrust {
    /// The trust of `node`, whose own certificate ends at `not_after`.
    pub(super) fn new(node: NodeId, not_after: UnixTime, network: Arc<TagNetwork>) -> Self {
        Self { node, not_after, network }
    }
}

impl Trust for TagTrust {
    fn node(&self) -> NodeId {
        self.node
    }

    fn network(&self) -> NetworkId {
        NETWORK
    }

    fn certificate(&self) -> Bytes {
        certificate(self.node, None, self.not_after)
    }

    fn certified(&self, certificate: &Bytes, at: UnixTime) -> Option<Certified> {
        let (node, name) = read_certificate(certificate, at)?;
        let user: Option<UserName> = if name.is_empty() { None } else { Some(name.parse().ok()?) };
        let is_super_node = user.is_none();
        Some(Certified { node, public_key: public_key(node), user, is_super_node })
    }

    fn sign(&self, message: &[u8]) -> Bytes {
        signature(self.node, message)
    }

    fn verify(&self, signer: &NodePublicKey, message: &[u8], signature: &[u8]) -> bool {
        let node = NodeId::from_slice(&signer.0[..16]).expect("16 bytes");
        signature.len() == SIGNATURE_BYTES && prefix64(signature) == tag(node, message)
    }

    fn super_node(&self, wire: &v1::SuperNodeStatement, at: UnixTime) -> Option<Arc<SuperNode>> {
        let node = NodeId::from_slice(&wire.node)?;
        let signed = statement_signed_part(node, wire);
        if !self.verify(&public_key(node), &signed, &wire.signature) {
            return None;
        }
        if let Some(shared) = lock(&self.network.statements).get(&node)
            && shared.incarnation == wire.incarnation
        {
            return Some(shared.clone());
        }
        let certified = self.certified(&wire.certificate, at)?;
        let checked = Arc::new(SuperNode::from_wire(certified.node, certified.public_key, wire)?);
        let mut statements = lock(&self.network.statements);
        if statements.get(&node).is_none_or(|shared| shared.incarnation < wire.incarnation) {
            statements.insert(node, checked.clone());
        }
        Some(checked)
    }

    fn record(&self, wire: &v1::UserRecord, at: UnixTime) -> Option<Arc<UserRecord>> {
        let (device, _) = read_certificate(&wire.certificate, at)?;
        let signed = record_signed_part(device, wire);
        if !self.verify(&public_key(device), &signed, &wire.signature) {
            return None;
        }
        if let Some(shared) = lock(&self.network.records).get(&device)
            && shared.sequence == wire.sequence
        {
            return Some(shared.clone());
        }
        let certified = self.certified(&wire.certificate, at)?;
        let checked = UserRecord::from_wire(NETWORK, certified.node, certified.user?, wire)?;
        let checked = Arc::new(checked);
        let mut records = lock(&self.network.records);
        if records.get(&device).is_none_or(|shared| shared.sequence < wire.sequence) {
            records.insert(device, checked.clone());
        }
        Some(checked)
    }
}

/// Datagrams in the clear: the sender's id, then the message.
pub(super) struct ClearDatagrams {
    node: NodeId,
}

/// Bytes in front of the message in a clear datagram.
pub(super) const CLEAR_HEADER_BYTES: usize = 18;

impl ClearDatagrams {
    /// Datagrams of `node`.
    pub(super) fn new(node: NodeId) -> Self {
        Self { node }
    }
}

/// A clear datagram.
pub(super) fn clear_datagram(from: NodeId, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(CLEAR_HEADER_BYTES + message.len());
    bytes.put_slice(&[FIRST_BYTE, 0]);
    bytes.put_slice(&from.0);
    bytes.put_slice(message);
    bytes.freeze()
}

impl Protection for ClearDatagrams {
    fn seal(
        &mut self,
        _now: Now,
        _to: (NodeId, Option<NodePublicKey>),
        message: &[u8],
    ) -> Option<Bytes> {
        Some(clear_datagram(self.node, message))
    }

    fn open(
        &mut self,
        _now: Now,
        _source: SocketAddr,
        datagram: &Bytes,
        _known: &dyn Fn(&NodeId) -> Option<NodePublicKey>,
        _trust: &dyn Trust,
    ) -> Opened {
        let Some(from) = datagram.get(2..CLEAR_HEADER_BYTES).and_then(NodeId::from_slice) else {
            return Opened::Nothing;
        };
        match datagram[1] {
            0 => Opened::Message { from, payload: datagram.slice(CLEAR_HEADER_BYTES..) },
            // An introduction: show who we are, once in each direction.
            1 => Opened::Reply(introduction(self.node, 2)),
            2 => Opened::Met { node: from, reply: None },
            _ => Opened::Nothing,
        }
    }

    fn introduce(&mut self, _now: Now, _to: SocketAddr) -> Bytes {
        introduction(self.node, 1)
    }
}

fn introduction(node: NodeId, step: u8) -> Bytes {
    let mut bytes = BytesMut::zeroed(1000);
    bytes[..2].copy_from_slice(&[FIRST_BYTE, step]);
    bytes[2..CLEAR_HEADER_BYTES].copy_from_slice(&node.0);
    bytes.freeze()
}
