//! Keeps this node attached: carries out what the pure machine (`cooee_proto::attachment`) decides.
//!
//! ```text
//!   Attachment::start(config, dialer, host cache) ─▶ Attachment  (clone it; ask, open, publish)
//!                                                 └▶ Incoming    (splices, events)
//! ```
//!
//! One task drives the machine; each attempt and each connection has a task of its own.

mod attempt;
mod connection;
mod driver;
mod hedge;
mod login_path;
mod probe;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cooee_proto::{
    attachment::{Config, PortKind, Status},
    clock::UnixTime,
    control::{name_key, node_id},
    host_cache::{Entry, HostCache},
    identity::{NameKey, NodeId},
    wire::v1::{
        self, LoginServerStream, LookUp, Publish, SpliceStream, StreamHeader, TurnCredentials,
        TurnCredentialsRequest, Watch, answer, request, stream_header::Kind as HeaderKind,
    },
};
use tokio::sync::{mpsc, watch};

pub use login_path::{LoginPath, open_login_path};
pub use probe::{Prober, UdpProber};

use crate::{
    room::Room,
    transport::{ControlChannel, Dialer, MuxStream, TransportError},
};
use driver::{Command, Driver};

/// A request that finds no connection waits so long for the next one. Chosen: a loss is healed
/// within a second or two.
const REATTACH_TIME: Duration = Duration::from_secs(3);

/// What the attachment needs to know.
#[derive(Clone)]
pub struct AttachmentConfig {
    /// Bounds and pauses of the race.
    pub race: Config,
    /// Port that worked the last time.
    pub port_kind: PortKind,
    /// Port on which this node listens, if any.
    pub listening_port: Option<u16>,
    /// Sends the UDP probes; the node's own socket, so that what it finds holds for media.
    pub prober: Arc<dyn Prober>,
    /// Randomness of the order and the back-off.
    pub seed: [u8; 32],
    /// Where a call has little room, connections are asked less and given up later.
    pub room: Room,
}

/// A device found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDevice {
    /// The node.
    pub node: NodeId,
    /// Super nodes through which it can be reached.
    pub super_nodes: Vec<NodeId>,
    /// Its record as published, opaque here.
    pub record: Bytes,
    /// When its super node saw it go; `None` while it is attached.
    pub departed: Option<UnixTime>,
}

/// One page of a search by wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPage {
    /// Devices of users that match, best first.
    pub found: Vec<FoundDevice>,
    /// What to give for the next page, if there is one.
    pub next: Option<Bytes>,
}

