//! What is published under a name: any record, wrongly signed, then rightly signed by a device.

use crate::network::{UNIX, device, network, now};
use bytes::Bytes;
use cooee_proto::{
    identity::{RevocationList, Role},
    overlay::{NetworkTrust, OverlayConfig, SuperNodeOverlay, Trust, sealed::Sealed},
    wire::v1,
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let root = network().root();
    let none = || RevocationList::empty(root.network_id());
    let (key, certificate) = device(1, None, Some(Role::SuperNode));
    let sealed = Box::new(Sealed::new(&key, [7; 32]));
    let trust = Box::new(NetworkTrust::new(key, certificate, root, none()));
    let (key, certificate) = device(2, Some("alice"), None);
    let alice = NetworkTrust::new(key, certificate, root, none());
    let now = now();
    let config = OverlayConfig::new(([127, 0, 0, 1], 4000).into());
    let mut overlay = SuperNodeOverlay::new(now, config, trust, sealed, [8; 32]);
    overlay.attach(now, alice.node());
    let _ = overlay.publish(now, alice.node(), input);
    if let Ok(wire) = v1::UserRecord::decode(input) {
        let wire = alice.sign_record(wire);
        if let Some(record) = alice.record(&wire, UNIX) {
            assert_eq!(record.user.as_str(), "alice");
        }
        let _ = overlay.publish(now, alice.node(), &wire.encode_to_vec());
    }
    let _ = Bytes::copy_from_slice(input);
    while overlay.poll_output().is_some() {}
}
