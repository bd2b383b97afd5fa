//! Who may be a super node: those whom the operator made one, and those whom a dedicated super node
//! admits because it and others reached them.
//!
//! ```text
//!   node ── Admit (address, version) ──▶ dedicated super node ── DialBack ──▶ other super nodes
//!        ◀═ TCP and UDP dialled back ═══════════════════════════════════════════════╝
//!        ◀─ Admission (address, end, signature) ──   only if needed, diverse, and reached by
//!        enough
//! ```
//!
//! An admission is checked by every member from the statement alone, whoever brings it. So a crowd
//! of
//! certified users cannot become members by themselves: that bounds what a Sybil attacker controls
//! to what dedicated super nodes admit, by address block and by share.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    election::VERIFICATIONS_MIN,
    statement::{CERTIFICATE_BYTES_MAX, ip_bytes},
    trust::Trust,
};
use crate::{clock::UnixTime, identity::NodeId, wire::v1};

/// How long an admission holds (chosen: renewed after half of it; whoever cannot be reached any
/// more
/// is out within a day, by the membership's probes much sooner).
pub const ADMISSION_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What the signature of an admission covers.
pub fn admission_signed_part(node: NodeId, address: SocketAddr, expiry: UnixTime) -> Vec<u8> {
    let mut part = Vec::with_capacity(64);
    part.extend_from_slice(b"cooee admission v1");
    part.extend_from_slice(&node.0);
    let ip = ip_bytes(address.ip());
    part.push(ip.len() as u8);
    part.extend_from_slice(&ip);
    part.extend_from_slice(&u32::from(address.port()).to_be_bytes());
    part.extend_from_slice(&expiry.0.to_be_bytes());
    part
}

/// Admits `node` at `address`. The caller is a dedicated super node and has verified the address.
pub fn admit(trust: &dyn Trust, now: UnixTime, node: NodeId, address: SocketAddr) -> v1::Admission {
    let expiry = now.plus(ADMISSION_LIFE);
    v1::Admission {
        certificate: trust.certificate(),
        expiry_unix_ms: expiry.0,
        signature: trust.sign(&admission_signed_part(node, address, expiry)),
    }
}

/// Whether this admission lets `node` serve at `address` at `at`.
pub fn is_admitted(
    trust: &(impl Trust + ?Sized),
    admission: &v1::Admission,
    node: NodeId,
    address: SocketAddr,
    at: UnixTime,
) -> bool {
    let certificate: &Bytes = &admission.certificate;
    let expiry = UnixTime(admission.expiry_unix_ms);
    let in_time = at < expiry && expiry <= at.plus(ADMISSION_LIFE * 2);
    if !in_time || certificate.len() > CERTIFICATE_BYTES_MAX || admission.signature.len() > 64 {
        return false;
    }
    let Some(admitter) = trust.certified(certificate, at) else { return false };
    let signed = admission_signed_part(node, address, expiry);
    admitter.is_super_node
        && admitter.node != node
        && trust.verify(&admitter.public_key, &signed, &admission.signature)
}

/// Other super nodes that must have reached a candidate, besides the one that admits: as many as
/// the
/// rule asks for, or all there are.
pub fn verifications_needed(members: usize) -> usize {
    (VERIFICATIONS_MIN as usize - 1).min(members.saturating_sub(1))
}
