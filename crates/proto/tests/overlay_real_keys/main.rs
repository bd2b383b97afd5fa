//! Super nodes with real keys, certificates and sealed datagrams, in virtual time: who is a member,
//! and what the index finds.

// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![allow(clippy::disallowed_methods)]

mod index;
mod membership;
mod world;
