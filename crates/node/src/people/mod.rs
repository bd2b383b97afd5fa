//! Runs the buddy list and instant messages: storage, look-up, peer connections, presence.
//!
//! ```text
//!  local API ── People ──▶ task: proto::contacts, proto::im ──▶ Peers     (end to end)
//!      ▲                      │   ▲     │         ▲                       
//!      └────── events ────────┘   │     ▼         └── watched names of the super node (presence)
//!                              PeerEvent  profile: buddies.pb, outbox.json, messages.jsonl
//! ```
//!
//! What was promised is on the disk first: a message is taken, and a message that arrived is
//! acknowledged, only after it was written.

mod keeping;
mod presence;
mod store;
mod task;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use cooee_proto::{
    call::Relation,
    contacts::{ContactError, Contacts},
    identity::{NameKey, NetworkId, NodeId, NodePublicKey, UserName},
    im::MessageError,
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

use self::task::Task;
pub use self::{keeping::KeepingConfig, store::StoreError};
use crate::{
    attachment::Attachment,
    call::{LookUp, Relations},
    peer::{PeerEvent, Peers},
};

/// Commands that wait for the task.
const COMMANDS_MAX: usize = 64;

/// What people need.
pub struct PeopleConfig {
    /// The local user and device key.
    pub own: (UserName, NodePublicKey),
    /// What the local user calls themself.
    pub display_name: String,
    /// The profile's folder.
    pub folder: PathBuf,
    /// The network, for the keys under which names are watched.
    pub network: NetworkId,
    /// Finds devices.
    pub look_up: Arc<dyn LookUp>,
    /// The peer connections.
    pub peers: Peers,
    /// What they report that is not about calls.
    pub peer_events: mpsc::Receiver<PeerEvent>,
    /// Tells who comes and goes.
    pub attachment: Attachment,
    /// Takes what the local API tells.
    pub events: broadcast::Sender<Value>,
    /// Where the buddy list is kept beside the profile; none where the key for it is missing.
    pub keeping: Option<KeepingConfig>,
    /// Where this device takes direct connections, told to mutual buddies only.
    pub direct_addresses: Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
    /// Unpredictable: makes message ids.
    pub seed: [u8; 32],
}

/// Why a command did not work. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The buddy list does not allow it.
    #[error(transparent)]
    Contact(#[from] ContactError),
    /// The message is not taken.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The profile cannot keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

/// A buddy as the local API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct BuddyView {
    /// User name.
    pub user: String,
    /// What they call themself; may be empty.
    pub display_name: String,
    /// `requested`, `asked`, `mutual` or `blocked`.
    pub state: &'static str,
    /// `online`, `away`, `do_not_disturb` or `offline`; `unknown` unless both sides want to be
    /// buddies.
    pub presence: &'static str,
    /// When they were last there, if they are offline and it is known.
    pub last_seen_unix_ms: Option<u64>,
    /// The safety number of every known device was compared.
    pub verified: bool,
}

/// How a watched user is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAs {
    /// `online`, `away`, `do_not_disturb` or `offline`.
    pub presence: &'static str,
    /// When they were last there, if they are offline.
    pub last_seen_unix_ms: Option<u64>,
}

impl SeenAs {
    /// Not there, as far as is known.
    pub const OFFLINE: Self = Self { presence: "offline", last_seen_unix_ms: None };

    /// Whether a device of theirs says that it is there.
    pub fn is_there(&self) -> bool {
        self.presence != Self::OFFLINE.presence
    }
}

/// A device of a buddy, with the number to compare.
#[derive(Clone, Debug, Serialize)]
pub struct BuddyDeviceView {
    /// The device.
    pub node: String,
    /// 60 digits, the same at the other end.
    pub safety_number: String,
    /// The user compared it.
    pub verified: bool,
    /// When the key was first seen.
    pub first_seen_unix_ms: u64,
}

/// A message as the local API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct MessageView {
    /// Its id.
    pub id: String,
    /// The other user.
    pub user: String,
    /// `sent` or `received`.
    pub direction: String,
    /// What it says.
    pub text: String,
    /// When it was written.
    pub sent_unix_ms: u64,
    /// `received`, or of ours `waiting`, `delivered`, `read`, `refused`, `expired`.
    pub state: String,
}

/// The people of this device's user. Clones share them.
#[derive(Clone)]
pub struct People {
    commands: mpsc::Sender<Command>,
    contacts: Arc<Mutex<Contacts>>,
}

/// Work for the task.
type Command = Box<dyn FnOnce(&mut Task) + Send>;

