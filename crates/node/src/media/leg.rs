//! The task of a leg: inputs from sockets, streams, audio, call layer and clock; outputs back.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_media::rate::feedback::{FEEDBACK_BYTES_MAX, Feedback};
use cooee_media::session::{
    LocalCandidate, MediaSession, Output, RelayId, RelayServer, RelayTransport, RemoteCandidate,
    SessionError, SessionEvent, SessionStatistics, TransportParameters,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};

use super::{
    MediaLegConfig,
    sockets::{Arrival, Sockets},
    streams::{StreamEvent, Streams},
};
use crate::{
    audio::link::{VoiceMessage, VoiceReader, VoiceWriter},
    network_watch::NetworkWatch,
    room::LegRoom,
    udp::MediaPort,
};

/// How often the machine's addresses are looked at.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(2);
/// When the relays held in reserve are opened: not while every packet counts for the set-up.
const RESERVE_AFTER: Duration = Duration::from_secs(1);
/// How old published statistics get.
const STATISTICS_INTERVAL: Duration = Duration::from_millis(250);
/// Time for the last bytes to leave on streams.
const FAREWELL: Duration = Duration::from_millis(100);

pub(super) enum Command {
    SetRemote(TransportParameters, oneshot::Sender<Result<(), SessionError>>),
    AddRemoteCandidate(RemoteCandidate),
    RevealAddresses,
    AddRelay(RelayServer),
    AttachVoice(VoiceReader, VoiceWriter),
    Hold(bool),
    NetworkChanged,
    Restart,
    Close,
}

pub(super) struct LegTask {
    session: MediaSession,
    sockets: Sockets,
    streams: Streams,
    config: MediaLegConfig,
    room: LegRoom,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<SessionEvent>,
    statistics: watch::Sender<SessionStatistics>,
    published: Instant,
    voice: Option<(VoiceReader, VoiceWriter)>,
    hold: bool,
    hosts: BTreeSet<SocketAddr>,
    interfaces_due: Instant,
    network: NetworkWatch,
    reserve_due: Option<Instant>,
    relays: Vec<(RelayId, SocketAddr, RelayTransport)>,
    relay_socket: Option<SocketAddr>,
    wake: Instant,
    ended: bool,
}

impl LegTask {
    pub(super) fn new(
        session: MediaSession,
        port: MediaPort,
        config: MediaLegConfig,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<SessionEvent>,
        statistics: watch::Sender<SessionStatistics>,
    ) -> Self {
        let now = Instant::now();
        Self {
            session,
            sockets: Sockets::new(port),
            streams: Streams::new(config.relay_tls.clone(), config.proxy.clone()),
            room: config.room.leg(),
            config,
            commands,
            events,
            statistics,
            published: now,
            voice: None,
            hold: false,
            hosts: BTreeSet::new(),
            interfaces_due: now + INTERFACES_INTERVAL,
            network: NetworkWatch::new(),
            reserve_due: Some(now + RESERVE_AFTER),
            relays: Vec::new(),
            relay_socket: None,
            wake: now,
            ended: false,
        }
    }

    pub(super) async fn run(mut self) {
        let now = Instant::now();
        if self.config.reveal_addresses {
            self.session.reveal_addresses(now);
        }
        self.update_hosts(now);
        for relay in self.config.relays.clone() {
            self.add_relay(now, relay);
        }
        self.drain();
        while !self.ended {
            self.step().await;
            self.publish();
        }
        self.session.close(Instant::now());
        self.drain();
        self.statistics.send_replace(self.session.statistics());
        tokio::time::sleep(FAREWELL).await;
    }

