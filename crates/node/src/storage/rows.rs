//! How Rust's values and SQL's meet: numbers, times, node ids, counts of changed rows.

use cooee_proto::{
    clock::UnixTime,
    identity::NodeId,
    login::{Refusal, StorageAnswer},
};

use super::StorageError;

/// Role numbers of the devices' table; 0 is the device of a user.
pub(super) const SUPER_NODE: i64 = 1;

/// SQL knows signed numbers only.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn millis(at: UnixTime) -> i64 {
    signed(at.0)
}

pub(super) fn parse_node(text: &str) -> Result<NodeId, StorageError> {
    text.parse().map_err(|_| StorageError::Illegal("node id"))
}

/// The account may have been removed since the connection was authenticated.
pub(super) fn done_or_unknown(rows: u64) -> StorageAnswer {
    match rows {
        0 => StorageAnswer::Refused(Refusal::DeviceUnknown),
        _ => StorageAnswer::Done,
    }
}
