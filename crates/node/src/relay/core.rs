//! The machine with its sockets: every effect of the relay happens here, under one lock.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Instant,
};

use bytes::Bytes;
use cooee_proto::{
    datagram::{Datagram, StunClass, classify},
    relay::{
        AllocationId, ClientForward, ClientId, FromClient, RelayOutput, RelayServer,
        partner_response,
    },
};
use tokio::sync::mpsc;

use super::{PartnerRequest, RelayOptions, moment};
use crate::udp::{MainSocket, ServerDatagram, SourceId, UdpShared};

/// Sources from here on are alternate sockets; below, allocations.
const FIRST_ALTERNATE_SOURCE: SourceId = 1 << 31;
/// Socket indices of clients that came to an alternate socket.
const FIRST_ALTERNATE_SOCKET: u8 = 128;
/// Largest datagram relayed, in bytes. Chosen: the largest of an Ethernet path with room; a larger
/// one is cut by the kernel and dropped.
const DATAGRAM_BYTES_MAX: usize = 4096;
const BINDING_METHOD: u16 = 1;

pub(super) struct Core {
    pub(super) machine: RelayServer,
    relayed: Vec<Option<UdpSocket>>,
    alternates: Vec<UdpSocket>,
    streams: HashMap<u64, mpsc::Sender<Bytes>>,
    next_stream: u64,
    partner: Option<mpsc::Sender<PartnerRequest>>,
    bind_v4: Option<IpAddr>,
    bind_v6: Option<IpAddr>,
    receive: Box<[u8; DATAGRAM_BYTES_MAX]>,
    send: Vec<u8>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        udp: &UdpShared,
        mut machine: RelayServer,
        options: &RelayOptions,
    ) -> io::Result<Self> {
        let alternates = open_alternates(udp.sockets())?;
        for (socket, source) in alternates.iter().zip(FIRST_ALTERNATE_SOURCE..) {
            udp.watch(socket, source)?;
        }
        let port = alternates.first().and_then(|socket| socket.local_addr().ok());
        machine.set_alternate_port(port.map(|address| address.port()));
        Ok(Self {
            machine,
            relayed: Vec::new(),
            alternates,
            streams: HashMap::new(),
            next_stream: 0,
            partner: None,
            bind_v4: options.bind_v4,
            bind_v6: options.bind_v6,
            receive: Box::new([0; DATAGRAM_BYTES_MAX]),
            send: Vec::with_capacity(DATAGRAM_BYTES_MAX),
        })
    }

    pub(super) fn alternate_port(&self) -> Option<u16> {
        self.alternates.first().and_then(|socket| socket.local_addr().ok()).map(|a| a.port())
    }

    pub(super) fn set_partner(
        &mut self,
        partner: Option<(SocketAddr, mpsc::Sender<PartnerRequest>)>,
    ) {
        self.machine.set_partner(partner.as_ref().map(|(address, _)| *address));
        self.partner = partner.map(|(_, queue)| queue);
    }

    pub(super) fn answer_for_partner(&mut self, udp: &UdpShared, request: PartnerRequest) {
        let bytes = partner_response(request.mapped, request.transaction);
        if request.change_port {
            self.send_alternate(request.mapped, &bytes);
        } else {
            // Lost like any datagram if the kernel refuses it; the client asks again.
            let _ = udp.send(request.mapped, None, &bytes);
        }
    }

    /// A new stream; `None` above `streams_max`.
    pub(super) fn add_stream(
        &mut self,
        queue: mpsc::Sender<Bytes>,
        streams_max: usize,
    ) -> Option<u64> {
        if self.streams.len() >= streams_max {
            return None;
        }
        self.next_stream += 1;
        self.streams.insert(self.next_stream, queue);
        Some(self.next_stream)
    }

    pub(super) fn remove_stream(&mut self, udp: &UdpShared, client: &ClientId) {
        if let ClientId::Stream { number, .. } = client {
            self.streams.remove(number);
        }
        self.machine.handle_stream_closed(client);
        self.drain(udp);
    }

    pub(super) fn handle_datagram(
        &mut self,
        udp: &UdpShared,
        now: Instant,
        socket: &MainSocket,
        datagram: &ServerDatagram<'_>,
    ) {
        let client = ClientId::Udp { remote: datagram.remote, socket: socket.index() };
        self.handle_client(udp, now, client, datagram.local_ip, datagram.payload);
    }

    /// One datagram or one frame of a stream.
    pub(super) fn handle_client(
        &mut self,
        udp: &UdpShared,
        now: Instant,
        client: ClientId,
        local_ip: Option<IpAddr>,
        bytes: &[u8],
    ) {
        match self.machine.forward_from_client(now, &client, bytes) {
            FromClient::ToPeer { allocation, peer, payload } => {
                let socket = self.relayed.get(allocation.0 as usize).and_then(Option::as_ref);
                if let (Some(socket), Some(payload)) = (socket, bytes.get(payload)) {
                    // A full socket buffer or an unreachable peer loses the packet, as any
                    // router would.
                    let _ = socket.send_to(payload, peer);
                }
            }
            FromClient::ToClient { forward, payload } => {
                if let Some(payload) = bytes.get(payload) {
                    write_to_client(&mut self.send, &self.streams, udp, &forward, payload);
                }
            }
            FromClient::Message => {
                let was_timed = self.machine.poll_timeout().is_some();
                self.machine.handle_message(moment(now), client, local_ip, bytes);
                self.drain(udp);
                if !was_timed && self.machine.poll_timeout().is_some() {
                    udp.wake();
                }
            }
            FromClient::Drop => {}
        }
    }

    pub(super) fn handle_source(&mut self, udp: &UdpShared, now: Instant, source: SourceId) {
        if let Some(index) = source.checked_sub(FIRST_ALTERNATE_SOURCE) {
            self.handle_alternate(udp, now, index);
            return;
        }
        let Some(Some(socket)) = self.relayed.get(source as usize) else { return };
        // An error is one of an earlier send (unreachable); reading it cleared it.
        let Ok((length, peer)) = socket.recv_from(&mut self.receive[..]) else { return };
        if length == DATAGRAM_BYTES_MAX {
            return;
        }
        let allocation = AllocationId(source);
        if let Some(forward) = self.machine.forward_from_peer(now, allocation, peer, length) {
            let payload = &self.receive[..length];
            write_to_client(&mut self.send, &self.streams, udp, &forward, payload);
        }
    }

    /// Only Binding is served on the alternate port.
    fn handle_alternate(&mut self, udp: &UdpShared, now: Instant, index: u32) {
        let Some(socket) = self.alternates.get(index as usize) else { return };
        let Ok((length, remote)) = socket.recv_from(&mut self.receive[..]) else { return };
        let bytes = self.receive[..length].to_vec();
        let Datagram::Stun(header) = classify(&bytes) else { return };
        if header.class == StunClass::Request && header.method == BINDING_METHOD {
            let socket = FIRST_ALTERNATE_SOCKET.saturating_add(u8::try_from(index).unwrap_or(0));
            let client = ClientId::Udp { remote, socket };
            self.machine.handle_message(moment(now), client, None, &bytes);
            self.drain(udp);
        }
    }

    pub(super) fn handle_timeout(&mut self, udp: &UdpShared, now: Instant) -> Option<Instant> {
        self.machine.handle_timeout(now);
        self.drain(udp);
        self.machine.poll_timeout()
    }

    fn drain(&mut self, udp: &UdpShared) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                RelayOutput::Transmit { client, local_ip, bytes } => {
                    self.transmit(udp, client, local_ip, bytes);
                }
                RelayOutput::TransmitAlternate { remote, bytes } => {
                    self.send_alternate(remote, &bytes);
                }
                RelayOutput::AskPartner { mapped, transaction, change_port } => {
                    if let Some(partner) = &self.partner {
                        // A full queue drops: the client asks again.
                        let _ =
                            partner.try_send(PartnerRequest { mapped, transaction, change_port });
                    }
                }
                RelayOutput::BindRelayed { allocation, relayed } => {
                    let opened = self.open_relayed(udp, allocation, relayed);
                    if let Err(error) = &opened {
                        tracing::debug!(%relayed, %error, "relayed port not opened");
                    }
                    self.machine.handle_bound(allocation, opened.is_ok());
                }
                RelayOutput::CloseRelayed { allocation } => self.close_relayed(udp, allocation),
            }
        }
    }

    fn transmit(
        &self,
        udp: &UdpShared,
        client: ClientId,
        local_ip: Option<IpAddr>,
        bytes: Vec<u8>,
    ) {
        match client {
            ClientId::Udp { remote, socket } if socket >= FIRST_ALTERNATE_SOCKET => {
                let alternate = self.alternates.get(usize::from(socket - FIRST_ALTERNATE_SOCKET));
                if let Some(alternate) = alternate {
                    let _ = alternate.send_to(&bytes, remote);
                }
            }
            ClientId::Udp { .. } => send_udp(udp, &client, local_ip, &bytes),
            ClientId::Stream { number, .. } => {
                if let Some(queue) = self.streams.get(&number) {
                    let _ = queue.try_send(bytes.into());
                }
            }
        }
    }

    fn send_alternate(&self, remote: SocketAddr, bytes: &[u8]) {
        let fits = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|local| local.is_ipv4() == remote.is_ipv4())
        };
        if let Some(socket) = self.alternates.iter().find(fits) {
            let _ = socket.send_to(bytes, remote);
        }
    }

    fn open_relayed(
        &mut self,
        udp: &UdpShared,
        allocation: AllocationId,
        relayed: SocketAddr,
    ) -> io::Result<()> {
        let bind = if relayed.is_ipv4() { self.bind_v4 } else { self.bind_v6 };
        let socket = UdpSocket::bind((bind.unwrap_or(relayed.ip()), relayed.port()))?;
        socket.set_nonblocking(true)?;
        udp.watch(&socket, allocation.0)?;
        let slot = allocation.0 as usize;
        if self.relayed.len() <= slot {
            self.relayed.resize_with(slot + 1, || None);
        }
        self.relayed[slot] = Some(socket);
        Ok(())
    }

    fn close_relayed(&mut self, udp: &UdpShared, allocation: AllocationId) {
        let slot = self.relayed.get_mut(allocation.0 as usize);
        if let Some(socket) = slot.and_then(Option::take)
            && let Err(error) = udp.unwatch(&socket)
        {
            // Closing the descriptor right after takes it out of the set as well.
            tracing::debug!(%error, "relayed port was not watched");
        }
    }
}

