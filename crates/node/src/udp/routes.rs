//! Who gets which datagram: the tables behind [`super::UdpEndpoint`]'s registrations.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use cooee_proto::datagram::{
    Datagram, StunClass, StunHeader, TransactionBytes, classify, receiver_ufrag,
};
use tokio::sync::{mpsc, oneshot};

use super::{DatagramServer, ReceivedDatagram};

/// Requests that may wait for a response at one time. Chosen: 20 calls with 100 checks each.
pub(super) const TRANSACTIONS_MAX: usize = 2048;
/// Sessions that may share one remote address: calls with several users of one distant node.
const SESSIONS_PER_REMOTE_MAX: usize = 4;
/// Remote addresses that one session may claim. Chosen: above any list of candidates we send.
const REMOTES_PER_SESSION_MAX: usize = 64;

const DATA_METHOD: u16 = 0x007;

pub(super) type SessionId = u64;

enum Waiter {
    Probe(oneshot::Sender<ReceivedDatagram>),
    Session(SessionId),
}

struct Session {
    queue: mpsc::Sender<ReceivedDatagram>,
    remotes: Vec<SocketAddr>,
    turn_servers: Vec<SocketAddr>,
}

/// Where one datagram goes.
pub(super) enum Route<'a> {
    Queue(&'a mpsc::Sender<ReceivedDatagram>),
    Queues(Vec<&'a mpsc::Sender<ReceivedDatagram>>),
    /// A response that one waiter takes out of the table.
    Transaction(TransactionBytes),
    Server,
    Unclaimed,
    Unknown,
}

/// The tables. Bounded by the constants above and by the number of registered sessions.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) server: Option<Arc<dyn DatagramServer>>,
    pub(super) overlay: Option<mpsc::Sender<ReceivedDatagram>>,
    sessions: HashMap<SessionId, Session>,
    ufrags: HashMap<Box<str>, SessionId>,
    remotes: HashMap<SocketAddr, Vec<SessionId>>,
    transactions: HashMap<TransactionBytes, Waiter>,
    transaction_order: VecDeque<TransactionBytes>,
    next_session: SessionId,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("sessions", &self.sessions.len())
            .field("transactions", &self.transactions.len())
            .finish_non_exhaustive()
    }
}

