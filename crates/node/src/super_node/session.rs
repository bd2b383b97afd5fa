//! The control stream of one connection: greeting, requests, notices, silence.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use cooee_proto::{
    control::{
        Greeting, MessageError, NodeRole, SILENCE_MAX, TokenBucket, addresses_from_wire,
        addresses_to_wire, name_key,
    },
    identity::{Certificate, Role},
    wire::v1::{
        Admit, Busy, ControlMessage, DialBack, HostCacheUpdate, LookUp, LookUpResult, Published,
        Rejected, Request, Search, Watch, Watching, answer, control_message::Kind, rejected,
        request, request_refused::Reason,
    },
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Depth, DirectoryError, Notifier, Shared, partner, quota::NodeQuota, revocation, serve::Asker,
};
use crate::transport::{
    Connection, ConnectionLimits, ControlChannel, Inbox, MuxStream, TransportError, greeting,
    handle_revocation_notice, revocation_notice, write_frame,
};

/// Look-ups of one peer that run at once. Chosen.
const LOOK_UPS_MAX: usize = 16;
/// Requests per second of a super node, which speaks for all its nodes. Chosen.
const LINK_REQUESTS_PER_SECOND: u64 = 2_000;

/// Reads the peer's greeting and takes it in as what it wants to be.
pub(super) async fn greet(
    shared: &Arc<Shared>,
    connection: &Connection,
    mut stream: MuxStream,
) -> Result<Asker, TransportError> {
    let theirs = ControlChannel::read_greeting(&mut stream).await?;
    let peer = connection.peer().cloned().ok_or(TransportError::NoCertificate)?;
    if theirs.role == NodeRole::SuperNode && !may_serve(shared, &peer) {
        let detail = "neither certified as a super node nor a member of the overlay".to_owned();
        let rejected = Rejected { reason: rejected::Reason::NotAllowed.into(), detail };
        let rejected = ControlMessage { kind: Some(Kind::Rejected(rejected)) };
        write_frame(&mut stream, &rejected).await?;
        // The peer closes when it has read this; wait so that it can.
        let _ = timeout(std::time::Duration::from_secs(2), connection.ended()).await;
        return Err(TransportError::Protocol("not a super node".into()));
    }
    let has_room = match theirs.role {
        NodeRole::Ordinary => {
            let attached = shared.attached();
            let has_place = attached.len() < shared.config.attached_max;
            let is_known = attached.contains_key(&peer.node());
            is_known || (has_place && shared.directory.takes_devices())
        }
        NodeRole::SuperNode => shared.links.has_room(),
    };
    if !has_room || shared.is_draining() {
        shared.metrics.busy.inc();
        let try_these = addresses_to_wire(shared.others());
        let busy = ControlMessage { kind: Some(Kind::Busy(Busy { try_these })) };
        write_frame(&mut stream, &busy).await?;
        // The peer closes when it has read this; wait so that it can.
        let _ = timeout(std::time::Duration::from_secs(2), connection.ended()).await;
        return Err(TransportError::TooMany("attached nodes"));
    }
    let (channel, inbox) = ControlChannel::start(connection.clone(), stream);
    let now = shared.dialer.tls().trust().unix_now();
    let ours = greeting(NodeRole::SuperNode, connection, shared.config.listening_port, now);
    match theirs.role {
        NodeRole::Ordinary => attach(shared, peer, &channel, inbox, &ours).await,
        NodeRole::SuperNode => {
            learn_address(shared, connection, &peer, &theirs);
            connection.raise_limits(ConnectionLimits::SUPER_NODE);
            channel.send(Kind::Hello(ours.to_wire())).await?;
            Ok(link_up(shared, peer, channel, inbox))
        }
    }
}

/// A link has more rights than a node: only those get one whom the operator made super nodes, or
/// whom the overlay took in.
fn may_serve(shared: &Shared, peer: &Certificate) -> bool {
    peer.roles().contains(Role::SuperNode) || shared.directory.admits(peer.node())
}

/// Where a super node that came to us listens: its address as we see it, its port as it says. The
/// address is used only to dial it, and then TLS tells who is there.
fn learn_address(shared: &Shared, connection: &Connection, peer: &Certificate, theirs: &Greeting) {
    if let Some(port) = theirs.listening_port {
        let address = SocketAddr::new(connection.remote_address().ip().to_canonical(), port);
        shared.links.learn(peer.node(), address);
    }
}

