//! What stands between this node and the Internet, found out with any two super nodes (RFC 5780,
//! in the terms of RFC 4787; paper section IV.B: the client learns its NAT at login).
//!
//! ```text
//!   Main socket:    Binding to both super nodes ─▶ mapping ─▶ (differs: alternate port of the
//!   first) Second socket:  Binding to the first ─▶ answer from elsewhere? ─▶ from its other port?
//!   ─▶ hairpin
//! ```
//! Filtering is asked from a socket that has talked to one super node only: the mapping tests open
//! filters. See `docs/protocol/reachability.md`.

mod exchange;
mod prober;
mod result;

pub use prober::{ProbeOutput, ProbeSocket, Prober, ProberConfig};
pub use result::{Filtering, Mapping, Reachability, ReachabilityError};

#[cfg(test)]
mod tests;
