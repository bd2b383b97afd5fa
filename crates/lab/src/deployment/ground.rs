//! Where a network's programs run: all on this machine, or each in a place of the laboratory.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use crate::network::Network;

/// Hosts with addresses, on which programs can be started.
pub trait Ground: Sync {
    /// A command that will run `program` on `host`.
    fn command(&self, host: &str, program: &Path) -> Command;

    /// The address under which others reach `host`, if it has one of its own.
    fn address(&self, host: &str) -> Option<IpAddr>;

    /// Its IPv6 address, where it has one beside the other.
    fn ipv6(&self, _host: &str) -> Option<IpAddr> {
        None
    }

    /// The block that all public addresses of this ground lie in.
    fn addresses(&self) -> &'static str;

    /// Whether all hosts are this one machine, with loopback for a network.
    fn is_this_machine(&self) -> bool {
        false
    }
}

/// This machine, with loopback for a network.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Ground for ThisMachine {
    fn command(&self, _host: &str, program: &Path) -> Command {
        Command::new(program)
    }

    fn address(&self, _host: &str) -> Option<IpAddr> {
        Some(Ipv4Addr::LOCALHOST.into())
    }

    fn addresses(&self) -> &'static str {
        "127.0.0.0/8"
    }

    fn is_this_machine(&self) -> bool {
        true
    }
}

impl Ground for Network {
    fn command(&self, host: &str, program: &Path) -> Command {
        Network::command(self, host, program)
    }

    fn ipv6(&self, host: &str) -> Option<IpAddr> {
        let both = self.ipv4(host).is_some();
        Network::ipv6(self, host).filter(|_| both).map(IpAddr::from)
    }

    fn addresses(&self) -> &'static str {
        "198.18.0.0/15"
    }

    fn address(&self, host: &str) -> Option<IpAddr> {
        self.ipv4(host).map(IpAddr::from).or_else(|| self.ipv6(host).map(IpAddr::from))
    }
}
