//! The part of a session that knows addresses: candidates, relays, openers, whose datagram it is.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use str0m::Candidate;
use stun_types::{attribute::Username, message::Message};

use super::{
    LocalCandidate, LocalPath, MediaSession, Output, PathDescription, Phase, RelayId, RelayServer,
    RelayTransport, RemoteCandidate, SessionError, SessionEvent,
    candidate::CandidateKind,
    path::kind_of,
    reflexive,
    relay::{Relay, RelayOutput},
};

/// Bounds of what either side may name (chosen: far above any real host).
const LOCALS_MAX: usize = 16;
const REMOTES_MAX: usize = 24;
const RELAYS_MAX: usize = 6;

impl MediaSession {
    /// Adds a host or server-reflexive candidate. The peer learns of it after
    /// [`MediaSession::reveal_addresses`].
    pub fn add_local_candidate(
        &mut self,
        now: Instant,
        candidate: LocalCandidate,
    ) -> Result<(), SessionError> {
        if !is_usable(candidate.advertised().address) || !is_usable(candidate.base()) {
            return Err(SessionError::UnusableAddress);
        }
        if self.locals.contains(&candidate) {
            return Ok(());
        }
        if self.locals.len() >= LOCALS_MAX {
            return Err(SessionError::TooMany("local candidates"));
        }
        self.locals.push(candidate);
        if self.revealed {
            self.reveal(now, candidate);
            self.spread_paths(now);
            self.pump(now);
        }
        Ok(())
    }

    /// Lets the peer learn this node's addresses, and direct paths be tried: after the callee
    /// accepted, or at once between mutual buddies.
    pub fn reveal_addresses(&mut self, now: Instant) {
        if !self.revealed {
            self.revealed = true;
            for candidate in self.locals.clone() {
                self.reveal(now, candidate);
            }
            self.spread_paths(now);
            self.pump(now);
        }
    }

    fn reveal(&mut self, now: Instant, candidate: LocalCandidate) {
        if let Some(built) = build(candidate) {
            self.engine.add_local(built, now);
            let found = SessionEvent::CandidateFound(candidate.advertised());
            self.outputs.push_back(Output::Event(found));
            for remote in self.remotes.clone() {
                self.open_towards(candidate.base(), remote);
            }
            self.liveness.note_direct_tried(now);
        }
    }

    /// A local address is gone, for instance with its interface: all paths by it go.
    pub fn remove_local_address(&mut self, now: Instant, base: SocketAddr) {
        for candidate in self.locals.clone() {
            if candidate.base() == base {
                if let Some(built) = build(candidate) {
                    self.engine.remove_local(&built);
                }
                if self.revealed {
                    let lost = SessionEvent::CandidateLost(candidate.advertised());
                    self.outputs.push_back(Output::Event(lost));
                }
            }
        }
        self.locals.retain(|candidate| candidate.base() != base);
        self.drop_paths(now, LocalPath::Direct(base));
        self.pump(now);
    }

    /// Asks a STUN server for the mapping of a local socket; what it says becomes a candidate.
    pub fn gather_reflexive(&mut self, now: Instant, local: SocketAddr, server: SocketAddr) {
        self.reflexive.ask(now, local, server, &mut self.random);
        self.pump(now);
    }

    pub(super) fn found_reflexive(&mut self, now: Instant, base: SocketAddr, address: SocketAddr) {
        if address != base {
            // At the bound the mapping is not needed; an unusable one is no candidate.
            let _ =
                self.add_local_candidate(now, LocalCandidate::ServerReflexive { address, base });
        }
    }

    /// Adds a relay: it allocates at once, and its relayed candidate is announced even before
    /// addresses are revealed. `local` is the UDP socket to use; for TCP and TLS any address.
    pub fn add_relay(
        &mut self,
        now: Instant,
        server: RelayServer,
        local: SocketAddr,
    ) -> Result<RelayId, SessionError> {
        let id = (0..RELAYS_MAX as u8)
            .map(RelayId)
            .find(|id| !self.relays.contains_key(id))
            .ok_or(SessionError::TooMany("relays"))?;
        let spares = self.spares_streams(now);
        let mut relay = Relay::new(server, local, now, spares);
        for remote in &self.remotes {
            relay.permit(now, remote.address.ip());
        }
        self.relays.insert(id, relay);
        self.pump(now);
        Ok(id)
    }

    /// Whether any relay has an allocation for this session now.
    pub fn has_relay(&self) -> bool {
        self.relays.values().any(|relay| relay.relayed().is_some())
    }

    /// Moves a UDP relay to another local socket after a change of network.
    pub fn move_relay(
        &mut self,
        now: Instant,
        id: RelayId,
        local: SocketAddr,
    ) -> Result<(), SessionError> {
        self.relays.get_mut(&id).ok_or(SessionError::NoSuchRelay)?.rebase(local, now);
        self.pump(now);
        Ok(())
    }

