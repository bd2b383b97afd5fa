//! The buddy list as the login server keeps it: sealed with the account key, which only the user's
//! password gives, padded so that its length says little, in parts that fit the server's slots.

use bytes::{Buf, BufMut};
use prost::Message;
use zeroize::Zeroizing;

use super::{BUDDIES_MAX, Buddy, BuddyState, Contacts, KEYS_MAX, PinnedKey};
use crate::{
    clock::UnixTime,
    identity::{NodePublicKey, UserName},
    login::{AccountKey, SealError},
    wire::v1::{self, buddy_entry::State},
};

/// First byte of the plain text: the version of its form.
const VERSION: u8 = 2;
/// Plain texts are a multiple of this long. Chosen.
const PADDING_BYTES: usize = 4096;
/// Longest plain text of a part: the largest multiple that fits a slot sealed.
const PART_BYTES_MAX: usize = 11 * PADDING_BYTES;
/// Version, number of parts, length.
const HEADER_BYTES: usize = 6;

/// Slots that the parts of a list lie in, the first one always.
pub const BUDDY_LIST_SLOTS: [u32; 6] = [0, 3, 4, 5, 6, 7];

/// Why a stored buddy list cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredListError {
    /// Not in a form that this version knows.
    #[error("the stored buddy list has an unknown form: is another device's program newer?")]
    Form,
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Contacts {
    /// The list in parts, to be sealed for the slots of [`BUDDY_LIST_SLOTS`] in this order. Where
    /// it is too long, the entries that were removed longest ago are left out.
    pub fn parts(&self) -> Vec<Vec<u8>> {
        let mut buddies: Vec<_> = self.buddies.iter().collect();
        buddies.sort_by_key(|(_, buddy)| {
            (buddy.state == BuddyState::Removed, std::cmp::Reverse(buddy.changed))
        });
        let mut lists = vec![v1::BuddyList::default()];
        let mut bytes = HEADER_BYTES;
        for entry in buddies.into_iter().map(entry) {
            // A tag, and a length of at most 5 bytes.
            let more = entry.encoded_len() + 6;
            if bytes + more > PART_BYTES_MAX {
                if lists.len() == BUDDY_LIST_SLOTS.len() {
                    break;
                }
                lists.push(v1::BuddyList::default());
                bytes = HEADER_BYTES;
            }
            bytes += more;
            lists.last_mut().expect("never empty").entries.push(entry);
        }
        let count = u8::try_from(lists.len()).expect("as many as there are slots");
        lists.iter().map(|list| plain(list, count)).collect()
    }

    /// Seals the plain text of a part. The nonce must never repeat: draw it at random.
    pub fn seal_part(
        key: &AccountKey,
        slot: u32,
        plain: &[u8],
        nonce: [u8; 12],
    ) -> Result<Vec<u8>, StoredListError> {
        Ok(key.seal(slot, plain, nonce)?)
    }

    /// Opens a part of the list of user `own`; says also how many parts there are.
    pub fn open_part(
        own: &UserName,
        key: &AccountKey,
        slot: u32,
        sealed: &[u8],
    ) -> Result<(Self, usize), StoredListError> {
        let plain = Zeroizing::new(key.open(slot, sealed)?);
        let mut rest = plain.as_slice();
        let mut header = || {
            let version = rest.try_get_u8().ok()?;
            let parts = rest.try_get_u8().ok()?;
            let length = rest.try_get_u32().ok()? as usize;
            (version == VERSION).then_some((usize::from(parts), rest.get(..length)?))
        };
        let (parts, list) = header().ok_or(StoredListError::Form)?;
        let list = v1::BuddyList::decode(list).map_err(|_| StoredListError::Form)?;
        Ok((Self::from_wire(own.clone(), list), parts.min(BUDDY_LIST_SLOTS.len())))
    }
}

fn plain(list: &v1::BuddyList, parts: u8) -> Vec<u8> {
    let mut plain = Vec::with_capacity(PADDING_BYTES);
    plain.put_u8(VERSION);
    plain.put_u8(parts);
    plain.put_u32(u32::try_from(list.encoded_len()).expect("bounded by a part"));
    plain.extend_from_slice(&list.encode_to_vec());
    plain.resize(plain.len().next_multiple_of(PADDING_BYTES), 0);
    plain
}

impl Contacts {
    /// The whole list as it is stored, removed entries included.
    pub fn to_wire(&self) -> v1::BuddyList {
        v1::BuddyList { entries: self.buddies.iter().map(entry).collect() }
    }

    /// The stored list of user `own`, within the bounds of a list.
    pub fn from_wire(own: UserName, list: v1::BuddyList) -> Self {
        let mut contacts = Self::new(own);
        let known = list.entries.into_iter().take(BUDDIES_MAX).filter_map(buddy);
        contacts.buddies.extend(known);
        contacts
    }
}

