//! TURN over TCP and TLS: one task for each connection that the transport listener hands over.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use cooee_proto::relay::{ClientId, StreamError, StreamFrames};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use super::{RelayHandle, Shell};

/// Streams at one time. Chosen: as many as allocations by default.
const STREAMS_MAX: usize = 4000;
/// Packets that wait for a stream. Chosen: a second of one voice stream of 20 ms frames.
const QUEUE_PACKETS: usize = 64;
/// Bytes written at once at most.
const WRITE_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may hold its place without an allocation. Chosen: three round trips of a
/// bad path, many times over.
const WITHOUT_ALLOCATION: Duration = Duration::from_secs(30);
/// How long one may stay silent with an allocation: longer than any refresh interval.
const WITH_ALLOCATION: Duration = Duration::from_secs(3700);
/// How long the client may refuse to read.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Why a TURN connection ended other than by the client closing it. Its allocation is gone.
#[derive(Debug, thiserror::Error)]
pub enum RelayStreamError {
    /// The bytes are no TURN.
    #[error("TURN stream: {0}")]
    Malformed(#[from] StreamError),
    /// There are too many connections; nothing was read.
    #[error("TURN stream: the relay has no room for another connection")]
    Full,
    /// The client was silent or did not read for too long.
    #[error("TURN stream: timed out")]
    TimedOut,
    /// The relay was stopped.
    #[error("TURN stream: the relay stopped")]
    Stopped,
    /// The connection broke.
    #[error("TURN stream: {0}")]
    Broken(#[from] io::Error),
}

impl RelayHandle {
    /// Serves one connection until it ends: plain TCP whose first byte was STUN's or ChannelData's,
    /// or TLS with ALPN `stun.turn`. `remote` is the client's address as the socket tells it.
    pub async fn serve_stream<S>(
        &self,
        mut stream: S,
        remote: SocketAddr,
    ) -> Result<(), RelayStreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (sender, mut queue) = mpsc::channel(QUEUE_PACKETS);
        let number = self.shell.lock().add_stream(sender, STREAMS_MAX);
        let number = number.ok_or(RelayStreamError::Full)?;
        let client = ClientId::Stream { number, remote };
        let guard = Guard { shell: Arc::clone(&self.shell), client };
        let mut frames = StreamFrames::default();
        let mut bytes = BytesMut::with_capacity(WRITE_BYTES_MAX);
        let mut heard = Instant::now();
        loop {
            let patience =
                if guard.has_allocation() { WITH_ALLOCATION } else { WITHOUT_ALLOCATION };
            let silence = patience.saturating_sub(heard.elapsed());
            bytes.clear();
            tokio::select! {
                read = stream.read_buf(&mut bytes) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    heard = Instant::now();
                    frames.push(&bytes);
                    while let Some(frame) = frames.next_frame()? {
                        guard.handle(&frame)?;
                    }
                }
                packet = queue.recv() => {
                    let packet = packet.ok_or(RelayStreamError::Stopped)?;
                    let write = write_queued(&mut stream, &mut bytes, packet, &mut queue);
                    timeout(WRITE_LIMIT, write).await.map_err(|_| RelayStreamError::TimedOut)??;
                }
                () = tokio::time::sleep(silence) => return Err(RelayStreamError::TimedOut),
            }
        }
    }
}

/// Writes `first` and what else waits, together.
async fn write_queued<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &mut BytesMut,
    first: Bytes,
    queue: &mut mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    bytes.extend_from_slice(&first);
    while bytes.len() < WRITE_BYTES_MAX
        && let Ok(packet) = queue.try_recv()
    {
        bytes.extend_from_slice(&packet);
    }
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Takes the stream out of the relay however the task ends.
struct Guard {
    shell: Arc<Shell>,
    client: ClientId,
}

impl Guard {
    fn handle(&self, frame: &[u8]) -> Result<(), RelayStreamError> {
        let udp = self.shell.udp.upgrade().ok_or(RelayStreamError::Stopped)?;
        self.shell.lock().handle_client(&udp, Instant::now(), self.client, None, frame);
        Ok(())
    }

    fn has_allocation(&self) -> bool {
        self.shell.lock().machine.has_allocation(&self.client)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(udp) = self.shell.udp.upgrade() {
            self.shell.lock().remove_stream(&udp, &self.client);
        }
    }
}
