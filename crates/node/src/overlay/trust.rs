//! What the overlay asks of certificates, answered by what this node's TLS holds at that moment: a
//! renewed certificate and a newer revocation list count from then on.

use std::sync::Arc;

use bytes::Bytes;
use cooee_proto::{
    clock::UnixTime,
    identity::{NetworkId, NodeId, NodePublicKey, Role},
    index::record_signed_part,
    overlay::{Certified, Trust},
    wire::v1,
};

use crate::transport::Tls;

/// The network's certificates as this node knows them.
#[derive(Clone)]
pub struct LiveTrust {
    tls: Arc<Tls>,
}

impl LiveTrust {
    /// Trust in what these connections trust.
    pub fn new(tls: Arc<Tls>) -> Self {
        Self { tls }
    }

    /// Signs a record of this device.
    pub fn sign_record(&self, mut record: v1::UserRecord) -> v1::UserRecord {
        record.certificate = self.certificate();
        record.signature = self.sign(&record_signed_part(self.node(), &record));
        record
    }
}

impl Trust for LiveTrust {
    fn node(&self) -> NodeId {
        self.tls.credentials().node()
    }

    fn network(&self) -> NetworkId {
        self.tls.trust().root().network_id()
    }

    fn certificate(&self) -> Bytes {
        let certificate = self.tls.credentials().certificate;
        certificate.map_or_else(Bytes::new, |it| Bytes::copy_from_slice(it.der()))
    }

    fn certified(&self, certificate: &Bytes, _at: UnixTime) -> Option<Certified> {
        let certificate = self.tls.trust().check(certificate).ok()?;
        Some(Certified {
            node: certificate.node(),
            public_key: certificate.public_key(),
            user: certificate.user().cloned(),
            is_super_node: certificate.roles().contains(Role::SuperNode),
        })
    }

    fn sign(&self, message: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.tls.credentials().key.sign(message))
    }

    fn verify(&self, signer: &NodePublicKey, message: &[u8], signature: &[u8]) -> bool {
        signer.verify(message, signature).is_ok()
    }
}
