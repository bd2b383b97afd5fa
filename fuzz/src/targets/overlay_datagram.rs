//! Sealed datagrams of strangers: nothing is opened that no certified node sealed.

use crate::network::{device, network, now, pieces};
use bytes::Bytes;
use cooee_proto::{
    identity::{RevocationList, Role},
    overlay::{
        NetworkTrust, OverlayConfig, SuperNodeOverlay,
        sealed::{FIRST_BYTE, Sealed},
    },
};

pub(crate) fn run(input: &[u8]) {
    let (key, certificate) = device(1, None, Some(Role::SuperNode));
    let root = network().root();
    let sealed = Box::new(Sealed::new(&key, [7; 32]));
    let none = RevocationList::empty(root.network_id());
    let trust = Box::new(NetworkTrust::new(key, certificate, root, none));
    let now = now();
    let config = OverlayConfig::new(([127, 0, 0, 1], 4000).into());
    let mut overlay = SuperNodeOverlay::new(now, config, trust, sealed, [8; 32]);
    for (choice, piece) in pieces(input) {
        let datagram = [&[FIRST_BYTE, choice & 3], piece].concat();
        overlay.handle_datagram(now, ([127, 0, 0, 2], 4000).into(), &Bytes::from(datagram));
        while overlay.poll_output().is_some() {}
    }
    assert_eq!(overlay.status().members, 1);
}
