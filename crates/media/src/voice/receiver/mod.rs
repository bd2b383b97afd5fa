//! The ear's end: packets in when they like, blocks of sound out when the device asks.
//!
//! [`handle_packet`](VoiceReceiver::handle_packet) unwraps, repairs and stores; nothing is decoded
//! before it is due. [`playout`](VoiceReceiver::playout) decodes as much as the block needs (in
//! `due`) and keeps the delay at its target.

mod due;

use std::time::Instant;

use super::{
    PAYLOAD_TYPE_BUNDLE, PAYLOAD_TYPE_OPUS, PAYLOAD_TYPE_REDUNDANT, ReceiverStatistics, VoiceConfig,
};
use crate::{
    VoicePacket,
    codec::{CodecError, DredState, OpusDecoder, SAMPLES_PER_MS, bundle::Bundle, opus},
    jitter::{
        buffer::{Content, FrameBuffer, Insertion},
        control::{Correction, PlayoutControl},
        delay::DelayEstimator,
        sound::{Direction, Place, SoundQueue},
    },
    loss::{Code, Payload, RepairWindow},
    rate::{Feedback, log::ArrivalLog},
};

/// A packet this far from the last one in sequence starts a new stream.
const SEQUENCE_JUMP_MAX: u64 = 3_000;

/// So does one that comes this much later than the quickest: the sender stood still meanwhile.
const TRANSIT_JUMP_MS: f64 = 3_000.0;

/// So does one whose timestamp is this far from the last: 10 s (after a hold, say).
const TIMESTAMP_JUMP_MAX: u32 = 10 * crate::codec::SAMPLE_RATE_HZ;

const SAMPLES_PER_MS_F64: f64 = SAMPLES_PER_MS as f64;

/// Where the stream stands.
struct Playing {
    /// Media time up to which sound was made.
    tail: i64,
    /// Packet number of the frame decoded last, and which of its Opus packets was the last.
    decoded: Option<(u64, usize)>,
    /// Samples of concealment played while media time stood still.
    debt: usize,
    /// Length of the frame decoded last.
    frame_samples: usize,
}

/// What a payload holds.
struct Unpacked<'a> {
    content: Content,
    /// The Opus packet, or the bundle.
    frame: &'a [u8],
    samples: usize,
    parity: Option<(Code, usize, &'a [u8])>,
}

impl<'a> Unpacked<'a> {
    /// `None` for what is not understood.
    fn of(packet: &'a VoicePacket) -> Option<Self> {
        let payload = &packet.payload[..];
        let (content, frame, parity) = match packet.payload_type {
            PAYLOAD_TYPE_OPUS => (Content::Opus, payload, None),
            PAYLOAD_TYPE_REDUNDANT => {
                let parsed = Payload::parse(payload).ok()?;
                let parity = (parsed.code, parsed.symbol_bytes, parsed.parity);
                (Content::Opus, parsed.frame, Some(parity))
            }
            PAYLOAD_TYPE_BUNDLE => (Content::Bundle, payload, None),
            _ => return None,
        };
        let samples = match content {
            Content::Opus => opus::packet_samples(frame).ok()?,
            Content::Bundle => Bundle::parse(frame).ok()?.samples(),
        };
        Some(Self { content, frame, samples, parity })
    }

    /// What parity may cover: bundles never are.
    fn covered(&self) -> &'a [u8] {
        match self.content {
            Content::Opus => self.frame,
            Content::Bundle => &[],
        }
    }
}

/// Turns packets into sound.
pub struct VoiceReceiver {
    config: VoiceConfig,
    decoder: OpusDecoder,
    deep: DredState,
    deep_of: Option<(u64, usize)>,
    buffer: FrameBuffer,
    repair: RepairWindow,
    delay: DelayEstimator,
    control: PlayoutControl,
    sound: SoundQueue,
    log: ArrivalLog,
    start: Option<Instant>,
    newest: Option<(u64, i64)>,
    playing: Option<Playing>,
    produced: u64,
    last_stretch: u64,
    /// Samples by which the delay is short of its target.
    deficit: i64,
    missed: MissedShare,
    statistics: ReceiverStatistics,
}

