//! The way to the login server for those who cannot reach it directly, and for those who have no
//! certificate yet. TLS to the login server runs inside: nothing of it is seen here.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cooee_proto::{
    control::TokenBucket,
    wire::v1::{Refusal, stream_header::Kind},
};
use tokio::time::timeout;

use super::{Shared, splice};
use crate::transport::{Connection, MuxStream};

/// Time for the login server to accept the connection. Chosen.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A client without certificate has so long to get one. Chosen: a password is hashed on a slow
/// machine, and a person may be asked for it again.
const ANONYMOUS_TIME: Duration = Duration::from_secs(120);
/// Addresses remembered for their rate. At the bound all start afresh.
const ADDRESSES_MAX: usize = 4096;

/// Joins a stream to the login server.
pub(super) async fn serve(shared: Arc<Shared>, mut stream: MuxStream) {
    for address in &shared.config.login_servers {
        let Ok(Ok(socket)) = timeout(CONNECT_TIME, shared.dialer.tcp(*address)).await else {
            continue;
        };
        if stream.accept().await.is_ok() {
            shared.metrics.login_splices.inc();
            splice::join(&shared, stream, socket, None).await;
        }
        return;
    }
    let detail = "the login server cannot be reached from here";
    let _ = stream.refuse(Refusal::LoginServerUnreachable, detail).await;
}

/// Serves a client that has no certificate: the login server and nothing else, slowly, and soon
/// over.
pub(super) async fn serve_anonymous(shared: Arc<Shared>, connection: Connection) {
    let ip = connection.remote_address().ip().to_canonical();
    if shared.is_draining() || !enter(&shared, ip) {
        shared.metrics.anonymous_refused.inc();
        connection.close();
        return;
    }
    let serve_all = async {
        while let Some(incoming) = connection.accept().await {
            match incoming.header.kind {
                Some(Kind::LoginServer(_)) => {
                    tokio::spawn(serve(shared.clone(), incoming.stream));
                }
                _ => {
                    let detail =
                        "without a certificate only the login server is open: log in first";
                    let _ = incoming.stream.refuse(Refusal::NotAllowed, detail).await;
                }
            }
        }
    };
    let _ = timeout(ANONYMOUS_TIME, serve_all).await;
    connection.close();
    shared.anonymous.lock().expect("no holder of this lock panics").open -= 1;
}

/// Takes a place for a client without certificate, if there is one for its address.
fn enter(shared: &Shared, ip: IpAddr) -> bool {
    let mut anonymous = shared.anonymous.lock().expect("no holder of this lock panics");
    if anonymous.open >= shared.config.anonymous_max {
        return false;
    }
    if anonymous.per_address.len() >= ADDRESSES_MAX {
        anonymous.per_address.clear();
    }
    let now = Instant::now();
    let burst = shared.config.anonymous_per_address_burst;
    let bucket =
        anonymous.per_address.entry(ip).or_insert_with(|| TokenBucket::new(1, burst * 2, now));
    // Two tokens each, one per second: one client every 2 s.
    let allowed = bucket.try_take(2, now);
    anonymous.open += usize::from(allowed);
    allowed
}
