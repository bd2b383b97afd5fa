//! What the profile keeps of people: the buddy list, the messages that wait, the history.
//!
//! `buddies.pb` and `outbox.json` are replaced atomically, `messages.jsonl` is only appended to. A
//! message is in the outbox before its writer is told that it was taken, and stays there until a
//! device of the receiver has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cooee_proto::{
    contacts::Contacts,
    identity::UserName,
    im::{MessageId, WAITING_MAX},
    wire::v1::{BuddyList, InstantMessage},
};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{
    call::{Log, LogError},
    profile::write_atomically,
};

/// Messages of the history that are kept in memory, listed, and known again when repeated. Chosen.
const HISTORY_MAX: usize = 4_000;

/// Why what people said cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the profile.
    #[error("cannot keep {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The history.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Entry {
    /// A message, of ours or theirs.
    Message {
        /// Its id, hexadecimal.
        id: String,
        /// The other user.
        user: String,
        /// `sent` or `received`.
        direction: String,
        /// What it says.
        text: String,
        /// When it was written.
        sent_unix_ms: u64,
    },
    /// What became of a message of ours.
    Progress {
        /// Its id, hexadecimal.
        id: String,
        /// `delivered`, `read`, `refused` or `expired`.
        state: String,
    },
}

/// A message that waits for its receiver.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    to: String,
    text: String,
    sent_unix_ms: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Store {
    buddies: PathBuf,
    outbox_path: PathBuf,
    outbox: BTreeMap<String, Waiting>,
    history: Log<Entry>,
    received: BTreeSet<(String, String)>,
}

impl Store {
    /// Opens or creates the files. A damaged one is moved aside and said so.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let history = Log::open(&folder.join("messages.jsonl"), HISTORY_MAX)?;
        let outbox_path = folder.join("outbox.json");
        let bytes = read(&outbox_path)?.unwrap_or_else(|| b"{}".to_vec());
        let outbox = match serde_json::from_slice(&bytes) {
            Ok(outbox) => outbox,
            Err(_) => set_aside(&outbox_path).map(|()| BTreeMap::new())?,
        };
        let mut store = Self {
            buddies: folder.join("buddies.pb"),
            outbox_path,
            outbox,
            history,
            received: BTreeSet::new(),
        };
        store.received = store.history.latest().filter_map(received_key).collect();
        store.complete_history()?;
        Ok(store)
    }

    /// A crash between outbox and history leaves a waiting message out of the history.
    fn complete_history(&mut self) -> Result<(), StoreError> {
        let known: BTreeSet<&str> = self
            .history
            .latest()
            .filter_map(|entry| match entry {
                Entry::Message { id, .. } => Some(id.as_str()),
                Entry::Progress { .. } => None,
            })
            .collect();
        let missing: Vec<Entry> = self
            .outbox
            .iter()
            .filter(|(id, _)| !known.contains(id.as_str()))
            .map(|(id, waiting)| sent_entry(id, waiting))
            .collect();
        missing.into_iter().try_for_each(|entry| Ok(self.history.append(entry)?))
    }

    /// The buddy list of user `own`; an empty one where there is none yet.
    pub(super) fn contacts(&self, own: &UserName) -> Result<Contacts, StoreError> {
        let Some(bytes) = read(&self.buddies)? else { return Ok(Contacts::new(own.clone())) };
        match BuddyList::decode(bytes.as_slice()) {
            Ok(list) => Ok(Contacts::from_wire(own.clone(), list)),
            Err(_) => set_aside(&self.buddies).map(|()| Contacts::new(own.clone())),
        }
    }

    /// Replaces the stored buddy list.
    pub(super) fn keep_contacts(&self, contacts: &BuddyList) -> Result<(), StoreError> {
        write(&self.buddies, &contacts.encode_to_vec())
    }

    /// The messages that wait, for the machine to take up again.
    pub(super) fn waiting(&self) -> Vec<(UserName, InstantMessage)> {
        let message = |(id, waiting): (&String, &Waiting)| {
            let message = InstantMessage {
                id: Bytes::copy_from_slice(&id.parse::<MessageId>().ok()?.0),
                text: waiting.text.clone(),
                sent_unix_ms: waiting.sent_unix_ms,
                copy_to: String::new(),
            };
            Some((waiting.to.parse().ok()?, message))
        };
        self.outbox.iter().filter_map(message).take(WAITING_MAX).collect()
    }

    /// Users for whom messages wait.
    pub(super) fn awaited(&self) -> BTreeSet<UserName> {
        self.outbox.values().filter_map(|waiting| waiting.to.parse().ok()).collect()
    }

    /// Keeps a message of ours; it is on the disk when this returns.
    pub(super) fn keep_sent(
        &mut self,
        id: MessageId,
        to: &UserName,
        text: &str,
        sent_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let waiting = Waiting { to: to.to_string(), text: text.to_owned(), sent_unix_ms };
        let id = id.to_string();
        let entry = sent_entry(&id, &waiting);
        self.outbox.insert(id.clone(), waiting);
        if let Err(error) = self.write_outbox() {
            self.outbox.remove(&id);
            return Err(error);
        }
        Ok(self.history.append(entry)?)
    }

    /// Keeps a message of theirs; false if it was kept before. It is on the disk when this returns.
    pub(super) fn keep_received(
        &mut self,
        id: MessageId,
        from: &UserName,
        text: &str,
        sent_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let key = (from.to_string(), id.to_string());
        if self.received.contains(&key) {
            return Ok(false);
        }
        self.history.append(Entry::Message {
            id: key.1.clone(),
            user: key.0.clone(),
            direction: "received".to_owned(),
            text: text.to_owned(),
            sent_unix_ms,
        })?;
        while self.received.len() >= HISTORY_MAX {
            // As many as the history lists are enough: senders repeat soon or not at all.
            self.received = self.history.latest().filter_map(received_key).skip(1).collect();
        }
        self.received.insert(key);
        Ok(true)
    }

    /// Keeps what became of a message of ours, which waits no longer.
    pub(super) fn keep_progress(&mut self, id: MessageId, state: &str) -> Result<(), StoreError> {
        let id = id.to_string();
        let waited = self.outbox.remove(&id).is_some();
        self.history.append(Entry::Progress { id, state: state.to_owned() })?;
        if waited { self.write_outbox() } else { Ok(()) }
    }

    /// The history, oldest first.
    pub(super) fn history(&self) -> impl Iterator<Item = &Entry> {
        self.history.latest()
    }

    fn write_outbox(&self) -> Result<(), StoreError> {
        write(&self.outbox_path, &serde_json::to_vec(&self.outbox).expect("own types serialise"))
    }
}

