//! The sound of one call leg: voice engine, mute, hold, DTMF and echo on the audio thread.
//!
//! ```text
//!   microphone ─▶ echo? ─▶ Processor? ─▶ DTMF ─▶ mute ─▶ VoiceSender ─▶ link ─▶ network
//!   network ─▶ link ─▶ VoiceReceiver ─▶ hold ─▶ Processor? ─▶ speaker (and echo)
//! ```
//!
//! The processor (echo cancellation, noise suppression, gain control) works in blocks of 10 ms that
//! begin with the sender's frames, so that collecting them costs no time beyond the frame's own.
//!
//! On hold nothing is captured (the transport keeps its bindings alive by itself) and what
//! arrives is played to nobody.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cooee_media::{
    codec::CodecError,
    processing::{ProcessingConfig, Processor},
    rate::VoiceRate,
    session::PathDescription,
    voice::{ReceiverStatistics, SenderStatistics, VoiceConfig, VoiceReceiver, VoiceSender},
};
use rtrb::{Consumer, Producer, RingBuffer};

use super::{
    clock::{BLOCK_SAMPLES, nanoseconds, ns_to_samples},
    link::{AudioEnd, VoiceMessage},
    path::{Loop, SoundPath},
    tones::{DtmfDigit, DtmfPlayer, echo_prompt},
};

/// Digits on their way to the audio thread at most.
const DIGITS_MAX: usize = 32;

/// How often the voice engine's figures are published (chosen).
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Choices for a leg's voice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallSound {
    /// What is sent.
    pub sender: VoiceConfig,
    /// What is received.
    pub receiver: VoiceConfig,
    /// Instead of the microphone, send back what is heard so much later, after a prompt.
    pub echo: Option<Duration>,
    /// Clean up what the microphone hears; `None` where no air is between speaker and microphone.
    pub processing: Option<ProcessingConfig>,
}

/// The voice engine's figures of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VoiceStatistics {
    /// Mouth side.
    pub sender: SenderStatistics,
    /// Ear side.
    pub receiver: ReceiverStatistics,
    /// Messages towards the network that found its ring full.
    pub dropped_outgoing: u64,
    /// Messages from the network that found the audio thread's ring full.
    pub dropped_incoming: u64,
}

/// What the remote side takes from mouth to packet at least, in ms, until it tells: the encoder's
/// look-ahead. The frame itself is in the playout delay.
const CAPTURE_MS_MIN: f32 = 2.5;

impl VoiceStatistics {
    /// Estimate of the delay from the remote mouth to the local ear, in ms: the remote devices and
    /// encoder as reported, half a round trip, playout, and the local speaker's buffer; `None`
    /// before anything was heard.
    pub fn mouth_to_ear_ms(&self, round_trip_ms: f32, speaker_ms: f32) -> Option<f32> {
        let capture_ms = (self.sender.remote_capture_delay_ms as f32).max(CAPTURE_MS_MIN);
        let playout_ms = self.receiver.playout_delay_ms as f32;
        let heard = self.receiver.packets > 0;
        heard.then_some(capture_ms + round_trip_ms / 2.0 + playout_ms + speaker_ms)
    }
}

/// A leg's controls, for the call layer; cheap to ask, never waits for the audio thread.
pub struct CallControls {
    shared: Arc<Shared>,
    digits: Producer<DtmfDigit>,
}

#[derive(Default)]
struct Shared {
    muted: AtomicBool,
    held: AtomicBool,
    bundles: AtomicBool,
    statistics: Mutex<VoiceStatistics>,
}

impl CallControls {
    /// Sends silence instead of the microphone, or the microphone again.
    pub fn set_muted(&self, muted: bool) {
        self.shared.muted.store(muted, Ordering::Relaxed);
    }

    /// Whether the microphone is muted.
    pub fn is_muted(&self) -> bool {
        self.shared.muted.load(Ordering::Relaxed)
    }

    /// Stops sending and playing, or resumes.
    pub fn set_held(&self, held: bool) {
        self.shared.held.store(held, Ordering::Relaxed);
    }

    /// Whether the other side can play bundles; until it says so, none is sent.
    pub fn set_bundles(&self, taken: bool) {
        self.shared.bundles.store(taken, Ordering::Relaxed);
    }

    /// Sounds a digit instead of the microphone; false if too many are waiting.
    pub fn send_dtmf(&mut self, digit: DtmfDigit) -> bool {
        self.digits.push(digit).is_ok()
    }

