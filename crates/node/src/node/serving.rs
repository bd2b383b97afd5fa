//! What a node does for others: relay, listener, super node. A node that serves nobody still
//! listens, for direct connections of buddies.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::{Duration, Instant},
};

use cooee_proto::{
    control::addresses_to_wire,
    identity::{Certificate, Invitation},
    relay::{AddressBlock, PeerPolicy, RelayConfig},
    wire::v1::TurnCredentials,
};
use tokio::sync::mpsc;

use super::NodeError;
use crate::{
    account::resolve,
    overlay::{OverlayDirectory, OverlayStart},
    relay::{PartnerRequest, RelayHandle, RelayOptions},
    settings::Settings,
    super_node::{LocalSplice, SuperNode, SuperNodeConfig},
    transport::{Accepted, Dialer, EndToEndStream, Listener, ListenerConfig, TurnAcceptor},
    udp::UdpEndpoint,
};

/// How long TURN credentials are good for: longer than most calls; a standing allocation may be
/// refreshed beyond it.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(6 * 3600);

/// How often the relay's partner is looked for. Chosen: a lost link is back within seconds.
const PARTNER_EVERY: Duration = Duration::from_secs(2);

/// Requests to the partner that wait; more are dropped, and the clients ask again. Chosen.
const PARTNER_REQUESTS_MAX: usize = 32;

/// Ports that pass most firewalls (paper section II.A).
const WELL_KNOWN_PORTS: [u16; 2] = [443, 80];

/// What arrives without having been asked for.
pub(super) struct Arrivals {
    pub(super) splices: mpsc::Receiver<LocalSplice>,
    pub(super) direct: mpsc::Receiver<Box<EndToEndStream>>,
}

/// What a super node kept of its last run.
pub(super) struct Kept {
    pub(super) super_nodes: Vec<SocketAddr>,
    pub(super) shards_file: PathBuf,
}

/// What serves others at present: all of it or nothing.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) super_node: SuperNode,
    pub(super) overlay: Arc<OverlayDirectory>,
    pub(super) relay: RelayHandle,
}

/// The serving half of a node. It listens always; it serves from the start, or when elected.
pub(super) struct Serving {
    active: Arc<RwLock<Option<Active>>>,
    dialer: Dialer,
    endpoint: UdpEndpoint,
    port: u16,
    splices: mpsc::Sender<LocalSplice>,
}

impl Serving {
    /// Starts listening and, if it `serves`, relay and super node.
    pub(super) async fn start(
        settings: &Settings,
        invitation: &Invitation,
        endpoint: &UdpEndpoint,
        dialer: &Dialer,
        (bind, port): (IpAddr, u16),
        serves: bool,
        kept: Kept,
    ) -> Result<(Self, Arrivals), NodeError> {
        let active = Arc::<RwLock<Option<Active>>>::default();
        let mut listening = ListenerConfig::new(SocketAddr::new(bind, port));
        if settings.well_known_ports && serves {
            let others = WELL_KNOWN_PORTS.into_iter().filter(|other| *other != port);
            listening.addresses.extend(others.map(|port| SocketAddr::new(bind, port)));
        }
        listening.turn = Some(turn_acceptor(active.clone()));
        let listener = Listener::bind(listening, dialer.tls().clone()).await?;
        let (direct_sender, direct) = mpsc::channel(64);
        let (splices_sender, splices) = mpsc::channel(64);
        tokio::spawn(listen(listener, active.clone(), direct_sender));
        let (dialer, endpoint) = (dialer.clone(), endpoint.clone());
        let serving = Self { active, dialer, endpoint, port, splices: splices_sender };
        if serves {
            let overlay = serving.prepare(settings, invitation, kept).await?;
            serving.begin(settings, invitation, overlay).await?;
        }
        Ok((serving, Arrivals { splices, direct }))
    }

    /// An overlay that answers introductions, so that others can tell that they reach it, and joins
    /// nobody without contacts.
    pub(super) async fn prepare(
        &self,
        settings: &Settings,
        invitation: &Invitation,
        kept: Kept,
    ) -> Result<Arc<OverlayDirectory>, NodeError> {
        let own = own_addresses(settings)?;
        let mut contacts = kept.super_nodes;
        let start = OverlayStart {
            address: self.address(settings, &resolve(&invitation.super_nodes).await)?,
            capacity: u32::try_from(settings.attached_max()).unwrap_or(u32::MAX),
            contacts: {
                contacts.splice(0..0, resolve(&invitation.super_nodes).await);
                contacts
                    .retain(|contact| !own.contains(&contact.ip()) || contact.port() != self.port);
                contacts
            },
            shards_file: Some(kept.shards_file),
        };
        Ok(OverlayDirectory::start(start, self.dialer.tls(), &self.endpoint))
    }

    /// The same, alone until it is admitted.
    pub(super) fn stand_by(&self, settings: &Settings) -> Result<Arc<OverlayDirectory>, NodeError> {
        let start = OverlayStart {
            address: self.address(settings, &[])?,
            capacity: u32::try_from(settings.attached_max()).unwrap_or(u32::MAX),
            contacts: Vec::new(),
            shards_file: None,
        };
        Ok(OverlayDirectory::start(start, self.dialer.tls(), &self.endpoint))
    }

