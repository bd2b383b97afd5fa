//! The audio thread's sound server: both streams on one connection, replaced when it dies.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use pulseaudio::protocol::{Command, ServerInfo, SubscriptionEventFacility, SubscriptionMask};

use super::{
    connection::{Connection, Incoming, parse_reply},
    playback::Playback,
    record::Record,
};
use crate::audio::{
    AudioError, AudioEvent, DeviceStatistics,
    clock::{BLOCK_SAMPLES, MonotonicNs},
};

/// While the server is away it is looked for this often (chosen).
const RECONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// How often latencies are asked for (chosen).
const LATENCY_INTERVAL_NS: u64 = 1_000_000_000;

/// Both streams and their connection.
pub(in crate::audio) struct PulseSession {
    connection: Option<Connection>,
    returning: Option<Returning>,
    record: Option<Record>,
    playback: Option<Playback>,
    default_query: Option<u32>,
    defaults_changed: bool,
    latency_at_ns: MonotonicNs,
}

/// A thread looking for the server; it ends when this is dropped.
struct Returning {
    found: Receiver<Connection>,
    _alive: Arc<()>,
}

impl PulseSession {
    /// Connects; `None` is no stream, `Some(None)` the default device. Blocks for at most some
    /// seconds.
    pub(in crate::audio) fn open(
        microphone: Option<Option<&str>>,
        speaker: Option<Option<&str>>,
    ) -> Result<Self, AudioError> {
        let name = |name: &str| {
            CString::new(name).map_err(|_| AudioError::DeviceName { name: name.to_owned() })
        };
        let record = microphone.map(|n| n.map(name).transpose()).transpose()?.map(Record::new);
        let playback = speaker.map(|n| n.map(name).transpose()).transpose()?.map(Playback::new);
        let mut session = Self {
            connection: None,
            returning: None,
            record,
            playback,
            default_query: None,
            defaults_changed: false,
            latency_at_ns: 0,
        };
        session.attach(Connection::open()?).map_err(AudioError::Thread)?;
        Ok(session)
    }

    fn attach(&mut self, mut connection: Connection) -> io::Result<()> {
        connection.make_nonblocking()?;
        let wanted = SubscriptionMask::SINK | SubscriptionMask::SOURCE | SubscriptionMask::SERVER;
        connection.send(&Command::Subscribe(wanted))?;
        self.connection = Some(connection);
        Ok(())
    }

    /// What to wait for, and whether for room to write too.
    pub(in crate::audio) fn wait_for(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection.as_ref().map(|c| (c.as_fd(), c.wants_write()))
    }

    /// When to be called again although nothing has arrived.
    pub(in crate::audio) fn deadline_ns(&self) -> MonotonicNs {
        let record = self.record.as_ref().and_then(|r| r.stream.slot.deadline_ns());
        let playback = self.playback.as_ref().and_then(|p| p.stream.slot.deadline_ns());
        [record, playback].into_iter().flatten().min().unwrap_or(MonotonicNs::MAX)
    }

    /// Takes what has arrived and does what is due.
    pub(in crate::audio) fn advance(
        &mut self,
        now_ns: MonotonicNs,
        tell: &mut dyn FnMut(AudioEvent),
    ) {
        self.look_for_server(tell);
        if let Err(error) = self.receive(now_ns).and_then(|()| self.send_due(now_ns)) {
            self.lose_connection(now_ns, &error, tell);
        }
        if let Some(device) = self.record.as_mut().and_then(|r| r.stream.slot.take_change()) {
            tell(AudioEvent::MicrophoneChanged { device });
        }
        if let Some(device) = self.playback.as_mut().and_then(|p| p.stream.slot.take_change()) {
            tell(AudioEvent::SpeakerChanged { device });
        }
    }

    /// Whether the microphone delivers.
    pub(in crate::audio) fn microphone_runs(&self) -> bool {
        self.record.as_ref().is_some_and(|r| r.stream.slot.channel().is_some())
    }

