//! Messages of a certified super node that lies: any, in any order. Two real overlays, the second
//! speaks whatever the input says.

use crate::network::{device, network, now, pieces};
use bytes::Bytes;
use cooee_proto::{
    clock::Now,
    identity::{NodeId, NodePublicKey, RevocationList, Role},
    overlay::{
        NetworkTrust, OverlayConfig, SuperNodeOverlay, Trust,
        sealed::{Opened, Protection},
    },
};

/// No sealing: the first byte of a datagram is left out, the rest is the message of one peer.
struct Open(NodeId);

impl Protection for Open {
    fn seal(
        &mut self,
        _now: Now,
        _to: (NodeId, Option<NodePublicKey>),
        message: &[u8],
    ) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(message))
    }

    fn introduce(&mut self, _now: Now, _to: std::net::SocketAddr) -> Bytes {
        Bytes::new()
    }

    fn open(
        &mut self,
        _now: Now,
        _source: std::net::SocketAddr,
        datagram: &Bytes,
        _known: &dyn Fn(&NodeId) -> Option<NodePublicKey>,
        _trust: &dyn Trust,
    ) -> Opened {
        Opened::Message { from: self.0, payload: datagram.clone() }
    }
}

pub(crate) fn run(input: &[u8]) {
    let (key, certificate) = device(1, None, Some(Role::SuperNode));
    let (liar, _) = device(2, None, Some(Role::SuperNode));
    let root = network().root();
    let none = RevocationList::empty(root.network_id());
    let trust = Box::new(NetworkTrust::new(key, certificate, root, none));
    let mut now = now();
    let config = OverlayConfig::new(([127, 0, 0, 1], 4000).into());
    let open = Box::new(Open(liar.node_id()));
    let mut overlay = SuperNodeOverlay::new(now, config, trust, open, [8; 32]);
    for (choice, piece) in pieces(input).take(64) {
        let message = Bytes::copy_from_slice(piece);
        overlay.handle_datagram(now, ([127, 0, 0, 2], 4000).into(), &message);
        if choice & 1 != 0 {
            now = now.plus(std::time::Duration::from_millis(500));
            overlay.handle_timeout(now);
        }
        while overlay.poll_output().is_some() {}
    }
    // Nobody joins by what somebody else says without a certificate.
    assert_eq!(overlay.status().members, 1);
}
