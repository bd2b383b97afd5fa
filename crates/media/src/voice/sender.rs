//! The mouth's end: blocks of sound in, packets out.
//!
//! Sound collects until a frame is complete; the frame is encoded at the operating point that
//! [`crate::rate`] holds for the path, and leaves with parity of earlier frames if the point asks
//! for it. Two encoders stand ready, one of low delay and one for speech: the one that was idle is
//! first fed the last frame, so that the change is not heard.

use std::time::Instant;

use super::{
    PAYLOAD_BYTES_MAX, PAYLOAD_TYPE_BUNDLE, PAYLOAD_TYPE_OPUS, PAYLOAD_TYPE_REDUNDANT,
    SenderStatistics, VoiceConfig, config::OperatingPoint, pool::PayloadPool,
};
use crate::{
    VoicePacket,
    codec::{
        Application, Bandwidth, CodecError, FRAME_SAMPLES_MAX, OpusEncoder,
        bundle::{BUNDLED_BYTES_MAX, BUNDLED_MAX, Bundler},
    },
    loss::{COVERED_FRAME_BYTES_MAX, Payload, SendWindow},
    rate::{Feedback, RateControl, VoiceRate},
};

/// The last frame's end that a newly chosen encoder hears first: 20 ms.
const PRIMING_SAMPLES: usize = 960;

/// Change of loss, in percent, from which the encoder is told.
const LOSS_STEP_PERCENT: u8 = 4;

/// Below this rate of the codec, 8 kHz are asked for. libopus itself codes at most 6 kHz below
/// 8 kbit/s and 4 kHz below 7 kbit/s, counted in what one of its frames may be long at most.
const WIDE_BITS_PER_S_MAX: u32 = 12_000;

/// Turns sound into packets.
pub struct VoiceSender {
    config: VoiceConfig,
    low_delay: OpusEncoder,
    speech: OpusEncoder,
    point: OperatingPoint,
    rate: RateControl,
    window: SendWindow,
    bundler: Bundler,
    /// Timestamp of the first packet in it.
    bundle_timestamp: u32,
    pool: PayloadPool,
    /// [`PRIMING_SAMPLES`] of the past, then the frame being collected.
    sound: Vec<f32>,
    packet: u64,
    timestamp: u32,
    talking: bool,
    /// Loss in percent that the encoder was told of.
    applied_loss: u8,
    statistics: SenderStatistics,
}

impl VoiceSender {
    /// A sender. Allocates all it will need.
    ///
    /// # Errors
    /// [`CodecError`] when the codec cannot be created or refuses the configuration.
    pub fn new(config: VoiceConfig) -> Result<Self, CodecError> {
        let rate = RateControl::new(&config);
        let point = config.fixed.unwrap_or_else(|| rate.point());
        let mut sender = Self {
            low_delay: OpusEncoder::new(Application::LowDelay)?,
            speech: OpusEncoder::new(Application::Audio)?,
            point,
            rate,
            window: SendWindow::default(),
            bundler: Bundler::default(),
            bundle_timestamp: 0,
            pool: PayloadPool::default(),
            sound: Vec::with_capacity(PRIMING_SAMPLES + FRAME_SAMPLES_MAX),
            // 2^16 packets before the first: earlier numbers exist, so nothing can underflow.
            packet: u64::from(config.initial_sequence) + 65_536,
            timestamp: config.initial_timestamp,
            talking: false,
            applied_loss: 0,
            statistics: SenderStatistics::default(),
            config,
        };
        sender.sound.resize(PRIMING_SAMPLES, 0.0);
        for encoder in [&mut sender.low_delay, &mut sender.speech] {
            encoder.set_variable_bit_rate(config.variable_bit_rate)?;
            encoder.set_complexity(config.encoder_complexity)?;
            encoder.set_voice(true)?;
        }
        sender.apply_point()?;
        Ok(sender)
    }

    /// Takes captured sound (any length) and emits a packet for each frame that it completes.
    pub fn capture(&mut self, now: Instant, sound: &[f32], emit: &mut dyn FnMut(VoicePacket)) {
        let mut rest = sound;
        while !rest.is_empty() {
            let frame = self.point.frame.samples();
            let wanted = PRIMING_SAMPLES + frame - self.sound.len().min(PRIMING_SAMPLES + frame);
            let (taken, left) = rest.split_at(wanted.min(rest.len()));
            self.sound.extend_from_slice(taken);
            rest = left;
            if self.sound.len() >= PRIMING_SAMPLES + frame {
                self.emit_frame(now, frame, emit);
                self.sound.drain(..frame);
                self.change_point();
            }
        }
    }

