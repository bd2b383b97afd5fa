//! Real sockets on loopback.

use std::sync::Arc;

use cooee_proto::{
    clock::UnixTime,
    identity::{
        Certificate, CertificateRequest, NetworkKey, NodeId, NodeKey, RevocationList, Roles,
    },
    wire::v1::{LoginServerStream, StreamHeader, stream_header::Kind},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A network whose clock stands where the machine's does.
pub(crate) struct Network {
    pub(crate) key: NetworkKey,
}

impl Network {
    pub(crate) fn new(seed: u8) -> Self {
        Self { key: NetworkKey::from_seed([seed; 32]) }
    }

    pub(crate) fn now(&self) -> UnixTime {
        Trust::new(self.key.root()).unix_now()
    }

    pub(crate) fn certify(&self, seed: u8, user: Option<&str>, from: i64, to: i64) -> Credentials {
        let key = NodeKey::from_seed([seed; 32]);
        let at = |days: i64| UnixTime(self.now().0.saturating_add_signed(days * DAY_MS as i64));
        let request = CertificateRequest {
            public_key: key.public(),
            user: user.map(|name| name.parse().unwrap()),
            roles: Roles::NONE,
            serial: u64::from(seed),
            not_before: at(from),
            not_after: at(to),
        };
        Credentials::new(key, Certificate::issue(&self.key, &request).unwrap())
    }

    pub(crate) fn tls(&self, seed: u8, user: Option<&str>) -> Arc<Tls> {
        Tls::new(Trust::new(self.key.root()), self.certify(seed, user, -1, 7)).unwrap()
    }
}

pub(crate) fn node(seed: u8) -> NodeId {
    NodeKey::from_seed([seed; 32]).node_id()
}

pub(crate) fn dialer(tls: &Arc<Tls>) -> Dialer {
    Dialer::new(tls.clone(), ProxyConfig::none())
}

async fn listen(tls: &Arc<Tls>) -> Listener {
    let config = ListenerConfig::new("127.0.0.1:0".parse().unwrap());
    Listener::bind(config, tls.clone()).await.unwrap()
}

fn header() -> StreamHeader {
    StreamHeader { kind: Some(Kind::LoginServer(LoginServerStream {})) }
}

/// A client's way to find out whether it is accepted: open a stream and wait for its answer.
async fn try_connect(client: &Arc<Tls>, server: &Arc<Tls>) -> Result<Connection, TransportError> {
    let mut listener = listen(server).await;
    let to = listener.addresses()[0];
    let served = tokio::spawn(async move {
        while let Some(Accepted::Control(connection)) = listener.accept().await {
            while let Some(mut incoming) = connection.accept().await {
                incoming.stream.accept().await.unwrap();
            }
        }
    });
    let connection = dialer(client).connect(to, ConnectionLimits::ORDINARY).await?;
    let result = connection.open_accepted(&header()).await;
    served.abort();
    result.map(|_| connection)
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_and_streams_carry_bytes() {
    let network = Network::new(1);
    let (alice, super_node) = (network.tls(2, Some("alice")), network.tls(3, None));
    let mut listener = listen(&super_node).await;
    let dialing = dialer(&alice);
    let to = listener.addresses()[0];
    let client = tokio::spawn(async move {
        let connection = dialing.connect(to, ConnectionLimits::ORDINARY).await.unwrap();
        let mut stream = connection.open_accepted(&header()).await.unwrap();
        stream.write_all(b"cooee").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).await.unwrap();
        (connection, echo)
    });
    let Some(Accepted::Control(server)) = listener.accept().await else { panic!("no connection") };
    let mut incoming = server.accept().await.unwrap();
    assert_eq!(incoming.header, header());
    incoming.stream.accept().await.unwrap();
    let mut text = Vec::new();
    incoming.stream.read_to_end(&mut text).await.unwrap();
    incoming.stream.write_all(&text).await.unwrap();
    incoming.stream.shutdown().await.unwrap();
    let (client, echo) = client.await.unwrap();
    assert_eq!(echo, b"cooee");
    assert_eq!(client.node(), Some(node(3)));
    assert_eq!(server.node(), Some(node(2)));
    assert_eq!(server.peer().unwrap().user().unwrap().as_str(), "alice");
    println!("bytes up {} down {}", client.bytes().sent(), client.bytes().received());
    assert!(client.bytes().total() < 10_000);
}

#[tokio::test]
async fn a_resumed_connection_costs_fewer_bytes_and_still_knows_its_peer() {
    let network = Network::new(1);
    let (alice, super_node) = (network.tls(2, Some("alice")), network.tls(3, None));
    let mut listener = listen(&super_node).await;
    let to = listener.addresses()[0];
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Accepted::Control(connection)) = listener.accept().await {
            assert_eq!(connection.node(), Some(node(2)));
            let mut incoming = connection.accept().await.unwrap();
            incoming.stream.accept().await.unwrap();
            kept.push((connection, incoming));
        }
    });
    let dialer = dialer(&alice);
    let mut totals = Vec::new();
    for _ in 0..2 {
        let connection = dialer.connect(to, ConnectionLimits::ORDINARY).await.unwrap();
        connection.open_accepted(&header()).await.unwrap();
        assert_eq!(connection.node(), Some(node(3)));
        totals.push(connection.bytes().total());
    }
    println!("full {} resumed {}", totals[0], totals[1]);
    assert!(totals[1] + 500 < totals[0], "{totals:?}");
}

