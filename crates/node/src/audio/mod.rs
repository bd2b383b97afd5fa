//! Sound: microphones and speakers, real and headless, and the audio thread between them and
//! the voice engine.
//!
//! * [`spec`]: what a user writes to choose devices.
//! * [`leg`]: the handle of one call leg's sound, which starts its thread, [`engine`]; what they
//!   share is in `shared`, what is told of it in `statistics`.
//! * [`path`]: what the thread does with sound; [`call_path`] does it for a call, and
//!   [`link`] carries its packets to and from the network.
//! * [`headless`], [`sources`], [`recorder`]: devices without hardware, with a time base.
//! * [`pulse`]: the sound server's devices.
//! * [`clock`], [`priority`], [`tones`]: what they all use.

use std::path::PathBuf;

mod call_path;
pub mod clock;
mod engine;
pub mod headless;
mod leg;
pub mod link;
pub mod path;
pub mod priority;
mod pulse;
pub mod recorder;
mod shared;
pub mod sources;
pub mod spec;
mod statistics;
pub mod tones;

pub use cooee_media::scratch::ScratchHeap;

pub use call_path::{CallControls, CallPath, CallSound, VoiceStatistics};
pub use leg::{AudioConfig, AudioLeg};
pub use pulse::{Device, DeviceKind, list_devices};
pub use spec::{MicrophoneSpec, SpeakerSpec};
pub use statistics::{AudioEvent, AudioStatistics, DeviceStatistics};

/// Why there is no sound.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// No PulseAudio or PipeWire was found.
    #[error(
        "no sound server found: start PipeWire (with pipewire-pulse) or PulseAudio, or point \
         PULSE_SERVER=unix:/path at one; without sound hardware use --microphone \
         wav:FILE|tone:HZ|silence and --speaker wav:FILE|null"
    )]
    NoSoundServer,
    /// It is there, but does not let us in.
    #[error("the sound server at {} cannot be used: {reason}; try `pactl info`", path.display())]
    SoundServer {
        /// Its socket.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A device name with a zero byte.
    #[error("{name:?} can be no device's name; `cooee devices` lists them")]
    DeviceName {
        /// As given.
        name: String,
    },
    /// A WAV file that cannot be spoken.
    #[error("cannot speak {}: {reason}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A recording that cannot be written.
    #[error("cannot record to {}: {reason}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refuses a thread.
    #[error("cannot start the audio thread: {0}")]
    Thread(std::io::Error),
}
