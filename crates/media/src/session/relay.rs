//! One relay of a session: a TURN client (RFC 8656) over UDP, TCP or TLS.
//!
//! ```text
//! Connecting --stream open--> Allocating --success--> Ready
//!      ^                          |                     |
//!      +------- Waiting <---------+---- failure --------+
//! ```
//!
//! UDP relays start in Allocating. It keeps permissions and channels for the addresses that the
//! session names, holds back a few datagrams until a permission exists, and tries again after a
//! failure with delays that double. A TLS handshake is some kilobytes: where the session spares
//! the way, streams wait. Sockets and TLS belong to the shell.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use turn_client_proto::{
    api::{Transmit, TurnClientApi as _, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet},
    prelude::DelayedTransmitBuild as _,
    stun::Instant as TurnInstant,
    tcp::TurnClientTcp,
    types::{AddressFamily, TurnCredentials, stun::TransportType},
    udp::TurnClientUdp,
};

use super::candidate::RelayTransport;

/// Datagrams held back until a permission exists (chosen: one burst of checks).
const HELD_BACK_MAX: usize = 16;
/// Peer addresses per relay (chosen: twice the candidates of a peer).
const PEERS_MAX: usize = 32;
/// Longest wait between two attempts where nothing else works, or by UDP.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same for a stream while another path works (chosen).
const RETRY_MAX_IDLE: Duration = Duration::from_secs(256);
/// A stream that must wait asks again after this.
const SPARED: Duration = Duration::from_secs(1);

mod client {
    #![allow(missing_docs, unreachable_pub)]
    use super::{TurnClientTcp, TurnClientUdp};
    turn_client_proto::impl_client!(pub TurnClient, (Udp, TurnClientUdp), (Tcp, TurnClientTcp));
}

/// A relay that the session may use, with credentials minted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayServer {
    /// The relay's address.
    pub address: SocketAddr,
    /// How to reach it.
    pub transport: RelayTransport,
    /// TURN user name.
    pub username: String,
    /// TURN password.
    pub password: String,
}

/// What a relay wants of the session.
#[derive(Debug)]
pub(super) enum RelayOutput {
    /// Send to the relay, from the relay's local socket (UDP) or on its stream; there not after
    /// that moment.
    Send(Vec<u8>, Option<Instant>),
    /// Open the stream to the relay.
    OpenStream,
    /// An address was allocated.
    Allocated(SocketAddr),
    /// The allocation is gone; `0` was its address.
    Lost(SocketAddr),
    /// A datagram from a peer came in.
    Received { from: SocketAddr, bytes: Vec<u8> },
}

#[derive(Debug)]
enum State {
    Connecting,
    Running(Box<client::TurnClient>),
    Waiting { since: Instant, until: Instant },
    Closed,
}

#[derive(Debug)]
pub(super) struct Relay {
    pub(super) server: RelayServer,
    /// The local socket: of the UDP relay, or of the stream once it is open.
    pub(super) local: SocketAddr,
    epoch: Instant,
    state: State,
    relayed: Option<SocketAddr>,
    peers: BTreeSet<IpAddr>,
    channels: BTreeSet<SocketAddr>,
    held_back: VecDeque<(SocketAddr, Vec<u8>, Option<Instant>)>,
    outputs: VecDeque<RelayOutput>,
    failures: u32,
    /// Relayed addresses are IPv4, so that those who have nothing else can be reached, unless the
    /// relay has none.
    refuses_ipv4: bool,
    wake_at: Option<Instant>,
}

impl Relay {
    /// A relay that starts at once, unless it needs a stream and the way is to be spared.
    pub(super) fn new(server: RelayServer, local: SocketAddr, now: Instant, spares: bool) -> Self {
        let mut relay = Self {
            server,
            local,
            epoch: now,
            state: State::Connecting,
            relayed: None,
            peers: BTreeSet::new(),
            channels: BTreeSet::new(),
            held_back: VecDeque::new(),
            outputs: VecDeque::new(),
            failures: 0,
            refuses_ipv4: false,
            wake_at: None,
        };
        relay.start_or_wait(now, spares);
        relay
    }

    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    pub(super) fn is_udp(&self) -> bool {
        self.server.transport == RelayTransport::Udp
    }

