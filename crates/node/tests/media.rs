//! Media legs on real loopback sockets, directly and through real coturn relays.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_media::{
    VoicePacket,
    session::{PathDescription, PathKind, RelayServer, RelayTransport, SessionEvent},
};
use cooee_node::{
    audio::link::{AudioEnd, VoiceMessage, voice_link},
    media::{MediaLeg, MediaLegConfig},
    udp::{UdpConfig, UdpEndpoint},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

const LIMIT: Duration = Duration::from_secs(20);

/// A coturn process that ends with its owner.
struct Coturn {
    child: Child,
    address: SocketAddr,
    tls_address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Coturn {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, tls_port) = (free_port(), free_port());
        let certificate = directory.path().join("certificate.pem");
        let key = directory.path().join("key.pem");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=relay"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .expect("openssl must be installed for this test");
        assert!(made.success());
        let child = Command::new("turnserver")
            .args(["-n", "--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
            .args(["--listening-port", &port.to_string()])
            .args(["--tls-listening-port", &tls_port.to_string()])
            .args(["--realm", "cooee", "--user", "user:secret", "--lt-cred-mech"])
            .args(["--allow-loopback-peers", "--no-cli", "--no-dtls", "--log-file", "stdout"])
            .args(["--cli-password", "unused"])
            .arg("--cert")
            .arg(&certificate)
            .arg("--pkey")
            .arg(&key)
            .arg("--pidfile")
            .arg(directory.path().join("pid"))
            .arg("--userdb")
            .arg(directory.path().join("users"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn's turnserver must be installed for this test");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let tls_address = SocketAddr::from(([127, 0, 0, 1], tls_port));
        let started = Instant::now();
        while TcpStream::connect(address).is_err() || TcpStream::connect(tls_address).is_err() {
            assert!(started.elapsed() < LIMIT, "coturn does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, tls_address, directory }
    }

    fn server(&self, transport: RelayTransport) -> RelayServer {
        let tls = transport == RelayTransport::Tls;
        RelayServer {
            address: if tls { self.tls_address } else { self.address },
            transport,
            username: "user".into(),
            password: "secret".into(),
        }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn client_config(&self) -> Arc<rustls::ClientConfig> {
        use rustls_pki_types::{CertificateDer, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

type Events = Arc<Mutex<Vec<(Instant, SessionEvent)>>>;

struct Side {
    leg: Arc<MediaLeg>,
    audio: AudioEnd,
    /// Of which the voice was told.
    paths: Vec<PathDescription>,
    events: Events,
    _endpoint: UdpEndpoint,
}

fn config(controlling: bool, reveal_addresses: bool, relays: Vec<RelayServer>) -> MediaLegConfig {
    MediaLegConfig {
        controlling,
        reveal_addresses,
        stun_servers: Vec::new(),
        relays,
        reserve_relays: Vec::new(),
        relay_updates: None,
        relay_tls: None,
        loopback: true,
        proxy: cooee_node::transport::ProxyConfig::none(),
        room: cooee_node::room::Room::default(),
    }
}

/// Two legs whose events travel to each other as signalling would carry them.
async fn pair(configs: [MediaLegConfig; 2]) -> (Vec<Side>, Vec<JoinHandle<()>>) {
    let mut sides = Vec::new();
    let mut queues = Vec::new();
    for config in configs {
        let endpoint = UdpEndpoint::bind(&UdpConfig::at(([127, 0, 0, 1], 0).into())).unwrap();
        let (leg, queue) = MediaLeg::start(&endpoint, config).unwrap();
        let (audio, reader, writer) = voice_link().unwrap();
        leg.attach_voice(reader, writer).await.unwrap();
        let events = Events::default();
        sides.push(Side {
            leg: Arc::new(leg),
            audio,
            paths: Vec::new(),
            events,
            _endpoint: endpoint,
        });
        queues.push(queue);
    }
    for index in 0..2 {
        let parameters = sides[1 - index].leg.local_parameters().clone();
        sides[index].leg.set_remote(parameters).await.unwrap();
    }
    let mut signalling = Vec::new();
    for (index, queue) in queues.into_iter().enumerate() {
        let other = Arc::downgrade(&sides[1 - index].leg);
        let seen = sides[index].events.clone();
        signalling.push(tokio::spawn(carry(queue, other, seen)));
    }
    (sides, signalling)
}

async fn carry(
    mut queue: mpsc::Receiver<SessionEvent>,
    other: std::sync::Weak<MediaLeg>,
    seen: Events,
) {
    while let Some(event) = queue.recv().await {
        seen.lock().unwrap().push((Instant::now(), event.clone()));
        let Some(other) = other.upgrade() else { return };
        let carried = match event {
            SessionEvent::CandidateFound(candidate) => other.add_remote_candidate(candidate).await,
            SessionEvent::ParametersChanged(parameters) => other.set_remote(parameters).await,
            _ => Ok(()),
        };
        if carried.is_err() {
            return;
        }
    }
}

fn connected(side: &Side) -> bool {
    let events = side.events.lock().unwrap();
    events.iter().any(|(_, event)| matches!(event, SessionEvent::Connected { .. }))
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(LIMIT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// Both sides talk for a while; returns how many packets each heard and its longest silence.
async fn talk(sides: &mut [Side], first: u16, packets: u16) -> [(usize, Duration); 2] {
    let mut heard = [0; 2];
    let mut last = [Instant::now(); 2];
    let mut silence = [Duration::ZERO; 2];
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for sequence in first..first + packets + 10 {
        ticks.tick().await;
        for index in 0..2 {
            if sequence < first + packets {
                sides[index].audio.send(VoiceMessage::Packet(VoicePacket {
                    sequence,
                    timestamp: u32::from(sequence) * 960,
                    payload_type: 111,
                    marker: false,
                    payload: Bytes::from_static(b"not real speech"),
                }));
                sides[index].audio.wake();
            }
            while let Some((at, message)) = sides[index].audio.receive() {
                match message {
                    VoiceMessage::Packet(_) => {
                        heard[index] += 1;
                        let silent = at.saturating_duration_since(last[index]);
                        silence[index] = silence[index].max(silent);
                        last[index] = at;
                    }
                    VoiceMessage::Path(path) => sides[index].paths.push(path),
                    _ => {}
                }
            }
        }
    }
    [(heard[0], silence[0]), (heard[1], silence[1])]
}

#[tokio::test]
async fn two_legs_talk_directly_and_say_goodbye() {
    let (mut sides, signalling) =
        pair([config(true, true, Vec::new()), config(false, true, Vec::new())]).await;
    let started = Instant::now();
    wait_for("both connected", || sides.iter().all(connected)).await;
    println!("connected on loopback after {:?}", started.elapsed());
    let heard = talk(&mut sides, 0, 50).await;
    assert!(heard.iter().all(|(packets, _)| *packets == 50), "{heard:?}");
    sides[0].leg.hold().await.unwrap();
    assert_eq!(talk(&mut sides, 50, 10).await[1].0, 0, "no voice leaves on hold");
    sides[0].leg.resume().await.unwrap();
    assert_eq!(talk(&mut sides, 60, 10).await[1].0, 10);
    let statistics = sides[1].leg.statistics();
    assert_eq!(statistics.path.map(|path| path.kind), Some(PathKind::Direct));
    for task in &signalling {
        task.abort();
    }
    tokio::task::yield_now().await;
    let side = sides.remove(0);
    let leg = Arc::into_inner(side.leg).expect("nobody else holds the leg");
    let last = leg.close().await;
    assert_eq!(last.voice_packets_sent, 60);
    assert_eq!(last.voice_packets_lost, 0);
}

#[tokio::test]
async fn the_goodbye_of_one_side_ends_the_other() {
    let (mut sides, _signalling) =
        pair([config(true, true, Vec::new()), config(false, true, Vec::new())]).await;
    wait_for("both connected", || sides.iter().all(connected)).await;
    drop(sides.remove(0));
    let closed = || {
        let events = sides[0].events.lock().unwrap();
        events.iter().any(|(_, event)| *event == SessionEvent::Closed)
    };
    wait_for("the other side closed", closed).await;
}

#[tokio::test]
async fn two_legs_talk_through_coturn_over_udp_tcp_and_tls() {
    let coturn = Coturn::start();
    for (transport, kind) in [
        (RelayTransport::Udp, PathKind::RelayedUdp),
        (RelayTransport::Tcp, PathKind::RelayedTcp),
        (RelayTransport::Tls, PathKind::RelayedTls),
    ] {
        let configs = [true, false].map(|controlling| MediaLegConfig {
            relay_tls: Some(coturn.client_config()),
            ..config(controlling, false, vec![coturn.server(transport)])
        });
        let (mut sides, _signalling) = pair(configs).await;
        wait_for("both connected", || sides.iter().all(connected)).await;
        let heard = talk(&mut sides, 0, 50).await;
        assert!(heard.iter().all(|(packets, _)| *packets >= 49), "{transport:?}: {heard:?}");
        let path = sides[0].leg.statistics().path.expect("there is a path");
        assert_eq!(path.kind, kind);
        for side in &sides {
            let events = side.events.lock().unwrap();
            let relayed_only = events.iter().all(|(_, event)| match event {
                SessionEvent::CandidateFound(candidate) => candidate.kind.is_relayed(),
                _ => true,
            });
            assert!(relayed_only, "no address may be revealed");
        }
    }
}

#[tokio::test]
async fn the_kill_of_a_relay_is_hardly_heard() {
    let mut relays = vec![Coturn::start(), Coturn::start()];
    let servers: Vec<_> = relays.iter().map(|relay| relay.server(RelayTransport::Udp)).collect();
    let configs = [config(true, false, servers.clone()), config(false, false, servers)];
    let (mut sides, _signalling) = pair(configs).await;
    wait_for("both connected", || sides.iter().all(connected)).await;
    let before = talk(&mut sides, 0, 150).await;
    assert!(before.iter().all(|(packets, _)| *packets >= 148), "{before:?}");
    // Kill the relay that carries the caller's voice.
    let path = sides[0].leg.statistics().path.expect("there is a path");
    let cooee_media::session::LocalPath::Relay(id) = path.local else { panic!("{path:?}") };
    drop(relays.remove(usize::from(id.0)));
    let after = talk(&mut sides, 150, 150).await;
    println!("relay killed: packets heard of 150 and longest silence: {after:?}");
    for (packets, silence) in after {
        assert!(packets >= 100, "{after:?}");
        assert!(silence < Duration::from_secs(2), "{after:?}");
    }
    // Rate control must know that what it learnt of the old path is old.
    let told = &sides[0].paths;
    assert!(told.contains(&path) && told.last() != Some(&path), "{told:?}");
    std::io::stdout().flush().unwrap();
}
