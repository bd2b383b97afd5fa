//! A relay on loopback, foreign programs to talk to it, and what they print.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use cooee_node::{
    relay::{RelayHandle, RelayOptions},
    udp::{UdpConfig, UdpEndpoint},
};
use cooee_proto::{
    identity::NodeId,
    relay::{PeerPolicy, RelayConfig, RelayCredentials},
};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};
use turn_client_proto::{
    api::{Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet},
    udp::TurnClientUdp,
};
use turn_types::{TransportType, TurnCredentials};

/// A foreign program that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Relay {
    pub(crate) endpoint: UdpEndpoint,
    pub(crate) handle: RelayHandle,
    pub(crate) credentials: RelayCredentials,
    pub(crate) port: u16,
}

impl Relay {
    /// With loopback peers allowed, as in the demo.
    pub(crate) fn start() -> Self {
        let allowed = vec!["127.0.0.0/8".parse().unwrap()];
        Self::start_with(PeerPolicy { allowed, ..PeerPolicy::default() })
    }

    pub(crate) fn start_with(peers: PeerPolicy) -> Self {
        let config = UdpConfig::at(([127, 0, 0, 1], 0).into());
        let endpoint = UdpEndpoint::bind(&config).unwrap();
        let config = RelayConfig { peers, ..RelayConfig::default() };
        let options = RelayOptions { config, bind_v4: None, bind_v6: None };
        let handle = RelayHandle::start(&endpoint, options).unwrap();
        let credentials = handle.mint(NodeId([5; 16]), Duration::from_secs(3600));
        let port = endpoint.local_addresses()[0].port();
        Self { endpoint, handle, credentials, port }
    }
}

/// Serves plain TURN over TCP; returns the port.
pub(crate) async fn serve_tcp(relay: &Relay) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = relay.handle.clone();
    tokio::spawn(async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move { handle.serve_stream(stream, remote).await });
        }
    });
    port
}

/// Serves TURN over TLS with a certificate made on the spot; returns the port.
pub(crate) async fn serve_tls(relay: &Relay) -> u16 {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = relay.handle.clone();
    tokio::spawn(async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let (handle, acceptor) = (handle.clone(), acceptor.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                handle.serve_stream(stream, remote).await
            });
        }
    });
    port
}

/// A peer that sends everything back; lives as long as the test process.
pub(crate) fn echo_peer() -> (String, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    (address.ip().to_string(), address.port().to_string())
}