/// Share of frames concealed of late, for reports.
#[derive(Default)]
struct MissedShare {
    concealed: f64,
    all: f64,
}

impl MissedShare {
    fn add(&mut self, samples: usize, concealed: bool) {
        // Forgets with a time constant of 2 s.
        let keep = (-(samples as f64) / 96_000.0).exp();
        self.all = self.all * keep + samples as f64;
        self.concealed = self.concealed * keep + if concealed { samples as f64 } else { 0.0 };
    }

    fn get(&self) -> f64 {
        if self.all > 0.0 { self.concealed / self.all } else { 0.0 }
    }
}

impl VoiceReceiver {
    /// A receiver. Allocates all it will need.
    ///
    /// # Errors
    /// [`CodecError`] when the codec cannot be created or refuses the configuration.
    pub fn new(config: VoiceConfig) -> Result<Self, CodecError> {
        let mut decoder = OpusDecoder::new()?;
        decoder.set_complexity(config.decoder_complexity)?;
        Ok(Self {
            config,
            decoder,
            deep: DredState::new()?,
            deep_of: None,
            buffer: FrameBuffer::default(),
            repair: RepairWindow::default(),
            delay: DelayEstimator::default(),
            control: PlayoutControl::default(),
            sound: SoundQueue::default(),
            log: ArrivalLog::default(),
            start: None,
            newest: None,
            playing: None,
            produced: 0,
            last_stretch: 0,
            deficit: 0,
            missed: MissedShare::default(),
            statistics: ReceiverStatistics::default(),
        })
    }

    fn ms(&mut self, now: Instant) -> f64 {
        let start = *self.start.get_or_insert(now);
        now.saturating_duration_since(start).as_secs_f64() * 1e3
    }

    /// Takes a packet from the path.
    pub fn handle_packet(&mut self, now: Instant, packet: VoicePacket) {
        let now_ms = self.ms(now);
        let Some(unpacked) = Unpacked::of(&packet) else {
            self.statistics.malformed += 1;
            return;
        };
        let Unpacked { content, frame, samples, .. } = unpacked;
        let (number, timestamp) = self.unwrap(&packet);
        if self.repair.received(number) {
            self.statistics.duplicates += 1;
            return;
        }
        match self.buffer.insert(number, timestamp, samples, content, frame) {
            // A duplicate here was repaired before its own packet came, whose arrival still counts.
            Insertion::Kept | Insertion::Duplicate => {}
            Insertion::TooLong | Insertion::TooOld => return,
        }
        let frame_ms = samples as f64 / SAMPLES_PER_MS_F64;
        let transit_ms = now_ms - timestamp as f64 / SAMPLES_PER_MS_F64;
        if transit_ms - self.delay.base_ms() > TRANSIT_JUMP_MS {
            self.restart();
            self.newest = Some((number, timestamp));
            self.buffer.insert(number, timestamp, samples, content, frame);
        }
        self.delay.arrived(now_ms, transit_ms, frame_ms);
        self.statistics.packets += 1;
        self.count_lateness(timestamp + samples as i64);
        let queueing_ms = transit_ms - frame_ms - self.delay.base_ms();
        let wire_bytes = packet.payload.len() + self.config.overhead_bytes;
        self.log.arrived(now_ms, number, queueing_ms, wire_bytes);
        self.repair(now_ms, number, unpacked.covered(), unpacked.parity);
    }

    fn count_lateness(&mut self, end: i64) {
        if self.playing.as_ref().is_some_and(|playing| end <= playing.tail) {
            self.statistics.late += 1;
        }
    }