/// A splice that another node opened to this one, already accepted.
#[derive(Debug)]
pub struct IncomingSplice {
    /// Who asked for it, as its super node says; end-to-end TLS tells for sure.
    pub from: NodeId,
    /// The stream.
    pub stream: MuxStream,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum AttachmentEvent {
    /// What a person may be shown changed.
    StatusChanged(Status),
    /// A super node is in use: the record should be published again, naming these.
    Attached {
        /// Super nodes that hold a connection of this node, the one in use first.
        super_nodes: Vec<NodeId>,
        /// This node's TCP address as the super node sees it.
        observed_address: Option<SocketAddr>,
        /// From the start of the race (or the loss) to now.
        took: Duration,
        /// Bytes on the wire of the connections made for it, TLS included.
        bytes: u64,
    },
    /// The set of super nodes that hold a connection of this node changed.
    SuperNodesChanged(Vec<NodeId>),
    /// A watched name changed.
    Notified {
        /// The name.
        key: NameKey,
        /// Its devices now.
        found: Vec<FoundDevice>,
    },
    /// The super node's clock and ours differ by more than the protocol allows.
    ClockDiffers {
        /// By so much.
        by: Duration,
    },
}

/// What comes in by itself.
#[derive(Debug)]
pub struct Incoming {
    /// Splices of other nodes.
    pub splices: mpsc::Receiver<IncomingSplice>,
    /// Events; when nobody takes them the oldest wait and newer ones are dropped.
    pub events: mpsc::Receiver<AttachmentEvent>,
}

/// A node's attachment. Clones share it; when the last is dropped it ends.
#[derive(Clone)]
pub struct Attachment {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// What the driver keeps up to date for the handles.
#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    /// Entries of the host cache and the port that worked, as of the last change.
    stored: Mutex<(Vec<Entry>, PortKind)>,
    room: Room,
}

#[derive(Default)]
struct Held {
    /// Connections, the one in use first.
    channels: Vec<ControlChannel>,
    record: Option<Bytes>,
    watched: Vec<NameKey>,
}

/// The super node that gave an answer.
#[derive(Debug)]
pub(crate) struct Answerer(ControlChannel);

impl Answerer {
    /// Leaves it, for what it said is proven wrong: another takes its place.
    pub(crate) fn leave(&self) {
        self.0.connection().close();
    }
}

impl Attachment {
    /// Starts to race for a super node and stays attached from then on.
    pub fn start(
        config: AttachmentConfig,
        dialer: Dialer,
        host_cache: HostCache,
    ) -> (Self, Incoming) {
        let (commands, command_queue) = mpsc::channel(16);
        let (splice_sender, splices) = mpsc::channel(16);
        let (event_sender, events) = mpsc::channel(256);
        let (status_sender, status) = watch::channel(Status::Idle);
        let shared = Arc::new(Shared { room: config.room.clone(), ..Shared::default() });
        let driver = Driver::new(driver::Start {
            config,
            dialer,
            host_cache,
            shared: shared.clone(),
            splices: splice_sender,
            events: event_sender,
            status: status_sender,
        });
        tokio::spawn(driver.run(command_queue));
        (Self { shared, commands, status }, Incoming { splices, events })
    }

    /// What a person may be shown; can be watched.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until a super node is in use.
    pub async fn attached(&self) -> Result<NodeId, TransportError> {
        let mut status = self.status.clone();
        let now = status
            .wait_for(|status| matches!(status, Status::Attached { .. }))
            .await
            .map_err(|_| TransportError::Closed)?;
        match &*now {
            Status::Attached { node, .. } => Ok(*node),
            _ => unreachable!("just waited for it"),
        }
    }

    /// Super nodes that hold a connection of this node, the one in use first.
    pub fn super_nodes(&self) -> Vec<NodeId> {
        self.channels().iter().filter_map(|channel| channel.connection().node()).collect()
    }

    /// Entries of the host cache and the port that worked, to be stored.
    pub fn to_store(&self) -> (Vec<Entry>, PortKind) {
        self.shared.stored.lock().expect("no holder of this lock panics").clone()
    }

    /// Bytes that crossed the connections held now.
    pub fn bytes(&self) -> u64 {
        self.channels().iter().map(|channel| channel.connection().bytes().total()).sum()
    }

    /// The network under us changed (another Wi-Fi, wake from sleep): check and race at once.
    pub async fn network_changed(&self) {
        let _ = self.commands.send(Command::NetworkChanged).await;
    }

    /// Asks every super node that holds a connection of this node for a sign of life; a connection
    /// that gives none within 1.5 s while another does is closed, and the next one taken. Where
    /// answers are slow, it is waited longer and asked more rarely; where a call has little room,
    /// not at all.
    pub fn check(&self) {
        if self.shared.room.is_little() {
            return;
        }
        let channels = self.channels();
        let places = (0..channels.len()).filter(|place| !channels[*place].rests());
        places.for_each(|place| connection::check_among(place, &channels, &self.shared.room));
    }

    /// Replaces the bootstrap entries, for example after their names were resolved again.
    pub async fn set_bootstrap(&self, addresses: Vec<SocketAddr>) {
        let _ = self.commands.send(Command::SetBootstrap(addresses)).await;
    }