async fn attach(
    shared: &Arc<Shared>,
    peer: Certificate,
    channel: &ControlChannel,
    inbox: Inbox,
    ours: &Greeting,
) -> Result<Asker, TransportError> {
    // In the table before the greeting: whoever knows that it is attached can be reached.
    let attached = shared.attach(&peer, channel.clone());
    let (serial, quota) = attached.ok_or(TransportError::TooMany("attached nodes"))?;
    shared.directory.attached(&peer);
    let welcome = async {
        channel.send(Kind::Hello(ours.to_wire())).await?;
        channel.send(host_cache_update(shared)).await?;
        tell_revocations(shared, channel).await
    };
    if let Err(error) = welcome.await {
        shared.detach(peer.node(), serial);
        return Err(error);
    }
    let node = peer.node();
    let asker = Asker::Node { node, quota: quota.clone() };
    let (shared, channel) = (shared.clone(), channel.clone());
    tokio::spawn(async move {
        Session { shared: &shared, peer: &peer, channel: &channel, quota: Some(quota) }
            .run(inbox)
            .await;
        shared.detach(node, serial);
    });
    Ok(asker)
}

/// Takes a link into use and serves its control stream.
pub(super) fn link_up(
    shared: &Arc<Shared>,
    peer: Certificate,
    channel: ControlChannel,
    inbox: Inbox,
) -> Asker {
    let (node, serial) = (peer.node(), shared.serial());
    shared.metrics.set_links(shared.links.insert(node, serial, channel.clone()));
    shared.directory.linked(node);
    let shared = shared.clone();
    tokio::spawn(async move {
        let _ = channel.send(host_cache_update(&shared)).await;
        let _ = tell_revocations(&shared, &channel).await;
        Session { shared: &shared, peer: &peer, channel: &channel, quota: None }.run(inbox).await;
        if let Some(count) = shared.links.remove(node, serial) {
            shared.metrics.set_links(count);
            shared.directory.unlinked(node);
        }
    });
    Asker::Link { node }
}

async fn tell_revocations(shared: &Shared, channel: &ControlChannel) -> Result<(), TransportError> {
    match revocation_notice(revocation::trust(shared)) {
        Some(notice) => channel.send(notice).await,
        None => Ok(()),
    }
}

fn host_cache_update(shared: &Shared) -> Kind {
    let super_nodes = addresses_to_wire(shared.others());
    Kind::HostCacheUpdate(HostCacheUpdate { super_nodes })
}

/// One control stream.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Certificate,
    channel: &'a ControlChannel,
    /// `None` for a link.
    quota: Option<Arc<NodeQuota>>,
}