/// A program of the Debian package `coturn`. Fails loudly without it.
pub(crate) fn turn_tool(name: &str) -> Command {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    assert!(
        found,
        "{name} is missing: install the Debian package `coturn` (apt-get install coturn)"
    );
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What `turnutils_uclient` said at its end.
pub(crate) struct Report {
    pub(crate) received: u64,
    pub(crate) lost: i64,
    pub(crate) text: String,
}

/// Runs `turnutils_uclient` with our credentials; `-c` since reserved port pairs are not offered.
pub(crate) async fn uclient_report(relay: &Relay, extra: &[&str], messages: u32) -> Report {
    let (port, messages) = (relay.port.to_string(), messages.to_string());
    let RelayCredentials { username, password, .. } = &relay.credentials;
    let mut command = turn_tool("turnutils_uclient");
    command.args(["-c", "-l", "100", "-n", &messages, "-p", &port, "-u", username, "-w", password]);
    command.args(extra).arg("127.0.0.1");
    let output = timeout(LIMIT, command.output()).await;
    let (out, err) = match output {
        Ok(output) => {
            let output = output.unwrap();
            (output.stdout, output.stderr)
        }
        Err(_) => (Vec::new(), b"timed out".to_vec()),
    };
    let text = format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    let last = text.lines().rfind(|line| line.contains("tot_recv_msgs="));
    let number = |line: &str, name: &str| -> Option<i64> {
        let rest = line.split_once(name)?.1;
        rest.trim_start().split(|c: char| !c.is_ascii_digit() && c != '-').next()?.parse().ok()
    };
    let received = last.and_then(|line| number(line, "tot_recv_msgs=")).unwrap_or(0);
    let lost = text.lines().rfind(|line| line.contains("Total lost packets"));
    let lost = lost.and_then(|line| number(line, "Total lost packets")).unwrap_or(-1);
    Report { received: u64::try_from(received).unwrap_or(0), lost, text }
}

/// A running coturn.
pub(crate) struct Coturn {
    _child: Child,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

/// Starts coturn in the foreground with one user, and waits until it answers: the port was free
/// when it was chosen, and may be somebody else's by now, so another one is tried.
pub(crate) async fn spawn_coturn() -> Coturn {
    for _ in 0..5 {
        let coturn = Coturn::spawn();
        if coturn.answers().await {
            return coturn;
        }
    }
    panic!("coturn answered on none of five ports");
}

impl Coturn {
    fn spawn() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = turn_tool("turnserver");
        command.args(["-n", "-a", "-u", "user:password", "-r", "cooee", "-L", "127.0.0.1"]);
        command.args(["-p", &port.to_string(), "--log-file=stdout", "-m", "1"]);
        command.args(["--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls"]);
        command.arg(format!("--pidfile={}", folder.path().join("pid").display()));
        command.arg(format!("--userdb={}", folder.path().join("db").display()));
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        Self { _child: child, _folder: folder, address: ([127, 0, 0, 1], port).into() }
    }

    /// Asks for one's own address (RFC 8489) until there is an answer, for 20 s.
    async fn answers(&self) -> bool {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut question = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
        question.extend_from_slice(b"are you up??");
        let mut answer = [0; 256];
        for _ in 0..200 {
            socket.send_to(&question, self.address).await.unwrap();
            let wait = Duration::from_millis(100);
            if let Ok(Ok((20.., _))) = timeout(wait, socket.recv_from(&mut answer)).await {
                return answer[..2] == [0x01, 0x01];
            }
        }
        false
    }

    pub(crate) async fn relay_with_our_client(&self) {
        relay_through(self.address, "user", "password").await;
    }
}

/// Allocates with the client library that our calls use, and echoes a packet off a peer.
pub(crate) async fn relay_through(server: SocketAddr, username: &str, password: &str) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let start = Instant::now();
    let clock = move || turn_types::Instant::from_nanos(start.elapsed().as_nanos() as i64);
    let config = TurnConfig::new(TurnCredentials::new(username, password));
    let local = socket.local_addr().unwrap();
    let mut client = TurnClientUdp::allocate(local, server, config);
    let (ip, port) = echo_peer();
    let peer: SocketAddr = format!("{ip}:{port}").parse().unwrap();
    let mut buffer = [0; 2048];
    let exchange = async {
        loop {
            assert!(!matches!(client.poll(clock()), TurnPollRet::Closed), "client gave up");
            while let Some(transmit) = client.poll_transmit(clock()) {
                socket.send_to(&transmit.data, transmit.to).await.unwrap();
            }
            while let Some(event) = client.poll_event() {
                match event {
                    TurnEvent::AllocationCreated(..) => {
                        client.bind_channel(TransportType::Udp, peer, clock()).unwrap();
                    }
                    TurnEvent::ChannelCreated(..) => {
                        let sent = client.send_to(TransportType::Udp, peer, b"hello", clock());
                        let transmit = sent.unwrap().unwrap().build();
                        socket.send_to(&transmit.data, transmit.to).await.unwrap();
                    }
                    TurnEvent::PermissionCreated(..) => {}
                    failed => panic!("{failed:?}"),
                }
            }
            let wait = Duration::from_millis(50);
            let Ok(received) = timeout(wait, socket.recv_from(&mut buffer)).await else { continue };
            let (length, from) = received.unwrap();
            let data = buffer[..length].to_vec();
            let transmit = Transmit::new(data, TransportType::Udp, from, local);
            if let TurnRecvRet::PeerData(data) = client.recv(transmit, clock()) {
                assert_eq!(data.data(), b"hello");
                return;
            }
        }
    };
    timeout(LIMIT, exchange).await.expect("nothing came back through the relay");
}
