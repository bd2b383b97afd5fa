//! Super nodes and attached nodes over real sockets on loopback.

use std::net::SocketAddr;

use cooee_proto::{
    attachment::{Config, PortKind, Status, Trouble},
    control::NodeRole,
    host_cache::HostCache,
    identity::{NameKey, NodeKey},
    wire::v1::{Refusal, StreamHeader, stream_header},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    attachment::{
        Attachment, AttachmentConfig, AttachmentEvent, Incoming, UdpProber, open_login_path,
    },
    transport::{
        ConnectionLimits, Credentials, ExpectedPeer, ListenerConfig, ProxyConfig, Tls, Trust,
        connect_tcp,
        tests::{Network, dialer, node},
    },
};

struct Running {
    super_node: SuperNode,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
    local: mpsc::Receiver<LocalSplice>,
    network: Network,
}

impl Running {
    async fn start(seed: u8, change: impl FnOnce(&mut SuperNodeConfig)) -> Self {
        Self::start_admitting(seed, true, change).await
    }

    async fn start_admitting(
        seed: u8,
        admits_all: bool,
        change: impl FnOnce(&mut SuperNodeConfig),
    ) -> Self {
        let network = Network::new(1);
        let tls = network.tls(seed, None);
        let config = ListenerConfig::new("127.0.0.1:0".parse().unwrap());
        let listener = Listener::bind(config, tls.clone()).await.unwrap();
        let address = listener.addresses()[0];
        let mut config =
            SuperNodeConfig { listening_port: Some(address.port()), ..Default::default() };
        change(&mut config);
        let directory = LocalDirectory::admitting(network.key.root().network_id(), admits_all);
        let (super_node, local) = SuperNode::start(config, dialer(&tls), directory);
        let serving = super_node.clone();
        let serving = tokio::spawn(async move { serving.serve_listener(listener, None).await });
        Self { super_node, address, serving, local, network }
    }

    fn node(&self) -> NodeId {
        self.super_node.0.own
    }

    fn kill(&self) {
        self.serving.abort();
        self.super_node.stop();
    }
}

/// Three super nodes of which the second and third know only the first.
async fn three() -> Vec<Running> {
    let first = Running::start(101, |_| {}).await;
    let seed = first.address;
    let second = Running::start(102, |config| config.seeds = vec![seed]).await;
    let third = Running::start(103, |config| config.seeds = vec![seed]).await;
    let all = vec![first, second, third];
    for one in &all {
        eventually(|| one.super_node.linked().len() == 2).await;
    }
    all
}

#[tokio::test]
async fn a_node_that_only_says_it_is_a_super_node_gets_no_link() {
    let strict = Running::start_admitting(101, false, |_| {}).await;
    let seed = strict.address;
    let pretender = Running::start(102, |config| config.seeds = vec![seed]).await;
    let tls = strict.network.tls(102, None);
    let connection = dialer(&tls).connect(seed, ConnectionLimits::ORDINARY).await.unwrap();
    let now = tls.trust().unix_now();
    let hello = |role| crate::transport::greeting(role, &connection, None, now);
    let refused = ControlChannel::open(&connection, &hello(NodeRole::SuperNode)).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("super node")));
    assert!(strict.super_node.linked().is_empty() && pretender.super_node.linked().is_empty());

    let connection = dialer(&tls).connect(seed, ConnectionLimits::ORDINARY).await.unwrap();
    let hello = crate::transport::greeting(NodeRole::Ordinary, &connection, None, now);
    ControlChannel::open(&connection, &hello).await.expect("as an ordinary node it is welcome");
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to pass within 10 s");
}

fn attach(seed: u8, user: &str, super_nodes: &[SocketAddr]) -> (Attachment, Incoming) {
    attach_as(&Network::new(1).tls(seed, Some(user)), super_nodes)
}

fn attach_as(tls: &Arc<Tls>, super_nodes: &[SocketAddr]) -> (Attachment, Incoming) {
    let config = AttachmentConfig {
        race: Config { other_ports: false, ..Config::default() },
        port_kind: PortKind::Own,
        listening_port: None,
        prober: Arc::new(UdpProber),
        seed: [7; 32],
        room: crate::room::Room::default(),
    };
    Attachment::start(config, dialer(tls), HostCache::new(super_nodes.iter().copied()))
}

fn key(user: &str) -> NameKey {
    user.parse::<cooee_proto::identity::UserName>()
        .unwrap()
        .key(Network::new(1).key.root().network_id())
}

/// Sends a word through a splice and reads it back from the echoing other end.
async fn echo_works(stream: &mut (impl crate::transport::ByteStream + ?Sized)) {
    stream.write_all(b"can you hear me?").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"can you hear me?");
}

