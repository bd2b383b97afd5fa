//! One connection to a PulseAudio server (PipeWire's pulse server included), for one thread.
//!
//! The `pulseaudio` crate's wire messages, without its client: the audio thread itself waits on
//! the socket, so that sound takes no detour through a second thread of ordinary priority, and
//! under-runs, kills and moves of a stream, which that client drops, are seen.

use std::{
    io::{self, BufReader, Cursor, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use pulseaudio::protocol::{
    self, AuthParams, AuthReply, Command, CommandReply, DESCRIPTOR_SIZE, Prop, Props,
    ProtocolError, PulseError, SetClientNameReply, TagStructReader,
};

use crate::audio::AudioError;

/// How long the server may take to answer while connecting (chosen).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Length of the shared secret (PulseAudio's `PA_NATIVE_COOKIE_LENGTH`).
const COOKIE_BYTES: usize = 256;

/// Longest message taken from the server: half a minute of sound would be 5.5 MiB (chosen).
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes waiting for a server that does not read before it is given up: 1.4 s of sound.
const UNSENT_BYTES_MAX: usize = 1 << 18;

/// Channel number of messages that are no sound (PulseAudio's native protocol).
const CONTROL_CHANNEL: u32 = u32::MAX;

/// A connection after its handshake.
pub(super) struct Connection {
    socket: UnixStream,
    version: u16,
    sequence: u32,
    received: Vec<u8>,
    unsent: Vec<u8>,
    message: Vec<u8>,
}

/// What the server sent.
#[expect(clippy::large_enum_variant, reason = "only passed, and a box would allocate")]
pub(super) enum Incoming<'a> {
    /// The answer to the command of that sequence number; read it with [`parse_reply`].
    Reply {
        /// Which command.
        sequence: u32,
        /// The answer, behind its header.
        body: &'a [u8],
        /// Protocol version to read it with.
        version: u16,
    },
    /// The command of that sequence number failed.
    Refused {
        /// Which command.
        sequence: u32,
        /// Why.
        error: PulseError,
    },
    /// Something happened.
    Event(Command),
    /// Captured sound of a record stream: 32-bit little-endian floats.
    Samples {
        /// Of which stream.
        channel: u32,
        /// The sound.
        bytes: &'a [u8],
    },
}

impl Connection {
    /// Finds the server as every PulseAudio client does and shakes hands; blocks for
    /// at most some seconds.
    pub(super) fn open() -> Result<Self, AudioError> {
        let path = pulseaudio::socket_path_from_env().ok_or(AudioError::NoSoundServer)?;
        let unusable = |reason: String| AudioError::SoundServer { path: path.clone(), reason };
        let socket = UnixStream::connect(&path).map_err(|e| unusable(e.to_string()))?;
        let cookie = pulseaudio::cookie_path_from_env().and_then(|p| std::fs::read(p).ok());
        let mut cookie = cookie.unwrap_or_default();
        // Without one the server goes by the socket's owner, but still wants its length.
        cookie.resize(COOKIE_BYTES, 0);
        Self::handshake(socket, cookie).map_err(|e| unusable(e.to_string()))
    }

    fn handshake(socket: UnixStream, cookie: Vec<u8>) -> Result<Self, ProtocolError> {
        socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        socket.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let mut connection = Self {
            socket,
            version: protocol::MAX_VERSION,
            sequence: 0,
            received: Vec::with_capacity(1 << 16),
            unsent: Vec::with_capacity(1 << 16),
            message: Vec::with_capacity(1 << 12),
        };
        let auth = AuthParams {
            version: protocol::MAX_VERSION,
            supports_shm: false,
            supports_memfd: false,
            cookie,
        };
        let reply: AuthReply = connection.ask(Command::Auth(auth))?;
        connection.version = reply.version.min(protocol::MAX_VERSION);
        let mut props = Props::new();
        props.set(Prop::ApplicationName, c"Cooee");
        let _: SetClientNameReply = connection.ask(Command::SetClientName(props))?;
        Ok(connection)
    }

    /// Sends a command and blocks for its answer. Only before [`Self::make_nonblocking`].
    pub(super) fn ask<R: CommandReply>(&mut self, command: Command) -> Result<R, ProtocolError> {
        self.sequence += 1;
        protocol::write_command_message(&mut self.socket, self.sequence, &command, self.version)?;
        let mut reader = BufReader::with_capacity(1 << 16, &mut self.socket);
        loop {
            // Nothing was subscribed to and no stream exists yet, so only answers come, in order.
            let (sequence, reply) = protocol::read_reply_message(&mut reader, self.version)?;
            if sequence == self.sequence {
                return Ok(reply);
            }
        }
    }

    /// From now on the audio thread waits for the socket.
    pub(super) fn make_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// Queues a command; returns its sequence number.
    pub(super) fn send(&mut self, command: &Command) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1) & 0x7FFF_FFFF;
        self.message.clear();
        protocol::encode_command_message(&mut self.message, self.sequence, command, self.version)
            .map_err(io::Error::other)?;
        self.unsent.extend_from_slice(&self.message);
        self.flush()?;
        Ok(self.sequence)
    }

    /// Queues sound for a playback stream.
    pub(super) fn send_samples(&mut self, channel: u32, samples: &[f32]) -> io::Result<()> {
        let length = u32::try_from(samples.len() * 4).map_err(io::Error::other)?;
        let flags = protocol::DescriptorFlags::empty();
        let descriptor = protocol::Descriptor { length, channel, offset: 0, flags };
        let mut header = [0; DESCRIPTOR_SIZE];
        protocol::encode_descriptor(&mut header, &descriptor);
        self.unsent.extend_from_slice(&header);
        for sample in samples {
            self.unsent.extend_from_slice(&sample.to_le_bytes());
        }
        self.flush()
    }

    /// Whether the socket should also be waited for to take more.
    pub(super) fn wants_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what is queued as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.socket.write(&self.unsent[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.len() > UNSENT_BYTES_MAX {
            return Err(io::Error::other("the sound server does not read"));
        }
        Ok(())
    }

    /// Hands over everything that has arrived; an error means that the connection is dead.
    pub(super) fn receive(&mut self, handle: &mut dyn FnMut(Incoming<'_>)) -> io::Result<()> {
        let mut chunk = [0; 16_384];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    self.parse(handle)?;
                    if count < chunk.len() {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn parse(&mut self, handle: &mut dyn FnMut(Incoming<'_>)) -> io::Result<()> {
        let mut start = 0;
        while let Some(header) = self.received[start..].get(..DESCRIPTOR_SIZE) {
            let descriptor =
                protocol::read_descriptor(&mut Cursor::new(header)).map_err(io::Error::other)?;
            let length = descriptor.length as usize;
            if length > MESSAGE_BYTES_MAX {
                return Err(io::Error::other("the sound server sent too long a message"));
            }
            let body_start = start + DESCRIPTOR_SIZE;
            let Some(body) = self.received.get(body_start..body_start + length) else { break };
            if descriptor.channel == CONTROL_CHANNEL {
                parse_control(body, self.version, handle);
            } else {
                handle(Incoming::Samples { channel: descriptor.channel, bytes: body });
            }
            start = body_start + length;
        }
        self.received.drain(..start);
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads the answer of a [`Incoming::Reply`].
pub(super) fn parse_reply<R: CommandReply>(body: &[u8], version: u16) -> Result<R, ProtocolError> {
    let mut cursor = Cursor::new(body);
    TagStructReader::new(&mut cursor, version).read()
}

fn parse_control(body: &[u8], version: u16, handle: &mut dyn FnMut(Incoming<'_>)) {
    let mut cursor = Cursor::new(body);
    match Command::read_tag_prefixed(&mut cursor, version) {
        Ok((sequence, Command::Reply)) => {
            let at = usize::try_from(cursor.position()).unwrap_or(body.len()).min(body.len());
            handle(Incoming::Reply { sequence, body: &body[at..], version });
        }
        Ok((sequence, Command::Error(error))) => handle(Incoming::Refused { sequence, error }),
        Ok((_, event)) => handle(Incoming::Event(event)),
        // A command of a newer server: its length is known, so the stream stays in step.
        Err(error) => tracing::debug!(%error, "unknown message from the sound server"),
    }
}