impl Routes {
    pub(super) fn route(&self, remote: SocketAddr, bytes: &[u8]) -> Route<'_> {
        match classify(bytes) {
            Datagram::Stun(header) => self.route_stun(remote, header, bytes),
            Datagram::Channel if !self.is_turn_server(remote) => Route::Server,
            Datagram::Dtls | Datagram::Rtp | Datagram::Channel => self.by_remote(remote),
            Datagram::Overlay => self.overlay.as_ref().map_or(Route::Unclaimed, Route::Queue),
            Datagram::Unknown => Route::Unknown,
        }
    }

    fn route_stun(&self, remote: SocketAddr, header: StunHeader, bytes: &[u8]) -> Route<'_> {
        match header.class {
            StunClass::Success | StunClass::Error => {
                if self.transactions.contains_key(&header.transaction) {
                    return Route::Transaction(header.transaction);
                }
                self.by_remote(remote)
            }
            StunClass::Indication
                if header.method == DATA_METHOD && self.is_turn_server(remote) =>
            {
                self.by_remote(remote)
            }
            StunClass::Request => {
                let session = receiver_ufrag(bytes).and_then(|ufrag| self.ufrags.get(ufrag));
                match session.and_then(|id| self.sessions.get(id)) {
                    Some(session) => Route::Queue(&session.queue),
                    None => Route::Server,
                }
            }
            StunClass::Indication => Route::Server,
        }
    }

    fn by_remote(&self, remote: SocketAddr) -> Route<'_> {
        let Some(ids) = self.remotes.get(&remote) else { return Route::Unclaimed };
        let queue = |id: &SessionId| self.sessions.get(id).map(|session| &session.queue);
        match ids.as_slice() {
            [id] => queue(id).map_or(Route::Unclaimed, Route::Queue),
            // Which one it is for shows when its keys open it; the others drop it.
            ids => Route::Queues(ids.iter().filter_map(queue).collect()),
        }
    }

    fn is_turn_server(&self, remote: SocketAddr) -> bool {
        let Some(ids) = self.remotes.get(&remote) else { return false };
        let mut sessions = ids.iter().filter_map(|id| self.sessions.get(id));
        sessions.any(|session| session.turn_servers.contains(&remote))
    }

    /// Takes the waiter of a response out and hands it the datagram.
    pub(super) fn finish_transaction(
        &mut self,
        transaction: TransactionBytes,
        datagram: ReceivedDatagram,
    ) -> Result<(), Undelivered> {
        let waiter = self.transactions.remove(&transaction).ok_or(Undelivered::Gone)?;
        match waiter {
            Waiter::Probe(sender) => sender.send(datagram).map_err(|_| Undelivered::Gone),
            Waiter::Session(id) => {
                let session = self.sessions.get(&id).ok_or(Undelivered::Gone)?;
                deliver(&session.queue, datagram)
            }
        }
    }

    pub(super) fn expect_probe(
        &mut self,
        transaction: TransactionBytes,
        sender: oneshot::Sender<ReceivedDatagram>,
    ) {
        self.expect(transaction, Waiter::Probe(sender));
    }

    fn expect(&mut self, transaction: TransactionBytes, waiter: Waiter) {
        if self.transactions.insert(transaction, waiter).is_none() {
            self.transaction_order.push_back(transaction);
        }
        // Answered ones leave the order late: it is trimmed to the table's bound.
        while self.transaction_order.len() > TRANSACTIONS_MAX {
            if let Some(oldest) = self.transaction_order.pop_front() {
                self.transactions.remove(&oldest);
            }
        }
    }

    pub(super) fn add_session(&mut self, queue: mpsc::Sender<ReceivedDatagram>) -> SessionId {
        self.next_session += 1;
        let session = Session { queue, remotes: Vec::new(), turn_servers: Vec::new() };
        self.sessions.insert(self.next_session, session);
        self.next_session
    }

    pub(super) fn remove_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.ufrags.retain(|_, owner| *owner != id);
        for remote in session.remotes {
            self.release(id, remote);
        }
    }

    /// Checks addressed to `ufrag` go to the session; the newest registration wins.
    pub(super) fn claim_ufrag(&mut self, id: SessionId, ufrag: &str) {
        if self.sessions.contains_key(&id) {
            self.ufrags.insert(ufrag.into(), id);
        }
    }

    pub(super) fn release_ufrag(&mut self, id: SessionId, ufrag: &str) {
        if self.ufrags.get(ufrag) == Some(&id) {
            self.ufrags.remove(ufrag);
        }
    }

    pub(super) fn claims(&self, id: SessionId, remote: SocketAddr) -> bool {
        self.remotes.get(&remote).is_some_and(|ids| ids.contains(&id))
    }

    /// Traffic of `remote` goes to the session. False when a bound is reached.
    pub(super) fn claim_remote(&mut self, id: SessionId, remote: SocketAddr) -> bool {
        if self.claims(id, remote) {
            return true;
        }
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let ids = self.remotes.entry(remote).or_default();
        if ids.len() >= SESSIONS_PER_REMOTE_MAX {
            return false;
        }
        ids.push(id);
        session.remotes.push(remote);
        if session.remotes.len() > REMOTES_PER_SESSION_MAX {
            // The oldest was a candidate that never became the path, or it is claimed again by
            // the next packet sent to it.
            let oldest = session.remotes.remove(0);
            self.release(id, oldest);
        }
        true
    }

    pub(super) fn claim_turn_server(&mut self, id: SessionId, remote: SocketAddr) -> bool {
        let claimed = self.claim_remote(id, remote);
        if let (true, Some(session)) = (claimed, self.sessions.get_mut(&id))
            && !session.turn_servers.contains(&remote)
            && session.turn_servers.len() < REMOTES_PER_SESSION_MAX
        {
            session.turn_servers.push(remote);
        }
        claimed
    }

    /// The response to a session's own request goes to it, wherever it comes from.
    pub(super) fn expect_response(&mut self, id: SessionId, transaction: TransactionBytes) {
        self.expect(transaction, Waiter::Session(id));
    }

    fn release(&mut self, id: SessionId, remote: SocketAddr) {
        let Some(ids) = self.remotes.get_mut(&remote) else { return };
        ids.retain(|owner| *owner != id);
        if ids.is_empty() {
            self.remotes.remove(&remote);
        }
    }
}

/// Why a consumer did not get a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    QueueFull,
    Gone,
}

pub(super) fn deliver(
    queue: &mpsc::Sender<ReceivedDatagram>,
    datagram: ReceivedDatagram,
) -> Result<(), Undelivered> {
    queue.try_send(datagram).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Undelivered::QueueFull,
        mpsc::error::TrySendError::Closed(_) => Undelivered::Gone,
    })
}