    /// Whether the speaker asks for sound.
    pub(in crate::audio) fn speaker_runs(&self) -> bool {
        self.playback.as_ref().is_some_and(|p| p.stream.slot.channel().is_some())
    }

    /// The oldest captured block, if there is one.
    pub(in crate::audio) fn take_block(&mut self, block: &mut [f32; BLOCK_SAMPLES]) -> bool {
        self.record.as_mut().is_some_and(|record| record.take_block(block))
    }

    /// Whether the speaker has room for a block.
    pub(in crate::audio) fn wants_block(&self) -> bool {
        self.playback.as_ref().is_some_and(Playback::wants_block)
    }

    /// Plays a block that was wanted.
    pub(in crate::audio) fn play(&mut self, block: &[f32; BLOCK_SAMPLES]) {
        if let (Some(playback), Some(connection)) = (&mut self.playback, &mut self.connection) {
            // A dead connection is noticed by the next read.
            let _ = playback.play(connection, block);
        }
    }

    /// Figures of both streams.
    pub(in crate::audio) fn statistics(&self) -> DeviceStatistics {
        let (record, playback) = (self.record.as_ref(), self.playback.as_ref());
        DeviceStatistics {
            microphone: record.and_then(|r| r.stream.slot.device_name()),
            microphone_latency_ms: record.map(|r| r.stream.latency_ms),
            microphone_overruns: record.map_or(0, |r| r.overruns),
            speaker: playback.and_then(|p| p.stream.slot.device_name()),
            speaker_latency_ms: playback.map(|p| p.stream.latency_ms),
            speaker_buffer_ms: playback.map(Playback::target_ms),
            speaker_underruns: playback.map_or(0, |p| p.underruns),
        }
    }

    fn receive(&mut self, now_ns: MonotonicNs) -> io::Result<()> {
        let Self { connection, record, playback, default_query, defaults_changed, .. } = self;
        let Some(connection) = connection else { return Ok(()) };
        let mut default_names = None;
        connection.receive(&mut |incoming| match incoming {
            Incoming::Samples { channel, bytes } => {
                if let Some(record) = record {
                    record.handle_samples(channel, bytes);
                }
            }
            Incoming::Reply { sequence, body, version } => {
                if *default_query == Some(sequence) {
                    *default_query = None;
                    default_names = parse_reply::<ServerInfo>(body, version).ok();
                    return;
                }
                let taken =
                    record.as_mut().is_some_and(|r| r.handle_reply(sequence, body, version));
                if let (false, Some(playback)) = (taken, playback.as_mut()) {
                    playback.handle_reply(sequence, body, version, now_ns);
                }
            }
            Incoming::Refused { sequence, error } => {
                tracing::debug!(%error, "the sound server refused");
                for slot in slots(record, playback) {
                    slot.take_lookup_answer(sequence);
                    if slot.is_asking(sequence) {
                        slot.handle_refused(now_ns);
                    }
                }
            }
            Incoming::Event(event) => {
                if handle_event(event, record, playback, now_ns) {
                    *defaults_changed = true;
                }
            }
        })?;
        if let Some(names) = default_names {
            self.follow_defaults(&names);
        }
        Ok(())
    }

    fn follow_defaults(&mut self, server: &ServerInfo) {
        if let Some(record) = &mut self.record {
            record.stream.follow_default(server.default_source_name.as_deref());
        }
        if let Some(playback) = &mut self.playback {
            playback.stream.follow_default(server.default_sink_name.as_deref());
        }
    }

