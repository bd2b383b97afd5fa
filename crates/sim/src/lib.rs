//! The deterministic simulator: the protocol machines by the thousand, in virtual time.

#![forbid(unsafe_code)]

pub mod cli;
pub mod latency;
pub mod link;
pub mod nat;
pub mod overlay;
pub mod place;
mod plot;
