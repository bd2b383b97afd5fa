//! The deterministic simulator: the protocol machines by the thousand, in virtual time.

#![forbid(unsafe_code)]

pub mod link;
pub mod nat;
pub mod place;
