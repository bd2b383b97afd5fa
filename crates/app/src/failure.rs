//! Exit codes: what a script may rely on when a command fails.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed, the message says why |
//! | 2 | wrong usage |
//! | 3 | no running node, or the network cannot be reached |
//! | 4 | refused: wrong password, name taken, not allowed |
//! | 5 | the call was not taken: declined, busy, no answer, not reachable now |
//! | 6 | the network has no user of that name |
//! | 130 | interrupted |

use std::{fmt, process::ExitCode};

/// Kinds of failure with an exit code of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No node runs here, or the network cannot be reached.
    Unreachable,
    /// The other side said no.
    Refused,
    /// Declined, busy, no answer, not reachable now.
    NotTaken,
    /// The network has no user of that name.
    UnknownUser,
}

/// A failure with an exit code of its own; anything else exits with 1.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Decides the exit code.
    pub(crate) kind: FailureKind,
    /// What happened and what to do.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of `kind`.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code for an error that reached `main`.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<Failure>().map(|failure| failure.kind) {
        Some(FailureKind::Unreachable) => 3,
        Some(FailureKind::Refused) => 4,
        Some(FailureKind::NotTaken) => 5,
        Some(FailureKind::UnknownUser) => 6,
        None => 1,
    })
}
