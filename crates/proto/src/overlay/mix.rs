//! The non-cryptographic mixing that ranks keepers and compares tables.
//!
//! Inputs are already hashes (node ids, name keys), so an attacker who wants a certain result has
//! to make certified keys until one fits: the login server's enrolment is the cost. The result is
//! part of the protocol: every super node must rank keepers alike.

use crate::identity::NodeId;

/// The SplitMix64 finaliser (Steele, Lea, Flood 2014).
pub fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The first eight bytes of `bytes` as a number; missing bytes count as zero.
pub fn prefix64(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

/// The first eight bytes of a node id.
pub fn node64(node: NodeId) -> u64 {
    prefix64(&node.0)
}

/// One entry of a membership hash: changes with every new incarnation.
pub fn member_hash(node: NodeId, incarnation: u64) -> u64 {
    mix64(node64(node) ^ mix64(incarnation))
}
