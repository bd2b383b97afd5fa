//! What the capturing and the playing stream have in common: which device they are on, how they
//! change it, and how old their sound is.

use std::{ffi::CString, io, marker::PhantomData};

use pulseaudio::protocol::{
    Command, CommandReply, CreatePlaybackStreamReply, CreateRecordStreamReply, LatencyParams,
    PlaybackLatency, Prop, Props, RecordLatency, SampleFormat, SampleSpec,
};

use super::{
    connection::{Connection, parse_reply},
    slot::StreamSlot,
};
use crate::audio::clock::{MonotonicNs, SAMPLE_RATE_HZ};

/// Bytes of a millisecond of mono floats at 48 kHz.
const BYTES_PER_MS: f32 = 192.0;

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

/// What differs in the server's protocol between the two directions.
pub(super) trait Direction {
    /// The answer to the creation of a stream.
    type Created: CommandReply;
    /// The answer about its latency.
    type Latency: CommandReply;

    fn delete(channel: u32) -> Command;
    fn ask_latency(params: LatencyParams) -> Command;
    fn look_up(device: CString) -> Command;
    fn channel_and_device(created: &Self::Created) -> (u32, Option<CString>);
    /// Microseconds in the device, and the positions of writer and reader in the buffer.
    fn latency(latency: &Self::Latency) -> (u64, i64, i64);
}

/// From a microphone.
pub(super) struct Capturing;

/// To a speaker.
pub(super) struct Playing;

impl Direction for Capturing {
    type Created = CreateRecordStreamReply;
    type Latency = RecordLatency;

    fn delete(channel: u32) -> Command {
        Command::DeleteRecordStream(channel)
    }

    fn ask_latency(params: LatencyParams) -> Command {
        Command::GetRecordLatency(params)
    }

    fn look_up(device: CString) -> Command {
        Command::LookupSource(device)
    }

    fn channel_and_device(created: &Self::Created) -> (u32, Option<CString>) {
        (created.channel, created.sink_name.clone())
    }

    fn latency(latency: &Self::Latency) -> (u64, i64, i64) {
        (latency.source_usec, latency.write_offset, latency.read_offset)
    }
}

impl Direction for Playing {
    type Created = CreatePlaybackStreamReply;
    type Latency = PlaybackLatency;

    fn delete(channel: u32) -> Command {
        Command::DeletePlaybackStream(channel)
    }

    fn ask_latency(params: LatencyParams) -> Command {
        Command::GetPlaybackLatency(params)
    }

    fn look_up(device: CString) -> Command {
        Command::LookupSink(device)
    }

    fn channel_and_device(created: &Self::Created) -> (u32, Option<CString>) {
        (created.channel, created.sink_name.clone())
    }

    fn latency(latency: &Self::Latency) -> (u64, i64, i64) {
        (latency.sink_usec, latency.write_offset, latency.read_offset)
    }
}

/// Whether an answer of the server was for a stream.
pub(super) enum Answer<C> {
    /// For somebody else.
    Foreign,
    /// For it, and dealt with.
    Taken,
    /// The stream runs.
    Created(C),
}

/// A stream of either direction.
pub(super) struct Stream<D> {
    pub(super) slot: StreamSlot,
    pub(super) latency_ms: f32,
    /// The device to be on is another one, and there.
    moves: bool,
    latency_query: Option<u32>,
    direction: PhantomData<D>,
}

impl<D: Direction> Stream<D> {
    /// Wants the named device, or the default.
    pub(super) fn new(wanted: Option<CString>) -> Self {
        Self {
            slot: StreamSlot::new(wanted),
            latency_ms: 0.0,
            moves: false,
            latency_query: None,
            direction: PhantomData,
        }
    }

    /// A stream on the default device moves when that is another one.
    pub(super) fn follow_default(&mut self, default: Option<&std::ffi::CStr>) {
        self.moves |= self.slot.follows_default(default);
    }

    /// Gives the stream up if its device is to change, and looks for a device that was away.
    pub(super) fn look_after(
        &mut self,
        to: &mut Connection,
        now_ns: MonotonicNs,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.moves) {
            if let Some(channel) = self.slot.channel() {
                to.send(&D::delete(channel))?;
            }
            self.slot.handle_lost(now_ns);
        }
        if let Some(device) = self.slot.take_lookup() {
            let sequence = to.send(&D::look_up(device))?;
            self.slot.handle_lookup_sent(sequence);
        }
        Ok(())
    }

    /// Asks how old its sound is.
    pub(super) fn ask_latency(&mut self, to: &mut Connection) -> io::Result<()> {
        let Some(channel) = self.slot.channel() else { return Ok(()) };
        let now = std::time::SystemTime::now();
        self.latency_query = Some(to.send(&D::ask_latency(LatencyParams { channel, now }))?);
        Ok(())
    }

    /// An answer of the server.
    pub(super) fn handle_reply(
        &mut self,
        sequence: u32,
        body: &[u8],
        version: u16,
    ) -> Answer<D::Created> {
        if self.slot.is_asking(sequence) {
            return match parse_reply::<D::Created>(body, version) {
                Ok(created) => {
                    let (channel, device) = D::channel_and_device(&created);
                    self.slot.handle_created(channel, device);
                    Answer::Created(created)
                }
                Err(error) => {
                    tracing::warn!(%error, "the sound server's answer makes no sense");
                    self.slot.handle_refused(MonotonicNs::MAX / 2);
                    Answer::Taken
                }
            };
        }
        if self.latency_query == Some(sequence) {
            self.latency_query = None;
            if let Ok(latency) = parse_reply::<D::Latency>(body, version) {
                self.latency_ms = latency_ms(D::latency(&latency));
            }
            return Answer::Taken;
        }
        if self.slot.take_lookup_answer(sequence) {
            self.moves = true;
            return Answer::Taken;
        }
        Answer::Foreign
    }
}

#[allow(clippy::cast_precision_loss)]
fn latency_ms((device_us, written, read): (u64, i64, i64)) -> f32 {
    device_us as f32 / 1_000.0 + (written - read).max(0) as f32 / BYTES_PER_MS
}
