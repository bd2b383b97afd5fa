//! The transport of one call leg: ICE, DTLS-SRTP, RTP and relays, as one machine without a socket.
//!
//! ```text
//! Connecting --ICE and DTLS--> Secure --close, peer's close--> Ended
//!      |                                                         ^
//!      +------- certificate is not the signalled one ------------+
//! ```
//!
//! Until the keys exist, ICE (RFC 8445, inside str0m) looks for a first path. From then on the
//! session measures all paths itself with encrypted reports and decides, for its own direction,
//! which one carries the media and which second one is kept warm ([`liveness`](self)). Addresses
//! stay hidden until [`MediaSession::reveal_addresses`]: before that only relays are used.
//!
//! The shell feeds datagrams, stream bytes and timeouts, and after every input drains
//! [`MediaSession::poll_output`] until [`Output::Timeout`]. Wire: `docs/protocol/media.md`.

mod candidate;
mod choice;
mod engine;
mod error;
mod fresh_queue;
mod gathering;
mod handshake;
mod liveness;
mod output;
mod pace;
mod parameters;
mod path;
mod profile;
mod reflexive;
mod relay;
mod report;
mod reporting;
mod statistics;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::SeedableRng as _;
use rand_chacha::ChaCha12Rng;

pub use self::{
    candidate::{
        CandidateKind, LocalCandidate, LocalPath, PathDescription, PathKind, RelayId,
        RelayTransport, RemoteCandidate,
    },
    engine::VOICE_PAYLOAD_TYPES,
    error::SessionError,
    fresh_queue::FreshQueue,
    output::{Direction, Output, SessionEvent, TimerReason},
    parameters::{DtlsRole, SessionConfig, TransportParameters},
    profile::CIPHER,
    relay::RelayServer,
    report::{FEEDBACK_LENGTH_MAX, REPORT_PAYLOAD_TYPE},
    statistics::SessionStatistics,
};
use self::{
    engine::{Engine, EngineOutput},
    handshake::Handshake,
    liveness::Liveness,
    pace::Pace,
    path::{PathNumber, Paths},
    reflexive::Reflexive,
    relay::Relay,
    statistics::Reception,
};
use crate::{packet::VoicePacket, rate::VoiceRate};

/// Largest voice payload: one datagram of 1,200 bytes less headers, as in RFC 8831 practice.
const VOICE_LENGTH_MAX: usize = 1_150;
/// RTP that a stream has not taken by then is dropped: an age at which voice still is of use to the
/// jitter buffer of a slow path, and reports to the choice of paths (chosen).
const STREAM_AGE_MAX: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Secure,
    Ended,
}

/// One call leg's transport.
pub struct MediaSession {
    config: SessionConfig,
    random: ChaCha12Rng,
    started_at: Instant,
    phase: Phase,
    engine: Engine,
    handshake: Handshake,
    paths: Paths,
    liveness: Liveness,
    pace: Pace,
    relays: BTreeMap<RelayId, Relay>,
    reflexive: Reflexive,
    locals: Vec<LocalCandidate>,
    remotes: Vec<RemoteCandidate>,
    revealed: bool,
    local_parameters: TransportParameters,
    remote_parameters: Option<TransportParameters>,
    reception: Reception,
    statistics: SessionStatistics,
    arrival: Option<(LocalPath, SocketAddr)>,
    report_path: Option<PathNumber>,
    outputs: VecDeque<Output>,
}

