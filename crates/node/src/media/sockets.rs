//! The UDP sockets of a leg: the node's shared port for direct paths, one of its own for relays
//! (a TURN allocation belongs to one socket), and further ones when another port is to be tried.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle};

use super::interfaces;
use crate::udp::MediaPort;

/// Datagrams of own sockets that wait for the leg at most; further ones are dropped, as a full
/// socket buffer would.
const QUEUE_MAX: usize = 256;
/// Largest datagram of interest: relays add 40 bytes to what fits 1,500.
const DATAGRAM_MAX: usize = 2_048;

/// A datagram with the local address of its socket.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) local: SocketAddr,
    pub(super) from: SocketAddr,
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
struct OwnSocket {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    reader: JoinHandle<()>,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
pub(super) struct Sockets {
    port: MediaPort,
    own: Vec<OwnSocket>,
    sender: mpsc::Sender<Arrival>,
    receiver: mpsc::Receiver<Arrival>,
}

impl Sockets {
    pub(super) fn new(port: MediaPort) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        Self { port, own: Vec::new(), sender, receiver }
    }

    pub(super) fn port(&self) -> &MediaPort {
        &self.port
    }

    /// The next datagram of any socket. Cancel safe.
    pub(super) async fn receive(&mut self) -> Arrival {
        loop {
            tokio::select! {
                datagram = self.port.receive() => if let Some(datagram) = datagram {
                    return Arrival {
                        at: datagram.received,
                        local: datagram.local,
                        from: datagram.remote,
                        bytes: datagram.payload,
                    };
                },
                // The sender lives as long as this.
                arrival = self.receiver.recv() => if let Some(arrival) = arrival {
                    return arrival;
                },
            }
        }
    }

    /// Addresses of the shared port, as host candidates: those it is bound to, or those of the
    /// interfaces where it is bound to all.
    pub(super) fn host_candidates(&self, loopback: bool) -> Vec<SocketAddr> {
        self.expand(self.port.endpoint().local_addresses(), loopback)
    }

    /// The same for an own socket.
    pub(super) fn host_candidates_of(&self, socket: SocketAddr, loopback: bool) -> Vec<SocketAddr> {
        self.expand(vec![socket], loopback)
    }

    fn expand(&self, sockets: Vec<SocketAddr>, loopback: bool) -> Vec<SocketAddr> {
        let mut candidates = Vec::new();
        for socket in sockets {
            if socket.ip().is_unspecified() {
                let interfaces = interfaces::host_addresses(loopback);
                let fitting = interfaces.into_iter().filter(|ip| ip.is_ipv4() == socket.is_ipv4());
                candidates.extend(fitting.map(|ip| SocketAddr::new(ip, socket.port())));
            } else {
                candidates.push(socket);
            }
        }
        candidates
    }

    /// Opens a socket of the leg's own that can reach `remote`. Returns its address.
    pub(super) fn open(&mut self, remote: IpAddr) -> io::Result<SocketAddr> {
        let any: IpAddr = match remote {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // A port bound to one address stays on it: tests and multihomed hosts mean it.
        let bound = self.port.endpoint().local_addresses().into_iter();
        let ip = bound
            .map(|address| address.ip())
            .find(|ip| !ip.is_unspecified() && ip.is_ipv4() == remote.is_ipv4())
            .unwrap_or(any);
        let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let address = socket.local_addr()?;
        let reader = tokio::spawn(read(socket.clone(), address, self.sender.clone()));
        self.own.push(OwnSocket { socket, address, reader });
        Ok(address)
    }

    /// Sends; what the system refuses is lost, as datagrams are.
    pub(super) fn send(&self, local: SocketAddr, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) {
        let own = self.own.iter().find(|own| {
            own.address.port() == local.port() && own.address.is_ipv4() == local.is_ipv4()
        });
        let sent = match (own, ttl) {
            (Some(own), None) => own.socket.try_send_to(bytes, to).map(drop),
            (Some(own), Some(ttl)) => {
                interfaces::send_with_ttl(&own.socket, to, local.ip(), bytes, ttl)
            }
            (None, None) => self.port.send(to, Some(local.ip()), bytes),
            (None, Some(ttl)) => match self.port.endpoint().shared().socket_for(to) {
                Some(socket) => interfaces::send_with_ttl(socket, to, local.ip(), bytes, ttl),
                None => Ok(()),
            },
        };
        if let Err(error) = sent {
            tracing::trace!(%to, %error, "a datagram of a call could not be sent");
        }
    }
}

async fn read(socket: Arc<UdpSocket>, local: SocketAddr, sender: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                let arrival = Arrival { at: Instant::now(), local, from, bytes };
                if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(arrival) {
                    return;
                }
            }
            // A reported error of an earlier send; reading it cleared it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::debug!(%local, %error, "a socket of a call ended");
                return;
            }
        }
    }
}
