//! One call leg's sound: the handle by which the rest of the node steers the audio thread.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc;

use super::{
    AudioError,
    clock::AudioClock,
    engine::{Engine, Microphone, Speaker},
    path::SoundPath,
    priority::{RaisedProcess, ThreadRank},
    pulse::PulseSession,
    recorder::Recorder,
    shared::Shared,
    sources::Source,
    spec::{MicrophoneSpec, SpeakerSpec},
    statistics::{AudioEvent, AudioStatistics},
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
