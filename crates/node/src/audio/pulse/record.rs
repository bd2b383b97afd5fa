//! The stream that captures.

use std::{ffi::CString, io};

use pulseaudio::protocol::{
    ChannelMap, Command, CreateRecordStreamReply, Prop, Props, RecordLatency, RecordStreamParams,
    SampleFormat, SampleSpec,
    stream::{BufferAttr, StreamFlags},
};

use super::{
    connection::{Connection, parse_reply},
    slot::StreamSlot,
};
use crate::audio::clock::{BLOCK_SAMPLES, MonotonicNs, SAMPLE_RATE_HZ};

/// Captured sound kept at most; older is dropped: 200 ms (chosen).
const STAGED_SAMPLES_MAX: usize = 9_600;

/// The server sends sound in pieces of this length: 5 ms (measured: 2.5 ms gains nothing with
/// a null sink's monitor, and doubles the wake-ups).
const FRAGMENT_SAMPLES: u32 = 240;

/// The record stream.
pub(super) struct Record {
    pub(super) slot: StreamSlot,
    /// The wanted device can be moved to.
    pub(super) wanted_is_back: bool,
    staged: Vec<f32>,
    latency_query: Option<u32>,
    pub(super) latency_ms: f32,
    pub(super) overruns: u64,
}

/// 48 kHz mono floats, as the voice engine has them.
pub(super) fn sample_spec() -> SampleSpec {
    SampleSpec { format: SampleFormat::Float32Le, channels: 1, sample_rate: SAMPLE_RATE_HZ }
}

/// What the sound server's mixer shows for a stream.
pub(super) fn stream_props() -> Props {
    let mut props = Props::new();
    props.set(Prop::MediaName, c"call");
    props.set(Prop::MediaRole, c"phone");
    props
}

impl Record {
    pub(super) fn new(wanted: Option<CString>) -> Self {
        Self {
            slot: StreamSlot::new(wanted),
            wanted_is_back: false,
            staged: Vec::with_capacity(2 * STAGED_SAMPLES_MAX),
            latency_query: None,
            latency_ms: 0.0,
            overruns: 0,
        }
    }

    /// Asks for the stream if it is time to.
    pub(super) fn create(&mut self, to: &mut Connection, now_ns: MonotonicNs) -> io::Result<()> {
        let Some(source_name) = self.slot.device_to_ask(now_ns) else { return Ok(()) };
        self.staged.clear();
        let params = RecordStreamParams {
            sample_spec: sample_spec(),
            channel_map: ChannelMap::mono(),
            source_name,
            buffer_attr: BufferAttr { fragment_size: FRAGMENT_SAMPLES * 4, ..Default::default() },
            flags: StreamFlags { adjust_latency: true, ..Default::default() },
            props: stream_props(),
            ..Default::default()
        };
        let sequence = to.send(&Command::CreateRecordStream(params))?;
        self.slot.handle_asked(sequence);
        Ok(())
    }

    /// Gives the stream up; another is asked for.
    pub(super) fn replace(&mut self, to: &mut Connection, now_ns: MonotonicNs) -> io::Result<()> {
        if let Some(channel) = self.slot.channel() {
            to.send(&Command::DeleteRecordStream(channel))?;
        }
        self.slot.handle_lost(now_ns);
        Ok(())
    }

    /// Asks how old captured sound is.
    pub(super) fn ask_latency(&mut self, to: &mut Connection) -> io::Result<()> {
        let Some(channel) = self.slot.channel() else { return Ok(()) };
        let now = std::time::SystemTime::now();
        let query = Command::GetRecordLatency(pulseaudio::protocol::LatencyParams { channel, now });
        self.latency_query = Some(to.send(&query)?);
        Ok(())
    }

    /// An answer of the server; says whether it was this stream's.
    pub(super) fn handle_reply(&mut self, sequence: u32, body: &[u8], version: u16) -> bool {
        if self.slot.is_asking(sequence) {
            match parse_reply::<CreateRecordStreamReply>(body, version) {
                Ok(reply) => self.slot.handle_created(reply.channel, reply.sink_name),
                Err(error) => {
                    tracing::warn!(%error, "the sound server's answer makes no sense");
                    self.slot.handle_refused(MonotonicNs::MAX / 2);
                }
            }
            return true;
        }
        if self.latency_query == Some(sequence) {
            self.latency_query = None;
            if let Ok(latency) = parse_reply::<RecordLatency>(body, version) {
                self.latency_ms = milliseconds(latency.source_usec)
                    + buffered_ms(latency.write_offset, latency.read_offset);
            }
            return true;
        }
        false
    }

    /// Captured sound.
    pub(super) fn handle_samples(&mut self, channel: u32, bytes: &[u8]) {
        if self.slot.channel() != Some(channel) {
            return;
        }
        let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let room = self.staged.capacity() - self.staged.len();
        self.staged.extend(floats.take(room)); // within capacity: no allocation
        if self.staged.len() > STAGED_SAMPLES_MAX {
            let excess = self.staged.len() - STAGED_SAMPLES_MAX;
            self.staged.drain(..excess);
            self.overruns += 1;
        }
    }

    /// The oldest whole block, if there is one.
    pub(super) fn take_block(&mut self, block: &mut [f32; BLOCK_SAMPLES]) -> bool {
        let Some(oldest) = self.staged.get(..BLOCK_SAMPLES) else { return false };
        block.copy_from_slice(oldest);
        self.staged.drain(..BLOCK_SAMPLES);
        true
    }
}

pub(super) fn milliseconds(microseconds: u64) -> f32 {
    #[allow(clippy::cast_precision_loss)]
    let ms = microseconds as f32 / 1_000.0;
    ms
}

/// Bytes between two positions of a mono float stream at 48 kHz, in milliseconds.
pub(super) fn buffered_ms(write_offset: i64, read_offset: i64) -> f32 {
    #[allow(clippy::cast_precision_loss)]
    let bytes = (write_offset - read_offset).max(0) as f32;
    bytes / 192.0
}