    /// Starts over from another local socket, after a change of network.
    pub(super) fn rebase(&mut self, local: SocketAddr, now: Instant) {
        self.local = local;
        self.lose_allocation();
        self.start(now);
    }

    fn start_or_wait(&mut self, now: Instant, spares: bool) {
        if spares && !self.is_udp() {
            self.state = State::Waiting { since: now, until: now + SPARED };
        } else {
            self.start(now);
        }
    }

    fn start(&mut self, now: Instant) {
        if self.is_udp() {
            self.allocate(now);
        } else {
            self.state = State::Connecting;
            self.outputs.push_back(RelayOutput::OpenStream);
        }
    }

    fn allocate(&mut self, now: Instant) {
        let credentials = TurnCredentials::new(&self.server.username, &self.server.password);
        let mut config = TurnConfig::new(credentials);
        if self.server.address.is_ipv6() && self.refuses_ipv4 {
            config.set_address_family(AddressFamily::IPV6);
        }
        let (local, remote) = (self.local, self.server.address);
        let client = if self.is_udp() {
            config.set_request_retransmits(
                Duration::from_millis(300),
                Duration::from_secs(2),
                5,
                Duration::from_secs(2),
            );
            client::TurnClient::Udp(TurnClientUdp::allocate(local, remote, config))
        } else {
            client::TurnClient::Tcp(TurnClientTcp::allocate(local, remote, config))
        };
        self.state = State::Running(Box::new(client));
        self.drive(now);
    }

    pub(super) fn handle_stream_opened(&mut self, now: Instant, local: SocketAddr) {
        if matches!(self.state, State::Connecting) && !self.is_udp() {
            self.local = local;
            self.allocate(now);
        }
    }

    pub(super) fn handle_stream_closed(&mut self, now: Instant) {
        if !self.is_udp() && !matches!(self.state, State::Closed) {
            self.fail(now);
        }
    }

    /// Bytes from the relay: one datagram, or a piece of the stream.
    pub(super) fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let turn_now = self.turn_time(now);
        let (local, remote) = (self.local, self.server.address);
        let transport = if self.is_udp() { TransportType::Udp } else { TransportType::Tcp };
        let State::Running(client) = &mut self.state else { return };
        let received = client.recv(Transmit::new(bytes, transport, remote, local), turn_now);
        if let TurnRecvRet::PeerData(data) = received {
            let bytes = data.data().to_vec();
            self.outputs.push_back(RelayOutput::Received { from: data.peer, bytes });
        }
        while let Some(data) = client.poll_recv(turn_now) {
            let bytes = data.data().to_vec();
            self.outputs.push_back(RelayOutput::Received { from: data.peer, bytes });
        }
        self.drive(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, spares: bool) {
        match &self.state {
            State::Waiting { until, .. } if *until <= now => self.start_or_wait(now, spares),
            State::Running(_) => self.drive(now),
            _ => {}
        }
    }

    /// The voice has no other path any more: a stream that waits does so no longer than needed.
    pub(super) fn hasten(&mut self, now: Instant) {
        if let State::Waiting { since, until } = &mut self.state {
            // A stream that waits for room has failed only before.
            let delay = retry_after(self.failures, RETRY_MAX).min(*until - *since);
            *until = (*until).min((*since + delay).max(now));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            State::Running(_) => self.wake_at,
            State::Connecting | State::Closed => None,
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }

    /// Asks the relay to let this peer through, now and after every new allocation.
    pub(super) fn permit(&mut self, now: Instant, peer: IpAddr) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains(&peer) {
            return;
        }
        self.peers.insert(peer);
        let turn_now = self.turn_time(now);
        if let (State::Running(client), true) = (&mut self.state, self.relayed.is_some()) {
            // AlreadyExists is what we want; NoAllocation is repaired on allocation.
            let _ = client.create_permission(TransportType::Udp, peer, turn_now);
            self.drive(now);
        }
    }

