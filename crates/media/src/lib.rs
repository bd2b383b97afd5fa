//! The voice engine, pure: what happens between the microphone and the network, and back.
//!
//! No clock is read, no socket or device opened here; time is an argument and every effect an
//! output. The shell (`cooee-node`) gives it real sound and real packets.

pub mod codec;
pub mod jitter;
pub mod level;
pub mod loss;
pub mod mixer;
pub mod packet;
pub mod processing;
pub mod rate;
pub mod resample;
pub mod scratch;
pub mod session;
pub mod voice;

pub use packet::VoicePacket;
