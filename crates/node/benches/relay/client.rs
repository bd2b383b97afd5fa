//! The calling side: one socket, one allocation, one channel.

use std::net::{SocketAddr, UdpSocket};

use stun_types::{
    attribute::{ErrorCode, Nonce, Realm, Username},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass,
        MessageIntegrityCredentials, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
        Method, TransactionId,
    },
    prelude::AttributeWrite,
};
use turn_types::{
    attribute::{ChannelNumber, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND},
};

use super::{
    PATIENCE, PAYLOAD_BYTES,
    servers::{Kind, Server},
};

const CHANNEL: u16 = 0x4001;

/// One end of a call.
pub(crate) struct Caller {
    socket: UdpSocket,
    packet: Vec<u8>,
    /// In a pair the other end answers nothing: what one sends the next receives.
    partner: Option<UdpSocket>,
}

impl Caller {
    /// To a peer outside the relay, which echoes.
    pub(crate) fn new(server: &Server, peer: SocketAddr) -> Self {
        let socket = socket(server);
        if server.kind == Kind::Floor {
            let own = socket.local_addr().expect("bound").port();
            let mut packet = vec![0; PAYLOAD_BYTES];
            packet[..2].copy_from_slice(&peer.port().to_be_bytes());
            packet[2..4].copy_from_slice(&own.to_be_bytes());
            return Self { socket, packet, partner: None };
        }
        let mut session = Session::new(&socket, server);
        session.allocate();
        session.bind(peer);
        Self { socket, packet: channel_packet(), partner: None }
    }

    pub(crate) fn send(&self) {
        // Lost packets show in the count of answers.
        let _ = self.socket.send(&self.packet);
    }

    pub(crate) fn receive(&self) -> bool {
        let mut buffer = [0; 2048];
        self.partner.as_ref().unwrap_or(&self.socket).recv(&mut buffer).is_ok()
    }

    /// Packets that the server forwarded for one answer.
    pub(crate) fn packets_per_answer(&self) -> u32 {
        if self.partner.is_some() { 1 } else { 2 }
    }
}

/// Calls between two clients of the same relay: each is two allocations.
pub(crate) fn pairs(server: &Server, count: usize) -> Vec<Caller> {
    let pair = |_| {
        let (one, two) = (socket(server), socket(server));
        let (mut first, mut second) = (Session::new(&one, server), Session::new(&two, server));
        let (at_first, at_second) = (first.allocate(), second.allocate());
        first.bind(at_second);
        second.bind(at_first);
        Caller { socket: one, packet: channel_packet(), partner: Some(two) }
    };
    (0..count).map(pair).collect()
}

fn socket(server: &Server) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
    socket.connect(server.address).expect("a loopback address");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket
}

fn channel_packet() -> Vec<u8> {
    let mut packet = vec![0; 4 + PAYLOAD_BYTES];
    packet[..2].copy_from_slice(&CHANNEL.to_be_bytes());
    packet[2..4].copy_from_slice(&(PAYLOAD_BYTES as u16).to_be_bytes());
    packet
}

struct Session<'a> {
    socket: &'a UdpSocket,
    server: &'a Server,
    realm_and_nonce: Option<(String, String)>,
    transaction: u128,
}

impl<'a> Session<'a> {
    fn new(socket: &'a UdpSocket, server: &'a Server) -> Self {
        Self { socket, server, realm_and_nonce: None, transaction: 1 }
    }

    fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask(ALLOCATE, &|_| vec![Box::new(RequestedTransport::new(17))]);
        let message = Message::from_bytes(&answer).expect("a STUN answer");
        let relayed = message.attribute::<XorRelayedAddress>().expect("a relayed address");
        relayed.addr(message.transaction_id())
    }

    fn bind(&mut self, peer: SocketAddr) {
        self.ask(CHANNEL_BIND, &|id| {
            vec![Box::new(ChannelNumber::new(CHANNEL)), Box::new(XorPeerAddress::new(peer, id))]
        });
    }

    fn ask(
        &mut self,
        method: Method,
        attributes: &dyn Fn(TransactionId) -> Vec<Box<dyn AttributeWrite>>,
    ) -> Vec<u8> {
        for _ in 0..50 {
            self.transaction += 1;
            let id = TransactionId::from(self.transaction);
            let request = self.request(method, id, &attributes(id));
            self.socket.send(&request).expect("loopback");
            let mut buffer = [0; 2048];
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let message = Message::from_bytes(&buffer[..length]).expect("a STUN answer");
            if message.transaction_id() != id {
                continue;
            }
            let Ok(error) = message.attribute::<ErrorCode>() else {
                return buffer[..length].to_vec();
            };
            let realm = message.attribute::<Realm>().map(|realm| realm.realm().to_owned());
            let nonce = message.attribute::<Nonce>().map(|nonce| nonce.nonce().to_owned());
            match (realm, nonce) {
                (Ok(realm), Ok(nonce)) => self.realm_and_nonce = Some((realm, nonce)),
                _ => panic!("{}: {} {}", self.server.kind.name(), error.code(), error.reason()),
            }
        }
        panic!("{} does not answer", self.server.kind.name());
    }

    fn request(
        &self,
        method: Method,
        id: TransactionId,
        attributes: &[Box<dyn AttributeWrite>],
    ) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        for attribute in attributes {
            message.add_attribute(attribute.as_ref()).expect("fits");
        }
        if let Some((realm, nonce)) = &self.realm_and_nonce {
            let Server { username, password, .. } = self.server;
            message.add_attribute(&Username::new(username).expect("short")).expect("fits");
            message.add_attribute(&Realm::new(realm).expect("short")).expect("fits");
            message.add_attribute(&Nonce::new(nonce).expect("short")).expect("fits");
            let key: MessageIntegrityCredentials =
                LongTermKeyCredentials::new(username.clone(), password.clone(), realm.clone())
                    .into();
            message.add_message_integrity(&key, IntegrityAlgorithm::Sha1).expect("once");
        }
        message.finish()
    }
}