    fn send_due(&mut self, now_ns: MonotonicNs) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if std::mem::take(&mut self.defaults_changed) {
            self.default_query = Some(connection.send(&Command::GetServerInfo)?);
        }
        let latency_due = now_ns >= self.latency_at_ns;
        if latency_due {
            self.latency_at_ns = now_ns + LATENCY_INTERVAL_NS;
        }
        if let Some(record) = &mut self.record {
            record.stream.look_after(connection, now_ns)?;
            record.create(connection, now_ns)?;
            if latency_due {
                record.stream.ask_latency(connection)?;
            }
        }
        if let Some(playback) = &mut self.playback {
            playback.stream.look_after(connection, now_ns)?;
            playback.create(connection, now_ns)?;
            if latency_due {
                playback.stream.ask_latency(connection)?;
            }
        }
        connection.flush()
    }

    fn lose_connection(
        &mut self,
        now_ns: MonotonicNs,
        error: &io::Error,
        tell: &mut dyn FnMut(AudioEvent),
    ) {
        self.connection = None;
        for slot in slots(&mut self.record, &mut self.playback) {
            slot.handle_lost(now_ns);
        }
        self.returning = look_for_server();
        tell(AudioEvent::SoundServerLost { reason: error.to_string() });
    }

    fn look_for_server(&mut self, tell: &mut dyn FnMut(AudioEvent)) {
        let Some(returning) = &self.returning else { return };
        match returning.found.try_recv() {
            Ok(connection) => {
                self.returning = None;
                match self.attach(connection) {
                    Ok(()) => tell(AudioEvent::SoundServerReturned),
                    Err(_) => self.returning = look_for_server(),
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => self.returning = look_for_server(),
        }
    }
}

/// Applies an event of the server; says whether the default devices may have changed.
fn handle_event(
    event: Command,
    record: &mut Option<Record>,
    playback: &mut Option<Playback>,
    now_ns: MonotonicNs,
) -> bool {
    match (event, record, playback) {
        (Command::Request(request), _, Some(playback)) => {
            playback.handle_request(request.channel, request.length);
        }
        (Command::Underflow(underflow), _, Some(playback)) => {
            playback.handle_underflow(underflow.channel, now_ns);
        }
        (Command::PlaybackStreamKilled(channel), _, Some(playback))
            if playback.stream.slot.channel() == Some(channel) =>
        {
            playback.stream.slot.handle_lost(now_ns);
        }
        (Command::RecordStreamKilled(channel), Some(record), _)
            if record.stream.slot.channel() == Some(channel) =>
        {
            record.stream.slot.handle_lost(now_ns);
        }
        (Command::PlaybackStreamMoved(moved), _, Some(playback))
            if playback.stream.slot.channel() == Some(moved.stream_index) =>
        {
            playback.stream.slot.handle_moved(moved.device_name);
        }
        (Command::RecordStreamMoved(moved), Some(record), _)
            if record.stream.slot.channel() == Some(moved.stream_index) =>
        {
            record.stream.slot.handle_moved(moved.device_name);
        }
        (Command::SubscribeEvent(event), record, playback) => {
            for slot in slots(record, playback) {
                slot.handle_devices_changed(now_ns);
            }
            return event.event_facility == SubscriptionEventFacility::Server;
        }
        _ => {}
    }
    false
}

fn slots<'a>(
    record: &'a mut Option<Record>,
    playback: &'a mut Option<Playback>,
) -> impl Iterator<Item = &'a mut super::slot::StreamSlot> {
    let record = record.iter_mut().map(|r| &mut r.stream.slot);
    record.chain(playback.iter_mut().map(|p| &mut p.stream.slot))
}

/// Looks for the server from a thread of its own, since connecting blocks.
fn look_for_server() -> Option<Returning> {
    let (found, receiver) = sync_channel(1);
    let alive = Arc::new(());
    let watched: Weak<()> = Arc::downgrade(&alive);
    let search = move || {
        while watched.strong_count() > 0 {
            if let Ok(connection) = Connection::open() {
                let _ = found.send(connection);
                return;
            }
            thread::sleep(RECONNECT_INTERVAL);
        }
    };
    // Without a thread now, `advance` finds the channel closed and tries again.
    let _ = thread::Builder::new().name("cooee-sound-search".into()).spawn(search);
    Some(Returning { found: receiver, _alive: alive })
}
