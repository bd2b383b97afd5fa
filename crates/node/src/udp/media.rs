//! A media session's share of the UDP port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use cooee_proto::datagram::{Datagram, StunClass, classify};
use tokio::sync::mpsc;

use super::{ReceivedDatagram, UdpEndpoint, routes::SessionId};

/// Sends for one session and receives what is meant for it: checks that name its ufrag, responses
/// to its own STUN requests, and DTLS, RTP and TURN data from addresses that it has sent to.
#[derive(Debug)]
pub struct MediaPort {
    endpoint: UdpEndpoint,
    id: SessionId,
    receiver: mpsc::Receiver<ReceivedDatagram>,
}

impl MediaPort {
    pub(super) fn new(
        endpoint: UdpEndpoint,
        id: SessionId,
        receiver: mpsc::Receiver<ReceivedDatagram>,
    ) -> Self {
        Self { endpoint, id, receiver }
    }

    /// The next datagram. Cancel safe. Waits for ever once nothing can come any more.
    pub async fn receive(&mut self) -> Option<ReceivedDatagram> {
        self.receiver.recv().await
    }

    /// The next datagram if one is there.
    pub fn try_receive(&mut self) -> Option<ReceivedDatagram> {
        self.receiver.try_recv().ok()
    }

    /// Connectivity checks that carry our `ufrag` come here from now on (also after an ICE
    /// restart: several may be claimed).
    pub fn claim_ufrag(&self, ufrag: &str) {
        self.endpoint.with_routes(|routes| routes.claim_ufrag(self.id, ufrag));
    }

    /// Undoes [`Self::claim_ufrag`].
    pub fn release_ufrag(&self, ufrag: &str) {
        self.endpoint.with_routes(|routes| routes.release_ufrag(self.id, ufrag));
    }

    /// Traffic of `remote` comes here; sending to it claims it too. False at the bound (4
    /// sessions for each address).
    pub fn claim_remote(&self, remote: SocketAddr) -> bool {
        self.endpoint.with_routes(|routes| routes.claim_remote(self.id, remote))
    }

    /// As [`Self::claim_remote`], and its ChannelData and Data indications come here too, not to
    /// our own relay. One allocation per server fits one port: a second session that wants its own
    /// takes a socket of its own.
    pub fn claim_turn_server(&self, remote: SocketAddr) -> bool {
        self.endpoint.with_routes(|routes| routes.claim_turn_server(self.id, remote))
    }

    /// Sends one datagram, from `local` where the port has several addresses, and claims its
    /// response and its address for this session.
    pub fn send(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        payload: &[u8],
    ) -> io::Result<()> {
        self.prepare(remote, payload);
        self.endpoint.send(remote, local, payload)
    }

    /// The port that it shares.
    pub fn endpoint(&self) -> &UdpEndpoint {
        &self.endpoint
    }

    fn prepare(&self, remote: SocketAddr, payload: &[u8]) {
        let request = match classify(payload) {
            Datagram::Stun(header) if header.class == StunClass::Request => {
                Some(header.transaction)
            }
            _ => None,
        };
        let shared = self.endpoint.shared();
        let known = shared.routes.read().is_ok_and(|routes| routes.claims(self.id, remote));
        if known && request.is_none() {
            return;
        }
        self.endpoint.with_routes(|routes| {
            routes.claim_remote(self.id, remote);
            if let Some(transaction) = request {
                routes.expect_response(self.id, transaction);
            }
        });
    }
}

impl Drop for MediaPort {
    fn drop(&mut self) {
        self.endpoint.with_routes(|routes| routes.remove_session(self.id));
    }
}
