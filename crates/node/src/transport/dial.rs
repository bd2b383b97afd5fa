//! Opens connections: TCP (through a proxy where one is configured), TLS, yamux.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

use super::{
    ByteCount, Connection, ConnectionLimits, Counted, ProxyConfig, Side, Tls, TransportError, alpn,
    connection::Parts,
    tls::{check_alpn, server_name},
};

/// Time for TCP and TLS together. Chosen: three SYN retransmissions.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Opens control connections.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Arc<Tls>,
    proxy: ProxyConfig,
}

impl Dialer {
    /// Connects as this node, through the proxy where it applies.
    pub fn new(tls: Arc<Tls>, proxy: ProxyConfig) -> Self {
        Self { tls, proxy }
    }

    /// This node's TLS.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// Opens a TCP connection, through the proxy where it applies.
    pub async fn tcp(&self, to: SocketAddr) -> Result<TcpStream, TransportError> {
        connect_tcp(to, &self.proxy).await
    }

    /// Opens an authenticated control connection.
    pub async fn connect(
        &self,
        to: SocketAddr,
        limits: ConnectionLimits,
    ) -> Result<Connection, TransportError> {
        let tls = self.tls.control_client(false);
        self.handshake_in_time(to, limits, tls, std::future::ready(())).await
    }

    /// The same as an ordinary node that attaches; `is_open` is awaited when TCP is through and
    /// TLS begins.
    pub async fn attach(
        &self,
        to: SocketAddr,
        is_open: impl Future<Output = ()>,
    ) -> Result<Connection, TransportError> {
        let tls = self.tls.control_client(true);
        self.handshake_in_time(to, ConnectionLimits::ORDINARY, tls, is_open).await
    }

    async fn handshake_in_time(
        &self,
        to: SocketAddr,
        limits: ConnectionLimits,
        tls: Arc<ClientConfig>,
        is_open: impl Future<Output = ()>,
    ) -> Result<Connection, TransportError> {
        timeout(HANDSHAKE_TIME, self.handshake(to, limits, tls, is_open))
            .await
            .unwrap_or(Err(TransportError::TimedOut("handshake")))
    }

    async fn handshake(
        &self,
        to: SocketAddr,
        limits: ConnectionLimits,
        tls: Arc<ClientConfig>,
        is_open: impl Future<Output = ()>,
    ) -> Result<Connection, TransportError> {
        let socket = self.tcp(to).await?;
        is_open.await;
        let local = socket.local_addr()?;
        let bytes = ByteCount::default();
        let name =
            server_name(&format!("n{}", to.to_string().replace(['.', ':', '[', ']', '%'], "-")));
        let stream = TlsConnector::from(tls)
            .connect(name, Counted::new(socket, bytes.clone()))
            .await
            .map_err(|error| self.tls.explain(error.into()))?;
        let session = stream.get_ref().1;
        check_alpn(session.alpn_protocol(), alpn::CONTROL)?;
        let peer = super::listener::peer_of(session.peer_certificates(), self.tls.trust())
            .map_err(|error| self.tls.explain(error))?;
        let parts = Parts { stream, side: Side::Client, peer, remote: to, local, bytes };
        Ok(Connection::start(parts, limits))
    }
}

/// Opens a TCP connection, through the proxy where it applies.
pub async fn connect_tcp(to: SocketAddr, proxy: &ProxyConfig) -> Result<TcpStream, TransportError> {
    let socket = match proxy.proxy_for(to) {
        Some(proxy) => proxy.connect(to).await?,
        None => TcpStream::connect(to).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => TransportError::ConnectionRefused(to),
            _ => error.into(),
        })?,
    };
    set_socket_options(&socket)?;
    Ok(socket)
}

/// No Nagle (signalling is small and urgent); a peer that vanished is noticed as soon as data stays
/// unacknowledged for 20 s.
pub(super) fn set_socket_options(socket: &TcpStream) -> Result<(), TransportError> {
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(socket);
        socket.set_tcp_user_timeout(Some(Duration::from_secs(20)))?;
        // Questions and answers carry each other's acknowledgements: half the packets of a login.
        socket.set_tcp_quickack(false)?;
    }
    Ok(())
}