    /// Lets `samples` of time pass without sending, as on hold. The timestamp goes on (RFC 3550
    /// section 5.1), so that the receiver's delay does not grow by the pause.
    pub fn skip(&mut self, samples: usize) {
        let kept = self.sound.len().min(PRIMING_SAMPLES);
        let unsent = self.sound.len() - kept;
        self.sound.truncate(kept);
        self.timestamp = self.timestamp.wrapping_add((unsent + samples) as u32);
        self.talking = false;
        self.bundler.clear();
    }

    /// Takes a report of the receiver.
    pub fn handle_feedback(&mut self, now: Instant, feedback: &Feedback) {
        self.rate.handle_feedback(now, feedback);
    }

    /// Says what each packet costs on the path now in use, in header bytes.
    pub fn set_overhead_bytes(&mut self, overhead_bytes: usize) {
        self.config.overhead_bytes = overhead_bytes;
        self.rate.set_overhead_bytes(overhead_bytes);
    }

    /// The handshake told of little room: start with so many bit/s on the wire.
    pub fn start_at(&mut self, bits_per_s: u32) {
        self.rate.start_at(bits_per_s);
    }

    /// Whether the other side can play bundles; until it says so, none is sent.
    pub fn set_bundles(&mut self, taken: bool) {
        self.rate.set_bundles(taken);
    }

    /// The path changed: what was learnt of the old one no longer holds.
    pub fn path_changed(&mut self) {
        self.rate.path_changed();
    }

    /// The point of operation in use.
    pub fn operating_point(&self) -> OperatingPoint {
        self.point
    }

    /// What the voice may take on the wire, headers included.
    pub fn wire_rate(&self) -> VoiceRate {
        match self.config.fixed {
            Some(point) => {
                let bits_per_s = point.wire_bits_per_s(self.config.overhead_bytes);
                VoiceRate { bits_per_s, has_queue: false }
            }
            None => self.rate.wire_rate(),
        }
    }

    /// Counts so far.
    pub fn statistics(&self) -> SenderStatistics {
        let mut statistics = self.statistics;
        self.rate.report(&mut statistics);
        statistics.mouth_to_ear_ms = statistics.round_trip_ms.map(|round_trip_ms| {
            self.look_ahead_ms() + round_trip_ms / 2.0 + statistics.remote_playout_delay_ms
        });
        statistics
    }

    /// By so much the encoder's sound lags what it is given, in ms.
    pub fn look_ahead_ms(&self) -> f64 {
        match self.point.application {
            Application::LowDelay => 2.5,
            Application::Voip | Application::Audio => 6.5,
        }
    }

    fn encoder(&mut self) -> &mut OpusEncoder {
        match self.point.application {
            Application::LowDelay => &mut self.low_delay,
            Application::Voip | Application::Audio => &mut self.speech,
        }
    }

    fn emit_frame(&mut self, now: Instant, frame: usize, emit: &mut dyn FnMut(VoicePacket)) {
        let mut opus = [0; PAYLOAD_BYTES_MAX];
        let frame_bytes = self.point.frame_bytes().min(PAYLOAD_BYTES_MAX - 1);
        let sound = &self.sound[PRIMING_SAMPLES..PRIMING_SAMPLES + frame];
        let encoder = match self.point.application {
            Application::LowDelay => &mut self.low_delay,
            Application::Voip | Application::Audio => &mut self.speech,
        };
        let limit = if self.config.variable_bit_rate { opus.len() } else { frame_bytes };
        match encoder.encode(sound, &mut opus[..limit]) {
            Ok(bytes) => self.send_frame(now, &opus[..bytes], emit),
            Err(_) => {
                self.statistics.encode_errors += 1;
                // What follows does not follow without a gap.
                self.send_bundle(now, emit);
            }
        }
        self.timestamp = self.timestamp.wrapping_add(frame as u32);
    }

