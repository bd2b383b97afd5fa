//! OPAQUE (RFC 9807) with Ristretto255, SHA-512, 3DH and Argon2id, and its randomness from a seed.

use opaque_ke::{
    CipherSuite, Ristretto255, ServerSetup, TripleDh,
    rand::{CryptoRng, Error, RngCore},
};
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{RngCore as _, SeedableRng},
};
use sha2::{Digest, Sha256};

use super::ChannelBinding;
use crate::{
    identity::{NetworkId, NetworkKey, UserName},
    wire::v1,
};

/// The cipher suite of the protocol.
pub(super) struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2_0_10::Sha512>;
    type Ksf = argon2::Argon2<'static>;
}

/// Cost of Argon2id. It is spent by the node alone, never by the login server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretching {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Stretching {
    /// The second recommendation of RFC 9106 (section 4): 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

impl Stretching {
    /// Most memory that a login server can make a node spend, in KiB (chosen).
    const MEMORY_KIB_MAX: u32 = 1024 * 1024;
    /// Most passes that a login server can make a node spend (chosen).
    const PASSES_MAX: u32 = 20;

    /// Whether this costs an attacker at least as much as `floor`, and us a bearable time.
    pub(super) fn is_acceptable(&self, floor: &Self) -> bool {
        (floor.memory_kib..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (floor.passes..=Self::PASSES_MAX).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }

    /// The key stretching function with this cost.
    pub(super) fn function(&self) -> Option<argon2::Argon2<'static>> {
        let parameters =
            argon2::Params::new(self.memory_kib, self.passes, self.lanes, None).ok()?;
        Some(argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters))
    }
}

impl From<v1::Stretching> for Stretching {
    fn from(wire: v1::Stretching) -> Self {
        Self { memory_kib: wire.memory_kib, passes: wire.passes, lanes: wire.lanes }
    }
}

impl From<Stretching> for v1::Stretching {
    fn from(cost: Stretching) -> Self {
        Self { memory_kib: cost.memory_kib, passes: cost.passes, lanes: cost.lanes }
    }
}

/// What a login server must know to check passwords; the same on all login servers of a network.
pub struct ServerSecret(pub(super) ServerSetup<Suite>);

impl ServerSecret {
    /// The secret that belongs to the root key, so that one file is all that an operator guards.
    pub fn derive(network: &NetworkKey) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"cooee opaque server secret");
        hash.update(network.seed().as_slice());
        Self(ServerSetup::new(&mut Random::new(hash.finalize().into())))
    }
}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerSecret")
    }
}

/// What OPAQUE mixes into the login, so that it holds for one connection of one network only.
pub(super) fn context(network: NetworkId, binding: &ChannelBinding) -> Vec<u8> {
    [b"cooee login 1".as_slice(), &network.0, binding].concat()
}

/// The identifier of an account towards OPAQUE.
pub(super) fn credential_identifier(user: &UserName) -> &[u8] {
    user.as_str().as_bytes()
}

/// Seeded randomness in the form that `opaque-ke` takes (`rand` 0.8).
pub(super) struct Random(ChaCha12Rng);

impl Random {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }
}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Random {}
