//! Two nodes in one process: real TCP with end-to-end TLS, real UDP media, real voice engine.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cooee_proto::{
    call::{
        AutoAnswer, CallEvent, CallPhase, CallRecord, CallsConfig, EndReason, LookUpFailure,
        Relation,
    },
    identity::{NodeId, UserName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc},
};

use super::*;
use crate::{
    audio::{AudioConfig, CallSound, MicrophoneSpec, SpeakerSpec},
    media::MediaLegConfig,
    peer::{Dialer, PeerStream, Peers, PeersConfig, Way, connection, device, device_of},
    transport::{ExpectedPeer, Tls, TransportError},
    udp::{UdpConfig, UdpEndpoint},
};

/// Who listens where: in place of the super nodes.
#[derive(Default)]
struct Directory {
    devices: Mutex<BTreeMap<NodeId, (UserName, SocketAddr)>>,
}

struct Splices {
    own: NodeId,
    directory: Arc<Directory>,
}

impl Dialer for Splices {
    fn ways(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Vec<Way>> + Send>> {
        let address = self.directory.devices.lock().expect("lock").get(&node).map(|d| d.1);
        let own = self.own;
        Box::pin(async move {
            let way: Way = Box::pin(async move {
                let to = address.ok_or(TransportError::NotReachable(node))?;
                let mut stream = TcpStream::connect(to).await?;
                // What the super node says when it hands a splice over: who opened it.
                tokio::io::AsyncWriteExt::write_all(&mut stream, &own.0).await?;
                Ok(Box::new(stream) as PeerStream)
            });
            vec![way]
        })
    }
}

impl LookUp for Directory {
    fn devices(
        &self,
        user: UserName,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<NodeId>, LookUpFailure>> + Send>> {
        let devices = self.devices.lock().expect("lock");
        let found: Vec<NodeId> =
            devices.iter().filter(|(_, (name, _))| *name == user).map(|(node, _)| *node).collect();
        let found = if found.is_empty() { Err(LookUpFailure::UnknownUser) } else { Ok(found) };
        Box::pin(async move { found })
    }
}

struct Everybody(Relation);

impl Relations for Everybody {
    fn relation(&self, _user: &UserName) -> Relation {
        self.0
    }
}

struct Headless;

impl LegResources for Headless {
    fn transport(&self, controlling: bool, reveal_addresses: bool) -> MediaLegConfig {
        MediaLegConfig {
            controlling,
            reveal_addresses,
            stun_servers: Vec::new(),
            relays: Vec::new(),
            reserve_relays: Vec::new(),
            relay_updates: None,
            relay_tls: None,
            loopback: true,
            proxy: crate::transport::ProxyConfig::none(),
            room: crate::room::Room::default(),
        }
    }

    fn sound(&self, _call: cooee_proto::call::CallId) -> (AudioConfig, CallSound) {
        let audio = AudioConfig {
            microphone: "tone:440".parse::<MicrophoneSpec>().expect("a microphone"),
            speaker: "null".parse::<SpeakerSpec>().expect("a speaker"),
            mouth_recording: None,
        };
        (audio, CallSound::default())
    }
}

struct Node {
    calls: CallService,
    notices: broadcast::Receiver<CallNotice>,
    peers: Peers,
    directory: Arc<Directory>,
    profile: tempfile::TempDir,
}

async fn node(
    tls: Arc<Tls>,
    directory: &Arc<Directory>,
    relation: Relation,
    config: CallsConfig,
) -> Node {
    let certificate = tls.credentials().certificate.expect("logged in");
    let own = tls.credentials().node();
    let user = certificate.user().expect("a user's device").clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    directory.devices.lock().expect("lock").insert(own, (user.clone(), address));
    let dialer = Arc::new(Splices { own, directory: directory.clone() });
    let (peers, peer_events) = Peers::new(tls, dialer, PeersConfig::default());
    let accepting = peers.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut from = [0; 16];
            if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut from).await.is_ok() {
                accepting.accept_splice(NodeId(from), Box::new(stream));
            }
        }
    });
    let endpoint = UdpEndpoint::bind(&UdpConfig::at("127.0.0.1:0".parse().expect("an address")))
        .expect("a port");
    let (media, media_commands) = mpsc::channel(256);
    let (media_event_sender, media_events) = mpsc::channel(256);
    let resources: Arc<dyn LegResources> = Arc::new(Headless);
    tokio::spawn(run_legs(endpoint, resources, media_commands, media_event_sender));
    let profile = tempfile::tempdir().expect("a folder");
    let (other_messages, _nobody) = mpsc::channel(1);
    let calls = CallService::start(CallServiceConfig {
        calls: config,
        own: (user, certificate.public_key()),
        records: profile.path().join("calls.jsonl"),
        look_up: directory.clone(),
        relations: Arc::new(Everybody(relation)),
        peers: peers.clone(),
        peer_events,
        other_messages,
        media,
        media_events,
        seed: own.0.repeat(2).try_into().expect("32 bytes"),
    })
    .expect("the profile is writable");
    let notices = calls.subscribe();
    Node { calls, notices, peers, directory: directory.clone(), profile }
}

