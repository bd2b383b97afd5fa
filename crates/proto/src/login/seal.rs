//! Sealing: what the login server keeps for a user and cannot read.
//!
//! A random *account key* seals the user's data. It is itself sealed with the export key of OPAQUE,
//! which only the password gives, so a change of password seals 32 bytes anew and nothing else.
//! Form: 12-byte nonce, then ChaCha20-Poly1305 (RFC 8439) of the plain text, bound to its purpose.

use chacha20poly1305::{
    ChaCha20Poly1305, Key, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Most bytes of sealed data in one slot (chosen: below the bound of a frame; about 700 buddies).
pub const SEALED_BYTES_MAX: usize = 48 * 1024;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const DATA_BYTES_MAX: usize = SEALED_BYTES_MAX - NONCE_BYTES - TAG_BYTES;

/// Why sealed data cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed with another key, for another purpose, or was changed.
    #[error("the sealed data does not open: it was changed, or sealed by another account")]
    DoesNotOpen,
    /// More than fits a slot.
    #[error("at most {DATA_BYTES_MAX} bytes can be sealed, these are {0}")]
    TooLong(usize),
}

/// The key of a user's sealed data, the same on all devices of the user.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey(Zeroizing<[u8; 32]>);

impl AccountKey {
    /// The key made from 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes that [`Self::from_bytes`] takes; secret.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals the data of a slot. `nonce` must be random and used once.
    pub fn seal(&self, slot: u32, data: &[u8], nonce: [u8; 12]) -> Result<Vec<u8>, SealError> {
        if data.len() > DATA_BYTES_MAX {
            return Err(SealError::TooLong(data.len()));
        }
        Ok(seal(&self.0, &slot_purpose(slot), data, nonce))
    }

    /// Opens the data of a slot.
    pub fn open(&self, slot: u32, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open(&self.0, &slot_purpose(slot), sealed)
    }

    /// Seals this key with the export key of OPAQUE.
    pub(super) fn wrap(&self, export_key: &[u8], nonce: [u8; 12]) -> Vec<u8> {
        seal(&wrapping_key(export_key), WRAP_PURPOSE, self.0.as_slice(), nonce)
    }

    /// Opens a key that [`Self::wrap`] sealed.
    pub(super) fn unwrap(export_key: &[u8], sealed: &[u8]) -> Result<Self, SealError> {
        let bytes = Zeroizing::new(open(&wrapping_key(export_key), WRAP_PURPOSE, sealed)?);
        let bytes = bytes.as_slice().try_into().map_err(|_| SealError::DoesNotOpen)?;
        Ok(Self::from_bytes(bytes))
    }
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountKey")
    }
}

const WRAP_PURPOSE: &[u8] = b"cooee account key";

fn slot_purpose(slot: u32) -> Vec<u8> {
    [b"cooee sealed slot ".as_slice(), &slot.to_be_bytes()].concat()
}

fn wrapping_key(export_key: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, export_key)
        .expand(WRAP_PURPOSE, key.as_mut_slice())
        .expect("32 bytes are below HKDF's bound");
    key
}

fn seal(key: &[u8; 32], purpose: &[u8], data: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
    let cipher = ChaCha20Poly1305::new(Key::from_slice(key));
    let sealed = cipher
        .encrypt(Nonce::from_slice(&nonce), Payload { msg: data, aad: purpose })
        .expect("data bounded far below the cipher's limit");
    [nonce.as_slice(), &sealed].concat()
}

fn open(key: &[u8; 32], purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, data) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::DoesNotOpen)?;
    ChaCha20Poly1305::new(Key::from_slice(key))
        .decrypt(Nonce::from_slice(nonce), Payload { msg: data, aad: purpose })
        .map_err(|_| SealError::DoesNotOpen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sealed_data_opens_with_its_key_and_slot_only(
            key: [u8; 32], nonce: [u8; 12], data: Vec<u8>, place: prop::sample::Index, bit in 0..8,
        ) {
            let key = AccountKey::from_bytes(key);
            let mut sealed = key.seal(1, &data, nonce).unwrap();
            prop_assert_eq!(key.open(1, &sealed), Ok(data));
            prop_assert_eq!(key.open(2, &sealed), Err(SealError::DoesNotOpen));
            *place.get_mut(&mut sealed) ^= 1_u8 << bit;
            prop_assert_eq!(key.open(1, &sealed), Err(SealError::DoesNotOpen));
        }

        #[test]
        fn any_bytes_open_or_not(key: [u8; 32], bytes: Vec<u8>) {
            let key = AccountKey::from_bytes(key);
            prop_assert_eq!(key.open(0, &bytes), Err(SealError::DoesNotOpen));
            prop_assert_eq!(AccountKey::unwrap(&[1; 64], &bytes), Err(SealError::DoesNotOpen));
        }
    }

    #[test]
    fn the_account_key_opens_with_the_export_key_only() {
        let key = AccountKey::from_bytes([5; 32]);
        let wrapped = key.wrap(&[1; 64], [2; 12]);
        assert_eq!(AccountKey::unwrap(&[1; 64], &wrapped), Ok(key));
        assert_eq!(AccountKey::unwrap(&[2; 64], &wrapped), Err(SealError::DoesNotOpen));
    }

    #[test]
    fn a_slot_has_a_bound() {
        let key = AccountKey::from_bytes([5; 32]);
        let full = vec![0; DATA_BYTES_MAX];
        assert_eq!(key.seal(0, &full, [0; 12]).unwrap().len(), SEALED_BYTES_MAX);
        let error = key.seal(0, &vec![0; full.len() + 1], [0; 12]);
        assert_eq!(error, Err(SealError::TooLong(full.len() + 1)));
    }
}