/// Echoes every splice; says from whom each came.
fn echo(mut incoming: Incoming) -> mpsc::UnboundedReceiver<NodeId> {
    let (sender, from) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(splice) = incoming.splices.recv().await {
            let _ = sender.send(splice.from);
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(splice.stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    from
}

#[tokio::test]
async fn two_nodes_are_spliced_through_one_super_node() {
    let one = Running::start(101, |_| {}).await;
    let (alice, _alice) = attach(1, "alice", &[one.address]);
    let (bob, bob_incoming) = attach(2, "bob", &[one.address]);
    let mut from = echo(bob_incoming);
    alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    let found = alice.look_up(key("bob")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].node, found[0].super_nodes.clone()), (node(2), vec![one.node()]));
    let mut stream = alice.open_splice_to(&found[0]).await.unwrap();
    echo_works(&mut stream).await;
    assert_eq!(from.recv().await, Some(node(1)));
    drop(stream);
    eventually(|| one.super_node.metrics().splice_bytes() == 32).await;
    assert_eq!(one.super_node.metrics().splices(), 1);
    assert!(alice.look_up(key("nobody")).await.unwrap().is_empty());
}

#[tokio::test]
async fn end_to_end_tls_runs_through_two_super_nodes() {
    let all = three().await;
    let network = Network::new(1);
    let (alice_tls, bob_tls) = (network.tls(1, Some("alice")), network.tls(2, Some("bob")));
    let (alice, _alice) = attach_as(&alice_tls, &[all[1].address]);
    let (bob, mut bob_incoming) = attach_as(&bob_tls, &[all[2].address]);
    alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    bob.publish(Bytes::from_static(b"opaque")).await.unwrap();
    let found = alice.look_up(key("bob")).await.unwrap();
    // A second, warm connection may already be there as well.
    let device = found.iter().find(|device| device.node == node(2)).unwrap();
    assert!(device.super_nodes.contains(&all[2].node()));
    assert_eq!(device.record, &b"opaque"[..]);
    let callee = tokio::spawn(async move {
        let splice = bob_incoming.splices.recv().await.unwrap();
        let expected = ExpectedPeer::User("alice".parse().unwrap());
        let mut stream = bob_tls.accept_end_to_end(splice.stream, expected).await.unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.flush().await.unwrap();
        (splice.from, stream)
    });
    let via = Some(all[2].node());
    let start = Instant::now();
    let splice = alice.open_splice(node(2), via).await.unwrap();
    let expected = ExpectedPeer::Device(node(2), "bob".parse().unwrap());
    let mut stream = alice_tls.connect_end_to_end(splice, expected).await.unwrap();
    println!("splice through two super nodes and end-to-end TLS: {:?}", start.elapsed());
    stream.write_all(b"cooee").await.unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"cooee");
    assert_eq!(callee.await.unwrap().0, node(1));
}

#[tokio::test]
async fn a_killed_super_node_is_replaced_by_the_warm_one() {
    let all = three().await;
    let addresses: Vec<SocketAddr> = all.iter().map(|one| one.address).collect();
    let (alice, mut alice_incoming) = attach(1, "alice", &addresses);
    let (bob, bob_incoming) = attach(2, "bob", &addresses);
    echo(bob_incoming);
    let first = alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    eventually(|| alice.super_nodes().len() == 2 && bob.super_nodes().len() == 2).await;
    let killed = all.iter().find(|one| one.node() == first).unwrap();
    let start = Instant::now();
    killed.kill();
    eventually(|| alice.super_nodes().first().is_some_and(|now| *now != first)).await;
    println!("attached to the warm super node after {:?}", start.elapsed());
    // Whatever hop the callee had, it is found and reached again.
    let mut reached = None;
    while reached.is_none() && start.elapsed() < Duration::from_secs(10) {
        for device in alice.look_up(key("bob")).await.unwrap_or_default() {
            reached = reached.or(alice.open_splice_to(&device).await.ok());
        }
    }
    echo_works(&mut reached.unwrap()).await;
    println!("called again {:?} after the kill", start.elapsed());
    eventually(|| alice.super_nodes().len() == 2).await;
    println!("a new warm super node after {:?}", start.elapsed());
    let mut attached = 0;
    while let Ok(event) = alice_incoming.events.try_recv() {
        if let AttachmentEvent::Attached { took, bytes, .. } = event {
            attached += 1;
            println!("attached: {took:?}, {bytes} bytes");
        }
    }
    assert_eq!(attached, 2);
}

#[tokio::test]
async fn watchers_on_other_super_nodes_are_told_who_comes_and_goes() {
    let all = three().await;
    let (alice, mut incoming) = attach(1, "alice", &[all[0].address]);
    alice.attached().await.unwrap();
    alice.watch(vec![key("bob")]).await.unwrap();
    // The watch travels to the other super nodes on its own.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (bob, _bob) = attach(2, "bob", &[all[2].address]);
    let mut next = async || loop {
        let event = tokio::time::timeout(Duration::from_secs(10), incoming.events.recv()).await;
        if let AttachmentEvent::Notified { key: of, found } = event.unwrap().unwrap() {
            assert_eq!(of, key("bob"));
            return found;
        }
    };
    while next().await.is_empty() {}
    bob.stop().await;
    while !next().await.is_empty() {}
}

