//! The list of devices that the network took back, signed by the network root.
//!
//! A removed device stays on the list until its last certificate has expired, so the list stays
//! short. A device is named by its key: removed once, it needs a new key to come back.

use std::collections::BTreeSet;

use prost::Message;

use super::{NetworkId, NetworkKey, NetworkRoot, NodeId};
use crate::{
    clock::UnixTime,
    wire::v1::{RevocationListBody, SignedRevocationList},
};

/// Most devices that a list can name (chosen: 48 kB, below the bound of a frame). The login server
/// keeps the latest removals when there are more.
pub const REVOKED_NODES_MAX: usize = 3000;

const SIGNATURE_CONTEXT: &[u8] = b"cooee revocation list";

/// What is wrong with a revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Not a revocation list.
    #[error("malformed revocation list")]
    Malformed,
    /// Above [`REVOKED_NODES_MAX`].
    #[error("a revocation list names at most {REVOKED_NODES_MAX} devices, this one {0}")]
    TooLong(usize),
    /// The signature does not fit, or another network issued it.
    #[error("the revocation list is not signed by the network")]
    Signature,
}

/// A checked list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    network: NetworkId,
    number: u64,
    issued_at: UnixTime,
    nodes: BTreeSet<NodeId>,
    signed: Option<SignedRevocationList>,
}

impl RevocationList {
    /// The list of a network that took nothing back, unsigned; any signed one is newer.
    pub fn empty(network: NetworkId) -> Self {
        let nodes = BTreeSet::new();
        Self { network, number: 0, issued_at: UnixTime(0), nodes, signed: None }
    }

    /// Signs a list.
    pub fn issue(
        key: &NetworkKey,
        number: u64,
        issued_at: UnixTime,
        nodes: BTreeSet<NodeId>,
    ) -> Result<Self, RevocationError> {
        if nodes.len() > REVOKED_NODES_MAX {
            return Err(RevocationError::TooLong(nodes.len()));
        }
        let network = key.root().network_id();
        let body = RevocationListBody {
            network: network.0.to_vec().into(),
            number,
            issued_at_ms: issued_at.0,
            nodes: nodes.iter().flat_map(|node| node.0).collect::<Vec<u8>>().into(),
        }
        .encode_to_vec();
        let signature = key.sign(&signed_bytes(&body)).to_vec().into();
        let signed = Some(SignedRevocationList { body: body.into(), signature });
        Ok(Self { network, number, issued_at, nodes, signed })
    }

    /// Checks a list that came over the network.
    pub fn verify(
        root: &NetworkRoot,
        signed: &SignedRevocationList,
    ) -> Result<Self, RevocationError> {
        root.verify(&signed_bytes(&signed.body), &signed.signature)
            .map_err(|_| RevocationError::Signature)?;
        let body = RevocationListBody::decode(signed.body.clone())
            .map_err(|_| RevocationError::Malformed)?;
        if body.network[..] != root.network_id().0 {
            return Err(RevocationError::Signature);
        }
        let (ids, rest) = body.nodes.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(RevocationError::Malformed);
        }
        if ids.len() > REVOKED_NODES_MAX {
            return Err(RevocationError::TooLong(ids.len()));
        }
        Ok(Self {
            network: root.network_id(),
            number: body.number,
            issued_at: UnixTime(body.issued_at_ms),
            nodes: ids.iter().map(|id| NodeId(*id)).collect(),
            signed: Some(signed.clone()),
        })
    }

    /// Whether the network took `node` back.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// The devices taken back.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().copied()
    }

    /// Grows with every change.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When the network signed it.
    pub fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    /// The network that it belongs to.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The signed form, to hand on; none for [`RevocationList::empty`].
    pub fn signed(&self) -> Option<&SignedRevocationList> {
        self.signed.as_ref()
    }

    /// Takes `other` over if it is newer; says whether it did. Both must be of one network.
    pub fn replace_if_newer(&mut self, other: Self) -> bool {
        let newer = other.network == self.network && other.number > self.number;
        if newer {
            *self = other;
        }
        newer
    }
}

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [SIGNATURE_CONTEXT, body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> NetworkKey {
        NetworkKey::from_seed([3; 32])
    }

    fn list(number: u64, nodes: &[u8]) -> RevocationList {
        let nodes = nodes.iter().map(|byte| NodeId([*byte; 16])).collect();
        RevocationList::issue(&key(), number, UnixTime(5), nodes).unwrap()
    }

    proptest! {
        #[test]
        fn a_list_survives_the_wire(number: u64, nodes: Vec<u8>) {
            let list = list(number, &nodes);
            let bytes = list.signed().unwrap().encode_to_vec();
            let signed = SignedRevocationList::decode(&bytes[..]).unwrap();
            prop_assert_eq!(RevocationList::verify(&key().root(), &signed), Ok(list));
        }

        #[test]
        fn no_flipped_bit_goes_unnoticed(place: prop::sample::Index, bit in 0_u32..8) {
            let mut bytes = list(7, &[1, 2, 3]).signed().unwrap().encode_to_vec();
            *place.get_mut(&mut bytes) ^= 1_u8 << bit;
            if let Ok(signed) = SignedRevocationList::decode(&bytes[..]) {
                prop_assert!(RevocationList::verify(&key().root(), &signed).is_err());
            }
        }
    }

    #[test]
    fn another_network_cannot_sign_ours() {
        let stranger = NetworkKey::from_seed([4; 32]).root();
        let signed = list(1, &[1]).signed().unwrap().clone();
        assert_eq!(RevocationList::verify(&stranger, &signed), Err(RevocationError::Signature));
    }

    #[test]
    fn an_older_list_does_not_replace_a_newer_one() {
        let mut held = RevocationList::empty(key().root().network_id());
        assert!(held.replace_if_newer(list(2, &[9])));
        assert!(!held.replace_if_newer(list(1, &[])));
        assert!(held.contains(NodeId([9; 16])));
    }

    #[test]
    fn the_bound_holds_and_fits_a_frame() {
        let ids = |count: usize| {
            (0..count as u128).map(|n| NodeId(n.to_be_bytes())).collect::<BTreeSet<_>>()
        };
        let full = RevocationList::issue(&key(), 1, UnixTime(0), ids(REVOKED_NODES_MAX)).unwrap();
        assert!(full.signed().unwrap().encoded_len() < crate::wire::FRAME_BYTES_MAX);
        let error = RevocationList::issue(&key(), 1, UnixTime(0), ids(REVOKED_NODES_MAX + 1));
        assert_eq!(error, Err(RevocationError::TooLong(REVOKED_NODES_MAX + 1)));
    }
}
