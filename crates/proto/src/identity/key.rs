//! Ed25519 keys of devices and networks (RFC 8032), and their X25519 forms (RFC 7748).

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::identifier::{NetworkId, NodeId, key_hash};

/// A signature that does not fit the message and the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct SignatureError;

/// The secret key of a device. Wiped from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key made from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The 32 bytes that [`Self::from_seed`] takes; secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> NodePublicKey {
        NodePublicKey(self.0.verifying_key().to_bytes())
    }

    /// The node that this key makes.
    pub fn node_id(&self) -> NodeId {
        self.public().node_id()
    }

    /// The Ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// PKCS#8 version 1 (RFC 8410), as TLS libraries take it.
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + 32));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(self.0.as_bytes());
        der
    }

    /// The X25519 secret that belongs to [`NodePublicKey::x25519`].
    pub fn x25519(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey of {}", self.node_id())
    }
}

/// The public key of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePublicKey(pub [u8; 32]);

impl NodePublicKey {
    /// The key in `bytes`, if the length is right.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The node that has this key.
    pub fn node_id(&self) -> NodeId {
        NodeId(key_hash(&self.0))
    }

    /// Checks an Ed25519 signature strictly (RFC 8032 5.1.7, no small-order keys).
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let signature: &[u8; 64] = signature.try_into().map_err(|_| SignatureError)?;
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError)?;
        key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| SignatureError)
    }

    /// The X25519 form of the key, for static key agreement; `None` if the bytes are no key.
    pub fn x25519(&self) -> Option<[u8; 32]> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        (!key.is_weak()).then(|| key.to_montgomery().to_bytes())
    }
}

impl fmt::Debug for NodePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodePublicKey({})", hex::encode(self.0))
    }
}

/// The secret root key of a network: whoever has it is the network's authority on names.
#[derive(Clone, Debug)]
pub struct NetworkKey(NodeKey);

impl NetworkKey {
    /// The root key made from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(NodeKey::from_seed(seed))
    }

    /// The 32 bytes that [`Self::from_seed`] takes; secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.0.seed()
    }

    /// The public half, which every member knows.
    pub fn root(&self) -> NetworkRoot {
        NetworkRoot(self.0.public())
    }

    /// The Ed25519 signature of `message` by the network.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message)
    }

    pub(super) fn signing_key(&self) -> &SigningKey {
        self.0.signing_key()
    }
}

/// The public root key of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkRoot(pub NodePublicKey);

impl NetworkRoot {
    /// The root key in `bytes`, if the length is right.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        NodePublicKey::from_slice(bytes).map(Self)
    }

    /// The network that has this root key.
    pub fn network_id(&self) -> NetworkId {
        NetworkId(key_hash(&self.0.0))
    }

    /// Checks a signature by the network.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        self.0.verify(message, signature)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_signature_fits_its_message_and_key_only(
            seed: [u8; 32], other: [u8; 32], message: Vec<u8>, bit in 0_usize..512,
        ) {
            prop_assume!(seed != other);
            let key = NodeKey::from_seed(seed);
            let mut signature = key.sign(&message);
            prop_assert_eq!(key.public().verify(&message, &signature), Ok(()));
            let stranger = NodeKey::from_seed(other).public();
            prop_assert_eq!(stranger.verify(&message, &signature), Err(SignatureError));
            signature[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.public().verify(&message, &signature), Err(SignatureError));
        }

        #[test]
        fn any_bytes_as_key_never_panic(key: [u8; 32], message: Vec<u8>, signature: Vec<u8>) {
            let key = NodePublicKey(key);
            prop_assert!(key.verify(&message, &signature).is_err());
            let _ = key.x25519();
        }

        #[test]
        fn two_nodes_agree_on_an_x25519_secret(one: [u8; 32], other: [u8; 32]) {
            let (one, other) = (NodeKey::from_seed(one), NodeKey::from_seed(other));
            let agree = |mine: &NodeKey, theirs: &NodeKey| {
                x25519_dalek::x25519(*mine.x25519(), theirs.public().x25519().unwrap())
            };
            prop_assert_eq!(agree(&one, &other), agree(&other, &one));
        }
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let key = NodeKey::from_seed([0x41; 32]);
        assert!(!format!("{key:?}").contains("4141"));
        assert_eq!(NodeKey::from_seed(*key.seed()).public(), key.public());
    }
}
