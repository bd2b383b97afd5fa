//! The TCP and TLS connections of a leg to its relays: one task each, bounded queues.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use cooee_media::session::{FreshQueue, RelayId, RelayTransport};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::unsent::LittleUnsent;
use crate::transport::{ProxyConfig, connect_tcp};

/// Pieces read that wait for the leg at most; then the connection waits (TCP pushes back).
const READS_MAX: usize = 256;
const READ_BYTES: usize = 4_096;
/// Connection and handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What a connection says.
#[derive(Debug)]
pub(super) enum StreamEvent {
    Opened(SocketAddr),
    Received(Bytes),
    Closed,
}

/// What waits for one connection.
#[derive(Default)]
struct Waiting {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    fresh: FreshQueue,
    /// Nothing more comes.
    ended: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A push or a pop that panicked left a queue that is still a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: Vec<u8>, useless_from: Option<Instant>) {
        self.lock().fresh.push(message, useless_from);
        self.changed.notify_one();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next message worth sending; `None` at the end.
    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = self.lock();
                let message = queue.fresh.pop(Instant::now());
                if message.is_some() || queue.ended {
                    return message;
                }
            }
            self.changed.notified().await;
        }
    }
}

struct Stream {
    waiting: Arc<Waiting>,
    task: JoinHandle<()>,
}

pub(super) struct Streams {
    tls: Option<Arc<ClientConfig>>,
    proxy: ProxyConfig,
    open: BTreeMap<RelayId, Stream>,
    sender: mpsc::Sender<(RelayId, StreamEvent)>,
    receiver: mpsc::Receiver<(RelayId, StreamEvent)>,
    /// By connections that are gone.
    dropped: u64,
}

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in self.open.values() {
            stream.task.abort();
        }
    }
}

impl Streams {
    pub(super) fn new(tls: Option<Arc<ClientConfig>>, proxy: ProxyConfig) -> Self {
        let (sender, receiver) = mpsc::channel(READS_MAX);
        Self { tls, proxy, open: BTreeMap::new(), sender, receiver, dropped: 0 }
    }

    /// What happened next on any connection. Cancel safe; the sender lives as long as this.
    pub(super) async fn next(&mut self) -> Option<(RelayId, StreamEvent)> {
        self.receiver.recv().await
    }

    pub(super) fn open(&mut self, id: RelayId, server: SocketAddr, transport: RelayTransport) {
        let waiting = Arc::new(Waiting::default());
        let queue = waiting.clone();
        let events = self.sender.clone();
        let tls = (transport == RelayTransport::Tls).then(|| self.tls.clone());
        let proxy = self.proxy.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = run(id, (server, &proxy), tls, &queue, &events).await {
                tracing::debug!(%server, %error, "connection to a relay ended");
            }
            // If the leg is gone nobody wants to know.
            let _ = events.send((id, StreamEvent::Closed)).await;
        });
        if let Some(old) = self.open.insert(id, Stream { waiting, task }) {
            self.dropped += old.waiting.lock().fresh.dropped();
            old.task.abort();
        }
    }

    /// One whole message, not to be sent any more once it is useless.
    pub(super) fn write(&self, id: RelayId, message: Vec<u8>, useless_from: Option<Instant>) {
        if let Some(stream) = self.open.get(&id) {
            stream.waiting.push(message, useless_from);
        }
    }

    /// Messages dropped so far because a connection did not take them in time.
    pub(super) fn dropped(&self) -> u64 {
        let open = self.open.values().map(|stream| stream.waiting.lock().fresh.dropped());
        self.dropped + open.sum::<u64>()
    }

    /// Lets what was written leave, then closes.
    pub(super) fn close(&mut self, id: RelayId) {
        if let Some(stream) = self.open.remove(&id) {
            self.dropped += stream.waiting.lock().fresh.dropped();
            stream.waiting.end();
        }
    }
}

async fn run(
    id: RelayId,
    (server, proxy): (SocketAddr, &ProxyConfig),
    tls: Option<Option<Arc<ClientConfig>>>,
    queue: &Waiting,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> io::Result<()> {
    let connect = connect_tcp(server, proxy);
    let stream = timeout(CONNECT_LIMIT, connect).await?.map_err(io::Error::other)?;
    let local = stream.local_addr()?;
    let stream = LittleUnsent::new(stream);
    match tls {
        None => carry(id, local, stream, queue, events).await,
        Some(None) => Err(io::Error::new(io::ErrorKind::Unsupported, "no TLS configuration")),
        Some(Some(config)) => {
            let name = ServerName::from(server.ip());
            let handshake = TlsConnector::from(config).connect(name, stream);
            let stream = timeout(CONNECT_LIMIT, handshake).await??;
            carry(id, local, stream, queue, events).await
        }
    }
}

async fn carry(
    id: RelayId,
    local: SocketAddr,
    stream: impl AsyncRead + AsyncWrite,
    queue: &Waiting,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    events.send((id, StreamEvent::Opened(local))).await.map_err(|_| gone())?;
    let write = async {
        while let Some(message) = queue.next().await {
            // Whole messages: what has begun is finished, however long it takes.
            writer.write_all(&message).await?;
            // Only what the network has taken makes place for the next one.
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    let read = async {
        loop {
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let received = StreamEvent::Received(buffer.freeze());
            events.send((id, received)).await.map_err(|_| gone())?;
        }
    };
    tokio::select! { result = write => result, result = read => result }
}

#[cfg(test)]
mod tests;