    async fn step(&mut self) {
        let wake = self.wake.min(self.interfaces_due);
        let wake = self.reserve_due.map_or(wake, |due| due.min(wake));
        let voice = async {
            match &mut self.voice {
                Some((reader, _)) => reader.receive().await,
                None => std::future::pending().await,
            }
        };
        let updates = async {
            match &mut self.config.relay_updates {
                Some(updates) => updates.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrival = self.sockets.receive() => self.handle_arrival(&arrival),
            message = voice => self.handle_voice(message),
            () = self.network.changed() => self.update_hosts(Instant::now()),
            go_on = updates => self.learn_relays(go_on),
            command = self.commands.recv() => self.handle_command(command),
            Some((relay, event)) = self.streams.next() => {
                let now = Instant::now();
                match event {
                    StreamEvent::Opened(local) => {
                        self.session.handle_stream_opened(now, relay, local);
                    }
                    StreamEvent::Received(bytes) => self.session.handle_stream(now, relay, &bytes),
                    StreamEvent::Closed => self.session.handle_stream_closed(now, relay),
                }
            }
            () = sleep_until(wake.into()) => {
                let now = Instant::now();
                if self.interfaces_due <= now {
                    self.interfaces_due = now + INTERFACES_INTERVAL;
                    self.update_hosts(now);
                }
                if self.reserve_due.is_some_and(|due| due <= now) {
                    self.open_reserve(now);
                }
                self.session.handle_timeout(now);
            }
        }
        self.drain();
    }

    fn open_reserve(&mut self, now: Instant) {
        self.reserve_due = None;
        for relay in std::mem::take(&mut self.config.reserve_relays) {
            self.add_relay(now, relay);
        }
    }

    /// Adds what is new among the relays that are known now.
    fn learn_relays(&mut self, go_on: bool) {
        let Some(updates) = self.config.relay_updates.as_mut().filter(|_| go_on) else {
            self.config.relay_updates = None;
            return;
        };
        let known = updates.borrow_and_update().clone();
        let is_new = |relay: &RelayServer| {
            let same = |(_, address, transport): &(_, SocketAddr, RelayTransport)| {
                (*address, *transport) == (relay.address, relay.transport)
            };
            !self.relays.iter().any(same)
        };
        let new: Vec<_> = known.into_iter().filter(is_new).collect();
        for relay in new {
            self.add_relay(Instant::now(), relay);
        }
    }

    fn handle_arrival(&mut self, arrival: &Arrival) {
        self.session.handle_datagram(arrival.at, arrival.local, arrival.from, &arrival.bytes);
    }

    fn handle_voice(&mut self, message: Option<VoiceMessage>) {
        let now = Instant::now();
        let sent = match message {
            Some(VoiceMessage::Packet(packet)) if !self.hold => {
                self.session.send_audio(now, &packet)
            }
            Some(VoiceMessage::Feedback(feedback)) if !self.hold => {
                let mut bytes = [0; FEEDBACK_BYTES_MAX];
                let length = feedback.encode(&mut bytes);
                self.session.send_feedback(now, Bytes::copy_from_slice(&bytes[..length]))
            }
            Some(VoiceMessage::Rate(rate)) => {
                self.session.set_voice_rate(now, rate);
                self.room.set_voice_rate(rate.bits_per_s);
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                self.voice = None;
                Ok(())
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "voice could not be sent");
        }
    }

    fn handle_command(&mut self, command: Option<Command>) {
        let now = Instant::now();
        match command {
            Some(Command::SetRemote(parameters, answer)) => {
                // The caller may have stopped waiting.
                let _ = answer.send(self.session.set_remote_parameters(now, parameters));
            }
            Some(Command::AddRemoteCandidate(candidate)) => {
                self.sockets.port().claim_remote(candidate.address);
                if let Err(error) = self.session.add_remote_candidate(now, candidate) {
                    tracing::debug!(?candidate, %error, "candidate of the peer not used");
                }
            }
            Some(Command::RevealAddresses) => self.session.reveal_addresses(now),
            Some(Command::AddRelay(relay)) => self.add_relay(now, relay),
            Some(Command::AttachVoice(reader, writer)) => {
                self.voice = Some((reader, writer));
                self.tell_path();
            }
            Some(Command::Hold(hold)) => {
                self.hold = hold;
                self.session.set_hold(now, hold);
            }
            Some(Command::NetworkChanged) => self.update_hosts(now),
            Some(Command::Restart) => self.restart(now),
            Some(Command::Close) | None => self.ended = true,
        }
    }

    fn add_relay(&mut self, now: Instant, relay: RelayServer) {
        let (address, transport) = (relay.address, relay.transport);
        let local = if relay.transport == RelayTransport::Udp {
            self.relay_socket_for(address)
        } else {
            Ok(SocketAddr::from(([0, 0, 0, 0], 0)))
        };
        match local.map(|local| self.session.add_relay(now, relay, local)) {
            Ok(Ok(id)) => self.relays.push((id, address, transport)),
            Ok(Err(error)) => tracing::debug!(%address, %error, "relay not used"),
            Err(error) => tracing::warn!(%address, %error, "no socket for a relay"),
        }
    }

    /// An allocation belongs to the address that asked for it: with that gone, ask anew.
    fn move_relays(&mut self, now: Instant) {
        self.relay_socket = None;
        for (id, address, _) in self.relays.clone() {
            match self.relay_socket_for(address) {
                Ok(socket) => {
                    // Only an unknown relay is refused, and these are known.
                    let _ = self.session.move_relay(now, id, socket);
                }
                Err(error) => tracing::warn!(%address, %error, "no socket for a relay"),
            }
        }
    }

    /// All UDP relays of one family share a socket: their allocations differ by server.
    fn relay_socket_for(&mut self, relay: SocketAddr) -> std::io::Result<SocketAddr> {
        match self.relay_socket {
            Some(socket) if socket.is_ipv4() == relay.is_ipv4() => Ok(socket),
            _ => {
                let socket = self.sockets.open(relay.ip())?;
                self.relay_socket = Some(socket);
                Ok(socket)
            }
        }
    }

    /// Compares the machine's addresses with those that the session knows.
    fn update_hosts(&mut self, now: Instant) {
        let current: BTreeSet<_> =
            self.sockets.host_candidates(self.config.loopback).into_iter().collect();
        let gone: Vec<_> = self.hosts.difference(&current).copied().collect();
        let new: Vec<_> = current.difference(&self.hosts).copied().collect();
        let known_before = !self.hosts.is_empty();
        let changed = known_before && (!gone.is_empty() || !new.is_empty());
        // Without a way out for a moment, the first try from the new address was lost.
        let lost = !gone.is_empty() || (changed && !self.session.has_relay());
        if known_before && lost {
            self.move_relays(now);
        }
        self.hosts = current;
        for address in gone {
            self.session.remove_local_address(now, address);
        }
        self.offer(now, &new);
        if changed {
            self.restart(now);
        }
    }

    /// Makes candidates of local sockets, and asks for their mappings.
    fn offer(&mut self, now: Instant, sockets: &[SocketAddr]) {
        for socket in sockets {
            let added = self.session.add_local_candidate(now, LocalCandidate::Host(*socket));
            if let Err(error) = added {
                tracing::debug!(%socket, %error, "local address not used");
                continue;
            }
            let reachable = |server: &&SocketAddr| {
                server.is_ipv4() == socket.is_ipv4()
                    && server.ip().is_loopback() == socket.ip().is_loopback()
            };
            for server in self.config.stun_servers.iter().filter(reachable) {
                self.session.gather_reflexive(now, *socket, *server);
            }
        }
    }

    fn restart(&mut self, now: Instant) {
        let parameters = self.session.restart(now);
        self.tell(SessionEvent::ParametersChanged(parameters));
    }

    fn drain(&mut self) {
        loop {
            match self.session.poll_output() {
                Output::Timeout(at, _) => {
                    self.wake = at;
                    return;
                }
                Output::Transmit { local, to, bytes, ttl } => {
                    self.sockets.send(local, to, &bytes, ttl);
                }
                Output::OpenStream { relay, server, transport } => {
                    self.streams.open(relay, server, transport);
                }
                Output::WriteStream { relay, bytes, useless_from } => {
                    self.streams.write(relay, bytes, useless_from);
                }
                Output::CloseStream { relay } => self.streams.close(relay),
                Output::Audio(packet) => self.deliver(VoiceMessage::Packet(packet)),
                Output::Feedback(bytes) => match Feedback::decode(&bytes) {
                    Ok(feedback) => self.deliver(VoiceMessage::Feedback(feedback)),
                    Err(error) => tracing::debug!(%error, "feedback of the peer not understood"),
                },
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    /// What the voice must know of the way that it takes.
    fn tell_path(&mut self) {
        let statistics = self.session.statistics();
        if let Some(path) = statistics.path {
            self.deliver(VoiceMessage::Path(path));
        }
        if let Some(bits_per_s) = statistics.start_bits_per_s {
            self.deliver(VoiceMessage::Start(bits_per_s));
        }
    }

    fn deliver(&mut self, message: VoiceMessage) {
        if let Some((_, writer)) = &mut self.voice {
            writer.send(Instant::now(), message);
        }
    }

    fn handle_event(&mut self, event: SessionEvent) {
        let now = Instant::now();
        match &event {
            SessionEvent::NewPortWanted => self.open_new_port(now),
            SessionEvent::RestartWanted => {
                self.update_hosts(now);
                self.restart(now);
            }
            SessionEvent::Refused | SessionEvent::Closed => self.ended = true,
            SessionEvent::Connected { .. } | SessionEvent::PathChanged(_) => self.tell_path(),
            _ => {}
        }
        self.tell(event);
    }

    fn open_new_port(&mut self, now: Instant) {
        let families: BTreeSet<bool> = self.hosts.iter().map(SocketAddr::is_ipv4).collect();
        for v4 in families {
            let remote = if v4 { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
            match self.sockets.open(remote) {
                Ok(socket) => {
                    let hosts = self.sockets.host_candidates_of(socket, self.config.loopback);
                    self.offer(now, &hosts);
                }
                Err(error) => tracing::debug!(%error, "no further port for a call"),
            }
        }
    }

    fn tell(&mut self, event: SessionEvent) {
        if let SessionEvent::ParametersChanged(parameters) = &event {
            self.sockets.port().claim_ufrag(&parameters.ufrag);
        }
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::warn!(?event, "the call layer is slow; an event of the media is lost");
        }
    }

    fn publish(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.published) >= STATISTICS_INTERVAL {
            self.published = now;
            self.session.set_stale_messages(self.streams.dropped());
            self.statistics.send_replace(self.session.statistics());
        }
    }
}
