//! One bound UDP socket: opening, batch receive, send.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::{UdpConfig, UdpError};

/// Largest UDP payload, in bytes (RFC 768: 16-bit length less header).
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Tries to find a port that is free in both families.
const PORT_TRIES: usize = 16;

/// A socket of the node's port.
#[derive(Debug)]
pub struct MainSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
    index: u8,
}

impl MainSocket {
    fn open(address: SocketAddr, kernel_buffer_bytes: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // Two plain sockets instead of one with mapped addresses: a mapped address never
            // enters the program.
            socket.set_only_v6(true)?;
        }
        // The kernel's limit may be lower; the socket works all the same.
        let _ = socket.set_recv_buffer_size(kernel_buffer_bytes);
        let _ = socket.set_send_buffer_size(kernel_buffer_bytes);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let address = socket.local_addr()?;
        drop_control_messages(&socket, address)?;
        Ok(Self { socket, state, address, index: 0 })
    }

    /// The bound address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its place among the sockets of the port.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Sends one datagram; `local` as in [`super::UdpShared::send`]. Never blocks.
    pub fn send(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        payload: &[u8],
    ) -> io::Result<()> {
        let source = local.filter(|ip| {
            self.address.ip().is_unspecified()
                && !ip.is_unspecified()
                && ip.is_ipv4() == self.address.is_ipv4()
        });
        if source.is_none() {
            return self.socket.send_to(payload, remote).map(|_| ());
        }
        let transmit = Transmit {
            destination: remote,
            ecn: None,
            contents: payload,
            segment_size: None,
            src_ip: source,
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Reads what is there, at most one batch.
    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = {
            let mut pieces = batch.buffer.chunks_exact_mut(DATAGRAM_BYTES_MAX);
            std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()))
        };
        self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut batch.metas)
    }
}

impl AsFd for MainSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `quinn-udp` has the kernel tell more about each datagram than is used here, and each costs time
/// (`docs/measurements/relay.md`): the class of service, a time stamp (for every packet of the
/// machine once one socket wants it), and our own address where only one is bound.
fn drop_control_messages(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &false)?;
    if address.is_ipv4() {
        rustix::net::sockopt::set_ip_recvtos(socket, false)?;
    } else {
        rustix::net::sockopt::set_ipv6_recvtclass(socket, false)?;
    }
    if !address.ip().is_unspecified() {
        if address.is_ipv4() {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &false)?;
        } else {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false)?;
        }
    }
    Ok(())
}

/// Room for one batch. Most of it stays untouched and therefore costs no memory.
pub(super) struct Batch {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; DATAGRAM_BYTES_MAX * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        }
    }

    /// The datagrams of the last [`MainSocket::receive`]: sender, our address, bytes.
    pub(super) fn datagrams(
        &self,
        count: usize,
    ) -> impl Iterator<Item = (SocketAddr, Option<IpAddr>, &[u8])> {
        let filled = self.metas.iter().zip(self.buffer.chunks_exact(DATAGRAM_BYTES_MAX));
        filled.take(count).flat_map(|(meta, bytes)| {
            // The kernel may have joined datagrams of one sender (GRO), each `stride` long.
            let pieces = bytes[..meta.len].chunks(meta.stride.max(1));
            let empty = (meta.len == 0).then_some(&bytes[..0]);
            pieces.chain(empty).map(move |piece| (meta.addr, meta.dst_ip, piece))
        })
    }
}

/// Opens all sockets of `config`, on one port where it asks for port 0 in several families.
pub(super) fn bind_all(config: &UdpConfig) -> Result<Vec<MainSocket>, UdpError> {
    let mut last = UdpError::NoAddress;
    for _ in 0..PORT_TRIES {
        match bind_once(config) {
            Err(UdpError::Bind { source, address })
                if source.kind() == io::ErrorKind::AddrInUse
                    && config.bind.first().is_some_and(|first| first.port() == 0) =>
            {
                last = UdpError::Bind { source, address };
            }
            other => return other,
        }
    }
    Err(last)
}

fn bind_once(config: &UdpConfig) -> Result<Vec<MainSocket>, UdpError> {
    let mut sockets: Vec<MainSocket> = Vec::with_capacity(config.bind.len());
    for wanted in &config.bind {
        let mut address = *wanted;
        if let (0, Some(first)) = (address.port(), sockets.first()) {
            address.set_port(first.address.port());
        }
        match MainSocket::open(address, config.kernel_buffer_bytes) {
            Ok(mut socket) => {
                socket.index = u8::try_from(sockets.len()).unwrap_or(u8::MAX);
                sockets.push(socket);
            }
            Err(source)
                if address.is_ipv6()
                    && !sockets.is_empty()
                    && source.kind() != io::ErrorKind::AddrInUse =>
            {
                tracing::info!(%address, %source, "no IPv6 here");
            }
            Err(source) => return Err(UdpError::Bind { address, source }),
        }
    }
    if sockets.is_empty() { Err(UdpError::NoAddress) } else { Ok(sockets) }
}
