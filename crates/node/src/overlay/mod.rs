//! Runs the overlay of super nodes over the node's UDP port, as the super node's directory.
//!
//! ```text
//!   attached nodes ─ attach, publish, look up, watch, search ─▶ OverlayDirectory ─┐
//!   UDP port ─ sealed datagrams ─▶ task ─▶ SuperNodeOverlay (behind one lock) ◀───┘
//!            ◀─ datagrams ───────────────────── outputs ─▶ answers, notices
//! ```
//!
//! Every rule is in `cooee_proto::overlay`. Here are the socket, the timers, and who waits for
//! which answer.

mod admitting;
mod directory;
mod shards;
mod trust;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use cooee_proto::{
    clock::Now,
    identity::{NameKey, NodeId},
    index::{Answer, WildcardAnswer},
    overlay::{Output, OverlayConfig, OverlayStatus, SuperNodeOverlay, sealed::Sealed},
    wire::v1,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::sleep_until,
};

pub use trust::LiveTrust;

use crate::{
    login_server::random_seed,
    super_node::{Notifier, SuperNodePeers},
    transport::Tls,
    udp::{ReceivedDatagram, UdpEndpoint},
};

/// While nobody else is known, the contacts are asked again after this. Chosen: a first super node
/// that starts a little later is met soon, and one that stays alone sends one datagram each time.
const JOIN_AGAIN: Duration = Duration::from_secs(2);

/// How long a super node that leaves waits for others to hold its shards. Chosen: the operator who
/// stops one waits for it, and a shard that nobody confirmed has fourteen other keepers.
const HANDING_OVER: Duration = Duration::from_secs(10);

/// Contacts asked at once. Chosen, and below what the machine remembers.
const CONTACTS_MAX: usize = 16;

/// Addresses of members kept for the next start. Chosen: enough that some still live.
const STORED_MAX: usize = 64;

/// Where a super node starts, and with whom.
#[derive(Clone, Debug)]
pub struct OverlayStart {
    /// Where others reach this super node, TCP and UDP.
    pub address: SocketAddr,
    /// Attached nodes that it takes.
    pub capacity: u32,
    /// Super nodes to join through: of the invitation, and members known from before.
    pub contacts: Vec<SocketAddr>,
    /// Where what it keeps of the Global Index lies over a restart; nowhere if there is none.
    pub shards_file: Option<PathBuf>,
}

/// The overlay of one super node. It ends with the last handle.
pub struct OverlayDirectory {
    state: Mutex<State>,
    tls: Arc<Tls>,
    endpoint: UdpEndpoint,
    address: SocketAddr,
    contacts: Mutex<Vec<SocketAddr>>,
    shards_file: Option<shards::ShardsFile>,
    peers: OnceLock<Arc<dyn SuperNodePeers>>,
    wake: Arc<Notify>,
}

/// The machine and who waits for it. The bounds of what waits are the machine's.
struct State {
    overlay: SuperNodeOverlay,
    look_ups: BTreeMap<u64, oneshot::Sender<Answer>>,
    searches: BTreeMap<u64, oneshot::Sender<WildcardAnswer>>,
    notifiers: BTreeMap<NodeId, Notifier>,
    candidates: admitting::Candidates,
}

impl OverlayDirectory {
    /// Starts the overlay on this port. The certificate must be valid now.
    pub fn start(start: OverlayStart, tls: &Arc<Tls>, endpoint: &UdpEndpoint) -> Arc<Self> {
        let config = OverlayConfig {
            capacity: start.capacity,
            program_version: program_version(),
            ..OverlayConfig::new(start.address)
        };
        let now = now(tls);
        let sealed = Box::new(Sealed::new(&tls.credentials().key, random_seed()));
        let trust = Box::new(LiveTrust::new(tls.clone()));
        let overlay = SuperNodeOverlay::new(now, config, trust, sealed, random_seed());
        let mut contacts = start.contacts;
        contacts.retain(|contact| *contact != start.address);
        let directory = Arc::new(Self {
            state: Mutex::new(State {
                overlay,
                look_ups: BTreeMap::new(),
                searches: BTreeMap::new(),
                notifiers: BTreeMap::new(),
                candidates: admitting::Candidates::new(),
            }),
            tls: tls.clone(),
            endpoint: endpoint.clone(),
            address: start.address,
            contacts: Mutex::new(contacts),
            shards_file: start.shards_file.map(shards::ShardsFile::new),
            peers: OnceLock::new(),
            wake: Arc::default(),
        });
        let datagrams = endpoint.register_overlay();
        tokio::spawn(run(Arc::downgrade(&directory), datagrams, directory.wake.clone()));
        directory
    }

    /// The overlay's own view.
    pub fn status(&self) -> OverlayStatus {
        self.state().overlay.status()
    }

    /// Where this super node tells others that it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keepers of a name as this super node ranks them.
    pub fn keepers_of(&self, key: &NameKey) -> Vec<NodeId> {
        self.state().overlay.keepers_of(self.now(), key)
    }

