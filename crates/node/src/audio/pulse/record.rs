//! The stream that captures.

use std::{ffi::CString, io};

use pulseaudio::protocol::{
    ChannelMap, Command, RecordStreamParams,
    stream::{BufferAttr, StreamFlags},
};

use super::{
    connection::Connection,
    stream::{Answer, Capturing, Stream, sample_spec, stream_props},
};
use crate::audio::clock::{BLOCK_SAMPLES, MonotonicNs};

/// Captured sound kept at most; older is dropped: 200 ms (chosen).
const STAGED_SAMPLES_MAX: usize = 9_600;

/// The server sends sound in pieces of this length: 5 ms (measured: 2.5 ms gains nothing with
/// a null sink's monitor, and doubles the wake-ups).
const FRAGMENT_SAMPLES: u32 = 240;

/// The record stream.
pub(super) struct Record {
    pub(super) stream: Stream<Capturing>,
    staged: Vec<f32>,
    pub(super) overruns: u64,
}

impl Record {
    pub(super) fn new(wanted: Option<CString>) -> Self {
        Self {
            stream: Stream::new(wanted),
            staged: Vec::with_capacity(2 * STAGED_SAMPLES_MAX),
            overruns: 0,
        }
    }

    /// Asks for the stream if it is time to.
    pub(super) fn create(&mut self, to: &mut Connection, now_ns: MonotonicNs) -> io::Result<()> {
        let Some(source_name) = self.stream.slot.device_to_ask(now_ns) else { return Ok(()) };
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
        self.stream.slot.handle_asked(sequence);
        Ok(())
    }

    /// An answer of the server; says whether it was this stream's.
    pub(super) fn handle_reply(&mut self, sequence: u32, body: &[u8], version: u16) -> bool {
        !matches!(self.stream.handle_reply(sequence, body, version), Answer::Foreign)
    }

    /// Captured sound.
    pub(super) fn handle_samples(&mut self, channel: u32, bytes: &[u8]) {
        if self.stream.slot.channel() != Some(channel) {
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
