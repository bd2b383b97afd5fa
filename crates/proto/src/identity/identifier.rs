//! The 16-byte names of nodes and networks, and the 32-byte key of a user name in the Global Index.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// Text that does not name a node or a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct IdentifierError {
    /// How many hexadecimal digits the identifier has.
    pub expected: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;

            /// The identifier in `bytes`, if the length is right.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes of the identifier.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdentifierError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdentifierError { expected: 2 * $bytes })?;
                Ok(Self(bytes))
            }
        }
    };
}

identifier! {
    /// A node: the first 16 bytes of the SHA-256 of its device key.
    NodeId, 16
}

identifier! {
    /// A network: the first 16 bytes of the SHA-256 of its root key.
    NetworkId, 16
}

identifier! {
    /// A user name in one network, as the Global Index knows it.
    NameKey, 32
}

/// The first 16 bytes of the SHA-256 of a public key.
pub(super) fn key_hash(public_key: &[u8; 32]) -> [u8; 16] {
    let hash = Sha256::digest(public_key);
    *hash.first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn identifiers_survive_text(bytes: [u8; 16]) {
            let node = NodeId(bytes);
            prop_assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
            prop_assert_eq!(NodeId::from_slice(&bytes), Some(node));
            prop_assert_eq!(NodeId::from_slice(&bytes[1..]), None);
        }
    }

    #[test]
    fn other_text_is_no_identifier() {
        assert_eq!("12".parse::<NodeId>(), Err(IdentifierError { expected: 32 }));
        assert!("zz".repeat(16).parse::<NetworkId>().is_err());
    }
}