    /// Addresses of some other members, to join through at the next start.
    pub fn contacts_to_store(&self) -> Vec<SocketAddr> {
        let mut state = self.state();
        let mut addresses = state.overlay.try_these();
        let more = state.overlay.table().iter().map(|member| member.super_node.address);
        addresses.extend(more.take(STORED_MAX));
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Begins to take part, by this admission and through these super nodes; or goes on, by a
    /// renewed
    /// one.
    pub fn admitted(&self, admission: v1::Admission, through: Vec<SocketAddr>) {
        *self.contacts.lock().unwrap_or_else(PoisonError::into_inner) = through;
        self.with(|overlay, now| overlay.renew_admission(now, admission));
    }

    /// Tells everybody of the renewed certificate.
    pub fn renewed(&self) {
        self.with(|overlay, now| overlay.renew(now));
    }

    /// Writes what is kept of the Global Index for the next start.
    pub async fn store_shards(self: &Arc<Self>) {
        if let Some(file) = &self.shards_file {
            self.write_all(file).await;
        }
    }

    /// Waits until others hold what a super node that leaves has kept, but not for ever.
    pub async fn hand_over(&self) {
        let deadline = Instant::now() + HANDING_OVER;
        while Instant::now() < deadline && self.state().overlay.handing_over() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Tells everybody that this super node leaves, and hands over what it keeps: see
    /// [`Self::hand_over`].
    pub fn leave(&self) {
        self.with(|overlay, now| overlay.leave(now));
    }

    fn now(&self) -> Now {
        now(&self.tls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one call into the machine; a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the machine and carries out what follows from it.
    fn with<T>(&self, change: impl FnOnce(&mut SuperNodeOverlay, Now) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.overlay, self.now());
        self.carry_out(&mut state);
        drop(state);
        self.wake.notify_one();
        result
    }

    fn carry_out(&self, state: &mut State) {
        while let Some(output) = state.overlay.poll_output() {
            match output {
                // Lost like any datagram: the machine repeats what matters.
                Output::Datagram { to, bytes } => {
                    let _ = self.endpoint.send(to, None, &bytes);
                }
                Output::LookedUp(answer) => {
                    if let Some(waiting) = state.look_ups.remove(&answer.look_up) {
                        let _ = waiting.send(answer);
                    }
                }
                Output::Searched(answer) => {
                    if let Some(waiting) = state.searches.remove(&answer.search) {
                        let _ = waiting.send(answer);
                    }
                }
                Output::Notify(change) => {
                    if let Some(notifier) = state.notifiers.get(&change.device) {
                        notifier.notify(change.key, directory::found_to_wire(&change.found));
                    }
                }
                Output::Member(event) => tracing::info!(?event, "overlay"),
            }
        }
    }

    /// Asks the contacts for a way in, as long as nobody else is known.
    fn join_if_alone(&self) {
        let mut state = self.state();
        let status = state.overlay.status();
        if status.members > 1 && status.joined {
            return;
        }
        let contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        state.overlay.join(self.now(), &contacts[..contacts.len().min(CONTACTS_MAX)]);
        drop(contacts);
        self.carry_out(&mut state);
    }
}

/// Datagrams and timers, until the directory is gone.
async fn run(
    directory: Weak<OverlayDirectory>,
    mut datagrams: mpsc::Receiver<ReceivedDatagram>,
    wake: Arc<Notify>,
) {
    shards::restore(&directory).await;
    tokio::spawn(shards::keep_written(directory.clone()));
    let mut join_at = Instant::now();
    loop {
        let Some(strong) = directory.upgrade() else { return };
        if join_at <= Instant::now() {
            strong.join_if_alone();
            join_at = Instant::now() + JOIN_AGAIN;
        }
        let next = strong.state().overlay.next_timeout().min(join_at);
        drop(strong);
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return };
                let Some(strong) = directory.upgrade() else { return };
                let mut state = strong.state();
                let ip = datagram.remote.ip().to_canonical();
                let remote = SocketAddr::new(ip, datagram.remote.port());
                state.overlay.handle_datagram(strong.now(), remote, &datagram.payload);
                strong.carry_out(&mut state);
            }
            () = sleep_until(next.into()) => {
                let Some(strong) = directory.upgrade() else { return };
                let mut state = strong.state();
                state.overlay.handle_timeout(strong.now());
                strong.carry_out(&mut state);
            }
            () = wake.notified() => {}
        }
    }
}

fn now(tls: &Tls) -> Now {
    Now { instant: Instant::now(), unix: tls.trust().unix_now() }
}

/// Major, minor and patch in one number, as the overlay compares versions.
pub(crate) fn program_version() -> u32 {
    let mut parts = env!("CARGO_PKG_VERSION").split(['.', '-']).map(|part| part.parse::<u32>());
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
    next() << 16 | next() << 8 | next()
}
