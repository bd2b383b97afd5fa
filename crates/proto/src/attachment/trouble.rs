//! Why attempts fail, and what a failed round says about the network.

use std::net::SocketAddr;

use super::Udp;

/// Why one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// This machine has no way there.
    NoNetwork,
    /// Nothing listens there.
    ConnectionRefused,
    /// No answer.
    TimedOut,
    /// It is the super node in use or the warm one, at another of its addresses.
    AlreadyConnected,
    /// The proxy is at fault.
    Proxy(String),
    /// The super node is full and names others.
    Busy {
        /// Others to try.
        try_these: Vec<SocketAddr>,
    },
    /// Who answered is not of this network.
    Foreign,
    /// The certificate is outside its validity: its owner's fault, or our clock's.
    Clock(String),
    /// Our own certificate was refused.
    OwnCertificate(String),
    /// The super node refused for another reason.
    Refused(String),
    /// It broke the protocol or closed.
    Protocol(String),
}

impl Failure {
    /// Whether it tells something about the super node rather than about us.
    pub(super) fn is_the_entrys(&self) -> bool {
        !matches!(
            self,
            Self::NoNetwork
                | Self::AlreadyConnected
                | Self::Proxy(_)
                | Self::Clock(_)
                | Self::OwnCertificate(_)
        )
    }
}

/// What is wrong when a whole round has failed. Each text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No way out of this machine.
    #[error("there is no network: check the cable or Wi-Fi")]
    NoNetwork,
    /// No super node is known.
    #[error("no super node is known: ask the network's operator for a new invitation")]
    NoneKnown,
    /// UDP is answered, TCP is not.
    #[error("super nodes answer by UDP but TCP is blocked: check the firewall")]
    TcpBlocked,
    /// Nothing answers at all.
    #[error("no super node answers by UDP or TCP: a firewall blocks them, or they are down")]
    NothingAnswers,
    /// Connections are turned away at once. A firewall that does so need not tell it each time.
    #[error(
        "no super node answers, some addresses refuse connections: a firewall turns them away, or \
        the super nodes are down"
    )]
    TurnedAway,
    /// The machine's clock is wrong, most likely.
    #[error("the clock of this device is probably wrong, set it: {0}")]
    Clock(String),
    /// Our certificate is refused.
    #[error("super nodes refuse this device: {0}")]
    OwnCertificate(String),
    /// The proxy is at fault.
    #[error("the proxy is in the way: {0}")]
    Proxy(String),
    /// Somebody else answers in the place of the super nodes.
    #[error(
        "something between here and the super nodes answers in their place: a captive portal \
        or an inspecting firewall"
    )]
    Foreign,
    /// All are full.
    #[error("all super nodes are full: this device tries again by itself")]
    AllBusy,
    /// All refused.
    #[error("all super nodes refused: {0}")]
    Refused(String),
}

impl Trouble {
    /// The likeliest trouble behind the failures of a round. What an authenticated super node says
    /// weighs most, silence least.
    pub(super) fn of(failures: &[Failure], udp: Udp) -> Self {
        let find = |pick: fn(&Failure) -> Option<&String>| failures.iter().find_map(pick).cloned();
        if failures.is_empty() {
            return Self::NoneKnown;
        }
        if let Some(text) =
            find(|f| if let Failure::OwnCertificate(t) = f { Some(t) } else { None })
        {
            return Self::OwnCertificate(text);
        }
        if failures.iter().any(|failure| matches!(failure, Failure::Busy { .. })) {
            return Self::AllBusy;
        }
        if let Some(text) = find(|f| if let Failure::Clock(t) = f { Some(t) } else { None }) {
            return Self::Clock(text);
        }
        if let Some(text) = find(|f| if let Failure::Refused(t) = f { Some(t) } else { None }) {
            return Self::Refused(text);
        }
        if let Some(text) = find(|f| if let Failure::Proxy(t) = f { Some(t) } else { None }) {
            return Self::Proxy(text);
        }
        if failures.contains(&Failure::Foreign) {
            return Self::Foreign;
        }
        if failures.iter().all(|failure| *failure == Failure::NoNetwork) {
            return Self::NoNetwork;
        }
        if let Some(text) = find(|f| if let Failure::Protocol(t) = f { Some(t) } else { None }) {
            return Self::Refused(text);
        }
        if udp == Udp::Works {
            return Self::TcpBlocked;
        }
        let is_refused = failures.contains(&Failure::ConnectionRefused);
        if is_refused { Self::TurnedAway } else { Self::NothingAnswers }
    }
}
