//! The kinds of place that a user may be in, by name: the rows and columns of the matrix.

use super::{Firewall, Gateway, Host, Nat, Refusal, Topology};

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Name on the command line and in tables.
    pub name: &'static str,
    /// What it is, for `--list`.
    pub about: &'static str,
    nat: Nat,
    outer: Option<Nat>,
    firewall: Firewall,
    refusal: Refusal,
    udp_binding_s: Option<u32>,
}

const OPEN: Preset = Preset {
    name: "public",
    about: "public address, no firewall (the paper's first set-up)",
    nat: Nat::None,
    outer: None,
    firewall: Firewall::Open,
    refusal: Refusal::Drop,
    udp_binding_s: None,
};

/// Every kind, the paper's three first.
pub const PRESETS: [Preset; 12] = [
    OPEN,
    Preset {
        name: "port-restricted",
        about: "behind a port-restricted NAT (the paper's second set-up)",
        nat: Nat::PortRestricted,
        ..OPEN
    },
    Preset {
        name: "udp-blocked",
        about: "port-restricted NAT and a firewall without UDP (the paper's third set-up)",
        nat: Nat::PortRestricted,
        firewall: Firewall::NoUdp,
        ..OPEN
    },
    Preset { name: "full-cone", about: "behind a full-cone NAT", nat: Nat::FullCone, ..OPEN },
    Preset {
        name: "address-restricted",
        about: "behind an address-restricted NAT",
        nat: Nat::AddressRestricted,
        ..OPEN
    },
    Preset { name: "symmetric", about: "behind a symmetric NAT", nat: Nat::Symmetric, ..OPEN },
    Preset {
        name: "double-nat",
        about: "behind a port-restricted NAT behind another",
        nat: Nat::PortRestricted,
        outer: Some(Nat::PortRestricted),
        ..OPEN
    },
    Preset {
        name: "only-443",
        about: "only TCP to port 443 gets out, the rest vanishes",
        nat: Nat::PortRestricted,
        firewall: Firewall::Only443,
        ..OPEN
    },
    Preset {
        name: "only-443-reject",
        about: "only TCP to port 443 gets out, the rest is refused",
        nat: Nat::PortRestricted,
        firewall: Firewall::Only443,
        refusal: Refusal::Reject,
        ..OPEN
    },
    Preset {
        name: "proxy-only",
        about: "only an HTTP CONNECT proxy gets out",
        nat: Nat::PortRestricted,
        firewall: Firewall::ProxyOnly,
        ..OPEN
    },
    Preset {
        name: "udp-30s",
        about: "port-restricted NAT that forgets UDP bindings after 30 s",
        nat: Nat::PortRestricted,
        udp_binding_s: Some(30),
        ..OPEN
    },
    Preset {
        name: "udp-rejected",
        about: "port-restricted NAT and a firewall that refuses UDP with ICMP",
        nat: Nat::PortRestricted,
        firewall: Firewall::NoUdp,
        refusal: Refusal::Reject,
        ..OPEN
    },
];

impl Preset {
    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Whether a host of this kind has a proxy to be told of.
    pub fn needs_proxy(&self) -> bool {
        self.firewall == Firewall::ProxyOnly
    }

    /// Address translation between the host and the core, innermost first.
    pub fn nats(&self) -> impl Iterator<Item = Nat> {
        [Some(self.nat), self.outer].into_iter().flatten().filter(|nat| *nat != Nat::None)
    }

    /// What the place lets out.
    pub fn firewall(&self) -> Firewall {
        self.firewall
    }

    /// Adds a host of this kind, with the gateways it needs, named after it.
    pub fn place(&self, topology: &mut Topology, host: &str) {
        let mut behind = None;
        let gateway = |name: String, nat, behind| Gateway {
            name,
            behind,
            nat,
            hairpin: false,
            firewall: Firewall::Open,
            refusal: self.refusal,
            udp_binding_s: self.udp_binding_s,
            block: Vec::new(),
            link: None,
        };
        if let Some(outer) = self.outer {
            let name = format!("{host}o");
            topology.gateways.push(gateway(name.clone(), outer, None));
            behind = Some(name);
        }
        if self.nat != Nat::None {
            let name = format!("{host}g");
            let inner = gateway(name.clone(), self.nat, behind);
            topology.gateways.push(Gateway { firewall: self.firewall, ..inner });
            behind = Some(name);
        }
        topology.hosts.push(Host {
            name: host.to_owned(),
            behind,
            family: super::Family::Ipv4,
            link: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_makes_a_topology_that_can_be_built() {
        for preset in &PRESETS {
            let mut topology = Topology::default();
            preset.place(&mut topology, "alice");
            topology.check().unwrap();
            assert_eq!(Preset::by_name(preset.name), Some(preset));
        }
    }
}
