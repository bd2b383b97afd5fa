//! The one task that owns the buddy list and the messages: feeds the machines, does what they want.

mod views;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cooee_proto::{
    call::Relation,
    clock::{Now, UnixTime},
    contacts::{BuddyState, ContactError, ContactEvent, Contacts, KeyCheck, safety_number},
    control::WATCHED_NAMES_MAX,
    identity::{NameKey, NetworkId, NodePublicKey, UserName},
    im::{Messages, Output, Progress},
    wire::v1::{BuddyAnswer, BuddyRequest, ListStored, peer_message::Body},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, broadcast, mpsc},
    time::timeout,
};

use super::{
    Command, MessageView, PeopleConfig, PeopleError, SeenAs, StoreError, presence, store::Store,
};
use crate::{
    attachment::Attachment,
    call::LookUp,
    peer::{Identity, PeerEvent, Peers},
};

/// First pause before an unanswered buddy request is repeated, as for messages. Chosen.
const ASK_FIRST: Duration = Duration::from_secs(10);
/// Longest pause. Chosen: seeing the other side come online ends it anyway.
const ASK_MAX: Duration = Duration::from_secs(15 * 60);
/// Patience with a look-up before something is sent; whatever needs certainty is repeated.
const LOOK_UP_MAX: Duration = Duration::from_secs(30);

pub(super) struct Task {
    own: (UserName, NodePublicKey),
    display_name: String,
    network: NetworkId,
    contacts: Arc<Mutex<Contacts>>,
    messages: Messages,
    store: Store,
    look_up: Arc<dyn LookUp>,
    peers: Peers,
    attachment: Attachment,
    direct_addresses: Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
    events: broadcast::Sender<Value>,
    /// Woken when the list changed, to store it at the login server.
    dirty: Arc<Notify>,
    /// Names that the super node tells of. Bound: `WATCHED_NAMES_MAX`.
    watched: BTreeMap<NameKey, UserName>,
    /// Those of them to whom something may be sent at once.
    online: BTreeSet<UserName>,
    /// How they are shown, as the index says.
    shown: BTreeMap<UserName, SeenAs>,
    /// Requests without an answer: when to repeat, and the pause after that.
    asking: BTreeMap<UserName, (Instant, Duration)>,
}

impl Task {
    pub(super) fn new(
        config: PeopleConfig,
    ) -> Result<(Self, mpsc::Receiver<PeerEvent>), StoreError> {
        let store = Store::open(&config.folder)?;
        let contacts = store.contacts(&config.own.0)?;
        let mut messages = Messages::new(config.seed);
        for (to, message) in store.waiting() {
            messages.restore(now(), &to, message);
        }
        let requested = contacts.list().filter(|(_, b)| b.state == BuddyState::Requested);
        let asking =
            requested.map(|(user, _)| (user.clone(), (Instant::now(), ASK_FIRST))).collect();
        let task = Self {
            own: config.own,
            display_name: config.display_name,
            network: config.network,
            contacts: Arc::new(Mutex::new(contacts)),
            messages,
            store,
            look_up: config.look_up,
            peers: config.peers,
            attachment: config.attachment,
            direct_addresses: config.direct_addresses,
            events: config.events,
            dirty: Arc::default(),
            watched: BTreeMap::new(),
            online: BTreeSet::new(),
            shown: BTreeMap::new(),
            asking,
        };
        Ok((task, config.peer_events))
    }

    pub(super) fn contacts(&self) -> Arc<Mutex<Contacts>> {
        self.contacts.clone()
    }

    pub(super) fn dirty(&self) -> Arc<Notify> {
        self.dirty.clone()
    }

    /// Takes in another list of this user; gives the joined one.
    pub(super) fn merge(&mut self, stored: &Contacts) -> Result<Contacts, PeopleError> {
        self.list().merge(stored);
        self.settle()?;
        Ok(self.list().clone())
    }

    /// Tells the user's other devices that the list at the login server has changed.
    pub(super) fn tell_own_devices(&self) {
        self.send_to(self.own.0.clone(), vec![Body::ListStored(ListStored {})]);
    }

