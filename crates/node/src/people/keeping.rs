//! Keeps the buddy list at the login server, sealed, so that a lost device loses nothing and all
//! devices of a user have one list.
//!
//! ```text
//! change ─ debounce ─ room? ─▶ get parts ─▶ open, merge into ours ─▶ same? done
//!                                 ▲                                  │ no
//!                                 └───── version conflict ──── seal, put parts
//! ```
//!
//! Whichever device comes second finds a newer version there, takes it in and stores the joined
//! list: nothing is overwritten unseen.

use std::{sync::Arc, time::Duration};

use cooee_proto::{
    contacts::{BUDDY_LIST_SLOTS, Contacts, StoredListError},
    identity::UserName,
    login::{AccountKey, ClientError, Refusal},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{People, PeopleError};
use crate::{
    account::AccountError,
    login_access::{Line, LoginAccess},
    login_server::{client::LoginError, random_seed},
    room::Room,
};

/// Changes within this time are stored together. Chosen: a person adds several buddies in a row.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Another device's changes are fetched after this at the latest. Chosen: a device that stores the
/// list tells the others that are online; this is for those that could not be told. Each time
/// costs 9 kB, and a day of an idle node may cost 1 MB.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// First pause after a failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(30 * 60);
/// Pause at the start. Chosen: the login itself goes first.
const FIRST: Duration = Duration::from_secs(3);
/// Conflicts in a row before it is left to the next time. Chosen: above a user's devices.
const CONFLICTS_MAX: usize = 32;

/// What keeping needs.
pub struct KeepingConfig {
    /// The way to the login server.
    pub(crate) access: LoginAccess,
    /// Opens what is kept there.
    pub(crate) key: AccountKey,
    /// A call with little room goes first.
    pub(crate) room: Room,
}

#[derive(Debug, thiserror::Error)]
enum KeepingError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Stored(#[from] StoredListError),
    #[error(transparent)]
    People(#[from] PeopleError),
    #[error("other devices change the list all the time")]
    Conflicts,
}

/// Stores the list at the login server after each change, until the node ends.
pub(super) async fn run(config: KeepingConfig, own: UserName, people: People, dirty: Arc<Notify>) {
    let KeepingConfig { access, key, room } = config;
    let mut pause = RETRY;
    let _ = timeout(spread(FIRST), dirty.notified()).await;
    loop {
        room.for_chores().await;
        let next = match keep(&access, &key, &own, &people).await {
            Ok(()) => {
                pause = RETRY;
                EVERY
            }
            Err(KeepingError::People(PeopleError::Stopped)) => return,
            Err(error) => {
                tracing::info!(%error, "the buddy list cannot be stored at the login server yet");
                pause = (pause * 2).min(RETRY_MAX);
                pause / 2
            }
        };
        let at = Instant::now() + spread(next);
        if timeout(at - Instant::now(), dirty.notified()).await.is_ok() {
            sleep(DEBOUNCE).await;
        }
    }
}

/// Half to one and a half of a time: a million nodes do not ask at once.
fn spread(time: Duration) -> Duration {
    let [byte, ..] = random_seed();
    time / 2 + time * u32::from(byte) / 256
}

async fn keep(
    access: &LoginAccess,
    key: &AccountKey,
    own: &UserName,
    people: &People,
) -> Result<(), KeepingError> {
    let mut line = access.open().await?;
    access.authenticate(&mut line).await?;
    for _ in 0..CONFLICTS_MAX {
        let stored = fetch(&mut line, key, own).await?;
        let (theirs, versions) = (stored.list, stored.versions);
        let list = people.merge_stored(theirs.clone()).await?;
        if versions[0] > 0 && list.is_same(&theirs) {
            line.close().await;
            return Ok(());
        }
        match put(&mut line, key, &list, &versions).await {
            Ok(()) => {
                people.tell_stored().await?;
                line.close().await;
                return Ok(());
            }
            Err(LoginError::Protocol(ClientError::Refused(Refusal::VersionConflict))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(KeepingError::Conflicts)
}

struct Stored {
    list: Contacts,
    versions: [u64; BUDDY_LIST_SLOTS.len()],
}

async fn fetch(line: &mut Line, key: &AccountKey, own: &UserName) -> Result<Stored, KeepingError> {
    let mut stored = Stored { list: Contacts::new(own.clone()), versions: Default::default() };
    let mut parts = 1;
    for (index, slot) in BUDDY_LIST_SLOTS.into_iter().enumerate() {
        let sealed = line.get_sealed(slot, 0).await?;
        stored.versions[index] = sealed.version;
        // What lies in a part that is not used any more is of an older list.
        if sealed.version > 0 && index < parts {
            let (list, count) = Contacts::open_part(own, key, slot, &sealed.data)?;
            stored.list.merge(&list);
            parts = parts.max(count);
        }
        if index + 1 >= parts {
            break;
        }
    }
    Ok(stored)
}

/// The first part last: it tells how many there are.
async fn put(
    line: &mut Line,
    key: &AccountKey,
    list: &Contacts,
    versions: &[u64; BUDDY_LIST_SLOTS.len()],
) -> Result<(), LoginError> {
    let parts: Vec<_> = BUDDY_LIST_SLOTS.into_iter().zip(versions).zip(list.parts()).collect();
    for ((slot, version), plain) in parts.into_iter().rev() {
        let nonce = *random_seed().first_chunk().expect("32 bytes have 12");
        let sealed = Contacts::seal_part(key, slot, &plain, nonce).expect("a part fits a slot");
        line.put_sealed(slot, *version, sealed).await?;
    }
    Ok(())
}