    fn repair(
        &mut self,
        now_ms: f64,
        number: u64,
        frame: &[u8],
        parity: Option<(Code, usize, &[u8])>,
    ) {
        let Self { repair, buffer, delay, statistics, playing, .. } = self;
        repair.receive(number, frame, parity, &mut |packet, frame| {
            let Ok(samples) = opus::packet_samples(frame) else { return };
            // Its time follows from a neighbour: frames of a stream follow each other without gap.
            let next = buffer.get(packet + 1).map(|next| next.timestamp - samples as i64);
            let timestamp = next.or_else(|| {
                let before = buffer.get(packet.checked_sub(1)?)?;
                Some(before.timestamp + before.samples as i64)
            });
            let timestamp = timestamp.or_else(|| {
                // Several lost in a row: counted from the packet that repaired them, whose frames
                // since then were as long as this one.
                let newest = buffer.get(number)?;
                Some(newest.timestamp - number.wrapping_sub(packet) as i64 * samples as i64)
            });
            let Some(timestamp) = timestamp else { return };
            if buffer.insert(packet, timestamp, samples, Content::Opus, frame) == Insertion::Kept {
                let frame_ms = samples as f64 / SAMPLES_PER_MS_F64;
                delay.repaired(now_ms - timestamp as f64 / SAMPLES_PER_MS_F64, frame_ms);
                let end = timestamp + samples as i64;
                if playing.as_ref().is_some_and(|playing| end <= playing.tail) {
                    statistics.late += 1;
                } else {
                    statistics.repaired += 1;
                }
            }
        });
    }

    /// Unwraps sequence number and timestamp; starts over when the stream did.
    fn unwrap(&mut self, packet: &VoicePacket) -> (u64, i64) {
        if let Some((number, timestamp)) = self.newest {
            let ahead = packet.sequence.wrapping_sub(number as u16) as i16;
            let elapsed = packet.timestamp.wrapping_sub(timestamp as u32) as i32;
            let continues = u64::from(ahead.unsigned_abs()) <= SEQUENCE_JUMP_MAX
                && elapsed.unsigned_abs() <= TIMESTAMP_JUMP_MAX;
            let unwrapped = number.checked_add_signed(i64::from(ahead));
            if let Some(unwrapped) = unwrapped.filter(|_| continues) {
                let timestamp = timestamp + i64::from(elapsed);
                if unwrapped > number {
                    self.statistics.lost += unwrapped - number - 1;
                    self.newest = Some((unwrapped, timestamp));
                } else if !self.repair.received(unwrapped) {
                    // It was counted as lost and was only out of order.
                    self.statistics.lost = self.statistics.lost.saturating_sub(1);
                }
                return (unwrapped, timestamp);
            }
            self.restart();
        }
        // Far from zero, so that numbers before the first one exist.
        let first =
            (u64::from(packet.sequence) + (1 << 32), i64::from(packet.timestamp) + (1 << 40));
        self.newest = Some(first);
        first
    }

    fn restart(&mut self) {
        self.buffer.clear();
        self.repair.clear();
        self.delay.clear();
        self.log = ArrivalLog::default();
        self.playing = None;
    }

    /// Fills a block for the device; `now` is when it asks.
    pub fn playout(&mut self, now: Instant, out: &mut [f32]) {
        let now_ms = self.ms(now);
        let block_ms = out.len() as f64 / SAMPLES_PER_MS_F64;
        let end_ms = self.produced as f64 / SAMPLES_PER_MS_F64 + block_ms;
        self.control.observe(now_ms, end_ms);
        self.begin();
        self.correct(out.len());
        if self.playing.is_some() {
            while self.sound.len() < self.sound.needed(out.len()) {
                self.decode_next();
            }
        }
        self.sound.pull(out);
        self.produced += out.len() as u64;
        self.statistics.played_samples += out.len() as u64;
        if self.playing.is_some() {
            let lag_ms = self.lag_ms();
            self.statistics.playout_delay_ms =
                self.control.device_ms() + lag_ms - self.delay.base_ms() + block_ms;
        }
    }

    /// Output time minus media time of the next sample to be played, in ms.
    fn lag_ms(&self) -> f64 {
        let Some(playing) = &self.playing else { return 0.0 };
        let media = playing.tail as f64 + playing.debt as f64 - self.sound.len() as f64;
        (self.produced as f64 - media) / SAMPLES_PER_MS_F64
    }