impl MediaSession {
    /// A session that waits for the peer's parameters and for candidates.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let mut random = ChaCha12Rng::from_seed(config.seed);
        let credentials = parameters::draw_credentials(&mut random);
        let mut engine = Engine::new(&config, credentials.clone(), now);
        let local_parameters = TransportParameters {
            ufrag: credentials.0,
            pwd: credentials.1,
            fingerprint: engine.fingerprint(),
            dtls_role: if config.controlling { DtlsRole::Active } else { DtlsRole::Passive },
            generation: 0,
        };
        Self {
            liveness: Liveness::new(now),
            pace: Pace::default(),
            config,
            random,
            started_at: now,
            phase: Phase::Connecting,
            engine,
            handshake: Handshake::default(),
            paths: Paths::default(),
            relays: BTreeMap::new(),
            reflexive: Reflexive::default(),
            locals: Vec::new(),
            remotes: Vec::new(),
            revealed: false,
            local_parameters,
            remote_parameters: None,
            reception: Reception::default(),
            statistics: SessionStatistics::default(),
            arrival: None,
            report_path: None,
            outputs: VecDeque::new(),
        }
    }

    /// What the peer must be told, in authenticated signalling.
    pub fn local_parameters(&self) -> &TransportParameters {
        &self.local_parameters
    }

    /// What the peer told. A later generation means that the peer restarted ICE: this side
    /// restarts too and says so by [`SessionEvent::ParametersChanged`].
    pub fn set_remote_parameters(
        &mut self,
        now: Instant,
        remote: TransportParameters,
    ) -> Result<(), SessionError> {
        if self.phase == Phase::Ended {
            return Err(SessionError::Ended);
        }
        if !remote.is_well_formed() {
            return Err(SessionError::MalformedParameters);
        }
        if remote.dtls_role == self.local_parameters.dtls_role {
            return Err(SessionError::SameDtlsRole);
        }
        if self.remote_parameters.as_ref().is_some_and(|old| old.fingerprint != remote.fingerprint)
        {
            return Err(SessionError::FingerprintChanged);
        }
        if remote.generation > self.local_parameters.generation {
            self.renew_credentials(now, remote.generation);
            let changed = SessionEvent::ParametersChanged(self.local_parameters.clone());
            self.outputs.push_back(Output::Event(changed));
        }
        self.engine.set_remote(&remote);
        self.remote_parameters = Some(remote);
        self.engine.handle_timeout(now);
        self.pump(now);
        Ok(())
    }

    /// Restarts ICE (RFC 8445 section 9), for instance after a change of network. The media goes
    /// on by whatever path works. Returns what the peer must be told.
    pub fn restart(&mut self, now: Instant) -> TransportParameters {
        self.renew_credentials(now, self.local_parameters.generation.saturating_add(1));
        self.pump(now);
        self.local_parameters.clone()
    }

    fn renew_credentials(&mut self, now: Instant, generation: u32) {
        let (ufrag, pwd) = parameters::draw_credentials(&mut self.random);
        self.engine.set_local_credentials(&ufrag, &pwd);
        self.local_parameters.ufrag = ufrag;
        self.local_parameters.pwd = pwd;
        self.local_parameters.generation = generation;
        self.offer_candidates_again(now);
    }

    /// Says what rate control lets the voice have on the wire: where that is little, or a queue
    /// stands, the session says little beside it.
    pub fn set_voice_rate(&mut self, now: Instant, rate: VoiceRate) {
        self.pace.set_voice_rate(now, rate);
    }

    /// Sends one voice packet; before the session is connected it is dropped.
    pub fn send_audio(&mut self, now: Instant, packet: &VoicePacket) -> Result<(), SessionError> {
        if self.phase == Phase::Ended {
            return Err(SessionError::Ended);
        }
        if !VOICE_PAYLOAD_TYPES.contains(&packet.payload_type)
            || packet.payload.len() > VOICE_LENGTH_MAX
        {
            return Err(SessionError::UnfitPacket);
        }
        if self.phase == Phase::Secure {
            self.statistics.voice_packets_sent += 1;
            self.statistics.voice_bytes_sent += packet.payload.len() as u64;
            self.liveness.note_voice_sent(now);
            self.engine.send_voice(now, packet);
            self.pump(now);
        }
        Ok(())
    }

    /// Sends the voice engine's feedback, at most 512 bytes, with the next report: at once.
    pub fn send_feedback(&mut self, now: Instant, feedback: Bytes) -> Result<(), SessionError> {
        if feedback.len() > FEEDBACK_LENGTH_MAX {
            return Err(SessionError::FeedbackTooLong);
        }
        if let (Phase::Secure, Some(media)) = (self.phase, self.liveness.media) {
            self.send_report(now, media, feedback);
            self.pump(now);
        }
        Ok(())
    }

    /// On hold no voice is expected and one report every 3 s keeps the bindings open.
    pub fn set_hold(&mut self, now: Instant, hold: bool) {
        if self.liveness.hold != hold {
            self.liveness.hold = hold;
            self.hasten_reports(now);
            self.pump(now);
        }
    }

    /// A datagram came in on the UDP socket with this local address. Bytes that mean nothing
    /// to this session change nothing.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        self.statistics.datagrams_received += 1;
        self.statistics.bytes_received += bytes.len() as u64;
        let relay = self.relays.values_mut().find(|relay| {
            relay.is_udp() && relay.server.address == from && is_for_relay_client(bytes)
        });
        if let Some((socket, mapped)) = self.reflexive.handle_datagram(from, bytes) {
            self.found_reflexive(now, socket, mapped);
        } else if let Some(relay) = relay {
            relay.handle_bytes(now, bytes);
        } else {
            let local = self.known_socket(local);
            self.receive(now, LocalPath::Direct(local), local, from, bytes);
        }
        self.pump(now);
    }

    /// A wildcard socket may not know by which interface a datagram came in.
    fn known_socket(&self, local: SocketAddr) -> SocketAddr {
        let mut bases = self.locals.iter().map(|candidate| candidate.base());
        if bases.clone().any(|base| base == local) {
            return local;
        }
        bases
            .clone()
            .find(|base| base.is_ipv4() == local.is_ipv4() && base.port() == local.port())
            .or_else(|| bases.find(|base| base.is_ipv4() == local.is_ipv4()))
            .unwrap_or(local)
    }

    fn receive(
        &mut self,
        now: Instant,
        via: LocalPath,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        if self.phase == Phase::Ended {
            return;
        }
        self.handshake.received(now, bytes);
        self.engine.handle_datagram(now, from, local, bytes);
        self.arrival = Some((via, from));
        self.pump_engine(now);
        self.arrival = None;
    }

    /// Time has come, or might have: late, early and stale calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.time_relays(now);
        if self.engine.deadline() <= now {
            self.engine.handle_timeout(now);
        }
        self.pump(now);
        self.watch(now);
        self.pump(now);
    }

    /// What to do next. Drain until [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let (at, reason) = self.next_timeout();
            Output::Timeout(at, reason)
        })
    }

    fn next_timeout(&self) -> (Instant, TimerReason) {
        let relays = self.relays.values().filter_map(Relay::poll_timeout);
        let relay = relays.min().map(|at| (at, TimerReason::Relay));
        let reflexive = self.reflexive.poll_timeout().map(|at| (at, TimerReason::Reflexive));
        let running = self.phase != Phase::Ended;
        let transport = running.then(|| (self.engine.deadline(), TimerReason::Transport));
        let watching = (self.phase == Phase::Secure).then(|| self.watch_timeout());
        let due = [relay, reflexive, transport, watching];
        let idle = (self.started_at + Duration::from_secs(86_400 * 365), TimerReason::Idle);
        due.into_iter().flatten().min_by_key(|(at, _)| *at).unwrap_or(idle)
    }

    /// The shell's queues before its streams have dropped so many messages so far.
    pub fn set_stale_messages(&mut self, dropped: u64) {
        self.statistics.stale_messages = dropped;
    }

    /// Counters and estimates so far.
    pub fn statistics(&self) -> SessionStatistics {
        let media = self.liveness.media.and_then(|number| self.paths.get(number));
        SessionStatistics {
            voice_packets_lost: self.reception.lost(),
            jitter: self.reception.jitter(),
            round_trip: media.and_then(|path| path.round_trip),
            path: media.map(|path| path.description),
            ..self.statistics.clone()
        }
    }

    /// Says goodbye to the peer and gives back the relays. Drain once more, then drop.
    pub fn close(&mut self, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        self.engine.close();
        self.pump(now);
        self.end(now);
        self.pump(now);
    }

    fn end(&mut self, now: Instant) {
        self.phase = Phase::Ended;
        let streams: Vec<_> = self.relays.keys().copied().collect();
        for relay in self.relays.values_mut() {
            relay.close(now);
        }
        self.pump_relays(now);
        for relay in streams {
            if self.relays.get(&relay).is_some_and(|relay| !relay.is_udp()) {
                self.outputs.push_back(Output::CloseStream { relay });
            }
        }
    }

    /// Moves what the parts have to say to each other and to the shell.
    fn pump(&mut self, now: Instant) {
        while let Some((local, to, bytes)) = self.reflexive.poll_transmit(now) {
            self.transmit(local, to, bytes, None);
        }
        self.pump_engine(now);
        self.pump_relays(now);
    }

    fn pump_engine(&mut self, now: Instant) {
        for output in self.engine.drain(now) {
            match output {
                EngineOutput::Ice { source, to, bytes } => {
                    if self.is_sparing(now) && !self.pace.allows_ice(now, self.liveness.hold) {
                        continue;
                    }
                    let via = self.local_path(source);
                    self.send_via(now, via, to, bytes);
                }
                EngineOutput::Secured { source, to, bytes } => {
                    if self.is_sparing(now) && is_rtcp(&bytes) {
                        continue;
                    }
                    let media = self.liveness.media.and_then(|number| self.paths.get(number));
                    let (via, to) = media.map_or_else(
                        || (self.local_path(source), to),
                        |path| (path.description.local, path.description.remote),
                    );
                    self.note_first_path(via, to);
                    self.handshake.sent(&bytes, !self.config.controlling);
                    self.send_via(now, via, to, bytes);
                }
                EngineOutput::Voice { bytes } => self.send_voice_bytes(now, bytes),
                EngineOutput::Report { bytes } => {
                    let path = self.report_path.and_then(|number| self.paths.get(number));
                    if let Some(path) = path.map(|path| path.description) {
                        self.send_via(now, path.local, path.remote, bytes);
                    }
                }
                EngineOutput::VoiceReceived { packet, extended_sequence } => {
                    self.reception.observe(now, extended_sequence, packet.timestamp);
                    self.statistics.voice_packets_received += 1;
                    self.statistics.voice_bytes_received += packet.payload.len() as u64;
                    self.heard_voice(now);
                    self.outputs.push_back(Output::Audio(packet));
                }
                EngineOutput::ReportReceived(payload) => self.handle_report(now, &payload),
                EngineOutput::Secure => self.become_secure(now),
                EngineOutput::Refused => self.finish(now, SessionEvent::Refused),
                EngineOutput::Closed => self.finish(now, SessionEvent::Closed),
            }
        }
    }

    /// Keys exist, and there is little room or nothing to say.
    fn is_sparing(&self, now: Instant) -> bool {
        let spares = self.liveness.hold || self.pace.is_crowded(now);
        spares && self.phase == Phase::Secure && self.liveness.media.is_some()
    }

    fn finish(&mut self, now: Instant, event: SessionEvent) {
        if self.phase != Phase::Ended {
            self.outputs.push_back(Output::Event(event));
            self.end(now);
        }
    }

    fn send_via(&mut self, now: Instant, via: LocalPath, to: SocketAddr, bytes: Vec<u8>) {
        match via {
            LocalPath::Direct(local) => self.transmit(local, to, bytes, None),
            LocalPath::Relay(id) => {
                // ICE and DTLS are few, and tried again by timers of their own.
                let useless_from = is_rtp(&bytes).then(|| now + STREAM_AGE_MAX);
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.send(now, to, bytes, useless_from);
                }
                self.pump_relays(now);
            }
        }
    }

    fn transmit(&mut self, local: SocketAddr, to: SocketAddr, bytes: Vec<u8>, ttl: Option<u8>) {
        self.statistics.datagrams_sent += 1;
        self.statistics.bytes_sent += bytes.len() as u64;
        self.outputs.push_back(Output::Transmit { local, to, bytes, ttl });
    }
}

/// RTP or RTCP among what shares its path (RFC 9443).
fn is_rtp(bytes: &[u8]) -> bool {
    matches!(bytes, [128..=191, ..])
}

/// RTCP among RTP (RFC 5761).
fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [128..=191, 192..=223, ..])
}

/// ChannelData, or STUN of any method but Binding, which is ICE's: a super node's one socket may
/// be both our relay and our peer.
fn is_for_relay_client(bytes: &[u8]) -> bool {
    match bytes {
        [64..=79, ..] => true,
        [first @ 0..=3, second, ..] => (first & 0x3e, second & 0xef) != (0, 1),
        _ => false,
    }
}