    /// Where others reach this node.
    pub(super) fn address(
        &self,
        settings: &Settings,
        contacts: &[SocketAddr],
    ) -> Result<SocketAddr, NodeError> {
        Ok(own_address(&own_addresses(settings)?, contacts, self.port))
    }

    /// Starts relay and super node.
    pub(super) async fn begin(
        &self,
        settings: &Settings,
        invitation: &Invitation,
        overlay: Arc<OverlayDirectory>,
    ) -> Result<(), NodeError> {
        let own = own_addresses(settings)?;
        let relay = start_relay(settings, &self.endpoint, &own)?;
        let config =
            super_node_config(settings, invitation, (&own, self.port), relay.clone()).await;
        let (super_node, mut local) =
            SuperNode::start(config, self.dialer.clone(), overlay.clone());
        let own = own.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let own = SocketAddr::new(own, self.port);
        tokio::spawn(keep_partner(relay.clone(), super_node.clone(), own));
        let splices = self.splices.clone();
        tokio::spawn(async move {
            while let Some(splice) = local.recv().await {
                if splices.send(splice).await.is_err() {
                    return;
                }
            }
        });
        *write(&self.active) = Some(Active { super_node, overlay, relay });
        Ok(())
    }

    /// What serves now.
    pub(super) fn active(&self) -> Option<Active> {
        read(&self.active)
    }

    /// Serves no longer: sends attached nodes elsewhere, hands over, and is an ordinary node again.
    pub(super) async fn retire(&self, patience: Duration) {
        self.drain(patience).await;
        *write(&self.active) = None;
    }

    /// Tells everybody that this node serves no longer, sends attached nodes elsewhere
    /// and waits, but no longer than `patience`.
    pub(super) async fn drain(&self, patience: Duration) {
        let Some(active) = self.active() else { return };
        active.overlay.leave();
        active.super_node.drain(patience, || false).await;
        active.overlay.hand_over().await;
        active.overlay.store_shards().await;
    }
}

/// What a drain found and left behind.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(super) struct Drained {
    /// Nodes attached when it began, and those that had not gone at the end.
    pub(super) attached: usize,
    pub(super) attached_left: usize,
    /// The same of splices between nodes.
    pub(super) splices: i64,
    pub(super) splices_left: i64,
    /// The same of relayed calls: allocations at the relay.
    pub(super) allocations: u64,
    pub(super) allocations_left: u64,
    /// How long it took.
    pub(super) took_ms: u64,
}

impl Active {
    /// Takes leave for good, and tells what that was: attached nodes go elsewhere, relayed calls
    /// are carried to their end, no longer than `patience`.
    pub(super) async fn drain(&self, patience: Duration) -> Drained {
        let begun = Instant::now();
        let allocations = || self.relay.counts().allocations;
        let mut drained = Drained {
            attached: self.super_node.attached().len(),
            splices: self.super_node.metrics().splices_open(),
            allocations: allocations(),
            ..Drained::default()
        };
        self.overlay.leave();
        let left = self.super_node.drain(patience, || allocations() > 0).await;
        self.overlay.hand_over().await;
        (drained.attached_left, drained.splices_left) = left;
        drained.allocations_left = allocations();
        self.overlay.store_shards().await;
        drained.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        drained
    }
}

fn write(active: &RwLock<Option<Active>>) -> RwLockWriteGuard<'_, Option<Active>> {
    active.write().unwrap_or_else(PoisonError::into_inner)
}