#[tokio::test]
async fn a_device_that_loses_one_of_its_two_super_nodes_stays_present() {
    let all = three().await;
    let (alice, mut incoming) = attach(1, "alice", &[all[0].address]);
    let (bob, _bob) = attach(2, "bob", &[all[1].address, all[2].address]);
    alice.attached().await.unwrap();
    eventually(|| bob.super_nodes().len() == 2).await;
    alice.watch(vec![key("bob")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first = bob.super_nodes()[0];
    let loser = all.iter().find(|one| one.node() == first).unwrap();
    while incoming.events.try_recv().is_ok() {}
    let connection = loser.super_node.0.attached().get(&node(2)).unwrap().connection.clone();
    connection.close();
    let mut told = 0;
    let until = tokio::time::Instant::now() + Duration::from_millis(1500);
    while let Ok(Some(event)) = tokio::time::timeout_at(until, incoming.events.recv()).await {
        if let AttachmentEvent::Notified { found, .. } = event {
            assert!(!found.is_empty(), "told that bob is gone");
            told += 1;
        }
    }
    assert!(told > 0);
}

#[tokio::test]
async fn a_full_super_node_sends_nodes_elsewhere() {
    let roomy = Running::start(102, |_| {}).await;
    let seed = roomy.address;
    let full = Running::start(101, |config| {
        config.attached_max = 0;
        config.seeds = vec![seed];
    })
    .await;
    eventually(|| full.super_node.linked().len() == 1).await;
    let (alice, _incoming) = attach(1, "alice", &[full.address]);
    assert_eq!(alice.attached().await.unwrap(), roomy.node());
    assert_eq!(full.super_node.metrics().busy(), 1);
}

#[tokio::test]
async fn draining_moves_nodes_without_breaking_their_splices() {
    let all = three().await;
    let addresses: Vec<SocketAddr> = all.iter().map(|one| one.address).collect();
    let (alice, _alice) = attach(1, "alice", &addresses);
    let (bob, bob_incoming) = attach(2, "bob", &addresses);
    echo(bob_incoming);
    let first = alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    eventually(|| alice.super_nodes().len() == 2).await;
    let device = alice.look_up(key("bob")).await.unwrap().remove(0);
    let mut stream = alice.open_splice_to(&device).await.unwrap();
    let leaving = all.iter().find(|one| one.node() == first).unwrap().super_node.clone();
    let drained =
        tokio::spawn(async move { leaving.drain(Duration::from_secs(2), || false).await });
    eventually(|| alice.super_nodes().first().is_some_and(|now| *now != first)).await;
    echo_works(&mut stream).await;
    drained.await.unwrap();
}

#[tokio::test]
async fn the_login_server_is_reached_through_a_super_node_when_its_address_is_blocked() {
    let login_server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reachable = login_server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = login_server.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    let one = Running::start(101, |config| config.login_servers = vec![reachable]).await;
    // Nothing listens where the client believes the login server to be.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let blocked = closed.local_addr().unwrap();
    drop(closed);
    let credentials = Credentials::anonymous(NodeKey::from_seed([9; 32]));
    let tls = Tls::new(Trust::new(one.network.key.root()), credentials).unwrap();
    let dialer = dialer(&tls);
    let mut path = open_login_path(&dialer, &[blocked], &[one.address]).await.unwrap();
    assert_eq!(path.through, Some(one.address));
    echo_works(&mut *path.stream).await;
    let direct = open_login_path(&dialer, &[reachable], &[one.address]).await.unwrap();
    assert_eq!(direct.through, None);

    // And nothing else is open to a client without certificate.
    let connection = dialer.connect(one.address, ConnectionLimits::ANONYMOUS).await.unwrap();
    let to = Bytes::copy_from_slice(node(1).as_bytes());
    let kind = stream_header::Kind::Splice(SpliceStream { to, ..Default::default() });
    let refused = connection.open_accepted(&StreamHeader { kind: Some(kind) }).await.unwrap_err();
    let not_allowed = Refusal::NotAllowed;
    assert!(
        matches!(&refused, TransportError::Refused { reason, .. } if *reason == not_allowed),
        "{refused:?}"
    );
}

#[tokio::test]
async fn clients_without_certificate_are_limited_per_address() {
    let one = Running::start(101, |config| config.anonymous_per_address_burst = 2).await;
    let credentials = Credentials::anonymous(NodeKey::from_seed([9; 32]));
    let tls = Tls::new(Trust::new(one.network.key.root()), credentials).unwrap();
    let dialer = dialer(&tls);
    let mut closed = 0;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let connection = dialer.connect(one.address, ConnectionLimits::ANONYMOUS).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_millis(300), connection.ended()).await;
        closed += usize::from(ended.is_ok());
        kept.push(connection);
    }
    assert!((1..=2).contains(&closed), "{closed}");
}