fn entry((user, buddy): (&UserName, &Buddy)) -> v1::BuddyEntry {
    let state = match buddy.state {
        BuddyState::Requested => State::Requested,
        BuddyState::Asked => State::Asked,
        BuddyState::Mutual => State::Mutual,
        BuddyState::Blocked => State::Blocked,
        BuddyState::Removed => State::Removed,
    };
    let key = |pinned: &PinnedKey| v1::PinnedKey {
        key: pinned.key.0.to_vec().into(),
        verified: pinned.verified,
        first_seen_unix_ms: pinned.first_seen.0,
    };
    v1::BuddyEntry {
        user: user.to_string(),
        display_name: buddy.display_name.clone(),
        state: state as i32,
        keys: buddy.keys.iter().map(key).collect(),
        changed_unix_ms: buddy.changed.0,
    }
}

/// An entry that a later version wrote and this one does not understand is left out.
fn buddy(entry: v1::BuddyEntry) -> Option<(UserName, Buddy)> {
    let state = match State::try_from(entry.state).ok()? {
        State::Unspecified => return None,
        State::Requested => BuddyState::Requested,
        State::Asked => BuddyState::Asked,
        State::Mutual => BuddyState::Mutual,
        State::Blocked => BuddyState::Blocked,
        State::Removed => BuddyState::Removed,
    };
    let key = |pinned: v1::PinnedKey| {
        Some(PinnedKey {
            key: NodePublicKey::from_slice(&pinned.key)?,
            verified: pinned.verified,
            first_seen: UnixTime(pinned.first_seen_unix_ms),
        })
    };
    let buddy = Buddy {
        display_name: entry.display_name,
        state,
        keys: entry.keys.into_iter().take(KEYS_MAX).filter_map(key).collect(),
        changed: UnixTime(entry.changed_unix_ms),
    };
    Some((entry.user.parse().ok()?, buddy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeKey;

    fn alice() -> UserName {
        "alice".parse().expect("legal")
    }

    fn list() -> Contacts {
        let mut contacts = Contacts::new(alice());
        let bob = "bob".parse().expect("legal");
        contacts.request(UnixTime(5), &bob).expect("room");
        contacts.handle_key(UnixTime(6), &bob, NodeKey::from_seed([1; 32]).public());
        contacts.block(UnixTime(7), &"mallory".parse().expect("legal")).expect("room");
        contacts
    }

    fn sealed(contacts: &Contacts, key: &AccountKey) -> Vec<Vec<u8>> {
        let parts = contacts.parts().into_iter().zip(BUDDY_LIST_SLOTS);
        parts
            .map(|(part, slot)| Contacts::seal_part(key, slot, &part, [9; 12]).expect("fits"))
            .collect()
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_key_alone() {
        let (contacts, key) = (list(), AccountKey::from_bytes([1; 32]));
        let parts = sealed(&contacts, &key);
        let (opened, count) = Contacts::open_part(&alice(), &key, 0, &parts[0]).expect("opens");
        assert_eq!((opened.buddies, count), (contacts.buddies, 1));
        let other = AccountKey::from_bytes([2; 32]);
        assert!(Contacts::open_part(&alice(), &other, 0, &parts[0]).is_err());
        assert!(Contacts::open_part(&alice(), &key, 3, &parts[0]).is_err(), "another slot");
        let empty = sealed(&Contacts::new(alice()), &key);
        assert_eq!(empty[0].len(), parts[0].len(), "the length does not tell who has buddies");
    }

    #[test]
    fn a_full_list_fits_and_loses_nothing_but_old_removals() {
        let (mut contacts, key) = (Contacts::new(alice()), AccountKey::from_bytes([1; 32]));
        for number in 0..BUDDIES_MAX {
            let name: UserName = format!("buddy.{number}").parse().expect("legal");
            contacts.request(UnixTime(number as u64), &name).expect("room");
            for seed in 0..2 {
                let mut bytes = [seed; 32];
                bytes[1..5].copy_from_slice(&(number as u32).to_be_bytes());
                contacts.handle_key(UnixTime(1), &name, NodeKey::from_seed(bytes).public());
            }
        }
        let parts = sealed(&contacts, &key);
        let mut joined = Contacts::new(alice());
        for (part, slot) in parts.iter().zip(BUDDY_LIST_SLOTS) {
            let (part, count) = Contacts::open_part(&alice(), &key, slot, part).expect("opens");
            assert_eq!(count, parts.len());
            joined.merge(&part);
        }
        assert_eq!(joined.buddies.len(), BUDDIES_MAX);
    }

    #[test]
    fn no_cut_or_changed_byte_opens() {
        let key = AccountKey::from_bytes([1; 32]);
        let sealed = sealed(&list(), &key).remove(0);
        for length in (0..sealed.len()).step_by(97) {
            assert!(Contacts::open_part(&alice(), &key, 0, &sealed[..length]).is_err());
        }
        for at in (0..sealed.len()).step_by(61) {
            let mut changed = sealed.clone();
            changed[at] ^= 0x10;
            assert!(Contacts::open_part(&alice(), &key, 0, &changed).is_err());
        }
    }
}
