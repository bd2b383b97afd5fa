//! The faults: between which places, what breaks, and how the voice must go on.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use cooee_sim::place::{Outcome, PLACES, Place};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    deployment::{Deployment, User},
    matrix::SERVERS,
    network::Network,
    topology::{Firewall, Gateway},
};

/// One thing that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    /// The caller's gateway restarts and gives other outer ports.
    Rebind,
    /// The caller's host moves to another network: interface, address and gateway.
    Move,
    /// `kill -9` of the super node that relays the call.
    KillRelay,
    /// `kill -9` of the super node that the caller is attached to.
    KillFirst,
    /// That super node falls silent (SIGSTOP): no reset, no answer.
    SilenceFirst,
    /// UDP from the caller's to the callee's gateway vanishes, the other way passes.
    OneWay,
    /// The caller's firewall lets no UDP pass from now on.
    BlockUdp,
    /// And lets it pass again.
    UnblockUdp,
    /// `kill -9` of the login server.
    KillLoginServer,
}

/// A call between two places, and what breaks under it, one after another.
#[derive(Debug)]
pub struct Fault {
    /// Name on the command line and in tables.
    pub name: &'static str,
    /// What it is, for lists.
    pub about: &'static str,
    pub(super) caller: &'static Place,
    pub(super) callee: &'static Place,
    pub(super) strikes: &'static [Strike],
    /// Longest gap that may be, in ms.
    pub limit_ms: usize,
}

const OPEN: &Place = &PLACES[0];
const HOME: &Place = &PLACES[1];
const SYMMETRIC: &Place = &PLACES[5];

/// The target for the death of a relay, rebinding and a change of network.
const SECOND_MS: usize = 1000;

/// What a call is allowed when its path is not touched: nothing that anybody hears.
const UNTOUCHED_MS: usize = 200;

/// All of them.
pub const FAULTS: [Fault; 11] = [
    Fault {
        name: "nat-rebinding",
        about: "the caller's NAT restarts: other outer ports, TCP connections forgotten",
        caller: HOME,
        callee: HOME,
        strikes: &[Strike::Rebind],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "nat-rebinding-public",
        about: "the same, against a callee with a public address",
        caller: HOME,
        callee: OPEN,
        strikes: &[Strike::Rebind],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "network-change",
        about: "the caller's host moves to another network (Wi-Fi to mobile)",
        caller: HOME,
        callee: HOME,
        strikes: &[Strike::Move],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "network-change-relayed",
        about: "the same in a relayed call",
        caller: SYMMETRIC,
        callee: SYMMETRIC,
        strikes: &[Strike::Move],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "relay-killed",
        about: "kill -9 of the super node that relays the call",
        caller: SYMMETRIC,
        callee: SYMMETRIC,
        strikes: &[Strike::KillRelay],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "super-node-killed",
        about: "kill -9 of the caller's super node under a relayed call",
        caller: SYMMETRIC,
        callee: SYMMETRIC,
        strikes: &[Strike::KillFirst],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "super-node-silent",
        about: "the caller's super node stops answering under a relayed call (SIGSTOP)",
        caller: SYMMETRIC,
        callee: SYMMETRIC,
        strikes: &[Strike::SilenceFirst],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "one-way-blackhole",
        about: "the direct path swallows what the caller sends; the way back works",
        caller: HOME,
        callee: HOME,
        strikes: &[Strike::OneWay],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "udp-blocked",
        about: "the caller's firewall blocks UDP in the call, and lets it pass again",
        caller: HOME,
        callee: HOME,
        strikes: &[Strike::BlockUdp, Strike::UnblockUdp],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "udp-blocked-relayed",
        about: "the same in a relayed call",
        caller: SYMMETRIC,
        callee: SYMMETRIC,
        strikes: &[Strike::BlockUdp, Strike::UnblockUdp],
        limit_ms: SECOND_MS,
    },
    Fault {
        name: "login-server-killed",
        about: "kill -9 of the login server",
        caller: HOME,
        callee: HOME,
        strikes: &[Strike::KillLoginServer],
        limit_ms: UNTOUCHED_MS,
    },
];

impl Fault {
    /// The fault of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        FAULTS.iter().find(|fault| fault.name == name)
    }
}