fn read(active: &RwLock<Option<Active>>) -> Option<Active> {
    active.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Hands out what arrives: control connections to the super node, if this is one now.
async fn listen(
    mut listener: Listener,
    active: Arc<RwLock<Option<Active>>>,
    direct: mpsc::Sender<Box<EndToEndStream>>,
) {
    while let Some(accepted) = listener.accept().await {
        match (accepted, read(&active)) {
            (Accepted::EndToEnd(stream), _) => {
                let _ = direct.try_send(stream);
            }
            (Accepted::Control(connection), Some(active)) => {
                tokio::spawn(async move { active.super_node.serve(connection).await });
            }
            // Somebody who dials back, or takes us for a super node.
            (Accepted::Control(connection), None) => connection.close(),
        }
    }
}

/// Addresses under which others reach this node: configured, else bound, else those that packets
/// to the outside leave from.
pub fn own_addresses(settings: &Settings) -> Result<Vec<IpAddr>, NodeError> {
    let configured: Result<Vec<IpAddr>, _> =
        settings.advertise.iter().map(|text| text.parse()).collect();
    let configured = configured.map_err(|_| NodeError::Setting {
        key: "advertise",
        value: settings.advertise.join(", "),
        problem: "IP addresses are wanted".to_owned(),
    })?;
    let bind = settings.bind_address()?;
    Ok(match (configured.is_empty(), bind.is_unspecified()) {
        (false, _) => configured,
        (true, false) => vec![bind],
        (true, true) => OUTSIDE.iter().filter_map(|outside| source_towards(*outside)).collect(),
    })
}

/// Documentation addresses (RFC 5737, RFC 3849): nothing is ever sent to them here.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The address that the system would send from; a UDP "connection" sends nothing.
fn source_towards(outside: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((outside, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Where the overlay says that this super node is: the first address under which others reach it. A
/// machine without a way outside is a network of its own.
fn own_address(own: &[IpAddr], contacts: &[SocketAddr], port: u16) -> SocketAddr {
    let towards = || contacts.iter().find_map(|contact| source_towards(contact.ip()));
    let ip = own.first().copied().or_else(towards).unwrap_or(Ipv4Addr::LOCALHOST.into());
    SocketAddr::new(ip, port)
}

fn start_relay(
    settings: &Settings,
    endpoint: &UdpEndpoint,
    own: &[IpAddr],
) -> Result<RelayHandle, NodeError> {
    let allowed: Result<Vec<AddressBlock>, _> =
        settings.relay_to.iter().map(|text| text.parse()).collect();
    let allowed = allowed.map_err(|error| NodeError::Setting {
        key: "relay-to",
        value: settings.relay_to.join(", "),
        problem: error.to_string(),
    })?;
    let of_family = |ipv4| own.iter().copied().find(|ip| ip.is_ipv4() == ipv4);
    let config = RelayConfig {
        budget_bytes_per_s: settings.relay_budget,
        relayed_v4: of_family(true),
        relayed_v6: of_family(false),
        peers: PeerPolicy { allowed, refused: Vec::new() },
        ..RelayConfig::default()
    };
    Ok(RelayHandle::start(endpoint, RelayOptions { config, bind_v4: None, bind_v6: None })?)
}

/// Names another super node to the relay, for the part of RFC 5780 that takes two addresses.
async fn keep_partner(relay: RelayHandle, super_node: SuperNode, own: SocketAddr) {
    let (requests, mut queue) = mpsc::channel::<PartnerRequest>(PARTNER_REQUESTS_MAX);
    let mut partner = None;
    let mut look = tokio::time::interval(PARTNER_EVERY);
    loop {
        tokio::select! {
            Some(request) = queue.recv() => {
                if let Some((node, _)) = partner {
                    super_node.ask_partner(node, request);
                }
            }
            _ = look.tick() => {
                if super_node.is_draining() {
                    relay.set_partner(None);
                    return;
                }
                let now = super_node.partner(own);
                if now != partner {
                    partner = now;
                    relay.set_partner(now.map(|(_, address)| (address, requests.clone())));
                }
            }
        }
    }
}

fn turn_acceptor(active: Arc<RwLock<Option<Active>>>) -> TurnAcceptor {
    Arc::new(move |turn| {
        let Some(Active { relay, .. }) = read(&active) else { return };
        tokio::spawn(async move {
            if let Err(error) = relay.serve_stream(turn.stream, turn.remote).await {
                tracing::debug!(remote = %turn.remote, %error, "TURN stream ended");
            }
        });
    })
}

async fn super_node_config(
    settings: &Settings,
    invitation: &Invitation,
    (own, port): (&[IpAddr], u16),
    relay: RelayHandle,
) -> SuperNodeConfig {
    let own = own.to_vec();
    let answering = relay.clone();
    let answer: crate::super_node::PartnerAnswer =
        Arc::new(move |request| answering.answer_for_partner(request));
    let mint = (settings.relay_budget > 0).then(|| {
        let source = move |node: &Certificate, reached: SocketAddr| {
            let minted = relay.mint(node.node(), CREDENTIALS_LIFE);
            Some(TurnCredentials {
                username: minted.username,
                password: minted.password,
                realm: minted.realm,
                expiry_unix_ms: minted.expires.0,
                addresses: addresses_to_wire(relay_addresses(&own, port, reached)),
            })
        };
        Arc::new(source) as crate::super_node::TurnCredentialSource
    });
    SuperNodeConfig {
        listening_port: Some(port),
        seeds: resolve(&invitation.super_nodes).await,
        login_servers: resolve(&invitation.login_servers).await,
        relay_budget_bytes_per_second: settings.relay_budget,
        turn_credentials: mint,
        partner_answer: Some(answer),
        attached_max: settings.attached_max(),
        ..SuperNodeConfig::default()
    }
}

/// Where a node that reached us at `reached` finds the relay: first the port for UDP, last the one
/// that its TCP connections are known to get through to.
fn relay_addresses(own: &[IpAddr], port: u16, reached: SocketAddr) -> Vec<SocketAddr> {
    let came_to = reached.ip().to_canonical();
    let ip = own.iter().copied().find(|ip| ip.is_ipv4() == came_to.is_ipv4()).unwrap_or(came_to);
    let mut addresses = vec![SocketAddr::new(ip, port)];
    if reached.port() != port {
        addresses.push(SocketAddr::new(ip, reached.port()));
    }
    addresses
}

/// Seconds since `started`, for the status.
pub(super) fn seconds_since(started: Instant) -> u64 {
    started.elapsed().as_secs()
}
