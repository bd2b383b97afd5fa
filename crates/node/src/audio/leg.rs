//! One call leg's sound: the handle by which the rest of the node steers the audio thread.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    AudioError,
    clock::AudioClock,
    engine::{Engine, Microphone, Speaker},
    path::SoundPath,
    priority::{RaisedProcess, ThreadRank},
    pulse::PulseSession,
    recorder::Recorder,
    sources::Source,
    spec::{MicrophoneSpec, SpeakerSpec},
};

/// Events waiting for the node at most; further ones are dropped.
const EVENTS_MAX: usize = 64;

/// The sound devices of a leg.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AudioConfig {
    /// Where sound comes from.
    pub microphone: MicrophoneSpec,
    /// Where sound goes.
    pub speaker: SpeakerSpec,
    /// Also record what a headless microphone says, with a time base, to measure against.
    pub mouth_recording: Option<PathBuf>,
}

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

/// What handle and audio thread share: atomics, and one lock that only the handle waits for.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) devices: Mutex<DeviceStatistics>,
    pub(super) microphone_level: Level,
    pub(super) speaker_level: Level,
    pub(super) speaker_gaps: AtomicU64,
    pub(super) paced_buffer_ns: AtomicU64,
    pub(super) microphone_lost_ns: AtomicU64,
    pub(super) recording_failed: AtomicBool,
    pub(super) cpu_ns: AtomicU64,
    pub(super) running_ns: AtomicU64,
    rank: Mutex<Option<ThreadRank>>,
}

impl Shared {
    pub(super) fn set_rank(&self, rank: ThreadRank) {
        *self.rank.lock().unwrap_or_else(PoisonError::into_inner) = Some(rank);
    }
}

/// Peak meter that decays, readable from another thread.
#[derive(Default)]
pub(super) struct Level(AtomicU32);

impl Level {
    /// Falls by 20 dB in 0.4 s (chosen: readable).
    const DECAY: f32 = 0.986;

    pub(super) fn measure(&self, block: &[f32]) {
        let peak = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let decayed = f32::from_bits(self.0.load(Ordering::Relaxed)) * Self::DECAY;
        self.0.store(peak.max(decayed).to_bits(), Ordering::Relaxed);
    }

    fn dbfs(&self) -> f32 {
        20.0 * f32::from_bits(self.0.load(Ordering::Relaxed)).max(1e-6).log10()
    }
}

/// A running audio thread; dropping it stops the thread and finishes the recordings.
pub struct AudioLeg {
    shared: Arc<Shared>,
    events: mpsc::Receiver<AudioEvent>,
    thread: Option<JoinHandle<()>>,
    raised: RaisedProcess,
}

impl AudioLeg {
    /// Opens the devices and starts the audio thread on `path`. Blocks for at most some seconds
    /// while connecting to a sound server: call it from a blocking task.
    pub fn start<P: SoundPath>(config: &AudioConfig, path: P) -> Result<Self, AudioError> {
        let pulse = open_pulse(config)?;
        let source = Source::open(&config.microphone)?;
        let mouth = config.mouth_recording.as_deref();
        let mouth = mouth.filter(|_| !config.microphone.is_device());
        let mouth = mouth.map(Recorder::create).transpose()?;
        let ear = match &config.speaker {
            SpeakerSpec::Wav { path } => Some(Recorder::create(path)?),
            _ => None,
        };
        let shared = Arc::new(Shared::default());
        let (events_sender, events) = mpsc::channel(EVENTS_MAX);
        let engine = Engine {
            path,
            microphone: Microphone::new(source, config.microphone.is_device(), mouth),
            speaker: Speaker::new(config.speaker.is_device(), ear),
            pulse,
            events: events_sender,
            shared: shared.clone(),
            clock: AudioClock::new(),
        };
        let thread = thread::Builder::new()
            .name("cooee-audio".into())
            .spawn(move || engine.run())
            .map_err(AudioError::Thread)?;
        Ok(Self { shared, events, thread: Some(thread), raised: RaisedProcess::new() })
    }

    /// The next event; `None` once the thread has ended. Cancel safe.
    pub async fn next_event(&mut self) -> Option<AudioEvent> {
        self.events.recv().await
    }

    /// The next event if one is waiting.
    pub fn try_next_event(&mut self) -> Option<AudioEvent> {
        self.events.try_recv().ok()
    }

    /// Figures as of the last 100 ms.
    pub fn statistics(&self) -> AudioStatistics {
        let shared = &self.shared;
        let rank = *shared.rank.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = shared.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AudioStatistics {
            priority: rank.unwrap_or(ThreadRank::Nice(0)),
            process_nice: self.raised.nice(),
            devices,
            microphone_level_dbfs: shared.microphone_level.dbfs(),
            speaker_level_dbfs: shared.speaker_level.dbfs(),
            speaker_gaps: shared.speaker_gaps.load(Ordering::Relaxed),
            headless_buffer_ms: milliseconds(shared.paced_buffer_ns.load(Ordering::Relaxed)),
            microphone_lost_ms: milliseconds(shared.microphone_lost_ns.load(Ordering::Relaxed)),
            recording_failed: shared.recording_failed.load(Ordering::Relaxed),
            cpu_percent: 100.0 * milliseconds(shared.cpu_ns.load(Ordering::Relaxed))
                / milliseconds(shared.running_ns.load(Ordering::Relaxed)).max(1.0),
        }
    }

    /// Stops the thread, waits for it and for the recordings; blocks for some milliseconds.
    pub fn stop(mut self) -> AudioStatistics {
        self.join();
        self.statistics()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for AudioLeg {
    fn drop(&mut self) {
        self.join();
    }
}

fn open_pulse(config: &AudioConfig) -> Result<Option<PulseSession>, AudioError> {
    let microphone = match &config.microphone {
        MicrophoneSpec::Default => Some(None),
        MicrophoneSpec::Device(name) => Some(Some(name.as_str())),
        _ => None,
    };
    let speaker = match &config.speaker {
        SpeakerSpec::Default => Some(None),
        SpeakerSpec::Device(name) => Some(Some(name.as_str())),
        _ => None,
    };
    let wanted = microphone.is_some() || speaker.is_some();
    wanted.then(|| PulseSession::open(microphone, speaker)).transpose()
}

fn milliseconds(ns: u64) -> f32 {
    #[allow(clippy::cast_precision_loss)]
    let ms = ns as f32 / 1e6;
    ms
}
