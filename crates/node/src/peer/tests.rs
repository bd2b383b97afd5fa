//! Two devices over pipes that behave, and pipes that do not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cooee_proto::{
    clock::UnixTime,
    identity::{Certificate, CertificateRequest, NetworkKey, NodeId, NodeKey, Roles},
    wire::v1::{PresenceDetail, peer_goodbye, peer_message::Body},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

use super::*;
use crate::transport::{CertificateProblem, Credentials, ExpectedPeer, Tls, TransportError, Trust};

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// A device of `user` in the network of seed 1, or of another network.
pub(crate) fn device_of(network: u8, seed: u8, user: Option<&str>) -> Arc<Tls> {
    let network = NetworkKey::from_seed([network; 32]);
    let trust = Trust::new(network.root());
    let key = NodeKey::from_seed([seed; 32]);
    let now = trust.unix_now();
    let request = CertificateRequest {
        public_key: key.public(),
        user: user.map(|name| name.parse().expect("a legal name")),
        roles: Roles::NONE,
        serial: u64::from(seed),
        not_before: UnixTime(now.0 - DAY_MS),
        not_after: UnixTime(now.0 + 7 * DAY_MS),
    };
    let certificate = Certificate::issue(&network, &request).expect("a good request");
    Tls::new(trust, Credentials::new(key, certificate)).expect("good credentials")
}

pub(crate) fn device(seed: u8, user: &str) -> Arc<Tls> {
    device_of(1, seed, Some(user))
}

fn node(seed: u8) -> NodeId {
    NodeKey::from_seed([seed; 32]).node_id()
}

fn status(text: &str) -> Body {
    Body::Presence(PresenceDetail { text: text.into(), ..PresenceDetail::default() })
}

async fn handshake(
    alice: &Tls,
    bob: &Tls,
    expected: ExpectedPeer,
    (ours, theirs): (PeerStream, PeerStream),
) -> (Result<Established, PeerError>, Result<Established, PeerError>) {
    let from = ExpectedPeer::Node(alice.credentials().node());
    tokio::join!(connection::connect(alice, ours, expected), connection::accept(bob, theirs, from))
}

fn pipe() -> (PeerStream, PeerStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Box::new(ours), Box::new(theirs))
}

#[tokio::test]
async fn two_devices_prove_who_they_are() {
    let (alice, bob) = (device(1, "alice"), device(2, "bob"));
    let expected = ExpectedPeer::Device(node(2), "bob".parse().expect("legal"));
    let (at_alice, at_bob) = handshake(&alice, &bob, expected, pipe()).await;
    let (at_alice, at_bob) = (at_alice.expect("good"), at_bob.expect("good"));
    assert_eq!(at_alice.peer.user.as_str(), "bob");
    assert_eq!(at_bob.peer.user.as_str(), "alice");
    assert_eq!(at_bob.peer.node, node(1));
    let told = [&at_alice, &at_bob].map(|it| it.software.clone());
    assert!(told.iter().flatten().all(|text| text.starts_with("cooee ")), "{told:?}");
    assert!(told.iter().any(Option::is_some));
}

#[tokio::test]
async fn another_device_user_or_network_is_refused() {
    let alice = device(1, "alice");
    let bob = || ExpectedPeer::Device(node(2), "bob".parse().expect("legal"));
    // A super node that answers in Bob's place has a key of its own, whatever name it bears.
    for (impostor, problem) in [
        (device(3, "bob"), CertificateProblem::SomebodyElse),
        (device(3, "mallory"), CertificateProblem::SomebodyElse),
        (device(2, "mallory"), CertificateProblem::SomebodyElse),
        (device_of(9, 2, Some("bob")), CertificateProblem::Foreign),
    ] {
        let (at_alice, at_impostor) = handshake(&alice, &impostor, bob(), pipe()).await;
        let error = at_alice.expect_err("refused");
        let PeerError::Transport(TransportError::PeerCertificate { problem: seen, .. }) = &error
        else {
            panic!("{error}")
        };
        assert_eq!(*seen, problem, "{error}");
        assert!(at_impostor.is_err());
    }
    let nobody = device_of(1, 4, None);
    let (at_alice, _) = handshake(&alice, &nobody, ExpectedPeer::Node(node(4)), pipe()).await;
    assert!(matches!(at_alice, Err(PeerError::NoUser(_))));
}

