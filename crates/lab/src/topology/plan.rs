//! The address plan: who gets which addresses and which interfaces join them.
//!
//! Public places get a /24 of 198.18.0.0/15 (the benchmark range of RFC 2544) and a /64 of
//! 2001:db8::/32; private networks a /24 of 192.168.0.0/16. Nothing outside the sandbox is ever
//! reachable from them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Family, LinkConfig, Topology};

/// One wire between an outer place (the core or a gateway) and an inner one.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// Namespace nearer to the core.
    pub outer: String,
    /// Interface there.
    pub outer_interface: String,
    /// Address there.
    pub outer_ipv4: Ipv4Addr,
    /// IPv6 address there, on wires to public places.
    pub outer_ipv6: Option<Ipv6Addr>,
    /// Namespace of the host or gateway.
    pub inner: String,
    /// Interface there; always the same name.
    pub inner_interface: &'static str,
    /// Address there; none on a host without IPv4.
    pub inner_ipv4: Option<Ipv4Addr>,
    /// IPv6 address there; none where there is only IPv4.
    pub inner_ipv6: Option<Ipv6Addr>,
    /// Emulation; none: a plain wire.
    pub link: Option<LinkConfig>,
}

/// Name of every place's interface towards the core.
pub const OUTSIDE: &str = "wan";

/// The wires of a checked topology, outer ones first.
pub fn wires(topology: &Topology) -> Vec<Wire> {
    let gateways = topology
        .gateways
        .iter()
        .map(|gateway| (&gateway.name, &gateway.behind, Family::Ipv4, gateway.link));
    let hosts =
        topology.hosts.iter().map(|host| (&host.name, &host.behind, host.family, host.link));
    gateways
        .chain(hosts)
        .enumerate()
        .map(|(index, (name, behind, family, link))| {
            let number = u8::try_from(index + 1).expect("the check bounds places to 250");
            wire(number, name, behind.as_deref(), family, link)
        })
        .collect()
}

fn wire(
    number: u8,
    name: &str,
    behind: Option<&str>,
    family: Family,
    link: Option<LinkConfig>,
) -> Wire {
    let prefix = if behind.is_some() { [192, 168] } else { [198, 18] };
    let ipv4 = |host| Ipv4Addr::new(prefix[0], prefix[1], number, host);
    let ipv6 = |host| Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, host);
    let is_public = behind.is_none();
    Wire {
        outer: behind.unwrap_or("core").to_owned(),
        outer_interface: format!("to-{name}"),
        outer_ipv4: ipv4(1),
        outer_ipv6: is_public.then(|| ipv6(1)),
        inner: name.to_owned(),
        inner_interface: OUTSIDE,
        inner_ipv4: (family != Family::Ipv6).then(|| ipv4(2)),
        inner_ipv6: (is_public && family != Family::Ipv4).then(|| ipv6(2)),
        link,
    }
}
