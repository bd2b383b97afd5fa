//! The control connection's protocol: what its messages may contain, and its limits in time.
//!
//! Flow (docs/protocol/control.md):
//!
//! ```text
//!   node                         super node
//!    │── StreamHeader{control} ───▶│
//!    │── Hello ───────────────────▶│
//!    │◀── Hello │ Busy │ Rejected ─│
//!    │◀── HostCacheUpdate ─────────│
//!    │── Request{id} ─────────────▶│      and the other way round
//!    │◀── Answer{id} ──────────────│
//!    │── Keepalive, every 120 s ──▶│
//! ```
//!
//! The streams are opened by the shell; who is attached where is decided by `attachment`.

mod bucket;
mod message;

pub use bucket::TokenBucket;
pub use message::{
    ADDRESSES_MAX, Greeting, MessageError, NodeRole, address_from_wire, address_to_wire,
    addresses_from_wire, addresses_to_wire, name_key, node_id, optional_node_id,
};

use std::time::Duration;

/// Version of the control protocol that this program speaks.
pub const VERSION: u32 = 1;
/// Pause between two keep-alives of a node (paper section IV.F: 120 s).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(120);
/// The same where the super node gives signs of life by UDP meanwhile. Chosen: NATs forget a TCP
/// connection after five minutes and more, and both ways together stay below 1 MB a day.
pub const KEEPALIVE_INTERVAL_UDP: Duration = Duration::from_secs(240);
/// Time for the answer to a keep-alive. Chosen: TCP needs it to repeat a lost packet three times.
pub const KEEPALIVE_ANSWER_TIME: Duration = Duration::from_secs(10);
/// A super node closes a connection that was silent for so long: two keep-alives and
/// their answers, or one of the rarer ones and half a minute for what is lost of it.
pub const SILENCE_MAX: Duration = Duration::from_secs(280);
/// A peer's clock may differ from ours by so much before we say that one of them is wrong. Chosen:
/// certificates live for days and a record for hours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// Most names that one node watches. Chosen: five times a large buddy list.
pub const WATCHED_NAMES_MAX: usize = 1000;
/// Longest record that may be published, in bytes. Chosen; the index has a tighter bound.
pub const RECORD_BYTES_MAX: usize = 4096;
