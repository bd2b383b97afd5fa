//! What tests set up in the virtual network and ask of it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cooee_media::session::{
    LocalCandidate, PathKind, RelayId, RelayServer, RelayTransport, SessionEvent,
};

use crate::world::World;

impl World {
    /// Exchanges the parameters, as signalling did while the call was set up.
    pub(crate) fn exchange_parameters(&mut self) {
        for end in 0..2 {
            let parameters = self.ends[1 - end].session.local_parameters().clone();
            let now = self.now;
            self.ends[end].session.set_remote_parameters(now, parameters).unwrap();
            self.drain(end);
        }
    }

    pub(crate) fn use_relay(
        &mut self,
        end: usize,
        address: SocketAddr,
        transport: RelayTransport,
    ) -> RelayId {
        let server = RelayServer {
            address,
            transport,
            username: "user".to_owned(),
            password: "secret".to_owned(),
        };
        let local = self.ends[end].bases[0];
        let id = self.ends[end].session.add_relay(self.now, server, local).unwrap();
        self.drain(end);
        id
    }

    pub(crate) fn add_host(&mut self, end: usize) {
        for base in self.ends[end].bases.clone() {
            let candidate = LocalCandidate::Host(base);
            self.ends[end].session.add_local_candidate(self.now, candidate).unwrap();
        }
        self.drain(end);
    }

    pub(crate) fn gather(&mut self, end: usize, server: SocketAddr) {
        for base in self.ends[end].bases.clone() {
            self.ends[end].session.gather_reflexive(self.now, base, server);
        }
        self.drain(end);
    }

    pub(crate) fn reveal(&mut self, end: usize) {
        self.ends[end].session.reveal_addresses(self.now);
        self.drain(end);
    }

    pub(crate) fn is_secure(&self, end: usize) -> bool {
        self.ends[end].session.statistics().cipher.is_some()
    }

    pub(crate) fn kind(&self, end: usize) -> Option<PathKind> {
        self.ends[end].session.statistics().path.map(|path| path.kind)
    }

    /// The longest silence that `end` heard between two moments.
    pub(crate) fn longest_gap(&self, end: usize, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut gap = Duration::ZERO;
        let mut times: Vec<_> = self.ends[end].heard.values().copied().collect();
        times.sort();
        for at in times.into_iter().filter(|at| *at >= from && *at <= to).chain([to]) {
            gap = gap.max(at - last);
            last = at;
        }
        gap
    }

    pub(crate) fn has_event(
        &self,
        end: usize,
        wanted: impl Fn(&SessionEvent) -> bool,
    ) -> Option<Instant> {
        self.ends[end].events.iter().find(|(_, event)| wanted(event)).map(|(at, _)| *at)
    }
}
