//! What the overlay asks of the network's certificates: the seam between rules and cryptography.
//!
//! [`NetworkTrust`] is the real thing: Ed25519 signatures by devices that the network certified.
//! The
//! simulator puts a cheap keyed tag in its place, so that a million users fit on one machine; every
//! rule above this seam (what is signed, what is refused) is the same code.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    clock::UnixTime,
    identity::{
        Certificate, NameKey, NetworkId, NetworkRoot, NodeId, NodeKey, NodePublicKey,
        RevocationList, Role, UserName,
    },
    index::{UserRecord, departure_signed_part, record_signed_part},
    overlay::{
        admission::is_admitted,
        statement::{SuperNode, statement_signed_part},
    },
    wire::v1,
};

/// What a certificate says about its holder.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The holder.
    pub node: NodeId,
    /// Its device key.
    pub public_key: NodePublicKey,
    /// The user it belongs to; none for a dedicated super node.
    pub user: Option<UserName>,
    /// The operator made it a super node.
    pub is_super_node: bool,
}

/// Checks what others signed, and signs for this node.
pub trait Trust: Send {
    /// This node.
    fn node(&self) -> NodeId;

    /// The network, as it goes into the keys of names and search terms.
    fn network(&self) -> NetworkId;

    /// This node's certificate, as others check it.
    fn certificate(&self) -> Bytes;

    /// The holder of a certificate that the network issued and that is valid at `at`.
    fn certified(&self, certificate: &Bytes, at: UnixTime) -> Option<Certified>;

    /// Signs with this node's device key.
    fn sign(&self, message: &[u8]) -> Bytes;

    /// Whether `signer` signed `message`.
    fn verify(&self, signer: &NodePublicKey, message: &[u8], signature: &[u8]) -> bool;

    /// A statement that may enter the membership, or `None` if its certificate or signature fails,
    /// or
    /// if neither the operator nor a dedicated super node lets its node serve.
    fn super_node(&self, wire: &v1::SuperNodeStatement, at: UnixTime) -> Option<Arc<SuperNode>> {
        let certified = self.certified(&wire.certificate, at)?;
        let signed = statement_signed_part(certified.node, wire);
        if !self.verify(&certified.public_key, &signed, &wire.signature) {
            return None;
        }
        let checked = SuperNode::from_wire(certified.node, certified.public_key, wire)?;
        let admission = checked.admission.as_ref();
        let is_admitted = |it| is_admitted(self, it, checked.node, checked.address, at);
        (certified.is_super_node || admission.is_some_and(is_admitted)).then(|| Arc::new(checked))
    }

    /// A record that may enter the Global Index, or `None` if its certificate or signature fails.
    fn record(&self, wire: &v1::UserRecord, at: UnixTime) -> Option<Arc<UserRecord>> {
        let certified = self.certified(&wire.certificate, at)?;
        let user = certified.user?;
        let signed = record_signed_part(certified.node, wire);
        if !self.verify(&certified.public_key, &signed, &wire.signature) {
            return None;
        }
        UserRecord::from_wire(self.network(), certified.node, user, wire).map(Arc::new)
    }

    /// Whether the departure was signed by `signer`.
    fn departure(&self, wire: &v1::Departure, signer: &NodePublicKey) -> bool {
        self.verify(signer, &departure_signed_part(wire), &wire.signature)
    }
}

/// Ed25519 device keys, certified by the network.
pub struct NetworkTrust {
    key: NodeKey,
    certificate: Certificate,
    root: NetworkRoot,
    revoked: RevocationList,
}

impl NetworkTrust {
    /// Trust in what `root` certifies, signing with `key`.
    pub fn new(
        key: NodeKey,
        certificate: Certificate,
        root: NetworkRoot,
        revoked: RevocationList,
    ) -> Self {
        Self { key, certificate, root, revoked }
    }

    /// Signs a record of this node's own user with its device key.
    pub fn sign_record(&self, mut record: v1::UserRecord) -> v1::UserRecord {
        record.certificate = self.certificate();
        record.signature = self.sign(&record_signed_part(self.node(), &record));
        record
    }

    /// The key under which `name` is filed in this network.
    pub fn name_key(&self, name: &UserName) -> NameKey {
        name.key(self.network())
    }
}

impl Trust for NetworkTrust {
    fn node(&self) -> NodeId {
        self.certificate.node()
    }

    fn network(&self) -> NetworkId {
        self.root.network_id()
    }

    fn certificate(&self) -> Bytes {
        Bytes::copy_from_slice(self.certificate.der())
    }

    fn certified(&self, certificate: &Bytes, at: UnixTime) -> Option<Certified> {
        let certificate = Certificate::parse(certificate).ok()?;
        certificate.verify(&self.root, at, &self.revoked).ok()?;
        Some(Certified {
            node: certificate.node(),
            public_key: certificate.public_key(),
            user: certificate.user().cloned(),
            is_super_node: certificate.roles().contains(Role::SuperNode),
        })
    }

    fn sign(&self, message: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.key.sign(message))
    }

    fn verify(&self, signer: &NodePublicKey, message: &[u8], signature: &[u8]) -> bool {
        signer.verify(message, signature).is_ok()
    }
}
