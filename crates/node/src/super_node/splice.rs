//! Splices: joins a stream of one node to a stream towards another.
//!
//! ```text
//!   caller ──Splice{to, via}──▶ own super node ──Splice{to, from}──▶ callee's super node
//!                                                  callee ◀──SpliceIncoming{from}──┘
//! ```
//!
//! Back-pressure goes end to end: each side is read only as fast as the other is written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cooee_proto::{
    control::{MessageError, node_id, optional_node_id},
    identity::NodeId,
    wire::v1::{Refusal, SpliceIncoming, SpliceStream, StreamHeader, stream_header::Kind},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    LocalSplice, Shared, links,
    quota::{Budget, SplicePlace},
    serve::Asker,
};
use crate::transport::{ByteStream, MuxStream, TransportError};

/// Bytes copied at once. Chosen: a TLS record of a splice fits.
const CHUNK_BYTES: usize = 8 * 1024;
/// A receiver that takes nothing for so long is given up. Chosen.
const STALL_MAX: Duration = Duration::from_secs(60);
/// A splice without a byte in either direction for so long is closed. Chosen: the end-to-end layer
/// sends its own signs of life well within.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Serves one splice that a peer asks for.
pub(super) async fn serve(
    shared: Arc<Shared>,
    asker: Asker,
    wanted: SpliceStream,
    mut stream: MuxStream,
) {
    let place = match admit(&shared, &asker, &wanted) {
        Ok(admitted) => admitted,
        Err((reason, detail)) => {
            shared.metrics.splices_refused.inc();
            let _ = stream.refuse(reason, detail).await;
            return;
        }
    };
    let Admitted { from, to, place, target_place } = place;
    if to == shared.own && wanted.via.is_empty() {
        if stream.accept().await.is_ok() {
            let _ = shared.local.try_send(LocalSplice { from, stream: Box::new(stream) });
        }
        return;
    }
    match open_onward(&shared, from, &wanted).await {
        Ok(onward) => {
            if stream.accept().await.is_ok() {
                let place = place.or(target_place);
                join(&shared, stream, onward, place.as_ref().map(SplicePlace::bytes)).await;
            }
        }
        Err(error) => {
            shared.metrics.splices_refused.inc();
            let reason = match &error {
                TransportError::Refused { reason, .. } => *reason,
                TransportError::NotReachable(node) if *node == to => Refusal::NotHere,
                TransportError::TimedOut(_) => Refusal::NotTaken,
                _ if wanted.via.is_empty() => Refusal::NotTaken,
                _ => Refusal::ViaUnreachable,
            };
            let _ = stream.refuse(reason, &error.to_string()).await;
        }
    }
}

struct Admitted {
    from: NodeId,
    to: NodeId,
    /// The asker's place, if it is attached here.
    place: Option<SplicePlace>,
    /// The target's place, if the asker is a super node.
    target_place: Option<SplicePlace>,
}

fn admit(
    shared: &Shared,
    asker: &Asker,
    wanted: &SpliceStream,
) -> Result<Admitted, (Refusal, &'static str)> {
    let malformed = |_: MessageError| (Refusal::Malformed, "identifier of wrong length");
    let to = node_id(&wanted.to).map_err(malformed)?;
    let passed_on_for = optional_node_id(&wanted.from).map_err(malformed)?;
    optional_node_id(&wanted.via).map_err(malformed)?;
    if shared.is_draining() {
        return Err((Refusal::Draining, "this super node is going away"));
    }
    let open = usize::try_from(shared.metrics.splices_open()).unwrap_or(0);
    if open >= shared.config.splices_max || shared.config.relay_budget_bytes_per_second == 0 {
        return Err((Refusal::Quota, "this super node splices no more"));
    }
    match asker {
        Asker::Node { node, quota } => {
            let place = quota.take_splice();
            let place = place.ok_or((Refusal::Quota, "too many splices of this node"))?;
            Ok(Admitted { from: *node, to, place: Some(place), target_place: None })
        }
        Asker::Link { node } => {
            if !wanted.via.is_empty() {
                return Err((Refusal::NotAllowed, "a splice is passed on once"));
            }
            let target = shared.attached().get(&to).map(|target| target.quota.clone());
            let target_place = match target {
                Some(quota) => {
                    let place = quota.take_splice();
                    Some(place.ok_or((Refusal::Quota, "too many splices of that node"))?)
                }
                None => None,
            };
            Ok(Admitted { from: passed_on_for.unwrap_or(*node), to, place: None, target_place })
        }
    }
}

/// Opens the stream towards the target: to the node itself if it is attached here, else to the
/// super node in `via`.
pub(super) async fn open_onward(
    shared: &Arc<Shared>,
    from: NodeId,
    wanted: &SpliceStream,
) -> Result<MuxStream, TransportError> {
    let malformed = |error: MessageError| TransportError::Protocol(error.to_string());
    let to = node_id(&wanted.to).map_err(malformed)?;
    let via = optional_node_id(&wanted.via).map_err(malformed)?;
    let from = Bytes::copy_from_slice(from.as_bytes());
    match via {
        Some(via) if via != shared.own => {
            let link = links::reach(shared, via).await?;
            let splice = SpliceStream { to: wanted.to.clone(), via: Bytes::new(), from };
            let header = StreamHeader { kind: Some(Kind::Splice(splice)) };
            link.connection().open_accepted(&header).await
        }
        _ => {
            let connection = shared.attached().get(&to).map(|target| target.connection.clone());
            let connection = connection.ok_or(TransportError::NotReachable(to))?;
            let kind = Some(Kind::SpliceIncoming(SpliceIncoming { from }));
            connection.open_accepted(&StreamHeader { kind }).await
        }
    }
}

/// Copies both ways until both sides have ended, one breaks, or nothing moves any more.
pub(super) async fn join(
    shared: &Shared,
    near: MuxStream,
    far: impl ByteStream,
    node: Option<&Budget>,
) {
    let _open = shared.metrics.open_splice();
    let (near_reader, near_writer) = tokio::io::split(near);
    let (far_reader, far_writer) = tokio::io::split(far);
    let pump = Pump { shared, node, moved: AtomicU64::new(0) };
    let both = async {
        tokio::try_join!(pump.run(near_reader, far_writer), pump.run(far_reader, near_writer))
    };
    tokio::select! {
        _ = both => {}
        () = pump.until_idle() => {}
    }
    shared.metrics.splice_bytes.inc_by(pump.moved.load(Ordering::Relaxed));
}

struct Pump<'a> {
    shared: &'a Shared,
    node: Option<&'a Budget>,
    moved: AtomicU64,
}

impl Pump<'_> {
    async fn run(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) -> Result<(), TransportError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = reader.read(&mut chunk).await?;
            if count == 0 {
                writer.shutdown().await?;
                return Ok(());
            }
            if let Some(node) = self.node {
                node.spend(count).await;
            }
            self.shared.budget.spend(count).await;
            let write = async {
                writer.write_all(&chunk[..count]).await?;
                writer.flush().await
            };
            let written = tokio::time::timeout(STALL_MAX, write).await;
            written.map_err(|_| TransportError::TimedOut("receiver"))??;
            self.moved.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    async fn until_idle(&self) {
        let mut before = self.moved.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(IDLE_MAX).await;
            let now = self.moved.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }
}
