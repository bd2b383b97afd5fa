//! Stored buddy lists: any list is held within its bounds, joins with any other in either order to
//! the same, and what does not open changes nothing.

use crate::network::name;
use cooee_proto::{
    contacts::{BUDDIES_MAX, BUDDY_LIST_SLOTS, Contacts},
    login::AccountKey,
    wire::v1::BuddyList,
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let (alice, key) = (name("alice"), AccountKey::from_bytes([1; 32]));
    assert!(Contacts::open_part(&alice, &key, 0, input).is_err());
    let half = input.len() / 2;
    let list =
        |bytes| BuddyList::decode(bytes).ok().map(|list| Contacts::from_wire(alice.clone(), list));
    let (Some(one), Some(other)) = (list(&input[..half]), list(&input[half..])) else { return };
    let (mut left, mut right) = (one.clone(), other.clone());
    left.merge(&other);
    right.merge(&one);
    assert!(left.is_same(&right));
    assert!(left.list().count() <= BUDDIES_MAX);
    let parts = left.parts();
    assert!((1..=BUDDY_LIST_SLOTS.len()).contains(&parts.len()));
    for (part, slot) in parts.iter().zip(BUDDY_LIST_SLOTS) {
        let sealed = Contacts::seal_part(&key, slot, part, [0; 12]).expect("fits a slot");
        Contacts::open_part(&alice, &key, slot, &sealed).expect("own bytes");
    }
}
