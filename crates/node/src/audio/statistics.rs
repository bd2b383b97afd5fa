//! What is told of a leg's sound: events of its devices, and figures.

use serde::Serialize;

use super::priority::ThreadRank;

/// Something about the devices that a person wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum AudioEvent {
    /// The microphone in use; `None`: there is none, silence is sent.
    MicrophoneChanged {
        /// Name of the sound server's source.
        device: Option<String>,
    },
    /// The speaker in use; `None`: there is none.
    SpeakerChanged {
        /// Name of the sound server's sink.
        device: Option<String>,
    },
    /// The sound server has gone; the call goes on in silence until it returns.
    SoundServerLost {
        /// What the socket said.
        reason: String,
    },
    /// The sound server is back.
    SoundServerReturned,
    /// What is spoken or heard is no longer recorded; the call goes on.
    RecordingFailed {
        /// What a person should know.
        message: String,
    },
}

/// Figures of the sound server's streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceStatistics {
    /// Source in use.
    pub microphone: Option<String>,
    /// Age of captured sound when it arrives here, milliseconds.
    pub microphone_latency_ms: Option<f32>,
    /// Times captured sound was dropped because this thread was late.
    pub microphone_overruns: u64,
    /// Sink in use.
    pub speaker: Option<String>,
    /// Time from here until heard, milliseconds.
    pub speaker_latency_ms: Option<f32>,
    /// The playback buffer asked for, milliseconds; grows with under-runs.
    pub speaker_buffer_ms: Option<f32>,
    /// Times the speaker had nothing to play.
    pub speaker_underruns: u64,
}

/// Figures of a leg's sound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AudioStatistics {
    /// The audio thread's priority.
    pub priority: ThreadRank,
    /// The nice value the process was raised to for the call, if it could be.
    pub process_nice: Option<i32>,
    /// The sound server's streams.
    pub devices: DeviceStatistics,
    /// Loudest captured sample of the last blocks, dB below full scale.
    pub microphone_level_dbfs: f32,
    /// Loudest played sample of the last blocks, dB below full scale.
    pub speaker_level_dbfs: f32,
    /// Times a headless speaker had nothing to play.
    pub speaker_gaps: u64,
    /// How long before being heard a headless speaker fetches its sound, milliseconds.
    pub headless_buffer_ms: f32,
    /// Headless microphone sound lost to stalls, milliseconds.
    pub microphone_lost_ms: f32,
    /// A recording could not be written (full disk).
    pub recording_failed: bool,
    /// Processor time of the audio thread, voice engine included, percent of one core.
    pub cpu_percent: f32,
}
