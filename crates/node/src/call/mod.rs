//! Runs the call machines: look-up, peer connections, media legs, records.
//!
//! ```text
//!  local API ── CallService ──▶ task: proto::call::Calls ──▶ Peers        (signalling)
//!      ▲                            │        ▲      └──────▶ MediaCommand  (voice transport)
//!      └──── events, list ──────────┘        └── PeerEvent, MediaEvent, look-ups, time
//! ```
//!
//! Nothing is decided here: who rings, what is revealed and when a call ends is `proto::call`.

mod legs;
mod live;
mod media;
mod service;
mod store;
mod task;

pub use cooee_proto::call::EndReason;
pub use legs::{LegResources, run_legs};
pub use live::LiveStatistics;
pub use media::{LegId, MediaCommand, MediaEvent};
pub use service::{CallError, CallNotice, CallService, CallServiceConfig, LookUp, Relations};
pub use store::{Log, LogError};

#[cfg(test)]
mod tests;
