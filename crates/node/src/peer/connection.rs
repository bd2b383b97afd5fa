//! One end-to-end connection, from the TLS handshake to its end.
//!
//! ```text
//! stream ── TLS, both certificates ── Hello ⇄ Hello ── PeerMessages ⇄ PeerMessages ── Goodbye
//! ```
//!
//! Whoever carries the bytes can delay or cut them, nothing else: TLS notices every changed,
//! replayed, reordered or left-out byte, and the certificate must be of the device expected.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cooee_proto::{
    identity::Certificate,
    wire::{
        FrameDecoder, encode_frame,
        v1::{
            PeerGoodbye, PeerHello, PeerKeepAlive, PeerMessage, peer_goodbye, peer_message::Body,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{Identity, PeerError, PeerEvent};
use crate::transport::{ByteStream, ExpectedPeer, Tls, TransportError};

/// Version of the peer protocol.
pub const VERSION: u32 = 1;
/// Time for TLS and Hello. Chosen: two round trips over two relays, with losses.
const HANDSHAKE_MAX: Duration = Duration::from_secs(12);
/// Silence after which the peer is asked whether it is there. Chosen: below the time that NATs
/// keep a TCP binding, above what wakes a phone too often.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// Silence after which the connection counts as lost. Chosen.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// A connection on which nothing but keep-alives was said for this long is closed. Chosen.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Time for one write. Chosen: the peer reads, or it is gone.
const WRITE_MAX: Duration = Duration::from_secs(15);
/// Messages taken from one peer in a second; more are read later. Chosen: a call's set-up is
/// below 100.
const MESSAGES_PER_SECOND_MAX: u32 = 400;
/// Bytes of the software name that are kept.
const SOFTWARE_BYTES_MAX: usize = 64;
const READ_BYTES: usize = 8 * 1024;

/// Any stream that can carry an end-to-end connection.
pub type PeerStream = Box<dyn ByteStream>;

/// A connection after both Hellos.
pub struct Established {
    /// Who is at the other end.
    pub peer: Identity,
    /// Program and version that the peer says it runs, if it has said so yet; not verified.
    pub software: Option<String>,
    reader: Reader,
    writer: WriteHalf<PeerStream>,
}

impl std::fmt::Debug for Established {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Established").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A stream whose other end has proved to be the device wanted; nothing was said yet.
pub struct Proven {
    stream: PeerStream,
    peer: Identity,
}

impl Proven {
    /// Says Hello.
    pub async fn greet(self, tls: &Tls) -> Result<Established, PeerError> {
        // The peer's Hello is a round trip away; what is to be said need not wait for it.
        in_time(greet(tls, self.stream, self.peer, Wait::Later)).await
    }
}

/// Does the handshake as the side that opened the stream.
pub async fn prove(
    tls: &Tls,
    stream: PeerStream,
    expected: ExpectedPeer,
) -> Result<Proven, PeerError> {
    in_time(async {
        let stream = tls.connect_end_to_end(stream, expected).await?;
        let peer = peer_of(tls, stream.get_ref().1.peer_certificates())?;
        Ok(Proven { stream: Box::new(stream), peer })
    })
    .await
}

/// Makes the connection as the side that opened the stream.
pub async fn connect(
    tls: &Tls,
    stream: PeerStream,
    expected: ExpectedPeer,
) -> Result<Established, PeerError> {
    prove(tls, stream, expected).await?.greet(tls).await
}

/// Makes the connection as the side to which the stream was opened.
pub async fn accept(
    tls: &Tls,
    stream: PeerStream,
    expected: ExpectedPeer,
) -> Result<Established, PeerError> {
    in_time(async {
        let stream = tls.accept_end_to_end(stream, expected).await?;
        let peer = peer_of(tls, stream.get_ref().1.peer_certificates())?;
        greet(tls, Box::new(stream), peer, Wait::Now).await
    })
    .await
}

/// Takes over a stream on which the end-to-end handshake is done: a direct connection.
pub async fn adopt(
    tls: &Tls,
    stream: PeerStream,
    peer: &Certificate,
) -> Result<Established, PeerError> {
    in_time(greet(tls, stream, Identity::of(peer)?, Wait::Now)).await
}

async fn in_time<T>(work: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
    timeout(HANDSHAKE_MAX, work).await.unwrap_or(Err(PeerError::TimedOut("handshake")))
}

fn peer_of(
    tls: &Tls,
    chain: Option<&[rustls_pki_types::CertificateDer<'_>]>,
) -> Result<Identity, PeerError> {
    let der = chain.and_then(|chain| chain.first()).ok_or(TransportError::NoCertificate)?;
    let certificate = tls.trust().check(der).map_err(|error| TransportError::PeerCertificate {
        problem: (&error).into(),
        ours_bad: false,
    })?;
    Identity::of(&certificate)
}

/// When the peer's Hello is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Now,
    /// With the first messages, before any of them is taken.
    Later,
}

async fn greet(
    tls: &Tls,
    stream: PeerStream,
    peer: Identity,
    wait: Wait,
) -> Result<Established, PeerError> {
    if peer.node == tls.credentials().node() {
        return Err(PeerError::Oneself);
    }
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader { stream: reader, decoder: FrameDecoder::default() };
    let software = concat!("cooee ", env!("CARGO_PKG_VERSION")).to_owned();
    write(&mut writer, Body::Hello(PeerHello { version: VERSION, software })).await?;
    let software = match wait {
        Wait::Now => Some(hello(reader.next().await?.ok_or(PeerError::Lost)?)?),
        Wait::Later => None,
    };
    Ok(Established { peer, software, reader, writer })
}

/// What must come first; gives the peer's program and version.
fn hello(body: Body) -> Result<String, PeerError> {
    let Body::Hello(hello) = body else {
        return Err(PeerError::Protocol("something came before Hello"));
    };
    if hello.version != VERSION {
        return Err(PeerError::Version(hello.version));
    }
    let software = hello.software.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
    Ok(software.take(SOFTWARE_BYTES_MAX).collect())
}

impl Established {
    /// Carries messages until the connection ends; returns why. What arrives goes to `events`,
    /// whose slow taker slows the peer down; when `outgoing` is dropped the connection says
    /// `farewell`.
    pub async fn run(
        self,
        mut outgoing: mpsc::Receiver<Body>,
        events: &mpsc::Sender<PeerEvent>,
        farewell: impl Fn() -> peer_goodbye::Reason,
    ) -> PeerError {
        let Self { peer, mut reader, mut writer, software } = self;
        // Answers of the reading side; a peer that asks faster than it takes answers loses some.
        let (answers, mut answer) = mpsc::channel::<Body>(4);
        let spoken = Spoken::new();
        let reading = async {
            let mut budget = Budget::new();
            let mut is_greeted = software.is_some();
            loop {
                let body = match timeout(SILENCE_MAX, reader.next()).await {
                    Ok(Ok(Some(body))) => body,
                    Ok(Ok(None)) => return PeerError::Lost,
                    Ok(Err(error)) => return error,
                    Err(_) => return PeerError::TimedOut("keep-alive"),
                };
                budget.spend().await;
                if !is_greeted {
                    match hello(body) {
                        Ok(_) => is_greeted = true,
                        Err(error) => return error,
                    }
                    continue;
                }
                match body {
                    Body::Hello(_) => return PeerError::Protocol("a second Hello"),
                    Body::Goodbye(goodbye) => return PeerError::Goodbye(goodbye.reason()),
                    Body::KeepAlive(PeerKeepAlive { token, answer: false }) => {
                        let body = Body::KeepAlive(PeerKeepAlive { token, answer: true });
                        let _ = answers.try_send(body);
                    }
                    Body::KeepAlive(_) => {}
                    body => {
                        spoken.touch();
                        let from = peer.clone();
                        let _ = events.send(PeerEvent::Message { from, body }).await;
                    }
                }
            }
        };
        let writing = async {
            let mut token = 0;
            loop {
                let body = tokio::select! {
                    body = outgoing.recv() => match body {
                        Some(body) => {
                            spoken.touch();
                            body
                        }
                        None => return say_goodbye(&mut writer, farewell()).await,
                    },
                    Some(body) = answer.recv() => body,
                    () = tokio::time::sleep(KEEP_ALIVE_AFTER) => {
                        if spoken.age() >= IDLE_MAX {
                            return say_goodbye(&mut writer, peer_goodbye::Reason::Idle).await;
                        }
                        token += 1;
                        Body::KeepAlive(PeerKeepAlive { token, answer: false })
                    }
                };
                if let Err(error) = write(&mut writer, body).await {
                    return error;
                }
            }
        };
        let reason = tokio::select! {
            reason = reading => reason,
            reason = writing => reason,
        };
        if let PeerError::Protocol(_) | PeerError::Frame(_) = reason {
            say_goodbye(&mut writer, peer_goodbye::Reason::ProtocolError).await;
        }
        reason
    }
}

async fn say_goodbye(
    writer: &mut WriteHalf<PeerStream>,
    reason: peer_goodbye::Reason,
) -> PeerError {
    let body = Body::Goodbye(PeerGoodbye { reason: reason as i32 });
    // The peer learns of the end by the end of the stream if not by the word.
    let _ = write(writer, body).await;
    let _ = timeout(WRITE_MAX, writer.shutdown()).await;
    PeerError::Goodbye(reason)
}

async fn write(writer: &mut WriteHalf<PeerStream>, body: Body) -> Result<(), PeerError> {
    let frame = encode_frame(&PeerMessage { body: Some(body) });
    let work = async {
        writer.write_all(&frame).await?;
        writer.flush().await
    };
    match timeout(WRITE_MAX, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(PeerError::Transport(error.into())),
        Err(_) => Err(PeerError::TimedOut("write")),
    }
}

struct Reader {
    stream: ReadHalf<PeerStream>,
    decoder: FrameDecoder,
}

impl Reader {
    /// The next message that this version knows; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Body>, PeerError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            while let Some(message) = self.decoder.next::<PeerMessage>()? {
                if message.body.is_some() {
                    return Ok(message.body);
                }
            }
            let length = self.stream.read(&mut buffer).await.map_err(TransportError::from)?;
            if length == 0 {
                return Ok(None);
            }
            self.decoder.push(&buffer[..length]);
        }
    }
}

/// When something other than a keep-alive was last said; both halves of a connection touch it.
struct Spoken {
    start: Instant,
    after_ms: AtomicU64,
}

impl Spoken {
    fn new() -> Self {
        Self { start: Instant::now(), after_ms: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let after_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after_ms, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let at = Duration::from_millis(self.after_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(at)
    }
}

/// Slows a peer down that says too much.
struct Budget {
    since: Instant,
    spent: u32,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), spent: 0 }
    }

    async fn spend(&mut self) {
        const SECOND: Duration = Duration::from_secs(1);
        self.spent += 1;
        if self.since.elapsed() >= SECOND {
            *self = Self::new();
        } else if self.spent > MESSAGES_PER_SECOND_MAX {
            tokio::time::sleep_until(self.since + SECOND).await;
            *self = Self::new();
        }
    }
}