impl People {
    /// Reads what the profile keeps and starts the task.
    pub fn start(mut config: PeopleConfig) -> Result<Self, StoreError> {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (keeping, own) = (config.keeping.take(), config.own.0.clone());
        let (task, peer_events) = Task::new(config)?;
        let (contacts, dirty) = (task.contacts(), task.dirty());
        tokio::spawn(task.run(received, peer_events));
        let people = Self { commands, contacts };
        if let Some(keeping) = keeping {
            tokio::spawn(keeping::run(keeping, own, people.clone(), dirty));
        }
        Ok(people)
    }

    /// The list at the login server is another one now.
    async fn tell_stored(&self) -> Result<(), PeopleError> {
        self.ask(|task| task.tell_own_devices()).await
    }

    /// Takes in the list that the login server keeps; gives the joined one.
    async fn merge_stored(&self, stored: Contacts) -> Result<Contacts, PeopleError> {
        self.ask(move |task| task.merge(&stored)).await?
    }

    /// Asks somebody to be a buddy, or accepts them if they asked.
    pub async fn add(&self, user: UserName) -> Result<(), PeopleError> {
        self.ask(move |task| task.change(|contacts, now| contacts.request(now, &user))).await?
    }

    /// Accepts somebody who asked.
    pub async fn accept(&self, user: UserName) -> Result<(), PeopleError> {
        self.ask(move |task| task.change(|contacts, now| contacts.accept(now, &user))).await?
    }

    /// Takes somebody from the list, or declines their request.
    pub async fn remove(&self, user: UserName) -> Result<(), PeopleError> {
        self.ask(move |task| {
            task.change(|contacts, now| match contacts.decline(now, &user) {
                Err(ContactError::NotAsked) => contacts.remove(now, &user),
                done => done,
            })
        })
        .await?
    }

    /// Wants to hear nothing from somebody.
    pub async fn block(&self, user: UserName) -> Result<(), PeopleError> {
        self.ask(move |task| task.change(|contacts, now| contacts.block(now, &user))).await?
    }

    /// The user compared the safety number of a device.
    pub async fn verify(&self, user: UserName, node: NodeId) -> Result<(), PeopleError> {
        self.ask(move |task| {
            task.change(|contacts, now| {
                let buddy = contacts.get(&user).ok_or(ContactError::Unknown)?;
                let key = buddy.keys.iter().map(|pinned| pinned.key);
                let key = key.into_iter().find(|key| key.node_id() == node);
                contacts.verify_key(now, &user, &key.ok_or(ContactError::Unknown)?)
            })
        })
        .await?
    }

    /// The buddy list.
    pub async fn buddies(&self) -> Result<Vec<BuddyView>, PeopleError> {
        self.ask(|task| task.buddies()).await
    }

    /// The known devices of a buddy.
    pub async fn devices(&self, user: UserName) -> Result<Vec<BuddyDeviceView>, PeopleError> {
        self.ask(move |task| task.devices(&user)).await?
    }

    /// The latest messages, oldest first.
    pub async fn messages(&self) -> Result<Vec<MessageView>, PeopleError> {
        self.ask(|task| task.messages()).await
    }

    /// Writes to a user; the message is on the disk when this returns.
    pub async fn send(&self, to: UserName, text: String) -> Result<MessageView, PeopleError> {
        self.ask(move |task| task.send(&to, text)).await?
    }

    /// A watched name is shown like this now.
    pub async fn handle_found(&self, key: NameKey, seen: SeenAs) {
        // A node that shuts down needs to know no more.
        let _ = self.ask(move |task| task.handle_found(key, seen)).await;
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Task) -> T + Send + 'static,
    ) -> Result<T, PeopleError> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |task| {
            // Whoever no longer waits needs no answer.
            let _ = reply.send(work(task));
        });
        self.commands.send(command).await.map_err(|_| PeopleError::Stopped)?;
        answer.await.map_err(|_| PeopleError::Stopped)
    }
}

/// Who is a buddy, without the means to change it or to keep the task running.
#[derive(Clone)]
pub struct BuddyList(Arc<Mutex<Contacts>>);

impl Relations for BuddyList {
    fn relation(&self, user: &UserName) -> Relation {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).relation(user)
    }
}

impl People {
    /// Who is a buddy, for those who only want to know.
    pub fn buddy_list(&self) -> BuddyList {
        BuddyList(self.contacts.clone())
    }
}

impl Relations for People {
    fn relation(&self, user: &UserName) -> Relation {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner).relation(user)
    }
}
