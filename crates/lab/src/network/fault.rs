//! What breaks in networks: gateways that restart, paths that swallow packets, machines that move
//! from one network to another.

use std::{fmt::Write, net::Ipv4Addr};

use anyhow::{Context, Result};

use super::Network;
use crate::{
    sandbox::{feed, run},
    topology::plan::OUTSIDE,
};

/// Interface of a host's second uplink.
const SECOND: &str = "mobile";

/// Network of a second uplink: outside the plan's numbers, which end at 250.
const SECOND_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 251, 1);
const SECOND_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 251, 2);

/// How far a rebound port lies from the old one. Chosen: outside the range of ephemeral ports stays
/// inside after it, and wraps above.
const REBOUND_BY: u16 = 1111;

impl Network {
    /// A gateway restarts: it forgets every mapping, TCP connections included, and gives the UDP
    /// ports of `host` other outer ports from now on (endpoint-independent, as before).
    pub fn rebind(&self, gateway: &str, host: &str) -> Result<()> {
        let table = run("ip", &["netns", "exec", &self.namespace(host), "cat", "/proc/net/udp"])?;
        let mut rules = String::new();
        for port in udp_ports(&table) {
            let outer = port.checked_add(REBOUND_BY).unwrap_or(port - REBOUND_BY);
            writeln!(
                rules,
                "insert rule ip lab postrouting oifname {OUTSIDE} udp sport {port} masquerade to \
                 :{outer}"
            )?;
        }
        let namespace = self.namespace(gateway);
        // A packet in the middle of a forgotten TCP connection does not make it known again.
        let strict = "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose";
        run("ip", &["netns", "exec", &namespace, "sh", "-c", strict])?;
        feed("ip", &["netns", "exec", &namespace, "nft", "-f", "-"], &rules)?;
        self.forget_mappings(gateway)
    }

    /// From now on UDP from one public address to another vanishes on its way, one way only.
    pub fn blackhole(&self, from: &str, to: &str) -> Result<()> {
        let address = |place: &str| {
            self.ipv4(place).with_context(|| format!("{place} has no public address"))
        };
        let rules = format!(
            "table ip faults {{\nchain forward {{\ntype filter hook forward priority -10;\n\
             ip saddr {} ip daddr {} meta l4proto udp drop\n}}\n}}\n",
            address(from)?,
            address(to)?
        );
        feed("ip", &["netns", "exec", &self.namespace("core"), "nft", "-f", "-"], &rules)?;
        Ok(())
    }

    /// Joins a host to a second gateway too; the way stays shut until [`Self::move_to_second`].
    pub fn add_second_uplink(&self, host: &str, gateway: &str) -> Result<()> {
        let (inner, outer) = (self.namespace(host), self.namespace(gateway));
        let to = format!("to-{host}2");
        let make = format!(
            "link add {to} netns {outer} type veth peer name {SECOND} netns {inner}\n\
             -n {outer} addr add {SECOND_ROUTER}/24 dev {to}\n\
             -n {outer} link set {to} up\n\
             -n {inner} addr add {SECOND_HOST}/24 dev {SECOND}\n"
        );
        for line in make.lines() {
            run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// A host loses its first uplink, address and all, and has the second one at once.
    pub fn move_to_second(&self, host: &str) -> Result<()> {
        let commands = format!(
            "addr flush dev {OUTSIDE}\nlink set {OUTSIDE} down\nlink set {SECOND} up\n\
             route replace default via {SECOND_ROUTER}\n"
        );
        feed("ip", &["-n", &self.namespace(host), "-batch", "-"], &commands)?;
        Ok(())
    }
}

/// Local ports of a `/proc/net/udp`.
fn udp_ports(table: &str) -> Vec<u16> {
    let port = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.split_once(':')?.1, 16).ok()
    };
    let mut ports: Vec<u16> = table.lines().skip(1).filter_map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_ports_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st\n\
                     12: 00000000:C350 00000000:0000 07\n 13: 0100007F:0035 00000000:0000 07\n";
        assert_eq!(udp_ports(table), [53, 50_000]);
    }
}
