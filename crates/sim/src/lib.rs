//! The deterministic simulator: the protocol machines by the thousand, in virtual time.

#![forbid(unsafe_code)]
// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod cli;
pub mod latency;
pub mod link;
pub mod nat;
pub mod overlay;
pub mod place;
mod plot;
pub mod reach;