#[tokio::test]
async fn a_foreign_expired_or_revoked_certificate_is_refused_by_name() {
    let network = Network::new(1);
    let trust = Trust::new(network.key.root());
    let server = network.tls(3, None);
    let own = |wanted| {
        move |error: &_| match error {
            TransportError::OwnCertificate(problem) => *problem == wanted,
            _ => false,
        }
    };

    let expired = Tls::new(trust.clone(), network.certify(2, None, -9, -1)).unwrap();
    let error = try_connect(&expired, &server).await.unwrap_err();
    assert!(own(CertificateProblem::Expired)(&error), "{error:?}");

    let foreign = Network::new(9).certify(2, None, -1, 7);
    let foreign = Tls::new(trust.clone(), foreign).unwrap();
    let error = try_connect(&foreign, &server).await.unwrap_err();
    assert!(own(CertificateProblem::Foreign)(&error), "{error:?}");

    let list = RevocationList::issue(&network.key, 1, network.now(), [node(2)].into());
    server.trust().replace_revocation_list(list.unwrap());
    let error = try_connect(&network.tls(2, None), &server).await.unwrap_err();
    assert!(own(CertificateProblem::Revoked)(&error), "{error:?}");

    let error = try_connect(&Network::new(9).tls(2, None), &server).await.unwrap_err();
    let problem = CertificateProblem::Foreign;
    assert!(
        matches!(&error, TransportError::PeerCertificate { problem: p, .. } if *p == problem),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_days_is_named() {
    let network = Network::new(1);
    let ahead = network.now().plus(std::time::Duration::from_millis(8 * DAY_MS));
    let trust = Trust::with_clock(network.key.root(), move || ahead);
    let client = Tls::new(trust, network.certify(2, None, -1, 7)).unwrap();
    let error = try_connect(&client, &network.tls(3, None)).await.unwrap_err();
    assert!(error.suggests_wrong_clock());
    assert!(error.to_string().contains("clock is wrong, set it"), "{error}");
}

#[tokio::test]
async fn a_client_without_certificate_is_anonymous() {
    let network = Network::new(1);
    let credentials = Credentials::anonymous(NodeKey::from_seed([2; 32]));
    let client = Tls::new(Trust::new(network.key.root()), credentials).unwrap();
    let mut listener = listen(&network.tls(3, None)).await;
    let to = listener.addresses()[0];
    let dialing = dialer(&client);
    let dialed =
        tokio::spawn(async move { dialing.connect(to, ConnectionLimits::ANONYMOUS).await });
    let Some(Accepted::Control(server)) = listener.accept().await else { panic!("no connection") };
    assert_eq!(server.node(), None);
    assert_eq!(dialed.await.unwrap().unwrap().node(), Some(node(3)));
}

#[tokio::test]
async fn end_to_end_tls_refuses_anybody_but_the_one_expected() {
    let network = Network::new(1);
    let (alice, bob) = (network.tls(2, Some("alice")), network.tls(3, Some("bob")));
    for (expected, works) in [
        (ExpectedPeer::Device(node(3), "bob".parse().unwrap()), true),
        (ExpectedPeer::User("mallory".parse().unwrap()), false),
        (ExpectedPeer::Node(node(4)), false),
    ] {
        let (near, far) = tokio::io::duplex(4096);
        let callee = bob.accept_end_to_end(far, ExpectedPeer::Anybody);
        let caller = alice.connect_end_to_end(near, expected);
        let (caller, callee) = tokio::join!(caller, callee);
        assert_eq!(caller.is_ok(), works, "{caller:?}");
        if let (Ok(caller), Ok(_)) = (&caller, &callee) {
            let suite = caller.get_ref().1.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
            let group = caller.get_ref().1.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        }
    }
}

#[tokio::test]
async fn garbage_on_the_port_is_closed_and_harms_nobody() {
    let network = Network::new(1);
    let server = network.tls(3, None);
    let mut listener = listen(&server).await;
    let to = listener.addresses()[0];
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16; 300],
        &[0xff; 9],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0, 1, 0, 0],
    ] {
        let mut socket = connect_tcp(to, &ProxyConfig::none()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    }
    let dialing = dialer(&network.tls(2, None));
    let dialed = tokio::spawn(async move { dialing.connect(to, ConnectionLimits::ORDINARY).await });
    assert!(matches!(listener.accept().await, Some(Accepted::Control(_))));
    dialed.await.unwrap().unwrap();
}

