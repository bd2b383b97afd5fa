//! The stream that plays.

use std::{ffi::CString, io};

use pulseaudio::protocol::{
    ChannelMap, Command, PlaybackStreamParams, SetPlaybackStreamBufferAttrParams,
    stream::{BufferAttr, StreamFlags},
};

use super::{
    buffers::BufferLadder,
    connection::Connection,
    stream::{Answer, Playing, Stream, sample_spec, stream_props},
};
use crate::audio::clock::{BLOCK_SAMPLES, MonotonicNs};

const BLOCK_BYTES: u64 = BLOCK_SAMPLES as u64 * 4;

/// The playback stream.
pub(super) struct Playback {
    pub(super) stream: Stream<Playing>,
    ladder: BufferLadder,
    grow: bool,
    requested_bytes: u64,
    pub(super) underruns: u64,
}

impl Playback {
    pub(super) fn new(wanted: Option<CString>) -> Self {
        Self {
            stream: Stream::new(wanted),
            ladder: BufferLadder::default(),
            grow: false,
            requested_bytes: 0,
            underruns: 0,
        }
    }

    /// The latency asked of the server.
    pub(super) fn target_ms(&self) -> f32 {
        self.ladder.target_ms()
    }

    fn buffer_attr(&self) -> BufferAttr {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 80 ms
        let blocks = (self.ladder.target_ms() / 2.5) as u32;
        let block = BLOCK_SAMPLES as u32 * 4;
        BufferAttr {
            max_length: blocks * block * 4,
            target_length: blocks * block,
            // Play as soon as a block is there: a late block may not delay all later ones.
            pre_buffering: block,
            minimum_request_length: block,
            ..Default::default()
        }
    }

    /// Asks for the stream, or for a longer buffer, if it is time to.
    pub(super) fn create(&mut self, to: &mut Connection, now_ns: MonotonicNs) -> io::Result<()> {
        if let (true, Some(index)) = (std::mem::take(&mut self.grow), self.stream.slot.channel()) {
            to.send(&Command::SetPlaybackStreamBufferAttr(SetPlaybackStreamBufferAttrParams {
                index,
                buffer_attr: self.buffer_attr(),
                adjust_latency: true,
                early_requests: false,
            }))?;
        }
        let Some(sink_name) = self.stream.slot.device_to_ask(now_ns) else { return Ok(()) };
        let params = PlaybackStreamParams {
            sample_spec: sample_spec(),
            channel_map: ChannelMap::mono(),
            sink_name,
            buffer_attr: self.buffer_attr(),
            flags: StreamFlags { adjust_latency: true, ..Default::default() },
            props: stream_props(),
            ..Default::default()
        };
        let sequence = to.send(&Command::CreatePlaybackStream(params))?;
        self.stream.slot.handle_asked(sequence);
        Ok(())
    }

    /// An answer of the server; says whether it was this stream's.
    pub(super) fn handle_reply(
        &mut self,
        sequence: u32,
        body: &[u8],
        version: u16,
        now_ns: MonotonicNs,
    ) -> bool {
        match self.stream.handle_reply(sequence, body, version) {
            Answer::Foreign => false,
            Answer::Taken => true,
            Answer::Created(created) => {
                self.requested_bytes = u64::from(created.requested_bytes);
                self.ladder.handle_start(now_ns);
                true
            }
        }
    }

    /// The server has room for more.
    pub(super) fn handle_request(&mut self, channel: u32, bytes: u32) {
        if self.stream.slot.channel() == Some(channel) {
            self.requested_bytes += u64::from(bytes);
        }
    }

    /// The server had nothing to play.
    pub(super) fn handle_underflow(&mut self, channel: u32, now_ns: MonotonicNs) {
        if self.stream.slot.channel() == Some(channel) {
            self.underruns += 1;
            self.grow |= self.ladder.handle_underrun(now_ns);
        }
    }

    /// Whether the server has room for a block.
    pub(super) fn wants_block(&self) -> bool {
        self.stream.slot.channel().is_some() && self.requested_bytes >= BLOCK_BYTES
    }

    /// Plays a block that was wanted.
    pub(super) fn play(
        &mut self,
        to: &mut Connection,
        block: &[f32; BLOCK_SAMPLES],
    ) -> io::Result<()> {
        let Some(channel) = self.stream.slot.channel() else { return Ok(()) };
        self.requested_bytes = self.requested_bytes.saturating_sub(BLOCK_BYTES);
        to.send_samples(channel, block)
    }
}
