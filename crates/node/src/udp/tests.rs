//! The port on real loopback sockets.

use std::{net::UdpSocket, sync::Mutex, time::Duration};

use stun_types::{
    attribute::Username,
    message::{
        BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt,
        MessageWriteVec, TransactionId,
    },
};
use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn endpoint() -> (UdpEndpoint, SocketAddr) {
    let endpoint = UdpEndpoint::bind(&UdpConfig::at(([127, 0, 0, 1], 0).into())).unwrap();
    let address = endpoint.local_addresses()[0];
    (endpoint, address)
}

fn foreign(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn binding(class: MessageClass, id: u128, username: Option<&str>) -> Vec<u8> {
    let kind = MessageType::from_class_method(class, BINDING);
    let mut message = Message::builder(kind, TransactionId::from(id), MessageWriteVec::new());
    if let Some(name) = username {
        message.add_attribute(&Username::new(name).unwrap()).unwrap();
    }
    message.finish()
}

async fn next(port: &mut MediaPort) -> ReceivedDatagram {
    timeout(LIMIT, port.receive()).await.expect("nothing came").expect("closed")
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(LIMIT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

#[tokio::test]
async fn a_check_reaches_the_session_that_owns_the_ufrag() {
    let (endpoint, address) = endpoint();
    let (mut first, mut second) = (endpoint.register_media(), endpoint.register_media());
    first.claim_ufrag("aaaa");
    second.claim_ufrag("bbbb");
    let peer = foreign(address);
    let check = binding(MessageClass::Request, 1, Some("bbbb:zzzz"));
    peer.send(&check).unwrap();
    let got = next(&mut second).await;
    assert_eq!(got.payload, check);
    assert_eq!(got.remote, peer.local_addr().unwrap());
    assert_eq!(got.local, address);
    assert!(first.try_receive().is_none());
}

#[tokio::test]
async fn media_from_an_address_comes_to_the_session_that_sent_there_and_to_no_other() {
    let (endpoint, address) = endpoint();
    let (mut mine, mut other) = (endpoint.register_media(), endpoint.register_media());
    let peer = foreign(address);
    peer.send(&[0x80; 30]).unwrap();
    wait_until("the early packet is dropped", || endpoint.counts().unclaimed_dropped == 1).await;
    mine.send(peer.local_addr().unwrap(), None, b"\x80 opener").unwrap();
    for first in [0x80_u8, 0xBF, 20, 63] {
        peer.send(&[first; 30]).unwrap();
        assert_eq!(next(&mut mine).await.payload[0], first);
    }
    assert!(other.try_receive().is_none());
    drop(mine);
    peer.send(&[0x80; 30]).unwrap();
    wait_until("nobody is left", || endpoint.counts().unclaimed_dropped == 2).await;
}

#[tokio::test]
async fn a_response_goes_to_whoever_asked_once() {
    let (endpoint, address) = endpoint();
    let mut session = endpoint.register_media();
    let peer = foreign(address);
    let probe = endpoint.register_probe([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    endpoint
        .send(peer.local_addr().unwrap(), None, &binding(MessageClass::Request, 7, None))
        .unwrap();
    session
        .send(peer.local_addr().unwrap(), None, &binding(MessageClass::Request, 8, None))
        .unwrap();
    peer.send(&binding(MessageClass::Success, 7, None)).unwrap();
    peer.send(&binding(MessageClass::Error, 8, None)).unwrap();
    let answered = timeout(LIMIT, probe).await.unwrap().unwrap();
    assert_eq!(answered.payload, binding(MessageClass::Success, 7, None));
    assert_eq!(next(&mut session).await.payload, binding(MessageClass::Error, 8, None));
}

#[tokio::test]
async fn unknown_bytes_are_counted_and_dropped() {
    let (endpoint, address) = endpoint();
    let peer = foreign(address);
    for bytes in [&[][..], &[5, 5], &[255; 100], &[0; 20], &[0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42]] {
        peer.send(bytes).unwrap();
    }
    wait_until("five drops", || endpoint.counts().unknown_dropped == 5).await;
    // A message with a sound header, but this node is no server.
    peer.send(&binding(MessageClass::Request, 9, None)).unwrap();
    wait_until("no server", || endpoint.counts().unclaimed_dropped == 1).await;
    assert_eq!(endpoint.counts().received_datagrams, 6);
}

#[tokio::test]
async fn a_consumer_that_does_not_read_loses_the_newest_and_blocks_nobody() {
    let (endpoint, address) = endpoint();
    let mut overlay = endpoint.register_overlay();
    let peer = foreign(address);
    let extra = 40;
    for number in 0..CONSUMER_QUEUE_DATAGRAMS + extra {
        peer.send(&[&[0xC0], &number.to_be_bytes()[..]].concat()).unwrap();
    }
    let all = (CONSUMER_QUEUE_DATAGRAMS + extra) as u64;
    wait_until("all were read", || endpoint.counts().received_datagrams == all).await;
    assert_eq!(endpoint.counts().queue_full_dropped, extra as u64);
    for number in 0..CONSUMER_QUEUE_DATAGRAMS {
        assert_eq!(overlay.try_recv().unwrap().payload[1..], number.to_be_bytes());
    }
    assert!(overlay.try_recv().is_err());
}

#[derive(Default)]
struct Echo {
    seen: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

impl DatagramServer for Echo {
    fn handle_datagrams(&self, _: Instant, socket: &MainSocket, batch: &[ServerDatagram<'_>]) {
        for datagram in batch {
            self.seen.lock().unwrap().push((datagram.remote, datagram.payload.to_vec()));
            socket.send(datagram.remote, datagram.local_ip, datagram.payload).unwrap();
        }
    }
    fn handle_sources(&self, _: Instant, _: &[SourceId]) {}
    fn handle_timeout(&self, _: Instant) -> Option<Instant> {
        None
    }
}

#[test]
fn unclaimed_stun_and_channel_data_go_to_the_server_in_both_families() {
    let config = UdpConfig::any(0);
    let endpoint = UdpEndpoint::bind(&config).unwrap();
    endpoint.set_server(Arc::new(Echo::default()));
    let addresses = endpoint.local_addresses();
    assert_eq!(addresses[0].port(), addresses.last().unwrap().port());
    for bound in addresses {
        let (from, to): (&str, IpAddr) = match bound {
            SocketAddr::V4(_) => ("127.0.0.1:0", [127, 0, 0, 1].into()),
            SocketAddr::V6(_) => ("[::1]:0", IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
        };
        let peer = UdpSocket::bind(from).unwrap();
        peer.connect((to, bound.port())).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        for request in [binding(MessageClass::Request, 3, None), vec![0x40, 0, 0, 0]] {
            peer.send(&request).unwrap();
            let mut buffer = [0; 100];
            let length = peer.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], request);
        }
    }
}

#[tokio::test]
async fn channel_data_of_a_claimed_turn_server_goes_to_the_session() {
    let (endpoint, address) = endpoint();
    endpoint.set_server(Arc::new(Echo::default()));
    let mut session = endpoint.register_media();
    let turn = foreign(address);
    assert!(session.claim_turn_server(turn.local_addr().unwrap()));
    turn.send(&[0x40, 0, 0, 0]).unwrap();
    assert_eq!(next(&mut session).await.payload, &[0x40, 0, 0, 0][..]);
}

#[test]
fn a_port_in_use_is_said_with_its_address() {
    let (_open, address) = endpoint();
    let error = UdpEndpoint::bind(&UdpConfig::at(address)).unwrap_err();
    assert!(matches!(&error, UdpError::Bind { address: at, .. } if *at == address));
    assert!(error.to_string().contains(&address.to_string()));
}

#[test]
fn the_port_is_free_again_after_the_last_handle() {
    let (first, address) = endpoint();
    first.set_server(Arc::new(Echo::default()));
    let second = first.clone();
    drop(first);
    assert!(UdpEndpoint::bind(&UdpConfig::at(address)).is_err());
    drop(second);
    UdpEndpoint::bind(&UdpConfig::at(address)).unwrap();
}