    /// Closes all connections and ends.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    /// Opens a splice to a node. `via` is the super node that holds its connection; without it only
    /// our own super nodes are asked.
    pub async fn open_splice(
        &self,
        to: NodeId,
        via: Option<NodeId>,
    ) -> Result<MuxStream, TransportError> {
        self.wait_for_connection().await?;
        let mut channels = self.channels();
        // A super node that holds both of us needs no second one.
        channels.sort_by_key(|channel| channel.connection().node() != via);
        let mut attempts = Vec::new();
        for channel in channels {
            let direct = via.is_none() || channel.connection().node() == via;
            let via = via.filter(|_| !direct);
            let via = via.map_or_else(Bytes::new, |via| Bytes::copy_from_slice(via.as_bytes()));
            let to = Bytes::copy_from_slice(to.as_bytes());
            let kind = HeaderKind::Splice(SpliceStream { to, via, from: Bytes::new() });
            attempts.push((channel.clone(), async move {
                channel.connection().open_accepted(&StreamHeader { kind: Some(kind) }).await
            }));
        }
        hedge::first(attempts, &self.shared.room)
            .await
            .unwrap_or(Err(TransportError::NotReachable(to)))
    }

    /// Opens a splice to a device that was found; its super nodes are asked one after the other,
    /// the next one as soon as the one before hesitates.
    pub async fn open_splice_to(&self, found: &FoundDevice) -> Result<MuxStream, TransportError> {
        let ways = found.super_nodes.iter();
        let ways = ways.map(|super_node| self.open_splice(found.node, Some(*super_node)));
        let first = hedge::staggered(ways.collect(), |_| ()).await;
        first.unwrap_or(Err(TransportError::NotReachable(found.node)))
    }