/// What somebody on the path does to the bytes that it carries.
#[derive(Clone, Copy, Debug)]
enum Malice {
    Flip,
    Truncate,
    Replay,
    Reorder,
    Insert,
}

/// Carries bytes from `from` to `to`; after `honest_bytes` it misbehaves once.
async fn carry(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    malice: Option<Malice>,
    mut honest_bytes: usize,
) {
    let mut buffer = vec![0; 32 * 1024];
    let mut last = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut chunk = buffer[..length].to_vec();
        if let Some(malice) = malice.filter(|_| honest_bytes <= length) {
            honest_bytes = usize::MAX;
            match malice {
                Malice::Flip => chunk[length / 2] ^= 1,
                Malice::Truncate => {
                    let _ = to.write_all(&chunk[..length - 1]).await;
                    let _ = to.shutdown().await;
                    return;
                }
                Malice::Replay => chunk.extend_from_slice(&chunk.clone()),
                Malice::Reorder => {
                    let Ok(more @ 1..) = from.read(&mut buffer).await else { return };
                    chunk = [&buffer[..more], &chunk].concat();
                }
                Malice::Insert => chunk.insert(0, last.first().copied().unwrap_or(0x17)),
            }
        } else {
            honest_bytes = honest_bytes.saturating_sub(length);
        }
        last.clone_from(&chunk);
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// A pipe through somebody who misbehaves in the direction from Alice to Bob.
fn bad_pipe(malice: Malice, honest_bytes: usize) -> (PeerStream, PeerStream) {
    let (alice, at_alice) = duplex(64 * 1024);
    let (at_bob, bob) = duplex(64 * 1024);
    let (from_alice, to_alice) = tokio::io::split(at_alice);
    let (from_bob, to_bob) = tokio::io::split(at_bob);
    tokio::spawn(carry(from_alice, to_bob, Some(malice), honest_bytes));
    tokio::spawn(carry(from_bob, to_alice, None, 0));
    (Box::new(alice), Box::new(bob))
}

#[tokio::test]
async fn a_carrier_that_tampers_is_noticed_and_nothing_false_arrives() {
    let (alice, bob) = (device(1, "alice"), device(2, "bob"));
    let said: Vec<Body> = (0..40).map(|n| status(&format!("message {n}"))).collect();
    for malice in [Malice::Flip, Malice::Truncate, Malice::Replay, Malice::Reorder, Malice::Insert]
    {
        for honest_bytes in [0, 2_400, 2_900] {
            let ways = bad_pipe(malice, honest_bytes);
            let (at_alice, at_bob) =
                handshake(&alice, &bob, ExpectedPeer::Node(node(2)), ways).await;
            let (Ok(at_alice), Ok(at_bob)) = (at_alice, at_bob) else { continue };
            let (speak, spoken) = mpsc::channel(64);
            let (_keep, silent) = mpsc::channel(1);
            let (events, mut arrived) = mpsc::channel(64);
            let (unheard, _keep_unheard) = mpsc::channel(1);
            let talk = async {
                for body in &said {
                    speak.send(body.clone()).await.expect("room");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                std::future::pending::<()>().await;
            };
            let farewell = || peer_goodbye::Reason::ShutDown;
            let alice_runs = at_alice.run(spoken, &unheard, farewell);
            let bob_runs = at_bob.run(silent, &events, farewell);
            let reason = tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{malice:?} unnoticed"),
                reason = bob_runs => reason,
                () = async { tokio::join!(alice_runs, talk); } => unreachable!("talk never ends"),
            };
            assert!(
                !matches!(reason, PeerError::Goodbye(_)),
                "{malice:?} after {honest_bytes}: {reason}"
            );
            let mut heard = Vec::new();
            while let Ok(PeerEvent::Message { body, .. }) = arrived.try_recv() {
                heard.push(body);
            }
            assert_eq!(heard, said[..heard.len()], "{malice:?} after {honest_bytes}");
            assert!(heard.len() < said.len(), "{malice:?} after {honest_bytes}");
        }
    }
}

#[tokio::test]
async fn what_comes_before_hello_or_twice_or_in_a_huge_frame_ends_the_connection() {
    let (alice, bob) = (device(1, "alice"), device(2, "bob"));
    let hello = |version| {
        Body::Hello(cooee_proto::wire::v1::PeerHello { version, software: String::new() })
    };
    let frame = |body| {
        let message = cooee_proto::wire::v1::PeerMessage { body: Some(body) };
        cooee_proto::wire::encode_frame(&message).to_vec()
    };
    for (bytes, expected) in [
        (frame(status("hi")), "something came before Hello"),
        (frame(hello(7)), "version 7"),
        ([frame(hello(1)), frame(hello(1))].concat(), "a second Hello"),
        ([frame(hello(1)), vec![0xff; 8]].concat(), "4294967295 bytes announced"),
        ([frame(hello(1)), vec![0, 0, 0, 3, 9, 9, 9]].concat(), "malformed"),
    ] {
        let (ours, theirs) = pipe();
        let rude = async {
            let stream = alice.connect_end_to_end(ours, ExpectedPeer::Anybody).await;
            let mut stream = stream.expect("handshake");
            stream.write_all(&bytes).await.expect("written");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        let bob_runs = async {
            let (_keep, silent) = mpsc::channel(1);
            match connection::accept(&bob, theirs, ExpectedPeer::Anybody).await {
                Ok(at_bob) => {
                    let farewell = || peer_goodbye::Reason::ShutDown;
                    let (events, _keep_events) = mpsc::channel(16);
                    at_bob.run(silent, &events, farewell).await
                }
                Err(error) => error,
            }
        };
        let (reason, ()) = tokio::join!(bob_runs, rude);
        assert!(reason.to_string().contains(expected), "{reason}");
    }
}

/// Two tables of peers whose splices are direct pipes.
struct Splices {
    table: Mutex<std::collections::BTreeMap<NodeId, Peers>>,
    dials: std::sync::atomic::AtomicUsize,
    delay: Duration,
}

struct Ways {
    own: NodeId,
    splices: Arc<Splices>,
}

impl Dialer for Ways {
    fn ways(&self, node: NodeId) -> std::pin::Pin<Box<dyn Future<Output = Vec<Way>> + Send>> {
        let (own, splices) = (self.own, self.splices.clone());
        Box::pin(async move {
            let way: Way = Box::pin(async move {
                splices.dials.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(splices.delay).await;
                let table = splices.table.lock().expect("lock");
                let other = table.get(&node).ok_or(TransportError::NotReachable(node))?;
                let (ours, theirs) = pipe();
                other.accept_splice(own, theirs);
                Ok(ours)
            });
            vec![way]
        })
    }
}

fn splices(delay: Duration) -> Arc<Splices> {
    Arc::new(Splices { table: Mutex::default(), dials: 0.into(), delay })
}

fn join(splices: &Arc<Splices>, tls: Arc<Tls>) -> (Peers, mpsc::Receiver<PeerEvent>) {
    let own = tls.credentials().node();
    let dialer = Arc::new(Ways { own, splices: splices.clone() });
    let (peers, events) = Peers::new(tls, dialer, PeersConfig::default());
    splices.table.lock().expect("lock").insert(own, peers.clone());
    (peers, events)
}

/// The next message, and whether it came over a connection said to be up.
async fn next_message(events: &mut mpsc::Receiver<PeerEvent>) -> (Identity, Body) {
    let wait = async {
        loop {
            match events.recv().await.expect("the table lives") {
                PeerEvent::Message { from, body } => return (from, body),
                PeerEvent::Unreachable { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a message comes")
}

#[tokio::test]
async fn one_connection_carries_both_directions() {
    let splices = splices(Duration::ZERO);
    let (alice, mut at_alice) = join(&splices, device(1, "alice"));
    let (bob, mut at_bob) = join(&splices, device(2, "bob"));
    for text in ["one", "two", "three"] {
        alice.send(node(2), status(text));
        let (from, body) = next_message(&mut at_bob).await;
        assert_eq!((from.user.as_str(), body), ("alice", status(text)));
    }
    bob.send(node(1), status("back"));
    assert_eq!(next_message(&mut at_alice).await.1, status("back"));
    assert_eq!(splices.dials.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn two_that_connect_at_once_end_with_one_connection() {
    let splices = splices(Duration::from_millis(20));
    let (alice, mut at_alice) = join(&splices, device(1, "alice"));
    let (bob, mut at_bob) = join(&splices, device(2, "bob"));
    alice.prepare(node(2));
    bob.prepare(node(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let dials = splices.dials.load(std::sync::atomic::Ordering::Relaxed);
    for n in 0..20 {
        alice.send(node(2), status(&format!("a{n}")));
        assert_eq!(next_message(&mut at_bob).await.1, status(&format!("a{n}")));
        bob.send(node(1), status(&format!("b{n}")));
        assert_eq!(next_message(&mut at_alice).await.1, status(&format!("b{n}")));
    }
    assert_eq!(splices.dials.load(std::sync::atomic::Ordering::Relaxed), dials);
    assert_eq!((alice.connected().len(), bob.connected().len()), (1, 1));
}

#[tokio::test]
async fn a_lost_connection_is_made_anew_when_something_is_to_be_said() {
    let splices = splices(Duration::ZERO);
    let (alice, _at_alice) = join(&splices, device(1, "alice"));
    let (bob, mut at_bob) = join(&splices, device(2, "bob"));
    alice.send(node(2), status("one"));
    next_message(&mut at_bob).await;
    bob.close();
    // Alice learns of it in a moment; until then what she says may go to the dead connection.
    let wait = async {
        while !alice.connected().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the end is noticed");
    alice.send(node(2), status("two"));
    assert_eq!(next_message(&mut at_bob).await.1, status("two"));
}

#[tokio::test]
async fn a_device_that_is_nowhere_or_somebody_elses_is_unreachable() {
    let splices = splices(Duration::ZERO);
    let (alice, mut at_alice) = join(&splices, device(1, "alice"));
    let (_bob, _at_bob) = join(&splices, device(2, "bob"));
    alice.send(node(9), status("hello"));
    let Some(PeerEvent::Unreachable { node: at, .. }) = at_alice.recv().await else { panic!() };
    assert_eq!(at, node(9));
    alice.expect(node(2), "carol".parse().expect("legal"));
    alice.send(node(2), status("hello"));
    let Some(PeerEvent::Unreachable { reason, .. }) = at_alice.recv().await else { panic!() };
    assert!(reason.to_string().contains("belongs to somebody else"), "{reason}");
}

/// Two ways to every device, of which the second is slower to prove it.
struct TwoWays(Ways);

impl Dialer for TwoWays {
    fn ways(&self, node: NodeId) -> std::pin::Pin<Box<dyn Future<Output = Vec<Way>> + Send>> {
        let (one, other) = (self.0.ways(node), self.0.ways(node));
        Box::pin(async move {
            let mut ways = one.await;
            let slow = other.await.pop().expect("one way");
            ways.push(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                slow.await
            }));
            ways.push(Box::pin(std::future::pending()));
            ways
        })
    }
}

#[tokio::test]
async fn of_several_ways_the_first_wins_and_the_others_are_never_taken_up() {
    let splices = splices(Duration::from_millis(1));
    let (_bob, mut at_bob) = join(&splices, device(2, "bob"));
    for round in 0..10 {
        let tls = device(10 + round, "alice");
        let own = tls.credentials().node();
        let dialer = Arc::new(TwoWays(Ways { own, splices: splices.clone() }));
        let (alice, _at_alice) = Peers::new(tls, dialer, PeersConfig::default());
        alice.send(node(2), status("one"));
        assert_eq!(next_message(&mut at_bob).await.1, status("one"));
        let second = async {
            while let Some(event) = at_bob.recv().await {
                match event {
                    PeerEvent::Connected(peer) if peer.node == own => return "a second connection",
                    PeerEvent::Lost { peer, .. } if peer.node == own => return "a loss",
                    _ => {}
                }
            }
            "the end"
        };
        let seen = tokio::time::timeout(Duration::from_millis(100), second).await;
        assert!(seen.is_err(), "round {round}: {seen:?}");
    }
}
