//! The login protocol: names, passwords and certificates, between a node and a login server.
//!
//! OPAQUE (RFC 9807) proves the password without showing it; the device proves its key by signing
//! the channel binding of the TLS connection; the login server answers with a certificate. Both
//! sides are machines without a clock, socket or database. `docs/protocol/login.md` has the flows.

mod client;
mod limits;
mod opaque;
mod refusal;
mod seal;
mod server;
mod storage;

pub use client::{
    Authenticated, ClientConfig, ClientError, Hello, LoginAttempt, Password, PasswordChange,
    Registration, Session, Welcome, accepted, device_proof,
};
pub use limits::{LimitConfig, Limits};
pub use opaque::{ServerSecret, Stretching};
pub use refusal::Refusal;
pub use seal::{AccountKey, SEALED_BYTES_MAX, SealError};
pub use server::{ServerConfig, ServerConnection, Step};
pub use storage::{
    AccountRecord, DeviceRecord, FoundUser, NewAccount, NewDevice, Policy, SealedRecord,
    SessionRecord, StorageAnswer, StorageFault, StorageRequest,
};

/// The application protocol in TLS (RFC 7301).
pub const LOGIN_ALPN: &[u8] = b"cooee-login/1";

/// Label of the TLS exporter (RFC 9266) that gives the channel binding, with no context.
pub const CHANNEL_BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Binds what the protocol signs to one TLS connection.
pub type ChannelBinding = [u8; 32];

/// Version of the protocol.
pub const LOGIN_PROTOCOL_VERSION: u32 = 1;

/// Most devices of one user (chosen).
pub const DEVICES_MAX: usize = 20;
/// Most users in an answer to a search (chosen).
pub const FOUND_USERS_MAX: usize = 20;
/// Longest display name or device name, in bytes (chosen).
pub const LABEL_BYTES_MAX: usize = 64;
/// Most sealed slots of one user (chosen).
pub const SEALED_SLOTS_MAX: u32 = 8;
/// Most addresses that a dedicated super node can announce (chosen).
pub const ADDRESSES_MAX: usize = 4;
/// Most super nodes in an answer (chosen: fills a host cache with enough to start from).
pub const BOOTSTRAP_MAX: usize = 32;
/// Clocks may differ by this much, in milliseconds: certificates begin so much in the past.
pub const CLOCK_OFFSET_MS_MAX: u64 = 3_600_000;

/// The version number of a program, as it crosses the network.
pub const fn program_version(major: u16, minor: u16, patch: u16) -> u64 {
    (major as u64) << 32 | (minor as u64) << 16 | patch as u64
}
