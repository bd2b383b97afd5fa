//! The login server, and a node's connection to one.
//!
//! The protocol is `cooee_proto::login`; here are TLS, sockets, the database behind it, metrics and
//! shutdown. [`client::LoginClient`] speaks over any byte stream, so the same code reaches the
//! login server directly or through a super node.

pub mod client;
mod connection;
mod directory;
mod error;
mod http;
mod metrics;
mod server;
mod tls;

pub use directory::{Directory, DirectoryConfig, DirectoryError};
pub use error::LoginServerError;
pub use metrics::Metrics;
pub use server::{LoginServer, LoginServerOptions};

pub use cooee_proto::{
    clock::UnixTime,
    identity::{HostPort, Invitation, NodeId, NodeKey, UserName},
    login::{
        ClientConfig, ClientError, LimitConfig, Password, Policy, Refusal, Session, StorageAnswer,
        StorageRequest, Stretching, program_version,
    },
    wire::v1::RegistrationPolicy,
};

/// This machine's wall clock.
pub fn unix_now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// 32 bytes of the operating system's randomness.
pub fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system gives random bytes");
    seed
}
