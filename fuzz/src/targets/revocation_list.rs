//! A list of removed devices: nothing that the network did not sign is taken.

use crate::network::network;
use cooee_proto::{identity::RevocationList, wire::v1::SignedRevocationList};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let key = network();
    let Ok(mut signed) = SignedRevocationList::decode(input) else { return };
    let _ = RevocationList::verify(&key.root(), &signed);
    // Past the signature: any body, rightly signed.
    let bytes = [b"cooee revocation list".as_slice(), &signed.body].concat();
    signed.signature = key.sign(&bytes).to_vec().into();
    if let Ok(list) = RevocationList::verify(&key.root(), &signed) {
        assert!(list.nodes().count() <= 3000);
    }
}