    /// Sends a frame, alone or when its bundle is complete.
    fn send_frame(&mut self, now: Instant, opus: &[u8], emit: &mut dyn FnMut(VoicePacket)) {
        let wanted = usize::from(self.point.bundled).min(BUNDLED_MAX);
        if wanted > 1 && opus.len() <= BUNDLED_BYTES_MAX {
            if self.bundler.is_empty() {
                self.bundle_timestamp = self.timestamp;
            }
            self.bundler.push(opus);
            if self.bundler.len() >= wanted {
                self.send_bundle(now, emit);
            }
            return;
        }
        self.send_bundle(now, emit);
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let redundant = self.add_redundancy(opus, &mut payload);
        let (payload_type, payload) = match redundant {
            Some(length) => (PAYLOAD_TYPE_REDUNDANT, &payload[..length]),
            None => (PAYLOAD_TYPE_OPUS, opus),
        };
        self.window.remember(self.packet, opus);
        self.send(now, self.timestamp, (payload_type, payload), emit);
    }

    /// Sends what is collected of a bundle, if anything is. Parity never covers bundles: the window
    /// ends where a packet was not remembered.
    fn send_bundle(&mut self, now: Instant, emit: &mut dyn FnMut(VoicePacket)) {
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        if let Some(length) = self.bundler.write(&mut payload) {
            let payload = (PAYLOAD_TYPE_BUNDLE, &payload[..length]);
            self.send(now, self.bundle_timestamp, payload, emit);
        }
    }

    fn send(
        &mut self,
        now: Instant,
        timestamp: u32,
        (payload_type, payload): (u8, &[u8]),
        emit: &mut dyn FnMut(VoicePacket),
    ) {
        let packet = VoicePacket {
            sequence: self.packet as u16,
            timestamp,
            payload_type,
            marker: !self.talking,
            payload: self.pool.payload(payload),
        };
        self.talking = true;
        self.statistics.packets += 1;
        self.statistics.payload_bytes += packet.payload.len() as u64;
        self.rate.sent(now, packet.sequence, packet.payload.len());
        self.packet += 1;
        emit(packet);
    }

    /// Writes frame and parity; `None` when the frame goes out alone.
    fn add_redundancy(&self, frame: &[u8], payload: &mut [u8]) -> Option<usize> {
        if frame.len() > COVERED_FRAME_BYTES_MAX {
            return None;
        }
        let code = self.window.usable(self.point.code?, self.packet)?;
        let symbol_bytes = self.window.symbol_bytes(code, self.packet);
        let at = Payload::write_head(code, frame, symbol_bytes, payload)?;
        let end = at + usize::from(code.parity) * symbol_bytes;
        self.window.write_parity(code, self.packet, symbol_bytes, &mut payload[at..end]);
        Some(end)
    }

    /// Between packets: goes to the point that the rate control asks for now.
    fn change_point(&mut self) {
        let wanted = self.config.fixed.unwrap_or_else(|| self.rate.point());
        let loss_moved = self.expected_loss().abs_diff(self.applied_loss) >= LOSS_STEP_PERCENT;
        if wanted == self.point && !loss_moved || !self.bundler.is_empty() {
            return;
        }
        let primed = wanted.application != self.point.application;
        self.point = wanted;
        // Settings in range are never refused; a refusal would leave the old setting in place.
        let _ = self.apply_point();
        if primed {
            let mut past = [0.0; PRIMING_SAMPLES];
            past.copy_from_slice(&self.sound[..PRIMING_SAMPLES]);
            let mut discarded = [0; PAYLOAD_BYTES_MAX];
            let encoder = self.encoder();
            let _ = encoder.reset();
            let _ = encoder.encode(&past, &mut discarded);
        }
    }

    /// Loss on the path in percent.
    fn expected_loss(&self) -> u8 {
        (self.rate.path_loss() * 100.0).clamp(0.0, 100.0) as u8
    }

    fn apply_point(&mut self) -> Result<(), CodecError> {
        let point = self.point;
        let expected_loss = self.expected_loss();
        self.applied_loss = expected_loss;
        let encoder = self.encoder();
        encoder.set_bit_rate(point.codec_bits_per_s)?;
        encoder.set_in_band_redundancy(point.in_band)?;
        encoder.set_deep_redundancy(point.deep_10ms)?;
        let uncovered = if point.code.is_some() { expected_loss / 4 } else { expected_loss };
        encoder.set_expected_loss(uncovered)?;
        encoder.set_bandwidth(match point.application {
            Application::LowDelay if point.codec_bits_per_s >= 28_000 => Some(Bandwidth::Full),
            // The encoder's own choice would stay at 4 kHz when the rate rises again.
            _ if point.codec_bits_per_s < WIDE_BITS_PER_S_MAX => Some(Bandwidth::Wide),
            _ => None,
        })
    }
}