impl Session<'_> {
    /// Until the connection ends or the peer was silent for too long.
    async fn run(&self, mut inbox: Inbox) {
        let look_ups = Arc::new(Semaphore::new(LOOK_UPS_MAX));
        let rate = LINK_REQUESTS_PER_SECOND;
        let mut link_rate = TokenBucket::new(rate, rate, Instant::now());
        let silence_max = if self.quota.is_some() { SILENCE_MAX } else { SILENCE_MAX / 2 };
        let mut silent = false;
        loop {
            let kind = match timeout(silence_max, inbox.recv()).await {
                Ok(Some(kind)) => kind,
                Ok(None) => break,
                // Super nodes ask each other for a sign of life; ordinary nodes owe theirs.
                Err(_) if self.quota.is_none() && !silent => {
                    silent = self.channel.ping(SILENCE_MAX).await.is_err();
                    if silent {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            silent = false;
            let wait = match &self.quota {
                Some(quota) => {
                    let mut bucket = quota.requests.lock().expect("no holder of this lock panics");
                    bucket.take(1, Instant::now())
                }
                None => link_rate.take(1, Instant::now()),
            };
            // A peer that asks too fast waits, and its messages wait with it.
            tokio::time::sleep(wait).await;
            self.handle(kind, &look_ups).await;
        }
        self.channel.connection().close();
    }

    async fn handle(&self, kind: Kind, look_ups: &Arc<Semaphore>) {
        match kind {
            Kind::Request(Request { id, kind: Some(kind) }) => match kind {
                request::Kind::LookUp(look_up) => self.look_up(id, look_up, look_ups).await,
                request::Kind::Search(search) => self.search(id, search, look_ups).await,
                request::Kind::Admit(wish) => self.admit(id, wish, look_ups).await,
                request::Kind::DialBack(wanted) if self.quota.is_none() => {
                    self.dial_back(id, wanted, look_ups).await;
                }
                kind => {
                    let result = self.answer_to(kind).await;
                    respond(self.channel, id, result).await;
                }
            },
            Kind::HostCacheUpdate(update) if self.quota.is_none() => {
                self.shared.links.suggest(addresses_from_wire(&update.super_nodes));
            }
            Kind::RevocationNotice(notice) => {
                let answer = handle_revocation_notice(revocation::trust(self.shared), &notice);
                if let Some(answer) = answer {
                    // If the connection has ended meanwhile, nobody waits for the answer.
                    let _ = self.channel.send(answer).await;
                }
            }
            Kind::Notify(notify) if self.quota.is_none() => {
                if let Ok(key) = name_key(&notify.name_key) {
                    self.shared.directory.notified(self.peer, key, notify.found);
                }
            }
            Kind::PartnerBinding(binding) if self.quota.is_none() => {
                let answer = self.shared.config.partner_answer.as_ref();
                if let (Some(answer), Some(request)) = (answer, partner::request_from_wire(binding))
                {
                    answer(request);
                }
            }
            // A kind that does not belong here is of no use to the peer and of no harm to us.
            _ => {}
        }
    }

    async fn look_up(&self, id: u64, look_up: LookUp, look_ups: &Arc<Semaphore>) {
        self.shared.metrics.look_ups.inc();
        let Ok(permit) = look_ups.clone().acquire_owned().await else { return };
        let (directory, peer, channel) =
            (self.shared.directory.clone(), self.peer.clone(), self.channel.clone());
        let depth = match look_up {
            _ if look_up.local_only || self.quota.is_none() => Depth::Local,
            _ if look_up.fresh => Depth::Fresh,
            _ => Depth::Cached,
        };
        tokio::spawn(async move {
            let result = match name_key(&look_up.name_key) {
                Ok(key) => directory
                    .look_up(&peer, key, depth)
                    .await
                    .map(|found| answer::Kind::LookUpResult(LookUpResult { found })),
                Err(error) => Err(malformed(&error)),
            };
            respond(&channel, id, result).await;
            drop(permit);
        });
    }

    async fn search(&self, id: u64, search: Search, look_ups: &Arc<Semaphore>) {
        let Ok(permit) = look_ups.clone().acquire_owned().await else { return };
        let (directory, peer, channel) =
            (self.shared.directory.clone(), self.peer.clone(), self.channel.clone());
        tokio::spawn(async move {
            let result = directory.search(&peer, search).await.map(answer::Kind::SearchResult);
            respond(&channel, id, result).await;
            drop(permit);
        });
    }

    async fn admit(&self, id: u64, wish: Admit, look_ups: &Arc<Semaphore>) {
        let Ok(permit) = look_ups.clone().acquire_owned().await else { return };
        let (directory, peer, channel) =
            (self.shared.directory.clone(), self.peer.clone(), self.channel.clone());
        // Only a super node may speak for another.
        let remote = self.quota.is_some().then(|| channel.connection().remote_address());
        tokio::spawn(async move {
            let result = directory.admit(&peer, remote, wish).await.map(answer::Kind::Admitted);
            respond(&channel, id, result).await;
            drop(permit);
        });
    }

    async fn dial_back(&self, id: u64, wanted: DialBack, look_ups: &Arc<Semaphore>) {
        let Ok(permit) = look_ups.clone().acquire_owned().await else { return };
        let (directory, channel) = (self.shared.directory.clone(), self.channel.clone());
        tokio::spawn(async move {
            let result = directory.dial_back(wanted).await.map(answer::Kind::DialedBack);
            respond(&channel, id, result).await;
            drop(permit);
        });
    }

    async fn answer_to(&self, kind: request::Kind) -> Result<answer::Kind, DirectoryError> {
        let directory = &self.shared.directory;
        match kind {
            request::Kind::Publish(publish) => {
                directory.publish(self.peer, publish.record).await?;
                Ok(answer::Kind::Published(Published {}))
            }
            request::Kind::Watch(Watch { name_keys, local_only }) => {
                let keys: Result<Vec<_>, _> = name_keys.iter().map(|key| name_key(key)).collect();
                let keys = keys.map_err(|error| malformed(&error))?;
                let local_only = local_only || self.quota.is_none();
                let notifier = Notifier(self.channel.clone());
                directory.watch(self.peer, keys, local_only, notifier).await?;
                Ok(answer::Kind::Watching(Watching {}))
            }
            request::Kind::TurnCredentials(_) => {
                let source = self.shared.config.turn_credentials.as_ref();
                let reached = self.channel.connection().local_address();
                source
                    .and_then(|source| source(self.peer, reached))
                    .map(answer::Kind::TurnCredentials)
                    .ok_or_else(|| DirectoryError::NotAvailable("no relay here".into()))
            }
            request::Kind::Index(message) => {
                directory.index_message(self.peer, message).await.map(answer::Kind::Index)
            }
            request::Kind::DialBack(_) => {
                Err(DirectoryError::NotAllowed("only super nodes ask for that".into()))
            }
            request::Kind::LookUp(_) | request::Kind::Search(_) | request::Kind::Admit(_) => {
                unreachable!("handled apart, because it takes long")
            }
        }
    }
}

fn malformed(error: &MessageError) -> DirectoryError {
    DirectoryError::Malformed(error.to_string())
}

async fn respond(channel: &ControlChannel, id: u64, result: Result<answer::Kind, DirectoryError>) {
    // If the connection has ended meanwhile, nobody waits for the answer.
    let _ = match result {
        Ok(kind) => channel.answer(id, kind).await,
        Err(error) => {
            let reason = match &error {
                DirectoryError::Malformed(_) => Reason::Malformed,
                DirectoryError::NotAllowed(_) => Reason::NotAllowed,
                DirectoryError::TooMany(_) => Reason::TooMany,
                DirectoryError::NotAvailable(_) => Reason::NotAvailable,
            };
            channel.refuse(id, reason, &error.to_string()).await
        }
    };
}