    /// The stream to a relay is open; `local` is its local address.
    pub fn handle_stream_opened(&mut self, now: Instant, id: RelayId, local: SocketAddr) {
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.handle_stream_opened(now, local);
            self.pump(now);
        }
    }

    /// Bytes came in on the stream of a relay.
    pub fn handle_stream(&mut self, now: Instant, id: RelayId, bytes: &[u8]) {
        self.statistics.datagrams_received += 1;
        self.statistics.bytes_received += bytes.len() as u64;
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.handle_bytes(now, bytes);
            self.pump(now);
        }
    }

    /// The stream to a relay closed or could not be opened.
    pub fn handle_stream_closed(&mut self, now: Instant, id: RelayId) {
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.handle_stream_closed(now);
            self.pump(now);
        }
    }

    /// The peer told of a candidate.
    pub fn add_remote_candidate(
        &mut self,
        now: Instant,
        candidate: RemoteCandidate,
    ) -> Result<(), SessionError> {
        if !is_usable(candidate.address) {
            return Err(SessionError::UnusableAddress);
        }
        if self.remotes.contains(&candidate) {
            return Ok(());
        }
        if self.remotes.len() >= REMOTES_MAX {
            return Err(SessionError::TooMany("remote candidates"));
        }
        self.remotes.push(candidate);
        self.describe_anew(candidate.address);
        if self.revealed {
            for base in self.bases() {
                self.open_towards(base, candidate);
            }
            self.liveness.note_direct_tried(now);
        }
        for relay in self.relays.values_mut() {
            relay.permit(now, candidate.address.ip());
        }
        self.engine.add_remote(candidate, now);
        self.spread_paths(now);
        self.pump(now);
        Ok(())
    }

    /// An opener: a packet that opens the own NAT towards the peer but does not reach it.
    fn open_towards(&mut self, base: SocketAddr, remote: RemoteCandidate) {
        if !remote.kind.is_relayed() && base.is_ipv4() == remote.address.is_ipv4() {
            let bytes = reflexive::opener(&mut self.random);
            self.transmit(base, remote.address, bytes, Some(self.config.opener_ttl));
        }
    }

    fn bases(&self) -> Vec<SocketAddr> {
        let mut bases: Vec<_> = self.locals.iter().map(|candidate| candidate.base()).collect();
        bases.sort();
        bases.dedup();
        bases
    }

    /// After an ICE restart str0m forms its pairs again.
    pub(super) fn offer_candidates_again(&mut self, now: Instant) {
        if self.revealed {
            for built in self.locals.clone().into_iter().filter_map(build) {
                self.engine.add_local(built, now);
            }
        }
        self.spread_paths(now);
        self.hasten_reports(now);
    }

    /// Makes the paths that are worth measuring: everything of ours towards everything of theirs.
    pub(super) fn spread_paths(&mut self, now: Instant) {
        if self.phase != Phase::Secure {
            return;
        }
        let mut locals: Vec<LocalPath> = Vec::new();
        if self.revealed {
            locals.extend(self.bases().into_iter().map(LocalPath::Direct));
        }
        let ready = self.relays.iter().filter(|(_, relay)| relay.relayed().is_some());
        locals.extend(ready.map(|(id, _)| LocalPath::Relay(*id)));
        let mut remotes = self.remotes.clone();
        remotes.sort();
        for local in locals {
            for remote in &remotes {
                self.ensure_path(now, local, remote.address);
            }
        }
    }

    pub(super) fn ensure_path(
        &mut self,
        now: Instant,
        local: LocalPath,
        remote: SocketAddr,
    ) -> Option<super::PathNumber> {
        let family = match local {
            LocalPath::Direct(base) => base.is_ipv4(),
            LocalPath::Relay(id) => self.relays.get(&id)?.relayed()?.is_ipv4(),
        };
        if family != remote.is_ipv4() {
            return None;
        }
        let protected = [self.liveness.media, self.liveness.warm];
        self.paths.ensure(self.describe(local, remote), now, &protected)
    }

    pub(super) fn describe(&self, local: LocalPath, remote: SocketAddr) -> PathDescription {
        let same = |known: &&RemoteCandidate| known.address == remote;
        let theirs = self.remotes.iter().find(same).map(|known| known.kind);
        PathDescription { local, remote, kind: kind_of(self.transport_of(local), theirs) }
    }

    /// Packets of the peer may come before its word about the address that they come from.
    fn describe_anew(&mut self, remote: SocketAddr) {
        let to_it = |path: &&super::path::Path| path.description.remote == remote;
        let known: Vec<_> = self.paths.iter().filter(to_it).map(|path| path.number).collect();
        for number in known {
            let Some(local) = self.paths.get(number).map(|path| path.description.local) else {
                continue;
            };
            let description = self.describe(local, remote);
            if let Some(path) = self.paths.get_mut(number) {
                path.description = description;
            }
        }
    }

    fn transport_of(&self, local: LocalPath) -> Option<RelayTransport> {
        match local {
            LocalPath::Direct(_) => None,
            LocalPath::Relay(id) => self.relays.get(&id).map(|relay| relay.server.transport),
        }
    }

    /// By what a datagram leaves that str0m sends from this address.
    pub(super) fn local_path(&self, source: SocketAddr) -> LocalPath {
        self.relays
            .iter()
            .find(|(_, relay)| relay.relayed() == Some(source))
            .map_or(LocalPath::Direct(source), |(id, _)| LocalPath::Relay(*id))
    }

    pub(super) fn pump_relays(&mut self, now: Instant) {
        let ids: Vec<RelayId> = self.relays.keys().copied().collect();
        for id in ids {
            while let Some(output) = self.relays.get_mut(&id).and_then(Relay::poll_output) {
                self.handle_relay_output(now, id, output);
            }
        }
    }

    fn handle_relay_output(&mut self, now: Instant, id: RelayId, output: RelayOutput) {
        let Some(relay) = self.relays.get(&id) else { return };
        let (local, server, udp) = (relay.local, relay.server.address, relay.is_udp());
        let kind = if udp { CandidateKind::Relayed } else { CandidateKind::RelayedOverStream };
        match output {
            RelayOutput::Send(bytes, _) if udp => self.transmit(local, server, bytes, None),
            RelayOutput::Send(bytes, useless_from) => {
                self.statistics.datagrams_sent += 1;
                self.statistics.bytes_sent += bytes.len() as u64;
                self.outputs.push_back(Output::WriteStream { relay: id, bytes, useless_from });
            }
            RelayOutput::OpenStream => {
                let transport = relay.server.transport;
                self.outputs.push_back(Output::OpenStream { relay: id, server, transport });
            }
            RelayOutput::Allocated(address) => {
                if let Ok(candidate) = Candidate::relayed(address, local, "udp") {
                    self.engine.add_local(candidate, now);
                }
                self.announce_relayed(kind, address, SessionEvent::CandidateFound);
                self.spread_paths(now);
                self.pump_engine(now);
            }
            RelayOutput::Lost(address) => {
                if let Ok(candidate) = Candidate::relayed(address, local, "udp") {
                    self.engine.remove_local(&candidate);
                }
                self.announce_relayed(kind, address, SessionEvent::CandidateLost);
                self.drop_paths(now, LocalPath::Relay(id));
            }
            RelayOutput::Received { from, bytes } => {
                if let Some(relayed) = relay.relayed() {
                    self.receive(now, LocalPath::Relay(id), relayed, from, &bytes);
                }
            }
        }
    }

    fn announce_relayed(
        &mut self,
        kind: CandidateKind,
        address: SocketAddr,
        event: impl FnOnce(RemoteCandidate) -> SessionEvent,
    ) {
        let candidate = RemoteCandidate { kind, address };
        self.outputs.push_back(Output::Event(event(candidate)));
    }

    /// Whether a datagram on a shared socket is for this session.
    pub fn accepts(&self, from: SocketAddr, bytes: &[u8]) -> bool {
        if self.phase == Phase::Ended {
            return false;
        }
        let from_relay =
            self.relays.values().any(|relay| relay.is_udp() && relay.server.address == from);
        let known = || {
            self.remotes.iter().any(|remote| remote.address == from)
                || self.paths.iter().any(|path| path.description.remote == from)
        };
        match bytes.first() {
            Some(64..=79) => from_relay,
            Some(0..=3) => match is_binding_request_for(bytes, &self.local_parameters.ufrag) {
                Some(ours) => ours,
                None => self.reflexive.accepts(from, bytes) || from_relay || known(),
            },
            Some(20..=63 | 128..=191) => known(),
            _ => false,
        }
    }
}

/// `Some(true)` for an ICE check that names our user name fragment, `Some(false)` for one that
/// names another, `None` for everything else.
fn is_binding_request_for(bytes: &[u8], ufrag: &str) -> Option<bool> {
    if bytes.get(..2)? != [0, 1] {
        return None;
    }
    let message = Message::from_bytes(bytes).ok()?;
    let username = message.attribute::<Username>().ok()?;
    Some(username.username().split(':').next() == Some(ufrag))
}

fn build(candidate: LocalCandidate) -> Option<Candidate> {
    match candidate {
        LocalCandidate::Host(address) => Candidate::host(address, "udp").ok(),
        LocalCandidate::ServerReflexive { address, base } => {
            Candidate::server_reflexive(address, base, "udp").ok()
        }
    }
}

fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(four) if four.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}
