//! Why a login server cannot start or go on, for its operator.

use std::{io, net::SocketAddr};

use crate::storage::StorageError;

/// Why a login server stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoginServerError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Somebody listens there already.
    #[error("port {} on {} is in use: stop the program that has it, or choose \
             another with --listen",
        .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    /// We may not or cannot listen there.
    #[error("cannot listen on {address}: {source}{}", privileged(.address, .source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS refuses its own configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl LoginServerError {
    pub(super) fn listen(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse(address),
            _ => Self::Listen { address, source },
        }
    }
}

fn privileged(address: &SocketAddr, source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied && address.port() < 1024 {
        ": ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
    } else {
        ""
    }
}
