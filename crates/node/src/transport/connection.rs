//! One control connection: many streams over one authenticated TLS stream.
//!
//! A task drives yamux. Every stream begins with a `StreamHeader`; incoming ones are handed out
//! only after theirs has arrived whole and in time.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use cooee_proto::{
    identity::{Certificate, NodeId},
    wire::v1::{Refusal, StreamAccepted, StreamAnswer, StreamHeader, StreamRefused, stream_answer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use super::{ByteCount, ByteStream, TransportError, coalesce::Coalesce, read_frame, write_frame};

/// Time for the header of an incoming stream to arrive. Chosen: well above any round trip.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time for the answer to a header: the other end may have to connect to a third.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Streams that the peer may hold open. Each can make us buffer at most 256 KiB.
    pub incoming_streams_max: usize,
    /// Streams that we may hold open.
    pub outgoing_streams_max: usize,
}

impl ConnectionLimits {
    /// Towards an ordinary node. Chosen: a person has a few calls, not hundreds.
    pub const ORDINARY: Self = Self { incoming_streams_max: 48, outgoing_streams_max: 48 };
    /// Between super nodes, which carry the splices of all their nodes.
    pub const SUPER_NODE: Self = Self { incoming_streams_max: 2048, outgoing_streams_max: 2048 };
    /// Towards a client that has no certificate yet.
    pub const ANONYMOUS: Self = Self { incoming_streams_max: 3, outgoing_streams_max: 1 };
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We did.
    Client,
    /// The peer did.
    Server,
}

/// A control connection. Clones share it; when the last clone is dropped it is closed.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    side: Side,
    peer: Option<Certificate>,
    remote: SocketAddr,
    local: SocketAddr,
    bytes: ByteCount,
    outgoing: Arc<Semaphore>,
    incoming_permits: Arc<Semaphore>,
    raised: std::sync::atomic::AtomicBool,
    open: mpsc::Sender<oneshot::Sender<Result<yamux::Stream, TransportError>>>,
    incoming: Mutex<mpsc::Receiver<IncomingStream>>,
    ended: Arc<OnceLock<TransportError>>,
    close: watch::Sender<bool>,
    closed: watch::Receiver<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("side", &self.0.side)
            .field("node", &self.node())
            .field("remote", &self.0.remote)
            .finish_non_exhaustive()
    }
}

/// A stream that the peer opened, after its header.
#[derive(Debug)]
pub struct IncomingStream {
    /// What the peer wants.
    pub header: StreamHeader,
    /// The stream; an answer is due unless the header is of the control stream.
    pub stream: MuxStream,
}

/// What a connection is made of.
pub(super) struct Parts<S> {
    pub(super) stream: S,
    pub(super) side: Side,
    pub(super) peer: Option<Certificate>,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) bytes: ByteCount,
}