/// Processes and places that a strike may hit.
pub(super) struct Targets {
    relay: Option<u32>,
    first: Option<u32>,
    login_server: Option<u32>,
    gateway: Option<Gateway>,
}

impl Targets {
    /// Looks who serves the running call. `relayed` is what each super node had relayed before it.
    pub(super) fn find(
        network: &Network,
        deployment: &Deployment<'_>,
        caller: &User<'_>,
        relayed: &[u64],
    ) -> Result<Self> {
        let pids = deployment.super_node_pids();
        let now = deployment.relayed_bytes()?;
        let growth = now.iter().zip(relayed).map(|(now, before)| now.saturating_sub(*before));
        let busiest = growth.zip(&pids).max_by_key(|(bytes, _)| *bytes);
        let status = caller.status()?;
        let address = status["super_node"].as_str().context("the caller is attached")?;
        let address: SocketAddr = address.parse()?;
        let hosts = SERVERS[1..].iter().zip(&pids);
        let first = hosts.into_iter().find(|(host, _)| {
            network.ipv4(host).is_some_and(|ip| address.ip() == std::net::IpAddr::from(ip))
        });
        Ok(Self {
            relay: busiest.filter(|(bytes, _)| *bytes > 0).map(|(_, pid)| *pid),
            first: first.map(|(_, pid)| *pid),
            login_server: deployment.login_server_pid(),
            gateway: network.topology().gateways.iter().find(|g| g.name == "ag").cloned(),
        })
    }

    /// Lets a stopped process go on, so that it can be ended.
    pub(super) fn release(&self) {
        let _ = self.first.map(|pid| signal(Some(pid), Signal::CONT));
    }
}

impl Strike {
    pub(super) fn carry_out(self, network: &Network, targets: &Targets) -> Result<()> {
        let firewall = |firewall| {
            let gateway = targets.gateway.clone().context("the caller has a gateway")?;
            network.change_gateway(&Gateway { firewall, ..gateway })
        };
        match self {
            Self::Rebind => network.rebind("ag", "a"),
            Self::Move => network.move_to_second("a"),
            Self::KillRelay => signal(targets.relay, Signal::KILL).context("no relay in use"),
            Self::KillFirst => signal(targets.first, Signal::KILL),
            Self::SilenceFirst => signal(targets.first, Signal::STOP),
            Self::OneWay => network.blackhole("ag", "bg"),
            Self::BlockUdp => firewall(Firewall::NoUdp),
            Self::UnblockUdp => firewall(Firewall::Open),
            Self::KillLoginServer => signal(targets.login_server, Signal::KILL),
        }
    }

    /// Name of its row: that of the fault, or what undid it.
    pub(super) fn name(self, fault: &Fault) -> &'static str {
        match (self, fault.name) {
            (Self::UnblockUdp, "udp-blocked") => "udp-unblocked",
            (Self::UnblockUdp, _) => "udp-unblocked-relayed",
            _ => fault.name,
        }
    }

    /// The worst way of travelling that may be left in the end.
    pub(super) fn path_wanted(self, fault: &Fault) -> Outcome {
        match self {
            Self::BlockUdp => Outcome::Tcp,
            Self::OneWay => Outcome::RelayedUdp,
            _ => cooee_sim::place::outcome(fault.caller, fault.callee),
        }
    }
}

fn signal(pid: Option<u32>, signal: Signal) -> Result<()> {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no such process")?, signal)?)
}

/// What both views of a path amount to: the worse one holds.
pub(super) fn travelled(paths: &str) -> Option<Outcome> {
    let of = |path: &str| match path {
        "direct UDP" => Some(Outcome::Direct),
        path if path.starts_with("relayed UDP") => Some(Outcome::RelayedUdp),
        path if path.starts_with("relayed T") => Some(Outcome::Tcp),
        _ => None,
    };
    paths.split(" | ").map(of).try_fold(Outcome::Direct, |worst, how| Some(worst.max(how?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_both_views_count() {
        for fault in &FAULTS {
            assert_eq!(Fault::by_name(fault.name).unwrap().about, fault.about);
        }
        assert_eq!(travelled("direct UDP"), Some(Outcome::Direct));
        assert_eq!(travelled("relayed UDP (the peer's relay) | relayed TLS"), Some(Outcome::Tcp));
        assert_eq!(travelled("direct UDP | none"), None);
    }
}
