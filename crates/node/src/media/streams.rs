//! The TCP and TLS connections of a leg to its relays: one task each, bounded queues.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use cooee_media::session::{RelayId, RelayTransport};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::transport::{ProxyConfig, connect_tcp};

/// Writes that wait for one connection at most (chosen: 2.5 s of voice; older voice is useless, so
/// the newest is dropped and the peer's concealment does the rest).
const WRITES_MAX: usize = 128;
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

struct Stream {
    writes: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

pub(super) struct Streams {
    tls: Option<Arc<ClientConfig>>,
    proxy: ProxyConfig,
    open: BTreeMap<RelayId, Stream>,
    sender: mpsc::Sender<(RelayId, StreamEvent)>,
    receiver: mpsc::Receiver<(RelayId, StreamEvent)>,
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
        Self { tls, proxy, open: BTreeMap::new(), sender, receiver }
    }

    /// What happened next on any connection. Cancel safe; the sender lives as long as this.
    pub(super) async fn next(&mut self) -> Option<(RelayId, StreamEvent)> {
        self.receiver.recv().await
    }

    pub(super) fn open(&mut self, id: RelayId, server: SocketAddr, transport: RelayTransport) {
        let (writes, queue) = mpsc::channel(WRITES_MAX);
        let events = self.sender.clone();
        let tls = (transport == RelayTransport::Tls).then(|| self.tls.clone());
        let proxy = self.proxy.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = run(id, (server, &proxy), tls, queue, &events).await {
                tracing::debug!(%server, %error, "connection to a relay ended");
            }
            // If the leg is gone nobody wants to know.
            let _ = events.send((id, StreamEvent::Closed)).await;
        });
        if let Some(old) = self.open.insert(id, Stream { writes, task }) {
            old.task.abort();
        }
    }

    pub(super) fn write(&self, id: RelayId, bytes: Vec<u8>) {
        if let Some(stream) = self.open.get(&id) {
            // Full or closed: voice that cannot leave now is lost.
            let _ = stream.writes.try_send(bytes);
        }
    }

    /// Lets what was written leave, then closes.
    pub(super) fn close(&mut self, id: RelayId) {
        if let Some(stream) = self.open.remove(&id) {
            // The queue's end makes the task flush and finish.
            drop(stream.writes);
        }
    }
}

async fn run(
    id: RelayId,
    (server, proxy): (SocketAddr, &ProxyConfig),
    tls: Option<Option<Arc<ClientConfig>>>,
    queue: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> io::Result<()> {
    let connect = connect_tcp(server, proxy);
    let stream = timeout(CONNECT_LIMIT, connect).await?.map_err(io::Error::other)?;
    let local = stream.local_addr()?;
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
    mut queue: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    events.send((id, StreamEvent::Opened(local))).await.map_err(|_| gone())?;
    let write = async {
        while let Some(bytes) = queue.recv().await {
            writer.write_all(&bytes).await?;
            if queue.is_empty() {
                writer.flush().await?;
            }
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
