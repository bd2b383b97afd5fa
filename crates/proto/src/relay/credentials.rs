//! Credentials that a super node mints for one session and checks without remembering them.
//!
//! The scheme of the TURN REST draft: user name `expiry:node-id` (seconds since 1970, hexadecimal
//! node), password an HMAC of it under a secret that never leaves the super node.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{clock::UnixTime, identity::NodeId};

/// Realm of every relay of every network.
pub const REALM: &str = "cooee";

/// A super node's secret. Lost with the process: its clients then mint again.
pub struct RelaySecret(Zeroizing<[u8; 32]>);

impl fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecret")
    }
}

/// What a client needs to use the relay.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayCredentials {
    /// `expiry:node-id`.
    pub username: String,
    /// Base64 of 32 bytes.
    pub password: String,
    /// [`REALM`].
    pub realm: String,
    /// No new allocation from here on; one that stands may be refreshed.
    pub expires: UnixTime,
}

impl fmt::Debug for RelayCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayCredentials({})", self.username)
    }
}

impl RelaySecret {
    /// From 32 bytes of good randomness.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Credentials of `node` for `lifetime` from `now`, in whole seconds.
    pub fn mint(&self, now: UnixTime, node: NodeId, lifetime: Duration) -> RelayCredentials {
        let expires = UnixTime::from_seconds(now.plus(lifetime).seconds());
        let username = RelayUser { expires, node }.to_string();
        let password = self.password(&username);
        RelayCredentials { username, password, realm: REALM.into(), expires }
    }

    pub(super) fn password(&self, username: &str) -> String {
        STANDARD_NO_PAD.encode(self.tag(b"cooee relay password", &[username.as_bytes()]))
    }

    /// HMAC-SHA-256 of the parts, separated from every other use of the secret by `purpose`.
    pub(super) fn tag(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice())
            .expect("HMAC takes a key of any length");
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The meaning of a user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelayUser {
    pub(super) expires: UnixTime,
    pub(super) node: NodeId,
}

impl RelayUser {
    /// Only the form that [`RelaySecret::mint`] writes.
    pub(super) fn parse(username: &str) -> Option<Self> {
        let (expiry, node) = username.split_once(':')?;
        let expires = UnixTime::from_seconds(expiry.parse().ok()?);
        let user = Self { expires, node: node.parse().ok()? };
        (user.to_string() == username).then_some(user)
    }
}

impl fmt::Display for RelayUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.expires.seconds(), self.node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_minted_name_says_who_and_until_when(
            node in any::<[u8; 16]>(),
            now in 0_u64..1 << 50,
            seconds in 0_u64..100_000,
        ) {
            let node = NodeId(node);
            let minted = RelaySecret::new([7; 32])
                .mint(UnixTime(now), node, Duration::from_secs(seconds));
            let user = RelayUser::parse(&minted.username).unwrap();
            prop_assert_eq!(user, RelayUser { expires: minted.expires, node });
        }

        #[test]
        fn any_text_is_a_canonical_name_or_none(text in ".{0,80}") {
            if let Some(user) = RelayUser::parse(&text) {
                prop_assert_eq!(user.to_string(), text);
            }
        }
    }

    #[test]
    fn other_spellings_of_a_name_are_refused() {
        let node = "00112233445566778899aabbccddeeff";
        assert!(RelayUser::parse(&format!("17:{node}")).is_some());
        for wrong in [
            format!("017:{node}"),
            format!("+17:{node}"),
            format!("17:{}", node.to_uppercase()),
            format!("17:{node} "),
            format!("99999999999999999999999:{node}"),
            node.into(),
            "17:".into(),
        ] {
            assert_eq!(RelayUser::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_secret_gives_another_password() {
        let mint = |secret| {
            RelaySecret::new([secret; 32]).mint(UnixTime(0), NodeId([1; 16]), Duration::ZERO)
        };
        assert_ne!(mint(1).password, mint(2).password);
        assert_eq!(mint(1).password, mint(1).password);
    }
}