    /// Figures as of the last 100 ms.
    pub fn statistics(&self) -> VoiceStatistics {
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The [`SoundPath`] of a call.
pub struct CallPath {
    mouth: Mouth,
    receiver: VoiceReceiver,
    shared: Arc<Shared>,
    digits: Consumer<DtmfDigit>,
    processor: Option<Processor>,
    echo: Option<Echo>,
    publish_at: Option<Instant>,
    microphone_ms: f32,
}

/// What happens to captured sound once it is clean.
struct Mouth {
    sender: VoiceSender,
    link: AudioEnd,
    dtmf: DtmfPlayer,
    /// The rate of which the network side was told last.
    told_rate: VoiceRate,
    path: Option<PathDescription>,
}

struct Echo {
    prompt: Vec<f32>,
    said: usize,
    heard: Loop,
}

impl CallPath {
    /// Makes the path and its controls. Allocates all that it will need.
    ///
    /// # Errors
    /// [`CodecError`] when the codec refuses the configuration.
    pub fn new(sound: CallSound, link: AudioEnd) -> Result<(Self, CallControls), CodecError> {
        let shared = Arc::new(Shared::default());
        let (producer, digits) = RingBuffer::new(DIGITS_MAX);
        let controls = CallControls { shared: shared.clone(), digits: producer };
        let path = Self {
            mouth: Mouth {
                sender: VoiceSender::new(sound.sender)?,
                link,
                dtmf: DtmfPlayer::new(),
                told_rate: VoiceRate::default(),
                path: None,
            },
            receiver: VoiceReceiver::new(sound.receiver)?,
            shared,
            digits,
            processor: sound.processing.map(Processor::new),
            echo: sound.echo.map(Echo::new),
            publish_at: None,
            microphone_ms: 0.0,
        };
        Ok((path, controls))
    }

    /// From the mouth until a packet's last sample is encoded.
    fn capture_delay_ms(&self) -> u8 {
        let processing_ms = self.processor.as_ref().map_or(0.0, Processor::delay_ms);
        let ms = self.microphone_ms + processing_ms + self.mouth.sender.look_ahead_ms() as f32;
        ms.round().clamp(1.0, 255.0) as u8
    }

    fn statistics(&self) -> VoiceStatistics {
        let dropped = self.mouth.link.dropped();
        VoiceStatistics {
            sender: self.mouth.sender.statistics(),
            receiver: self.receiver.statistics(),
            dropped_outgoing: dropped.outgoing(),
            dropped_incoming: dropped.incoming(),
        }
    }
}

impl SoundPath for CallPath {
    fn exchange(&mut self, now: Instant) {
        while let Some((arrived, message)) = self.mouth.link.receive() {
            match message {
                // The clock may have been read before the message was stamped.
                VoiceMessage::Packet(packet) => {
                    self.receiver.handle_packet(arrived.min(now), packet);
                }
                VoiceMessage::Feedback(feedback) => {
                    self.mouth.sender.handle_feedback(now, &feedback);
                }
                VoiceMessage::Path(path) => self.mouth.take_path(path),
                VoiceMessage::Start(bits_per_s) => self.mouth.sender.start_at(bits_per_s),
                VoiceMessage::Rate(_) => {}
            }
        }
        self.mouth.sender.set_bundles(self.shared.bundles.load(Ordering::Relaxed));
        while let Ok(digit) = self.digits.pop() {
            let _ = self.mouth.dtmf.push(digit);
        }
    }

    fn capture(&mut self, now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        if let Some(echo) = &mut self.echo {
            echo.say(block);
        }
        let held = self.shared.held.load(Ordering::Relaxed);
        let muted = self.shared.muted.load(Ordering::Relaxed);
        let mouth = &mut self.mouth;
        let Some(processor) = &mut self.processor else {
            mouth.say(now, held, muted, block);
            return;
        };
        // Also on hold, so that the canceller keeps track of the room.
        processor.capture(block, &mut |clean| {
            for clean in clean.as_chunks::<BLOCK_SAMPLES>().0 {
                mouth.say(now, held, muted, &mut clean.clone());
            }
        });
    }

    fn playout(&mut self, now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        self.receiver.playout(now, block);
        if self.shared.held.load(Ordering::Relaxed) {
            block.fill(0.0);
        }
        if let Some(processor) = &mut self.processor {
            processor.render(block);
        }
        if let Some(echo) = &mut self.echo {
            echo.heard.push(block);
        }
    }

    fn set_microphone_delay(&mut self, ms: f32) {
        self.microphone_ms = ms;
    }

    fn finish(&mut self, now: Instant) {
        if let Some(mut feedback) = self.receiver.poll_feedback(now) {
            feedback.capture_delay_ms = self.capture_delay_ms();
            self.mouth.link.send(VoiceMessage::Feedback(feedback));
        }
        self.mouth.link.wake();
        if self.publish_at.is_none_or(|at| now >= at) {
            self.publish_at = Some(now + PUBLISH_INTERVAL);
            let statistics = self.statistics();
            if let Ok(mut published) = self.shared.statistics.try_lock() {
                *published = statistics;
            }
        }
    }
}

impl Mouth {
    /// What rate control learnt of one path does not hold on the next.
    fn take_path(&mut self, path: PathDescription) {
        let old = self.path.replace(path);
        if old == Some(path) {
            return;
        }
        if old.is_some() {
            self.sender.path_changed();
        }
        self.sender.set_overhead_bytes(path.kind.overhead_bytes(path.remote.is_ipv4()));
    }

    fn say(&mut self, now: Instant, held: bool, muted: bool, block: &mut [f32; BLOCK_SAMPLES]) {
        if held {
            self.sender.skip(block.len());
            return;
        }
        if !self.dtmf.replace(block) && muted {
            block.fill(0.0);
        }
        let link = &mut self.link;
        let rate = self.sender.wire_rate();
        if rate != self.told_rate {
            link.send(VoiceMessage::Rate(rate));
            self.told_rate = rate;
        }
        self.sender.capture(now, block, &mut |packet| link.send(VoiceMessage::Packet(packet)));
    }
}

impl Echo {
    fn new(delay: Duration) -> Self {
        let delay_samples = usize::try_from(ns_to_samples(nanoseconds(delay)));
        let heard = Loop::new(delay_samples.unwrap_or(usize::MAX));
        Self { prompt: echo_prompt(), said: 0, heard }
    }

    fn say(&mut self, block: &mut [f32; BLOCK_SAMPLES]) {
        self.heard.pull(block);
        if let Some(prompt) = self.prompt.get(self.said..self.said + BLOCK_SAMPLES) {
            block.copy_from_slice(prompt);
            self.said += BLOCK_SAMPLES;
        }
    }
}