impl Node {
    /// Waits for the first notice that `take` takes.
    async fn wait<T>(&mut self, mut take: impl FnMut(CallNotice) -> Option<T>) -> T {
        let wait = async {
            loop {
                let notice = self.notices.recv().await.expect("the service lives");
                if let Some(taken) = take(notice) {
                    return taken;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it happens")
    }

    async fn reach(&mut self, phase: CallPhase) {
        self.wait(|notice| match notice {
            CallNotice::Event(CallEvent::Changed(call)) => (call.phase == phase).then_some(()),
            _ => None,
        })
        .await;
    }

    async fn record(&mut self) -> CallRecord {
        self.wait(|notice| match notice {
            CallNotice::Recorded { record, .. } => Some(record),
            _ => None,
        })
        .await
    }
}

async fn two(relation: Relation) -> (Node, Node) {
    let directory = Arc::new(Directory::default());
    let auto = CallsConfig {
        auto_answer: AutoAnswer::Everybody(Duration::from_millis(300)),
        ..CallsConfig::default()
    };
    let alice = node(device(1, "alice"), &directory, relation, CallsConfig::default()).await;
    let bob = node(device(2, "bob"), &directory, relation, auto).await;
    (alice, bob)
}

async fn talk(relation: Relation) {
    let (mut alice, mut bob) = two(relation).await;
    let call = alice.calls.place("bob".parse().expect("legal")).await.expect("placed");
    alice.reach(CallPhase::Active).await;
    bob.reach(CallPhase::Active).await;
    // A second of voice, a hold and a resume.
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.calls.hold(call).await.expect("talks");
    bob.wait(|notice| match notice {
        CallNotice::Event(CallEvent::Changed(call)) => call.held_remotely.then_some(()),
        _ => None,
    })
    .await;
    alice.calls.resume(call).await.expect("held");
    tokio::time::sleep(Duration::from_millis(500)).await;
    alice.calls.hang_up(call).await.expect("talks");
    let (at_alice, at_bob) = (alice.record().await, bob.record().await);
    assert_eq!((at_alice.reason, at_bob.reason), (EndReason::HungUp, EndReason::HungUp));
    assert_eq!((at_alice.by_remote, at_bob.by_remote), (false, true));
    assert!(at_alice.safety_number.is_some());
    assert_eq!(at_alice.safety_number, at_bob.safety_number);
    for record in [&at_alice, &at_bob] {
        let media = record.media.as_ref().expect("voice flowed");
        assert_eq!(media.path, "direct UDP");
        assert!(media.packets_received > 20, "{media:?}");
        assert!(media.cipher.contains("AES_256") || media.cipher.contains("AES256"), "{media:?}");
    }
    assert!(alice.calls.list().is_empty());
    // What was told is also on the disk.
    let log = Log::<CallRecord>::open(&bob.profile.path().join("calls.jsonl"), 10).expect("opens");
    assert_eq!(log.latest().collect::<Vec<_>>(), [&at_bob]);
    assert_eq!(bob.calls.records(10), [at_bob]);
}

#[tokio::test(flavor = "multi_thread")]
async fn buddies_talk_over_real_sockets() {
    talk(Relation::MutualBuddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_talk_once_the_callee_has_accepted() {
    talk(Relation::Stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_and_a_declined_call_are_said_apart() {
    let (mut alice, _bob) = two(Relation::Stranger).await;
    alice.calls.place("carol".parse().expect("legal")).await.expect("placed");
    assert_eq!(alice.record().await.reason, EndReason::UnknownUser);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_survives_the_loss_of_its_peer_connection() {
    let (mut alice, mut bob) = two(Relation::MutualBuddy).await;
    let call = alice.calls.place("bob".parse().expect("legal")).await.expect("placed");
    alice.reach(CallPhase::Active).await;
    bob.reach(CallPhase::Active).await;
    alice.peers.close();
    tokio::time::sleep(Duration::from_millis(200)).await;
    alice.calls.mute(call, true).await.expect("talks");
    bob.wait(|notice| match notice {
        CallNotice::Event(CallEvent::Changed(call)) => call.muted_remotely.then_some(()),
        _ => None,
    })
    .await;
    bob.calls.hang_up(call).await.expect("talks");
    assert_eq!(alice.record().await.reason, EndReason::HungUp);
}

/// A super node that leads every splice for Bob to itself, and ends it with a key of its own.
async fn swap_key(directory: &Directory, impostor: Arc<Tls>) -> mpsc::Receiver<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (learnt, learns) = mpsc::channel(8);
    for device in directory.devices.lock().expect("lock").values_mut() {
        device.1 = address;
    }
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut from = [0; 16];
            let _ = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut from).await;
            let taken = connection::accept(&impostor, Box::new(stream), ExpectedPeer::Anybody);
            let said = taken.await.map_or_else(|error| error.to_string(), |_| "let in".into());
            let _ = learnt.send(said).await;
        }
    });
    learns
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_node_that_swaps_the_key_is_refused_and_the_caller_told() {
    for (what, impostor) in [
        ("its own certificate", device(9, "mallory")),
        ("its own certificate, which names no user", device_of(1, 9, None)),
        ("another device of the user's name", device(9, "bob")),
        ("the callee's key in a certificate of another user", device(2, "mallory")),
        ("the callee's name and key in a network of its own", device_of(7, 2, Some("bob"))),
    ] {
        let (mut alice, _bob) = two(Relation::Stranger).await;
        let mut learns = swap_key(&alice.directory, impostor).await;
        alice.calls.place("bob".parse().expect("legal")).await.expect("placed");
        let record = alice.record().await;
        assert_eq!(record.reason, EndReason::Impostor, "{what}");
        assert!(record.node.is_none() && record.media.is_none(), "{what}: {record:?}");
        assert!(record.reason.to_string().contains("cannot be trusted"));
        let said = learns.recv().await.expect("it was reached");
        assert_ne!(said, "let in", "{what}");
    }
}