    /// Opens a stream to the login server through a super node.
    pub async fn open_login_server(&self) -> Result<MuxStream, TransportError> {
        self.wait_for_connection().await?;
        let mut last = TransportError::Closed;
        let header = StreamHeader { kind: Some(HeaderKind::LoginServer(LoginServerStream {})) };
        for channel in self.channels() {
            match channel.connection().open_accepted(&header).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Looks a name up; an unknown one gives an empty list.
    pub async fn look_up(&self, key: NameKey) -> Result<Vec<FoundDevice>, TransportError> {
        Ok(self.look_up_at(key, false).await?.0)
    }

    /// The same; also says who answered.
    pub(crate) async fn look_up_and_tell(
        &self,
        key: NameKey,
    ) -> Result<(Vec<FoundDevice>, Answerer), TransportError> {
        self.look_up_at(key, false).await
    }

    /// The same, passing by the cache of the super node: after what it said has failed.
    pub async fn look_up_fresh(&self, key: NameKey) -> Result<Vec<FoundDevice>, TransportError> {
        Ok(self.look_up_at(key, true).await?.0)
    }

    /// Searches by wildcard, one page; `after` is empty for the first.
    pub async fn search(&self, pattern: &str, after: Bytes) -> Result<SearchPage, TransportError> {
        let search = v1::Search { pattern: pattern.to_owned(), after };
        match self.request(request::Kind::Search(search)).await? {
            answer::Kind::SearchResult(result) => Ok(SearchPage {
                found: found_devices(&result.found),
                next: Some(result.next).filter(|next| !next.is_empty()),
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn look_up_at(
        &self,
        key: NameKey,
        fresh: bool,
    ) -> Result<(Vec<FoundDevice>, Answerer), TransportError> {
        let name_key = Bytes::copy_from_slice(key.as_bytes());
        let look_up = LookUp { name_key, local_only: false, fresh };
        let (answer, channel) = self.request_and_tell(request::Kind::LookUp(look_up)).await?;
        match answer {
            answer::Kind::LookUpResult(result) => {
                Ok((found_devices(&result.found), Answerer(channel)))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Publishes this device's record at every super node that holds a connection of it, and again
    /// at each new one, until it is replaced.
    pub async fn publish(&self, record: Bytes) -> Result<(), TransportError> {
        self.held().record = Some(record.clone());
        self.wait_for_connection().await?;
        let mut result = Err(TransportError::Closed);
        for channel in self.channels() {
            let publish = request::Kind::Publish(Publish { record: record.clone() });
            result = result.or(channel.request(publish).await.map(|_| ()));
        }
        result
    }

    /// Replaces the names to be told of; holds across re-attachment.
    pub async fn watch(&self, keys: Vec<NameKey>) -> Result<(), TransportError> {
        self.held().watched.clone_from(&keys);
        match self.request(watch_request(&keys)).await? {
            answer::Kind::Watching(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Credentials for the relay of the super node in use.
    pub async fn turn_credentials(&self) -> Result<TurnCredentials, TransportError> {
        let kind = request::Kind::TurnCredentials(TurnCredentialsRequest {});
        match self.request(kind).await? {
            answer::Kind::TurnCredentials(credentials) => Ok(credentials),
            other => Err(unexpected(&other)),
        }
    }

    /// Credentials for the relays of all super nodes that hold a connection of this node, the one
    /// in use first; those that mint none are left out.
    pub async fn all_turn_credentials(&self) -> Vec<TurnCredentials> {
        let asked = self.channels().into_iter().map(|channel| async move {
            let kind = request::Kind::TurnCredentials(TurnCredentialsRequest {});
            match channel.request(kind).await {
                Ok(answer::Kind::TurnCredentials(credentials)) => Some(credentials),
                _ => None,
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Sends a request to the super node in use; if its connection breaks or it hesitates, to the
    /// next one too.
    pub async fn request(&self, kind: request::Kind) -> Result<answer::Kind, TransportError> {
        Ok(self.request_and_tell(kind).await?.0)
    }

    /// The same; also gives the connection that the answer came by.
    async fn request_and_tell(
        &self,
        kind: request::Kind,
    ) -> Result<(answer::Kind, ControlChannel), TransportError> {
        let mut last = TransportError::Closed;
        for _ in 0..2 {
            self.wait_for_connection().await?;
            let ask = |channel: ControlChannel| {
                let kind = kind.clone();
                (channel.clone(), async move { Ok((channel.request(kind).await?, channel)) })
            };
            let attempts = self.channels().into_iter().map(ask).collect();
            match hedge::first(attempts, &self.shared.room).await {
                None => {}
                Some(Err(TransportError::Closed)) => last = TransportError::Closed,
                Some(result) => return result,
            }
        }
        Err(last)
    }

    async fn wait_for_connection(&self) -> Result<(), TransportError> {
        if !matches!(*self.status.borrow(), Status::Attached { .. }) {
            // A full queue of commands has others that want the same.
            let _ = self.commands.try_send(Command::Wanted);
        }
        let waited = tokio::time::timeout(REATTACH_TIME, self.attached()).await;
        waited.unwrap_or(Err(TransportError::TimedOut("super node"))).map(|_| ())
    }

    fn channels(&self) -> Vec<ControlChannel> {
        let channels = self.held().channels.clone();
        channels.into_iter().filter(|channel| !channel.connection().has_ended()).collect()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.shared.held.lock().expect("no holder of this lock panics")
    }
}

fn watch_request(keys: &[NameKey]) -> request::Kind {
    let name_keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
    request::Kind::Watch(Watch { name_keys, local_only: false })
}

fn unexpected(answer: &answer::Kind) -> TransportError {
    let text = format!("unexpected answer {answer:?}");
    TransportError::Protocol(text.chars().take(100).collect())
}

/// The well-formed ones among what was found.
fn found_devices(found: &[v1::Found]) -> Vec<FoundDevice> {
    /// Devices of one name that are taken. Chosen: nobody has more.
    const DEVICES_MAX: usize = 32;
    let device = |found: &v1::Found| {
        Some(FoundDevice {
            node: node_id(&found.node).ok()?,
            super_nodes: found
                .super_nodes
                .iter()
                .take(8)
                .filter_map(|id| node_id(id).ok())
                .collect(),
            record: found.record.clone(),
            departed: (found.departed_unix_ms > 0).then_some(UnixTime(found.departed_unix_ms)),
        })
    };
    found.iter().take(DEVICES_MAX).filter_map(device).collect()
}

fn notified(notify: &v1::Notify) -> Option<AttachmentEvent> {
    let key = name_key(&notify.name_key).ok()?;
    Some(AttachmentEvent::Notified { key, found: found_devices(&notify.found) })
}