#[tokio::test]
async fn refusals_tell_why() {
    let one = Running::start(101, |config| config.splices_per_node_max = 1).await;
    let (alice, _alice) = attach(1, "alice", &[one.address]);
    let (bob, bob_incoming) = attach(2, "bob", &[one.address]);
    echo(bob_incoming);
    alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    let reason = |error: TransportError| match error {
        TransportError::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let error = alice.open_splice(node(77), None).await.unwrap_err();
    assert_eq!(reason(error), Refusal::NotHere);
    let error = alice.open_splice(node(2), Some(node(78))).await.unwrap_err();
    assert_eq!(reason(error), Refusal::ViaUnreachable);
    let _first = alice.open_splice(node(2), None).await.unwrap();
    let error = alice.open_splice(node(2), None).await.unwrap_err();
    assert_eq!(reason(error), Refusal::Quota);
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stalls_only_its_own_splice() {
    let one = Running::start(101, |config| config.bytes_per_second_per_node = 1 << 30).await;
    let (alice, _alice) = attach(1, "alice", &[one.address]);
    let (bob, mut bob_incoming) = attach(2, "bob", &[one.address]);
    alice.attached().await.unwrap();
    bob.attached().await.unwrap();
    let mut stalled = alice.open_splice(node(2), None).await.unwrap();
    let kept = bob_incoming.splices.recv().await.unwrap();
    let flood = async {
        for _ in 0..10_000 {
            stalled.write_all(&[0; 1024]).await.unwrap();
        }
    };
    let flooded = tokio::time::timeout(Duration::from_secs(1), flood).await;
    assert!(flooded.is_err(), "10 MB were taken although nobody reads");
    echo(bob_incoming);
    let mut other = alice.open_splice(node(2), None).await.unwrap();
    echo_works(&mut other).await;
    drop(kept);
}

#[tokio::test]
async fn a_node_without_network_of_its_own_says_what_is_wrong() {
    let one = Running::start(101, |_| {}).await;
    let foreign = Network::new(9).tls(1, Some("alice"));
    let (alice, _incoming) = attach_as(&foreign, &[one.address]);
    let mut status = alice.status();
    let waiting = status.wait_for(|status| matches!(status, Status::Waiting { .. })).await.unwrap();
    let Status::Waiting { why, .. } = &*waiting else { unreachable!("waited for it") };
    assert_eq!(*why, Trouble::Foreign);
}

#[tokio::test]
async fn garbage_in_every_place_harms_nobody() {
    let one = Running::start(101, |_| {}).await;
    let tls = one.network.tls(3, Some("mallory"));
    for garbage in [&[0xff; 64][..], &[0, 0, 0, 1, 0xff], &[0, 1, 0, 1], &[0; 5]] {
        // In the place of a stream header, of a greeting, and of a control message.
        let connection =
            dialer(&tls).connect(one.address, ConnectionLimits::ORDINARY).await.unwrap();
        let control = stream_header::Kind::Control(Default::default());
        for header in [None, Some(control)] {
            let header = StreamHeader { kind: header };
            if let Ok(mut stream) = connection.open_stream(&header).await {
                let _ = stream.write_all(garbage).await;
                let _ = stream.flush().await;
            }
        }
        let (mallory, _incoming) = attach_as(&tls, &[one.address]);
        mallory.attached().await.unwrap();
        mallory.stop().await;
        let mut socket = connect_tcp(one.address, &ProxyConfig::none()).await.unwrap();
        let _ = socket.write_all(garbage).await;
    }
    let (alice, _alice) = attach(1, "alice", &[one.address]);
    alice.attached().await.unwrap();
    assert!(alice.look_up(key("alice")).await.unwrap().iter().any(|one| one.node == node(1)));
}

#[tokio::test]
async fn a_super_node_reaches_and_is_reached_itself() {
    let mut one = Running::start(101, |_| {}).await;
    let (alice, alice_incoming) = attach(1, "alice", &[one.address]);
    echo(alice_incoming);
    alice.attached().await.unwrap();
    let mut outward = one.super_node.open_splice(node(1), None).await.unwrap();
    echo_works(&mut outward).await;
    let mut inward = alice.open_splice(one.node(), None).await.unwrap();
    let LocalSplice { from, mut stream } = one.local.recv().await.unwrap();
    assert_eq!(from, node(1));
    inward.write_all(b"x").await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"x");
}