#[tokio::test]
async fn turn_by_tcp_and_by_tls_goes_to_the_relay() {
    let network = Network::new(1);
    let server = network.tls(3, None);
    let (sender, mut turn) = tokio::sync::mpsc::unbounded_channel();
    let mut config = ListenerConfig::new("127.0.0.1:0".parse().unwrap());
    config.turn = Some(Arc::new(move |stream| sender.send(stream).unwrap()));
    let listener = Listener::bind(config, server).await.unwrap();
    let to = listener.addresses()[0];

    let mut plain = connect_tcp(to, &ProxyConfig::none()).await.unwrap();
    plain.write_all(&[0, 3, 0, 0]).await.unwrap();
    let mut first = turn.recv().await.unwrap();
    assert_eq!(first.transport, TurnTransport::Tcp);
    let mut bytes = [9; 4];
    first.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0, 3, 0, 0]);

    let config = network.tls(2, None).client_config(alpn::TURN, ExpectedPeer::Anybody).unwrap();
    let socket = connect_tcp(to, &ProxyConfig::none()).await.unwrap();
    let name = "turn.example".try_into().unwrap();
    let mut inside = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.unwrap();
    inside.write_all(&[0, 3, 0, 1]).await.unwrap();
    let mut second = turn.recv().await.unwrap();
    assert_eq!(second.transport, TurnTransport::Tls);
    second.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0, 3, 0, 1]);
}

#[tokio::test]
async fn a_connect_proxy_is_used_and_its_refusal_is_told() {
    let network = Network::new(1);
    let mut listener = listen(&network.tls(3, None)).await;
    let to = listener.addresses()[0];
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://me:pw@{}", proxy.local_addr().unwrap());
    let served = tokio::spawn(async move {
        for answer in ["HTTP/1.1 407 Who are you\r\n\r\n", "HTTP/1.1 200 Connected\r\n\r\n"] {
            let (mut client, _) = proxy.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(client.read_u8().await.unwrap());
            }
            assert!(String::from_utf8(request).unwrap().contains("Basic bWU6cHc="));
            client.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains("200") {
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        }
    });
    let config = ProxyConfig::fixed(Proxy::parse(&url).unwrap(), "");
    let dialer = Dialer::new(network.tls(2, None), config);
    let error = dialer.connect(to, ConnectionLimits::ORDINARY).await.unwrap_err();
    assert!(error.to_string().contains("407"), "{error}");
    let dialed = tokio::spawn(async move { dialer.connect(to, ConnectionLimits::ORDINARY).await });
    assert!(matches!(listener.accept().await, Some(Accepted::Control(_))));
    assert_eq!(dialed.await.unwrap().unwrap().node(), Some(node(3)));
    served.abort();
}