impl Connection {
    pub(super) fn start<S: ByteStream + 'static>(
        parts: Parts<S>,
        limits: ConnectionLimits,
    ) -> Self {
        let mut config = yamux::Config::default();
        // yamux ends the connection at its bound, so ours, which only resets a stream, lies below;
        // an ordinary connection may still become one of a super node.
        let ceiling = match parts.peer {
            Some(_) => ConnectionLimits::SUPER_NODE,
            None => limits,
        };
        let streams_max = ceiling.incoming_streams_max * 2 + ceiling.outgoing_streams_max + 16;
        config.set_max_connection_receive_window(None);
        config.set_max_num_streams(streams_max);
        config
            .set_max_connection_receive_window(Some(streams_max * yamux::DEFAULT_CREDIT as usize));
        let mode = match parts.side {
            Side::Client => yamux::Mode::Client,
            Side::Server => yamux::Mode::Server,
        };
        let multiplexer =
            yamux::Connection::new(Coalesce::new(parts.stream).compat(), config, mode);
        let (open, open_requests) = mpsc::channel(16);
        let (incoming_sender, incoming) = mpsc::channel(ceiling.incoming_streams_max);
        let (close, close_requested) = watch::channel(false);
        let (closed_sender, closed) = watch::channel(false);
        let ended = Arc::new(OnceLock::new());
        let incoming_permits = Arc::new(Semaphore::new(limits.incoming_streams_max));
        tokio::spawn(drive(Driver {
            multiplexer,
            open_requests,
            incoming: incoming_sender,
            incoming_permits: incoming_permits.clone(),
            close_requested,
            closed: closed_sender,
            ended: ended.clone(),
        }));
        Self(Arc::new(Inner {
            side: parts.side,
            peer: parts.peer,
            remote: parts.remote,
            local: parts.local,
            bytes: parts.bytes,
            outgoing: Arc::new(Semaphore::new(limits.outgoing_streams_max)),
            incoming_permits,
            raised: std::sync::atomic::AtomicBool::new(false),
            open,
            incoming: Mutex::new(incoming),
            ended,
            close,
            closed,
        }))
    }

    /// Which side opened the connection.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// The peer's certificate; `None` for a client that has not logged in yet.
    pub fn peer(&self) -> Option<&Certificate> {
        self.0.peer.as_ref()
    }

    /// The peer's node.
    pub fn node(&self) -> Option<NodeId> {
        self.0.peer.as_ref().map(Certificate::node)
    }

    /// The peer's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote
    }

    /// Our address on this connection.
    pub fn local_address(&self) -> SocketAddr {
        self.0.local
    }

    /// Bytes that crossed the socket so far.
    pub fn bytes(&self) -> &ByteCount {
        &self.0.bytes
    }

    /// Raises the bounds of an ordinary connection, once, by `limits`: the peer is a super node.
    pub fn raise_limits(&self, limits: ConnectionLimits) {
        if !self.0.raised.swap(true, std::sync::atomic::Ordering::Relaxed) {
            let ceiling = ConnectionLimits::SUPER_NODE;
            let ordinary = ConnectionLimits::ORDINARY;
            let more = |wanted: usize, max: usize, has: usize| wanted.min(max).saturating_sub(has);
            self.0.incoming_permits.add_permits(more(
                limits.incoming_streams_max,
                ceiling.incoming_streams_max,
                ordinary.incoming_streams_max,
            ));
            self.0.outgoing.add_permits(more(
                limits.outgoing_streams_max,
                ceiling.outgoing_streams_max,
                ordinary.outgoing_streams_max,
            ));
        }
    }

    /// Opens a stream and writes its header. For the control stream, which has no answer.
    pub async fn open_stream(&self, header: &StreamHeader) -> Result<MuxStream, TransportError> {
        let permit = self.0.outgoing.clone().try_acquire_owned();
        let permit = permit.map_err(|_| TransportError::TooMany("open streams"))?;
        let (reply, answer) = oneshot::channel();
        self.0.open.send(reply).await.map_err(|_| self.why_ended())?;
        let stream = answer.await.map_err(|_| self.why_ended())??;
        let connection = Some(self.clone());
        let mut stream = MuxStream { inner: stream.compat(), connection, _permit: permit };
        write_frame(&mut stream, header).await.map_err(|error| self.prefer_reason(error))?;
        Ok(stream)
    }

    /// Opens a stream, writes its header and waits until it is accepted.
    pub async fn open_accepted(&self, header: &StreamHeader) -> Result<MuxStream, TransportError> {
        let work = async {
            let mut stream = self.open_stream(header).await?;
            let answer = read_frame::<StreamAnswer>(&mut stream).await;
            let answer = answer.map_err(|error| self.prefer_reason(error))?;
            match answer.ok_or_else(|| self.why_ended())?.kind {
                Some(stream_answer::Kind::Accepted(StreamAccepted {})) => Ok(stream),
                Some(stream_answer::Kind::Refused(refused)) => Err(TransportError::Refused {
                    reason: refused.reason(),
                    detail: printable(&refused.detail),
                }),
                None => Err(TransportError::Protocol("empty answer to a stream".into())),
            }
        };
        timeout(ANSWER_TIME, work)
            .await
            .unwrap_or(Err(TransportError::TimedOut("answer to a stream")))
    }

    /// The next stream that the peer opens; `None` once the connection has ended.
    pub async fn accept(&self) -> Option<IncomingStream> {
        let mut incoming = self.0.incoming.lock().await.recv().await?;
        incoming.stream.connection = Some(self.clone());
        Some(incoming)
    }

    /// Closes the connection, letting what was written go out first.
    pub fn close(&self) {
        self.0.close.send_replace(true);
    }

    /// Resolves when the connection has ended, with the reason.
    pub async fn ended(&self) -> TransportError {
        let mut closed = self.0.closed.clone();
        // An error means that the driver is gone, which is the end too.
        let _ = closed.wait_for(|closed| *closed).await;
        self.why_ended()
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.0.ended.get().is_some() || *self.0.closed.borrow()
    }

    fn why_ended(&self) -> TransportError {
        self.0.ended.get().cloned().unwrap_or(TransportError::Closed)
    }

    /// The reason of the connection's end says more than the broken stream that it leaves.
    fn prefer_reason(&self, error: TransportError) -> TransportError {
        self.0.ended.get().cloned().unwrap_or(error)
    }
}

