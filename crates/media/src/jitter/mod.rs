//! Playout: from packets that arrive when they like to a steady stream of sound.
//!
//! ```text
//! packets ─▶ buffer ─▶ (decoder) ─▶ sound queue ─▶ time stretch ─▶ slip ─▶ loudspeaker
//!              │                        ▲
//!              └── arrival times ─▶ target delay (delay) ── control (playout)
//! ```
//! [`buffer`] orders frames by timestamp; [`delay`] turns arrival times into the smallest delay
//! worth having; [`sound`] holds decoded sound and stretches it; [`control`] decides when to
//! stretch. The decoder sits between buffer and sound queue and belongs to
//! [`crate::voice::VoiceReceiver`].

pub mod buffer;
pub mod control;
pub mod delay;
pub mod sound;