fn sent_entry(id: &str, waiting: &Waiting) -> Entry {
    Entry::Message {
        id: id.to_owned(),
        user: waiting.to.clone(),
        direction: "sent".to_owned(),
        text: waiting.text.clone(),
        sent_unix_ms: waiting.sent_unix_ms,
    }
}

fn received_key(entry: &Entry) -> Option<(String, String)> {
    match entry {
        Entry::Message { id, user, direction, .. } if direction == "received" => {
            Some((user.clone(), id.clone()))
        }
        _ => None,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_atomically(path, bytes, true)
        .map_err(|source| StoreError::File { path: path.to_owned(), source })
}

fn set_aside(path: &Path) -> Result<(), StoreError> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".damaged");
    tracing::error!(path = %path.display(), "this file is damaged: moved aside, starting over");
    fs::rename(path, aside).map_err(|source| StoreError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> UserName {
        "bob".parse().expect("legal")
    }

    #[test]
    fn what_waits_survives_and_is_forgotten_when_delivered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(folder.path()).expect("opens");
        store.keep_sent(MessageId([1; 16]), &bob(), "one", 1).expect("kept");
        store.keep_sent(MessageId([2; 16]), &bob(), "two", 2).expect("kept");
        store.keep_progress(MessageId([1; 16]), "delivered").expect("kept");
        drop(store);
        let store = Store::open(folder.path()).expect("opens");
        let texts: Vec<String> = store.waiting().into_iter().map(|(_, m)| m.text).collect();
        assert_eq!(texts, ["two"]);
        assert_eq!(store.history().count(), 3);
    }

    #[test]
    fn a_repeated_message_is_known_again_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(folder.path()).expect("opens");
        assert!(store.keep_received(MessageId([1; 16]), &bob(), "one", 1).expect("kept"));
        drop(store);
        let mut store = Store::open(folder.path()).expect("opens");
        assert!(!store.keep_received(MessageId([1; 16]), &bob(), "one", 1).expect("kept"));
    }

    #[test]
    fn a_damaged_outbox_or_list_is_set_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("outbox.json"), "{\"torn").expect("written");
        fs::write(folder.path().join("buddies.pb"), [0xFF; 9]).expect("written");
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.contacts(&bob()).expect("starts over").list().count(), 0);
        assert!(folder.path().join("outbox.json.damaged").exists());
        assert!(folder.path().join("buddies.pb.damaged").exists());
    }

    #[test]
    fn a_crash_between_outbox_and_history_loses_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(folder.path()).expect("opens");
        store.keep_sent(MessageId([1; 16]), &bob(), "one", 1).expect("kept");
        drop(store);
        fs::remove_file(folder.path().join("messages.jsonl")).expect("removed");
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!((store.waiting().len(), store.history().count()), (1, 1));
    }
}