/// Text of a peer, safe to print.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

struct Driver<S> {
    multiplexer: yamux::Connection<Compat<Coalesce<S>>>,
    open_requests: mpsc::Receiver<oneshot::Sender<Result<yamux::Stream, TransportError>>>,
    incoming: mpsc::Sender<IncomingStream>,
    incoming_permits: Arc<Semaphore>,
    close_requested: watch::Receiver<bool>,
    closed: watch::Sender<bool>,
    ended: Arc<OnceLock<TransportError>>,
}

/// Runs the connection until it ends, then tells everybody.
async fn drive<S: ByteStream + 'static>(mut driver: Driver<S>) {
    let mut waiting = None;
    let reason = loop {
        let event = {
            let Driver { multiplexer, open_requests, close_requested, .. } = &mut driver;
            let close = close_requested.wait_for(|close| *close);
            tokio::select! {
                biased;
                _ = close => Event::Close,
                event = std::future::poll_fn(|cx| {
                    poll_once(multiplexer, open_requests, &mut waiting, cx)
                }) => event,
            }
        };
        match event {
            Event::Incoming(stream) => hand_out(&driver, stream),
            Event::Ended(reason) => break reason,
            Event::Close => {
                let goodbye = std::future::poll_fn(|cx| driver.multiplexer.poll_close(cx));
                // The peer may not read any more; the socket is closed anyway.
                let _ = timeout(Duration::from_secs(1), goodbye).await;
                break TransportError::Closed;
            }
        }
    };
    let _ = driver.ended.set(reason);
    driver.closed.send_replace(true);
}

enum Event {
    Incoming(yamux::Stream),
    Ended(TransportError),
    Close,
}

type OpenReply = oneshot::Sender<Result<yamux::Stream, TransportError>>;

fn poll_once<S: ByteStream>(
    multiplexer: &mut yamux::Connection<Compat<Coalesce<S>>>,
    open_requests: &mut mpsc::Receiver<OpenReply>,
    waiting: &mut Option<OpenReply>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    loop {
        if waiting.is_none() {
            match open_requests.poll_recv(cx) {
                Poll::Ready(Some(reply)) => *waiting = Some(reply),
                Poll::Ready(None) => return Poll::Ready(Event::Close),
                Poll::Pending => {}
            }
        }
        if waiting.is_some() {
            match multiplexer.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    if let Some(reply) = waiting.take() {
                        let _ = reply.send(Ok(stream));
                    }
                    continue;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(error.into())),
                Poll::Pending => {}
            }
        }
        return match multiplexer.poll_next_inbound(cx) {
            Poll::Ready(Some(Ok(stream))) => Poll::Ready(Event::Incoming(stream)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Event::Ended(error.into())),
            Poll::Ready(None) => Poll::Ready(Event::Ended(TransportError::Closed)),
            Poll::Pending => Poll::Pending,
        };
    }
}

/// Reads the header of a new stream in a task of its own; above the bound the stream is reset.
fn hand_out<S>(driver: &Driver<S>, stream: yamux::Stream) {
    let Ok(permit) = driver.incoming_permits.clone().try_acquire_owned() else { return };
    let incoming = driver.incoming.clone();
    tokio::spawn(async move {
        let mut stream = MuxStream { inner: stream.compat(), connection: None, _permit: permit };
        let header = timeout(HEADER_TIME, read_frame::<StreamHeader>(&mut stream)).await;
        if let Ok(Ok(Some(header))) = header {
            let _ = incoming.send(IncomingStream { header, stream }).await;
        }
    });
}

/// One stream inside a connection.
pub struct MuxStream {
    inner: Compat<yamux::Stream>,
    /// Keeps the connection open as long as the stream is in use.
    connection: Option<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MuxStream").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl MuxStream {
    /// Accepts a stream that the peer opened; raw bytes follow.
    pub async fn accept(&mut self) -> Result<(), TransportError> {
        let kind = Some(stream_answer::Kind::Accepted(StreamAccepted {}));
        write_frame(self, &StreamAnswer { kind }).await
    }

    /// Refuses a stream that the peer opened and closes it.
    pub async fn refuse(mut self, reason: Refusal, detail: &str) -> Result<(), TransportError> {
        let refused = StreamRefused { reason: reason.into(), detail: printable(detail) };
        let kind = Some(stream_answer::Kind::Refused(refused));
        write_frame(&mut self, &StreamAnswer { kind }).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut self).await?;
        Ok(())
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
