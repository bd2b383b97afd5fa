//! The overlay of super nodes: who is a member, who keeps what, and the one machine that joins it
//! all.
//!
//! * `sealed`: datagrams between certified nodes;
//! * `membership` with `table`, `joining`, `spread`, `reconcile`: all super nodes know all;
//! * `placement`: which of them keep which part of the Global Index;
//! * `admission`: who may be one without the operator's word;
//! * `election`: who becomes a super node, who stops being one, and what one at its limit says;
//! * `super_node`: the parent machine that the shell and the simulator run.

pub mod admission;
mod dispatch;
pub mod election;
mod entrance;
mod joining;
pub mod limits;
pub mod membership;
pub mod mix;
pub mod placement;
mod reconcile;
pub mod sealed;
mod spread;
pub mod statement;
mod status;
pub mod super_node;
pub mod table;
pub mod trust;

pub use membership::{MemberEvent, MembershipConfig};
pub use status::OverlayStatus;
pub use super_node::{Output, OverlayConfig, SuperNodeOverlay};
pub use trust::{Certified, NetworkTrust, Trust};

/// Most bytes of an encoded message in one datagram (chosen: with the seal, UDP and IPv6 below
/// 1,280
/// bytes, which every path carries).
pub const DATAGRAM_PAYLOAD_BYTES_MAX: usize = 1100;