    /// Runs until the last handle is dropped.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut peer_events: mpsc::Receiver<PeerEvent>,
    ) {
        loop {
            if let Err(error) = self.settle() {
                tracing::error!(%error, "the buddy list changed and cannot be kept");
            }
            let deadline = self.drain();
            self.watch();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => command(&mut self),
                    None => return,
                },
                Some(event) = peer_events.recv() => self.handle_peer(event),
                () = timer => self.handle_timeout(),
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, Contacts> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Value) {
        // Nobody listens: nobody needs to be told.
        let _ = self.events.send(event);
    }

    /// Changes the buddy list; the change is on the disk when this returns.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Contacts, UnixTime) -> Result<(), ContactError>,
    ) -> Result<(), PeopleError> {
        change(&mut self.list(), now().unix)?;
        Ok(self.settle()?)
    }

    /// Does what the buddy list wants, the disk first.
    fn settle(&mut self) -> Result<(), StoreError> {
        let (events, list) = {
            let mut contacts = self.list();
            let events: Vec<_> = std::iter::from_fn(|| contacts.poll_event()).collect();
            let changed = events.contains(&ContactEvent::ListChanged);
            (events, changed.then(|| contacts.to_wire()))
        };
        let kept = list.map_or(Ok(()), |list| self.store.keep_contacts(&list));
        for event in events {
            match event {
                ContactEvent::ListChanged => {
                    self.dirty.notify_one();
                    self.tell(json!({ "event": "buddies_changed" }));
                }
                ContactEvent::SendRequest(user) => {
                    self.asking.insert(user.clone(), (Instant::now() + ASK_FIRST, ASK_FIRST));
                    self.send_request(user);
                }
                ContactEvent::SendAnswer(user, accepted) => {
                    let display_name = self.display_name.clone();
                    let mut bodies =
                        vec![Body::BuddyAnswer(BuddyAnswer { accepted, display_name })];
                    if accepted {
                        bodies.push(self.presence());
                    }
                    self.send_to(user, bodies);
                }
                ContactEvent::Asked(user) => {
                    self.tell(json!({ "event": "buddy_asked", "user": user.as_str() }));
                }
                ContactEvent::BecameMutual(user) => {
                    self.tell(json!({ "event": "buddy_added", "user": user.as_str() }));
                    self.send_to(user, vec![self.presence()]);
                }
                ContactEvent::Declined(user) => {
                    self.tell(json!({ "event": "buddy_declined", "user": user.as_str() }));
                }
            }
        }
        let contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        let requested = |user: &UserName| {
            contacts.get(user).is_some_and(|buddy| buddy.state == BuddyState::Requested)
        };
        self.asking.retain(|user, _| requested(user));
        kept
    }

    fn send_request(&self, user: UserName) {
        let display_name = self.display_name.clone();
        let request = Body::BuddyRequest(BuddyRequest { text: String::new(), display_name });
        self.send_to(user, vec![request]);
    }

    /// Says something to every device of a user that can be reached now.
    fn send_to(&self, user: UserName, bodies: Vec<Body>) {
        let (look_up, peers) = (self.look_up.devices(user.clone()), self.peers.clone());
        let own = self.own.1.node_id();
        tokio::spawn(async move {
            let Ok(Ok(nodes)) = timeout(LOOK_UP_MAX, look_up).await else {
                tracing::debug!(%user, "not to be found now");
                return;
            };
            for node in nodes.into_iter().filter(|node| *node != own) {
                for body in &bodies {
                    peers.send(node, body.clone());
                }
            }
        });
    }

    fn handle_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(peer) => self.handle_connected(&peer),
            PeerEvent::Message { from, body } => self.handle_body(&from, body),
            PeerEvent::Lost { .. } | PeerEvent::Unreachable { .. } => {}
        }
    }

    fn handle_connected(&mut self, peer: &Identity) {
        let check = self.list().handle_key(now().unix, &peer.user, peer.key);
        if check == KeyCheck::Changed {
            let number = safety_number((&self.own.0, &self.own.1), (&peer.user, &peer.key));
            self.tell(json!({
                "event": "key_changed", "user": peer.user.as_str(),
                "node": peer.node.to_string(), "safety_number": number,
            }));
        }
        if self.list().relation(&peer.user) == Relation::MutualBuddy {
            self.peers.send(peer.node, self.presence());
        }
        self.seen(&peer.user);
    }

    /// What mutual buddies are told of this device.
    fn presence(&self) -> Body {
        presence::online(self.display_name.clone(), (self.direct_addresses)())
    }

    fn handle_body(&mut self, from: &Identity, body: Body) {
        let (now, user) = (now(), &from.user);
        let relation = self.list().relation(user);
        let is_listed = self.list().get(user).is_some();
        match body {
            Body::InstantMessage(message) => {
                let may_write = relation != Relation::Blocked;
                self.messages.handle_message(now, user, from.node, &message, may_write);
            }
            Body::Receipt(receipt) => self.messages.handle_receipt(user, &receipt),
            Body::BuddyRequest(request) => {
                self.list().handle_request(now.unix, user, &request.display_name);
                // They had no key in the list before they asked.
                self.list().handle_key(now.unix, user, from.key);
            }
            Body::BuddyAnswer(answer) => {
                let name = &answer.display_name;
                self.list().handle_answer(now.unix, user, answer.accepted, name);
            }
            Body::Presence(detail) if relation == Relation::MutualBuddy => {
                self.list().handle_display_name(user, &detail.display_name);
                self.peers.learn_addresses(from, presence::addresses(&detail));
            }
            Body::ListStored(_) if *user == self.own.0 => self.dirty.notify_one(),
            // They missed that they were taken from our list.
            Body::Presence(_) if relation != Relation::Blocked && !is_listed => {
                let answer = BuddyAnswer { accepted: false, display_name: String::new() };
                self.peers.send(from.node, Body::BuddyAnswer(answer));
            }
            _ => {}
        }
    }

    /// A watched name is shown differently now.
    pub(super) fn handle_found(&mut self, key: NameKey, seen: SeenAs) {
        let Some(user) = self.watched.get(&key).cloned() else { return };
        if seen.is_there() {
            self.seen(&user);
        } else {
            self.online.remove(&user);
        }
        let before = self.shown.insert(user.clone(), seen);
        if before != Some(seen) {
            self.tell_presence(&user, seen);
        }
    }

    /// A user of whom we wait for something came online: what waits goes out.
    fn seen(&mut self, user: &UserName) {
        if !self.watched.values().any(|watched| watched == user)
            || !self.online.insert(user.clone())
        {
            return;
        }
        self.messages.handle_online(now(), user);
        if let Some(asking) = self.asking.get_mut(user) {
            *asking = (Instant::now() + ASK_FIRST, ASK_FIRST);
            self.send_request(user.clone());
        }
    }

    fn tell_presence(&self, user: &UserName, seen: SeenAs) {
        if self.list().relation(user) == Relation::MutualBuddy {
            self.tell(json!({
                "event": "presence", "user": user.as_str(), "presence": seen.presence,
                "last_seen_unix_ms": seen.last_seen_unix_ms,
            }));
        }
    }

    fn shown(&self, user: &UserName) -> SeenAs {
        self.shown.get(user).copied().unwrap_or(SeenAs::OFFLINE)
    }

    fn handle_timeout(&mut self) {
        self.messages.handle_timeout(now());
        let due: Vec<UserName> = self
            .asking
            .iter_mut()
            .filter(|(_, (at, _))| *at <= Instant::now())
            .map(|(user, (at, pause))| {
                *pause = (*pause * 2).min(ASK_MAX);
                *at = Instant::now() + *pause;
                user.clone()
            })
            .collect();
        due.into_iter().for_each(|user| self.send_request(user));
    }

    /// Does all that the messages want, the disk before the network; gives the next deadline.
    fn drain(&mut self) -> Option<Instant> {
        let mut sends: BTreeMap<UserName, Vec<Body>> = BTreeMap::new();
        let mut unkept = BTreeSet::new();
        let mut receipts = Vec::new();
        let deadline = loop {
            match self.messages.poll_output() {
                Output::Timeout(at) => break Some(at),
                Output::Idle => break None,
                Output::Send { to, message } => {
                    sends.entry(to).or_default().push(Body::InstantMessage(message));
                }
                Output::SendReceipt { to, receipt } => receipts.push((to, receipt)),
                Output::Received { from, id, text, sent } => {
                    match self.store.keep_received(id, &from, &text, sent.0) {
                        Ok(false) => {}
                        Ok(true) => self.tell(json!({
                            "event": "message", "id": id.to_string(), "user": from.as_str(),
                            "text": text, "sent_unix_ms": sent.0,
                        })),
                        Err(error) => {
                            tracing::error!(%error, "a message cannot be kept: not acknowledged");
                            unkept.insert(id.0);
                        }
                    }
                }
                Output::Progressed { id, to, state } => self.progressed(id, &to, state),
            }
        };
        for (to, receipt) in receipts {
            if !unkept.iter().any(|id| receipt.id == id[..]) {
                self.peers.send(to, Body::Receipt(receipt));
            }
        }
        for (to, bodies) in sends {
            self.send_to(to, bodies);
        }
        let asking = self.asking.values().map(|(at, _)| *at).min();
        deadline.into_iter().chain(asking).min()
    }

    fn progressed(&mut self, id: cooee_proto::im::MessageId, to: &UserName, state: Progress) {
        let state = match state {
            Progress::Waiting => return,
            Progress::Delivered => "delivered",
            Progress::Read => "read",
            Progress::Refused => "refused",
            Progress::Expired => "expired",
        };
        if let Err(error) = self.store.keep_progress(id, state) {
            tracing::error!(%error, "the message will be sent again after a restart");
        }
        self.tell(json!({
            "event": "message_progress", "id": id.to_string(), "user": to.as_str(),
            "state": state,
        }));
    }

    /// Watches those of whom we wait for something, then the buddies.
    fn watch(&mut self) {
        let mut users = self.store.awaited();
        users.extend(self.asking.keys().cloned());
        {
            let contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
            let mutual = contacts.list().filter(|(_, buddy)| buddy.state == BuddyState::Mutual);
            for (user, _) in mutual {
                if users.len() < WATCHED_NAMES_MAX {
                    users.insert(user.clone());
                }
            }
        }
        let watched: BTreeMap<NameKey, UserName> = users
            .into_iter()
            .take(WATCHED_NAMES_MAX)
            .map(|user| (user.key(self.network), user))
            .collect();
        if watched == self.watched {
            return;
        }
        self.online.retain(|user| watched.values().any(|watched| watched == user));
        self.shown.retain(|user, _| watched.values().any(|watched| watched == user));
        let keys = watched.keys().copied().collect();
        self.watched = watched;
        let attachment = self.attachment.clone();
        tokio::spawn(async move {
            // The attachment watches them again at the next super node by itself.
            if let Err(error) = attachment.watch(keys).await {
                tracing::debug!(%error, "names cannot be watched now");
            }
        });
    }

    pub(super) fn send(&mut self, to: &UserName, text: String) -> Result<MessageView, PeopleError> {
        if *to == self.own.0 {
            return Err(ContactError::Oneself.into());
        }
        let now = now();
        let id = self.messages.send(now, to, &text)?;
        if let Err(error) = self.store.keep_sent(id, to, &text, now.unix.0) {
            self.messages.forget(id);
            return Err(error.into());
        }
        Ok(MessageView {
            id: id.to_string(),
            user: to.to_string(),
            direction: "sent".to_owned(),
            text,
            sent_unix_ms: now.unix.0,
            state: "waiting".to_owned(),
        })
    }
}

fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix = UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Now { instant: Instant::now(), unix }
}