fn write_to_client(
    send: &mut Vec<u8>,
    streams: &HashMap<u64, mpsc::Sender<Bytes>>,
    udp: &UdpShared,
    forward: &ClientForward,
    payload: &[u8],
) {
    send.clear();
    forward.header.write(payload, forward.client.is_stream(), send);
    match forward.client {
        ClientId::Udp { .. } => send_udp(udp, &forward.client, forward.local_ip, send),
        ClientId::Stream { number, .. } => {
            if let Some(queue) = streams.get(&number) {
                // A client that reads too slowly loses packets instead of getting them late.
                let _ = queue.try_send(Bytes::copy_from_slice(send));
            }
        }
    }
}

fn send_udp(udp: &UdpShared, client: &ClientId, local_ip: Option<IpAddr>, bytes: &[u8]) {
    if let ClientId::Udp { remote, socket } = *client
        && let Some(socket) = udp.sockets().get(usize::from(socket))
    {
        let _ = socket.send(remote, local_ip, bytes);
    }
}

/// One more port on the address of each main socket; the same number where that works.
fn open_alternates(sockets: &[MainSocket]) -> io::Result<Vec<UdpSocket>> {
    let mut alternates: Vec<UdpSocket> = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let port = alternates.first().map_or(Ok(0), |a| a.local_addr().map(|a| a.port()))?;
        let address = SocketAddr::new(socket.address().ip(), port);
        let opened = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::DGRAM,
            Some(socket2::Protocol::UDP),
        )?;
        if address.is_ipv6() {
            opened.set_only_v6(true)?;
        }
        opened.set_nonblocking(true)?;
        match opened.bind(&address.into()) {
            Ok(()) => alternates.push(opened.into()),
            Err(error) if alternates.is_empty() => return Err(error),
            Err(error) => tracing::debug!(%address, %error, "no alternate port here"),
        }
    }
    Ok(alternates)
}
