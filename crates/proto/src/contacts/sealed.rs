//! The buddy list as the login server keeps it: sealed with a key that only the user's password
//! gives (OPAQUE's export key, RFC 9807 section 6.4.4), padded so that its length says little.

use bytes::{Buf, BufMut};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use hkdf::Hkdf;
use prost::Message;
use sha2::Sha512;
use zeroize::Zeroizing;

use super::{BUDDIES_MAX, Buddy, BuddyState, Contacts, KEYS_MAX, PinnedKey};
use crate::{
    clock::UnixTime,
    identity::{NodePublicKey, UserName},
    wire::v1::{self, buddy_entry::State},
};

/// First byte of a sealed list: the version of its form.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
/// Sealed lists are a multiple of this long. Chosen.
const PADDING_BYTES: usize = 4096;

/// Seals and opens one user's list.
pub struct SealKey(Zeroizing<[u8; 32]>);

/// Why a sealed list cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not in a form that this version knows.
    #[error("the stored buddy list has an unknown form")]
    Form,
    /// Changed on the server, of another user, or sealed under another password.
    #[error("the stored buddy list does not open with this password")]
    Key,
}

impl SealKey {
    /// From the export key that OPAQUE gives at registration and at every login.
    pub fn from_export_key(export_key: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha512>::new(Some(b"cooee buddy list 1"), export_key)
            .expand(b"seal", key.as_mut())
            .expect("32 bytes are fewer than HKDF's bound");
        Self(key)
    }

    /// Seals `contacts`. The nonce must never repeat: draw it at random.
    pub fn seal(&self, contacts: &Contacts, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let list = contacts.to_wire();
        let mut plain = Zeroizing::new(Vec::with_capacity(list.encoded_len() + PADDING_BYTES));
        plain.put_u32(u32::try_from(list.encoded_len()).expect("bounded by BUDDIES_MAX"));
        plain.extend_from_slice(&list.encode_to_vec());
        let padded = plain.len().next_multiple_of(PADDING_BYTES);
        plain.resize(padded, 0);
        let payload = Payload { msg: &plain, aad: contacts.own.as_str().as_bytes() };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload);
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&nonce);
        bytes.extend(sealed.expect("a list is far below the cipher's bound"));
        bytes
    }

    /// Opens the list of user `own`.
    pub fn open(&self, own: &UserName, sealed: &[u8]) -> Result<Contacts, SealError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(SealError::Form)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Form)?;
        let payload = Payload { msg: rest, aad: own.as_str().as_bytes() };
        let plain = self.cipher().decrypt(&XNonce::from(*nonce), payload);
        let plain = Zeroizing::new(plain.map_err(|_| SealError::Key)?);
        let mut rest = plain.as_slice();
        let length = rest.try_get_u32().map_err(|_| SealError::Form)? as usize;
        let list = rest.get(..length).ok_or(SealError::Form)?;
        let list = v1::BuddyList::decode(list).map_err(|_| SealError::Form)?;
        Ok(Contacts::from_wire(own.clone(), list))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.0))
    }
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

    fn list() -> Contacts {
        let mut contacts = Contacts::new("alice".parse().expect("legal"));
        let bob = "bob".parse().expect("legal");
        contacts.request(UnixTime(5), &bob).expect("room");
        contacts.handle_key(UnixTime(6), &bob, NodeKey::from_seed([1; 32]).public());
        contacts.block(UnixTime(7), &"mallory".parse().expect("legal")).expect("room");
        contacts
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_key_alone() {
        let (contacts, own) = (list(), "alice".parse().expect("legal"));
        let key = SealKey::from_export_key(b"export");
        let sealed = key.seal(&contacts, [9; 24]);
        assert_eq!(key.open(&own, &sealed).map(|c| c.buddies), Ok(contacts.buddies.clone()));
        let other = SealKey::from_export_key(b"other");
        assert_eq!(other.open(&own, &sealed).err(), Some(SealError::Key));
        let bob = "bob".parse().expect("legal");
        assert_eq!(key.open(&bob, &sealed).err(), Some(SealError::Key), "another user's list");
        let empty = key.seal(&Contacts::new(own), [8; 24]);
        assert_eq!(empty.len(), sealed.len(), "the length does not tell who has buddies");
    }

    #[test]
    fn no_cut_or_changed_byte_opens() {
        let own = "alice".parse().expect("legal");
        let key = SealKey::from_export_key(b"export");
        let sealed = key.seal(&list(), [9; 24]);
        for length in (0..sealed.len()).step_by(97) {
            assert!(key.open(&own, &sealed[..length]).is_err());
        }
        for at in (0..sealed.len()).step_by(61) {
            let mut changed = sealed.clone();
            changed[at] ^= 0x10;
            assert!(key.open(&own, &changed).is_err());
        }
    }
}
