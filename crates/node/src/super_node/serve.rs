//! The streams of one connection: who may open what.

use std::{sync::Arc, time::Duration};

use cooee_proto::{
    identity::NodeId,
    wire::v1::{Refusal, stream_header::Kind},
};
use tokio::time::timeout;

use super::{Shared, login_splice, quota::NodeQuota, session, splice};
use crate::transport::{Connection, IncomingStream};

/// Time for a new connection to say what it wants. Chosen.
const FIRST_STREAM_TIME: Duration = Duration::from_secs(30);

/// Whoever is at the other end of a connection, once greeted.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A node attached here.
    Node { node: NodeId, quota: Arc<NodeQuota> },
    /// A super node.
    Link { node: NodeId },
}

/// Serves an incoming connection until it ends.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection) {
    if connection.peer().is_some() {
        streams(shared, connection, None).await;
    } else {
        login_splice::serve_anonymous(shared, connection).await;
    }
}

/// Serves the streams that the peer opens.
pub(super) async fn streams(shared: Arc<Shared>, connection: Connection, asker: Option<Asker>) {
    let mut asker = asker;
    loop {
        let next = if asker.is_some() {
            connection.accept().await
        } else {
            timeout(FIRST_STREAM_TIME, connection.accept()).await.unwrap_or(None)
        };
        let Some(IncomingStream { header, stream }) = next else { break };
        match (header.kind, &asker) {
            (Some(Kind::Control(_)), None) => {
                match session::greet(&shared, &connection, stream).await {
                    Ok(greeted) => asker = Some(greeted),
                    Err(error) => {
                        tracing::debug!(?connection, %error, "not attached");
                        break;
                    }
                }
            }
            (Some(Kind::Splice(wanted)), Some(asker)) => {
                tokio::spawn(splice::serve(shared.clone(), asker.clone(), wanted, stream));
            }
            (Some(Kind::LoginServer(_)), _) => {
                tokio::spawn(login_splice::serve(shared.clone(), stream));
            }
            _ => {
                let _ = stream.refuse(Refusal::NotAllowed, "not before a greeting").await;
            }
        }
    }
    connection.close();
}
