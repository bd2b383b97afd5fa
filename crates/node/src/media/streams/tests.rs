//! Real connections to a peer that stops reading.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, sync::oneshot, time::sleep};
use tokio_rustls::TlsAcceptor;

use super::*;

const MESSAGE_BYTES: usize = 160;
const SPACING: Duration = Duration::from_millis(10);
const AGE_MAX: Duration = Duration::from_millis(200);
/// Messages of voice while nobody reads, and after that.
const STALLED: u16 = 300;
const AFTER: u16 = 60;
/// One control message in so many of voice.
const CONTROL_EACH: u16 = 50;

fn message(kind: u8, number: u16) -> Vec<u8> {
    let mut message = vec![kind; MESSAGE_BYTES];
    message[1..3].copy_from_slice(&number.to_be_bytes());
    message[MESSAGE_BYTES - 2..].copy_from_slice(&number.to_be_bytes());
    message
}

/// The numbers in what was read, of voice and of control messages. Panics where one is cut.
fn numbers(bytes: &[u8]) -> [Vec<u16>; 2] {
    let mut numbers = [Vec::new(), Vec::new()];
    assert_eq!(bytes.len() % MESSAGE_BYTES, 0, "a message was cut");
    for found in bytes.chunks(MESSAGE_BYTES) {
        let number = u16::from_be_bytes([found[1], found[2]]);
        assert_eq!(found, message(found[0], number), "a message was cut");
        numbers[usize::from(found[0] == 0)].push(number);
    }
    numbers
}

fn tls() -> (Arc<ClientConfig>, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (Arc::new(client), TlsAcceptor::from(Arc::new(server)))
}

/// Reads nothing until told, then everything.
async fn read_late(mut stream: impl AsyncRead + Unpin, go_on: oneshot::Receiver<()>) -> Vec<u8> {
    go_on.await.unwrap();
    let mut bytes = Vec::new();
    // The end of a connection may be rude; what came before it counts.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

async fn a_peer_that_stalls(transport: RelayTransport) {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )
    .unwrap();
    // What a peer's kernel holds for it is out of our hands: here that is little.
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    let server = listener.local_addr().unwrap();
    let (client, acceptor) = tls();
    let (resume, go_on) = oneshot::channel();
    let peer = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        match transport {
            RelayTransport::Tls => read_late(acceptor.accept(stream).await.unwrap(), go_on).await,
            _ => read_late(stream, go_on).await,
        }
    });
    let mut streams = Streams::new(Some(client), ProxyConfig::none());
    let id = RelayId(0);
    streams.open(id, server, transport);
    assert!(matches!(streams.next().await, Some((_, StreamEvent::Opened(_)))));

    let mut resume = Some(resume);
    for number in 0..STALLED + AFTER {
        if number == STALLED {
            resume.take().unwrap().send(()).unwrap();
        }
        if number % CONTROL_EACH == 0 {
            streams.write(id, message(0, number), None);
        }
        streams.write(id, message(128, number), Some(Instant::now() + AGE_MAX));
        sleep(SPACING).await;
    }
    let dropped = streams.dropped();
    streams.close(id);
    let [voice, control] = numbers(&peer.await.unwrap());

    let expected: Vec<_> = (0..STALLED + AFTER).step_by(usize::from(CONTROL_EACH)).collect();
    assert_eq!(control, expected, "control messages come late, but they come");
    assert!(voice.is_sorted());
    let aged = (AGE_MAX.as_millis() / SPACING.as_millis()) as u16;
    let stale = voice.iter().filter(|number| **number < STALLED - aged).count();
    assert!(stale < usize::from(STALLED - aged) / 3, "{stale} stale packets arrived: {voice:?}");
    let gap = voice.windows(2).max_by_key(|pair| pair[1] - pair[0]).unwrap();
    assert!(gap[1] >= STALLED - aged, "the first after the stall is old: {gap:?}");
    assert!(voice.iter().any(|number| *number >= STALLED), "{voice:?}");
    assert!(dropped > u64::from(STALLED) / 2, "{dropped} dropped");
}

#[tokio::test]
async fn a_peer_that_reads_again_over_tcp_hears_fresh_voice() {
    a_peer_that_stalls(RelayTransport::Tcp).await;
}

#[tokio::test]
async fn a_peer_that_reads_again_over_tls_hears_fresh_voice() {
    a_peer_that_stalls(RelayTransport::Tls).await;
}
