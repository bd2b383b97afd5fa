//! A gateway's behaviour as nftables rules: RFC 4787 mapping and filtering, firewall, hairpinning.
//!
//! Mapping. `masquerade` keeps the source port while it is free, whatever the destination:
//! endpoint-independent. With `fully-random` every new flow gets a port of its own: address- and
//! port-dependent ("symmetric").
//!
//! Filtering. The kernel lets in only answers to a flow: address- and port-dependent. The wider
//! kinds forward strangers' packets to the owner of the port, which the rules note when a packet
//! leaves: from anywhere (endpoint-independent) or from addresses that the port has sent to
//! (address-dependent).
//!
//! Packets to the gateway itself are dropped: accepted, they would occupy the mapping's tuple in
//! connection tracking, and the host's own packet to that peer would leave from another port.

use std::fmt::Write;

use crate::topology::{
    Firewall, Gateway, Nat, Refusal, Topology,
    plan::{OUTSIDE, Wire},
};

/// Life of a mapping and of its filter in seconds, unless the gateway says otherwise: the kernel's.
const UDP_BINDING_S: u32 = 120;

/// Port of the HTTP CONNECT proxy on a gateway that has one.
pub(crate) const PROXY_PORT: u16 = 3128;

/// The whole rule set of a gateway; loading it replaces what was there.
pub(super) fn rules(gateway: &Gateway, topology: &Topology, wires: &[Wire]) -> String {
    let mut text = String::from("table ip lab\ndelete table ip lab\ntable ip lab {\n");
    let life_s = gateway.udp_binding_s.unwrap_or(UDP_BINDING_S);
    if owners_are_noted(gateway) {
        let flags = format!("flags dynamic,timeout; timeout {life_s}s; size 65535;");
        let _ = write!(
            text,
            " map owner {{ type inet_service : ipv4_addr; {flags} }}\n \
             set asked {{ type inet_service . ipv4_addr; {flags} }}\n"
        );
    }
    let own = wires.iter().find(|wire| wire.inner == gateway.name);
    let own = own.and_then(|wire| wire.inner_ipv4).map(|ip| ip.to_string()).unwrap_or_default();
    chain(
        &mut text,
        "forward",
        "filter hook forward priority filter",
        &forward(gateway, topology, wires),
    );
    chain(&mut text, "input", "filter hook input priority filter", &input());
    chain(
        &mut text,
        "prerouting",
        "nat hook prerouting priority dstnat",
        &prerouting(gateway, &own),
    );
    chain(
        &mut text,
        "postrouting",
        "nat hook postrouting priority srcnat",
        &postrouting(gateway, &own),
    );
    text.push_str("}\n");
    text
}

fn chain(text: &mut String, name: &str, hook: &str, lines: &[String]) {
    let _ = writeln!(text, " chain {name} {{\n  type {hook}; policy accept;");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    text.push_str(" }\n");
}

fn owners_are_noted(gateway: &Gateway) -> bool {
    gateway.hairpin || matches!(gateway.nat, Nat::FullCone | Nat::AddressRestricted)
}

fn forward(gateway: &Gateway, topology: &Topology, wires: &[Wire]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut refuse = |matches: &str| match gateway.refusal {
        Refusal::Drop => lines.push(format!("{matches} drop")),
        Refusal::Reject => {
            lines.push(format!("{matches} meta l4proto tcp reject with tcp reset"));
            lines.push(format!("{matches} reject with icmp admin-prohibited"));
        }
    };
    let out = format!("oifname \"{OUTSIDE}\"");
    for blocked in &gateway.block {
        let host = topology.hosts.iter().find(|host| host.name == *blocked);
        let wire = wires.iter().find(|wire| host.is_some_and(|host| host.name == wire.inner));
        if let Some(address) = wire.and_then(|wire| wire.inner_ipv4) {
            refuse(&format!("{out} ip daddr {address}"));
        }
    }
    match gateway.firewall {
        Firewall::Open => {}
        Firewall::NoUdp => refuse(&format!("{out} meta l4proto udp")),
        Firewall::Only443 => {
            refuse(&format!("{out} meta l4proto tcp tcp dport != 443"));
            refuse(&format!("{out} meta l4proto != tcp"));
        }
        Firewall::ProxyOnly | Firewall::Closed => refuse(&out),
    }
    if gateway.firewall != Firewall::Open {
        lines.push(format!("iifname \"{OUTSIDE}\" meta l4proto udp drop"));
        lines.push(format!("iifname \"{OUTSIDE}\" ct state new drop"));
    }
    if owners_are_noted(gateway) {
        lines.push(format!("{out} meta l4proto udp update @owner {{ udp sport : ip saddr }}"));
        lines.push(format!("{out} meta l4proto udp update @asked {{ udp sport . ip daddr }}"));
    }
    lines
}

fn input() -> Vec<String> {
    vec![
        "iifname \"lo\" accept".to_owned(),
        "ct state established,related accept".to_owned(),
        "meta l4proto icmp accept".to_owned(),
        format!("iifname != \"{OUTSIDE}\" tcp dport {PROXY_PORT} accept"),
        "drop".to_owned(),
    ]
}

fn prerouting(gateway: &Gateway, own: &str) -> Vec<String> {
    let to_owner = "dnat to udp dport map @owner";
    let mut lines = Vec::new();
    match gateway.nat {
        Nat::FullCone => lines.push(format!("iifname \"{OUTSIDE}\" meta l4proto udp {to_owner}")),
        Nat::AddressRestricted => {
            lines.push(format!("iifname \"{OUTSIDE}\" udp dport . ip saddr @asked {to_owner}"));
        }
        Nat::None | Nat::PortRestricted | Nat::Symmetric => {}
    }
    if gateway.hairpin {
        lines.push(format!("iifname != \"{OUTSIDE}\" ip daddr {own} meta l4proto udp {to_owner}"));
    }
    lines
}

fn postrouting(gateway: &Gateway, own: &str) -> Vec<String> {
    let mut lines = Vec::new();
    match gateway.nat {
        Nat::None => {}
        Nat::Symmetric => lines.push(format!("oifname \"{OUTSIDE}\" masquerade fully-random")),
        _ => lines.push(format!("oifname \"{OUTSIDE}\" masquerade")),
    }
    if gateway.hairpin {
        lines.push(format!(
            "oifname != \"{OUTSIDE}\" ip saddr 192.168.0.0/16 ct status dnat snat to {own}"
        ));
    }
    lines
}