    /// Gives the peer a channel: 4 bytes of overhead instead of 36. Only over UDP: over streams
    /// ChannelData must be padded (RFC 8656 section 12.5), which the library neither does nor
    /// undoes, so there the indications stay.
    pub(super) fn bind_channel(&mut self, now: Instant, peer: SocketAddr) {
        if !self.is_udp() {
            return;
        }
        let turn_now = self.turn_time(now);
        let State::Running(client) = &mut self.state else { return };
        if self.relayed.is_some() && self.channels.len() < PEERS_MAX && self.channels.insert(peer) {
            let _ = client.bind_channel(TransportType::Udp, peer, turn_now);
            self.drive(now);
        }
    }

    /// Sends to a peer; on a stream not once it is useless.
    pub(super) fn send(
        &mut self,
        now: Instant,
        to: SocketAddr,
        bytes: Vec<u8>,
        useless_from: Option<Instant>,
    ) {
        let turn_now = self.turn_time(now);
        let State::Running(client) = &mut self.state else { return };
        if !client.have_permission(TransportType::Udp, to.ip()) {
            if self.held_back.len() >= HELD_BACK_MAX {
                self.held_back.pop_front();
            }
            self.held_back.push_back((to, bytes, useless_from));
            self.permit(now, to.ip());
            return;
        }
        if let Ok(Some(transmit)) = client.send_to(TransportType::Udp, to, bytes, turn_now) {
            self.outputs.push_back(RelayOutput::Send(transmit.data.build(), useless_from));
        }
        self.drive(now);
    }

    /// Gives the allocation back.
    pub(super) fn close(&mut self, now: Instant) {
        let turn_now = self.turn_time(now);
        if let State::Running(client) = &mut self.state {
            let _ = client.delete(turn_now);
            self.drive(now);
        }
        self.state = State::Closed;
    }

    fn drive(&mut self, now: Instant) {
        let turn_now = self.turn_time(now);
        let epoch = self.epoch;
        let State::Running(client) = &mut self.state else { return };
        let mut closed = false;
        match client.poll(turn_now) {
            TurnPollRet::WaitUntil(at) => {
                let nanoseconds = at.duration_since(TurnInstant::from_nanos(0));
                self.wake_at = Some((epoch + nanoseconds).max(now + Duration::from_millis(1)));
            }
            TurnPollRet::Closed => closed = true,
            TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => {}
        }
        while let Some(transmit) = client.poll_transmit(turn_now) {
            self.outputs.push_back(RelayOutput::Send(transmit.data.to_vec(), None));
        }
        let mut events = Vec::new();
        while let Some(event) = client.poll_event() {
            events.push(event);
        }
        for event in events {
            self.handle_event(now, event);
        }
        if closed {
            self.fail(now);
        }
    }

    fn handle_event(&mut self, now: Instant, event: TurnEvent) {
        match event {
            TurnEvent::AllocationCreated(TransportType::Udp, address) => {
                self.failures = 0;
                self.relayed = Some(address);
                self.outputs.push_back(RelayOutput::Allocated(address));
                for peer in self.peers.clone() {
                    self.permit(now, peer);
                }
            }
            TurnEvent::AllocationCreateFailed(_) => {
                self.refuses_ipv4 = !self.refuses_ipv4;
                self.fail(now);
            }
            TurnEvent::PermissionCreated(_, peer) => {
                let (ready, rest) = self.held_back.drain(..).partition(|(to, ..)| to.ip() == peer);
                self.held_back = rest;
                let ready: VecDeque<_> = ready;
                for (to, bytes, useless_from) in ready {
                    self.send(now, to, bytes, useless_from);
                }
            }
            _ => {}
        }
    }

    fn fail(&mut self, now: Instant) {
        self.lose_allocation();
        self.failures += 1;
        let max = if self.is_udp() { RETRY_MAX } else { RETRY_MAX_IDLE };
        let until = now + retry_after(self.failures, max);
        self.state = State::Waiting { since: now, until };
    }

    fn lose_allocation(&mut self) {
        if let Some(address) = self.relayed.take() {
            self.outputs.push_back(RelayOutput::Lost(address));
        }
        self.channels.clear();
        self.held_back.clear();
    }

    fn turn_time(&self, now: Instant) -> TurnInstant {
        let since = now.saturating_duration_since(self.epoch);
        TurnInstant::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// The wait after so many failures in a row.
fn retry_after(failures: u32, max: Duration) -> Duration {
    Duration::from_secs(1 << failures.min(8)).min(max)
}
