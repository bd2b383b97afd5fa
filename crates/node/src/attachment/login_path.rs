//! The way to the login server: directly, or through any super node when its address is blocked.
//!
//! All ways race, staggered as in RFC 8305: direct ones first, then super nodes of the host cache.

use std::{net::SocketAddr, time::Duration};

use cooee_proto::wire::v1::{LoginServerStream, StreamHeader, stream_header::Kind};
use futures::{
    future::{BoxFuture, FutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::timeout;

use crate::transport::{ByteStream, ConnectionLimits, Dialer, TransportError};

/// Pause between two starts (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Ways tried. Chosen: a few login servers, and three ports of a dozen super nodes.
const WAYS_MAX: usize = 40;
/// Time for one way.
const WAY_TIME: Duration = Duration::from_secs(10);

/// A byte stream to the login server; TLS with ALPN `cooee-login/1` follows inside.
pub struct LoginPath {
    /// The bytes.
    pub stream: Box<dyn ByteStream>,
    /// Super node that it leads through; `None` if direct.
    pub through: Option<SocketAddr>,
}

impl std::fmt::Debug for LoginPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginPath").field("through", &self.through).finish_non_exhaustive()
    }
}

/// Opens the first way that works. Needs no certificate.
pub async fn open_login_path(
    dialer: &Dialer,
    login_servers: &[SocketAddr],
    super_nodes: &[SocketAddr],
) -> Result<LoginPath, TransportError> {
    let direct = login_servers.iter().map(|address| (*address, false));
    let through = super_nodes.iter().flat_map(|address| with_well_known_ports(*address));
    let through = through.map(|address| (address, true));
    let mut ways = direct.chain(through).take(WAYS_MAX);
    let mut racing = FuturesUnordered::<BoxFuture<'_, _>>::new();
    let mut last = TransportError::NoNetwork("no login server is known".into());
    loop {
        match ways.next() {
            Some((address, through)) => racing.push(way(dialer, address, through).boxed()),
            None if racing.is_empty() => return Err(last),
            None => {}
        }
        // A failure starts the next way at once, silence after the stagger.
        match timeout(STAGGER, racing.next()).await {
            Ok(Some(Ok(path))) => return Ok(path),
            Ok(Some(Err(error))) => last = error,
            Ok(None) | Err(_) => {}
        }
    }
}

/// A super node's own port first, then those that pass most firewalls.
fn with_well_known_ports(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let others = [443, 80].into_iter().filter(move |port| *port != address.port());
    std::iter::once(address).chain(others.map(move |port| SocketAddr::new(address.ip(), port)))
}

async fn way(
    dialer: &Dialer,
    address: SocketAddr,
    through: bool,
) -> Result<LoginPath, TransportError> {
    let open = async {
        if !through {
            let stream: Box<dyn ByteStream> = Box::new(dialer.tcp(address).await?);
            return Ok(LoginPath { stream, through: None });
        }
        let connection = dialer.connect(address, ConnectionLimits::ANONYMOUS).await?;
        let header = StreamHeader { kind: Some(Kind::LoginServer(LoginServerStream {})) };
        let stream: Box<dyn ByteStream> = Box::new(connection.open_accepted(&header).await?);
        Ok(LoginPath { stream, through: Some(address) })
    };
    timeout(WAY_TIME, open)
        .await
        .unwrap_or(Err(TransportError::TimedOut("way to the login server")))
}
