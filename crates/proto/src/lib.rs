//! Everything that two Cooee programs must agree on, as pure state machines.
//!
//! Nothing here owns a clock, a socket, a task, a file, the environment or the operating system's
//! randomness: time is an argument, randomness is a seed, and every effect is an output to be
//! polled. The shell (`cooee-node`) and the simulator (`cooee-sim`) run the same code.

#![forbid(unsafe_code)]
// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod attachment;
pub mod call;
pub mod clock;
pub mod contacts;
pub mod control;
pub mod datagram;
pub mod host_cache;
pub mod identity;
pub mod im;
pub mod index;
pub mod login;
pub mod overlay;
pub mod presence;
pub mod reachability;
pub mod relay;
pub mod wire;
