//! What the attachment machine says: effects to carry out and events to tell.

use std::{net::SocketAddr, time::Instant};

use super::Trouble;
use crate::identity::NodeId;

/// One attempt to connect, and the connection that comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// Effects and events, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a STUN Binding request by UDP; report an answer.
    Probe {
        /// Where to.
        to: SocketAddr,
    },
    /// Open a control connection, greet, and report.
    Connect {
        /// Name of the attempt.
        attempt: AttemptId,
        /// Where to.
        to: SocketAddr,
    },
    /// Give up an attempt that has not reported; a report that crosses is ignored.
    Abandon {
        /// Which one.
        attempt: AttemptId,
    },
    /// Close a connection that is not needed; its loss need not be reported.
    Close {
        /// Which one.
        attempt: AttemptId,
    },
    /// Ask for a sign of life, within about two seconds; report a loss if there is none.
    Check {
        /// Which one.
        attempt: AttemptId,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more until then; `None` if only an input can change anything.
    Timeout(Option<Instant>),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This connection is now the one in use.
    Attached {
        /// Its attempt.
        attempt: AttemptId,
        /// The super node.
        node: NodeId,
        /// Its address.
        address: SocketAddr,
        /// Whether it had been the warm one.
        was_warm: bool,
    },
    /// This connection is now the warm one.
    WarmReady {
        /// Its attempt.
        attempt: AttemptId,
        /// The super node.
        node: NodeId,
    },
    /// The warm connection ended.
    WarmLost {
        /// Its attempt.
        attempt: AttemptId,
    },
    /// The connection in use ended.
    Lost {
        /// Its attempt.
        attempt: AttemptId,
        /// The super node.
        node: NodeId,
    },
    /// UDP was found to work or to be blocked.
    UdpChanged(Udp),
    /// What a person may be shown changed.
    StatusChanged(Status),
}

/// Whether UDP reaches super nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    /// No answer yet.
    Unknown,
    /// A probe was answered.
    Works,
    /// TCP works and no probe was answered.
    Blocked,
}

/// What a person may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not started.
    Idle,
    /// Attempts are under way.
    Racing {
        /// Why the race before came to nothing, until one is won or the network changes.
        before: Option<Trouble>,
    },
    /// Attached.
    Attached {
        /// Super node in use.
        node: NodeId,
        /// Its address.
        address: SocketAddr,
        /// Warm super node.
        warm: Option<NodeId>,
        /// Whether UDP works.
        udp: Udp,
    },
    /// Nothing worked; the next race comes by itself.
    Waiting {
        /// What is wrong.
        why: Trouble,
        /// When the next race begins.
        until: Instant,
    },
}
