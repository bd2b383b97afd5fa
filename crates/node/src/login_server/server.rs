//! A running login server: listeners, bounds, upkeep, shutdown.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use cooee_proto::{
    identity::NetworkKey,
    login::{LimitConfig, Limits, ServerConfig},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    LoginServerError, Metrics,
    connection::{self, Shared},
    http,
    tls::{OwnCertificate, server_config},
    unix_now,
};
use crate::storage::Storage;

/// Waiting connections per listener (chosen: a login flood after an outage arrives within seconds).
const BACKLOG: u32 = 4096;
/// Time between two upkeeps (chosen).
const UPKEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Patience with requests under way at shutdown (chosen: above the database's patience).
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(15);

/// What a login server is told by its operator.
#[derive(Clone, Debug)]
pub struct LoginServerOptions {
    /// Where to listen; port 0 takes any.
    pub listen: Vec<SocketAddr>,
    /// Where to answer metrics and health, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// `sqlite:PATH` or `postgres://…`.
    pub database: String,
    /// Most connections at once; more are closed at once.
    pub connections_max: usize,
    /// Rate limit per address.
    pub address_limit: LimitConfig,
    /// Rate limit of password attempts per name.
    pub name_limit: LimitConfig,
    /// Life of the certificates.
    pub certificate_life: Duration,
}

impl LoginServerOptions {
    /// The usual options.
    pub fn new(listen: Vec<SocketAddr>, database: String) -> Self {
        Self {
            listen,
            metrics_listen: None,
            database,
            connections_max: 10_000,
            address_limit: LimitConfig::ADDRESS,
            name_limit: LimitConfig::NAME,
            certificate_life: ServerConfig::CERTIFICATE_LIFE,
        }
    }
}

/// A running login server. Dropping it stops it at once; [`LoginServer::shutdown`] gracefully.
#[derive(Debug)]
pub struct LoginServer {
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    storage: Storage,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: tokio_util::sync::DropGuard,
}

impl LoginServer {
    /// Opens the database and the ports, and serves until shutdown.
    pub async fn start(
        key: NetworkKey,
        options: &LoginServerOptions,
    ) -> Result<Self, LoginServerError> {
        let listeners: Vec<_> =
            options.listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        let metrics_listener = options.metrics_listen.map(listen).transpose()?;
        let storage = Storage::open(&options.database, key.root().network_id()).await?;
        storage.check_whole().await?;
        let certificate = OwnCertificate::new(key.clone())?;
        let mut config = ServerConfig::new(key);
        config.certificate_life = options.certificate_life;
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            storage: storage.clone(),
            limits: Mutex::new(Limits::new(options.address_limit, options.name_limit)),
            metrics: metrics.clone(),
            acceptor: TlsAcceptor::from(server_config(certificate.clone())?),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let addresses = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
        let room = Arc::new(Semaphore::new(options.connections_max));
        for listener in listeners {
            let accept =
                accept(listener, shared.clone(), room.clone(), tasks.clone(), stop.clone());
            tasks.spawn(accept);
        }
        let metrics_address = metrics_listener.as_ref().and_then(|l| l.local_addr().ok());
        if let Some(listener) = metrics_listener {
            tasks.spawn(http::serve(listener, storage.clone(), metrics.clone(), stop.clone()));
        }
        tasks.spawn(upkeep(storage.clone(), certificate, stop.clone()));
        let _stop_on_drop = stop.clone().drop_guard();
        Ok(Self { addresses, metrics_address, metrics, storage, tasks, stop, _stop_on_drop })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it answers metrics and health.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Its database.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Takes no more connections, finishes the requests under way, closes the database. Says
    /// whether all of them could be finished.
    pub async fn shutdown(self) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let finished = timeout(SHUTDOWN_PATIENCE, self.tasks.wait()).await.is_ok();
        self.storage.close().await;
        finished
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, LoginServerError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Start again at once after a stop.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error| LoginServerError::listen(address, error))
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors: let some connections end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            shared.metrics.refused_connections.inc();
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move {
            shared.metrics.connections.inc();
            shared.metrics.open_connections.inc();
            if let Err(error) = connection::serve(&shared, stream, address.ip(), &stop).await {
                tracing::debug!(%error, %address, "a connection ended");
            }
            shared.metrics.open_connections.dec();
            drop(permit);
        });
    }
}

async fn upkeep(storage: Storage, certificate: Arc<OwnCertificate>, stop: CancellationToken) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = certificate.renew_if_due() {
            tracing::error!(%error, "cannot renew the server's certificate");
        }
        if let Err(error) = storage.tidy(unix_now()).await {
            tracing::warn!(%error, "the database could not be tidied");
        }
    }
}