    fn target_ms(&self) -> f64 {
        let known = self.delay.target_ms() + self.config.margin_ms;
        // Before about 300 ms of packets the distribution says little.
        if self.delay.arrivals() < 20 { known + self.config.initial_slack_ms } else { known }
    }

    /// Starts to play when the first frame has come, at the right distance from it.
    fn begin(&mut self) {
        if self.playing.is_some() {
            return;
        }
        let Some(first) = self.buffer.next_from(i64::MIN / 2) else { return };
        // The slack the controller would see if the first sample came right now.
        let (timestamp, samples) = (first.timestamp, first.samples);
        let lag_ms = (self.produced as f64 - timestamp as f64) / SAMPLES_PER_MS_F64;
        let slack_ms = self.control.device_ms() + lag_ms - self.delay.base_ms();
        let wait_ms = (self.target_ms() - slack_ms).clamp(0.0, 500.0);
        let wait = (wait_ms * SAMPLES_PER_MS_F64) as usize;
        const SILENCE: [f32; 480] = [0.0; 480];
        self.sound.clear();
        for at in (0..wait).step_by(SILENCE.len()) {
            self.sound.push(&SILENCE[..(wait - at).min(SILENCE.len())]);
        }
        self.playing =
            Some(Playing { tail: timestamp, decoded: None, debt: 0, frame_samples: samples });
    }

    /// Keeps the slack at its target.
    fn correct(&mut self, block: usize) {
        if self.playing.is_none() {
            return;
        }
        let target_ms = self.target_ms();
        let correction = self.control.correct(self.lag_ms(), &self.delay, target_ms);
        self.statistics.target_ms = target_ms;
        self.statistics.slack_ms = self.control.slack_ms();
        let deficit_ms = (target_ms - self.control.slack_ms()).max(0.0);
        self.deficit = (deficit_ms * SAMPLES_PER_MS_F64) as i64;
        match correction {
            Correction::None => {}
            Correction::Slip(direction, samples) => {
                self.sound.start_slip(direction, samples);
            }
            Correction::Stretch(direction, place) => self.stretch(block, direction, place),
            Correction::Jump(ms) => {
                let samples = (ms * SAMPLES_PER_MS_F64) as usize;
                let skipped = self.sound.skip(samples);
                self.statistics.cut_samples += samples as u64;
                if let Some(playing) = &mut self.playing {
                    playing.tail += (samples - skipped) as i64;
                }
            }
        }
    }

    fn stretch(&mut self, block: usize, direction: Direction, place: Place) {
        // At most one period in 20 ms, or in 60 ms where it might be heard.
        let pause = if place == Place::WhereAlike { 60 } else { 20 } * SAMPLES_PER_MS as u64;
        if self.produced < self.last_stretch + pause {
            return;
        }
        while self.sound.len() < block.max(direction.samples_needed()) {
            let Some(playing) = &self.playing else { return };
            if self.buffer.next_from(playing.tail).is_none_or(|f| f.timestamp > playing.tail) {
                return;
            }
            self.decode_next();
        }
        let moved = self.sound.stretch(direction, place) as u64;
        if moved > 0 {
            self.last_stretch = self.produced;
            match direction {
                Direction::Shorter => self.statistics.cut_samples += moved,
                Direction::Longer => self.statistics.repeated_samples += moved,
            }
        }
    }

    /// The next report for the sender, when one is due.
    pub fn poll_feedback(&mut self, now: Instant) -> Option<Feedback> {
        let now_ms = self.ms(now);
        let mut feedback = self.log.poll(now_ms)?;
        feedback.missed = (self.missed.get() * 255.0).round() as u8;
        feedback.playout_delay_ms = self.statistics.playout_delay_ms.clamp(0.0, 65_535.0) as u16;
        Some(feedback)
    }

    /// Counts so far.
    pub fn statistics(&self) -> ReceiverStatistics {
        let mut statistics = self.statistics;
        statistics.jitter_ms = self.delay.jitter_ms();
        statistics.queued_ms = self.sound.len() as f64 / SAMPLES_PER_MS_F64;
        statistics
    }
}
