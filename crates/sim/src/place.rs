//! The kinds of place that a user may be in, and the oracle: how each pair of them must reach
//! each other.
//!
//! One list serves the simulator's NAT models and the laboratory's real kernels, so that the two
//! can be compared cell by cell.

use serde::{Deserialize, Serialize};

/// How a gateway translates addresses (RFC 4787 sections 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// A router: addresses pass unchanged.
    None,
    /// Endpoint-independent mapping and filtering ("full cone").
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering: the paper's.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering.
    Symmetric,
}

impl Nat {
    /// One inner address has one outer address, whatever the destination.
    pub fn maps_endpoint_independently(self) -> bool {
        self != Self::Symmetric
    }

    /// Packets come in from ports (of an address asked before) that were never sent to.
    pub fn lets_in_other_ports(self) -> bool {
        matches!(self, Self::None | Self::FullCone | Self::AddressRestricted)
    }

    /// Packets come in from addresses that were never sent to.
    pub fn lets_in_strangers(self) -> bool {
        matches!(self, Self::None | Self::FullCone)
    }
}

/// What a gateway lets out; answers always come back in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// Everything.
    #[default]
    Open,
    /// No UDP: the paper's third set-up.
    NoUdp,
    /// TCP to port 443 only.
    Only443,
    /// Nothing: only the HTTP CONNECT proxy on the gateway gets out.
    ProxyOnly,
    /// Nothing at all.
    Closed,
}

/// What a firewall does with what it does not let pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The packet vanishes.
    #[default]
    Drop,
    /// The sender is told (TCP reset, ICMP administratively prohibited).
    Reject,
}

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Name on the command line and in tables.
    pub name: &'static str,
    /// What it is, for lists.
    pub about: &'static str,
    /// The gateway next to the user.
    pub nat: Nat,
    /// A second gateway outside the first.
    pub outer_nat: Option<Nat>,
    /// What the inner gateway lets out.
    pub firewall: Firewall,
    /// What it does with the rest.
    pub refusal: Refusal,
    /// Life of an idle UDP binding in seconds; none: 120.
    pub udp_binding_s: Option<u32>,
    /// There is no IPv4 here.
    pub ipv6_only: bool,
    /// The login server's address is blocked; super nodes are not.
    pub login_blocked: bool,
}

const PUBLIC: Place = Place {
    name: "public",
    about: "public address, no firewall (the paper's first set-up)",
    nat: Nat::None,
    outer_nat: None,
    firewall: Firewall::Open,
    refusal: Refusal::Drop,
    udp_binding_s: None,
    ipv6_only: false,
    login_blocked: false,
};

/// Every kind, the paper's three first.
pub const PLACES: [Place; 14] = [
    PUBLIC,
    Place {
        name: "port-restricted",
        about: "behind a port-restricted NAT (the paper's second set-up)",
        nat: Nat::PortRestricted,
        ..PUBLIC
    },
    Place {
        name: "udp-blocked",
        about: "port-restricted NAT and a firewall without UDP (the paper's third set-up)",
        nat: Nat::PortRestricted,
        firewall: Firewall::NoUdp,
        ..PUBLIC
    },
    Place { name: "full-cone", about: "behind a full-cone NAT", nat: Nat::FullCone, ..PUBLIC },
    Place {
        name: "address-restricted",
        about: "behind an address-restricted NAT",
        nat: Nat::AddressRestricted,
        ..PUBLIC
    },
    Place { name: "symmetric", about: "behind a symmetric NAT", nat: Nat::Symmetric, ..PUBLIC },
    Place {
        name: "double-nat",
        about: "behind a port-restricted NAT behind another",
        nat: Nat::PortRestricted,
        outer_nat: Some(Nat::PortRestricted),
        ..PUBLIC
    },
    Place {
        name: "udp-30s",
        about: "port-restricted NAT that forgets UDP bindings after 30 s",
        nat: Nat::PortRestricted,
        udp_binding_s: Some(30),
        ..PUBLIC
    },
    Place {
        name: "udp-rejected",
        about: "port-restricted NAT and a firewall that refuses UDP with ICMP",
        nat: Nat::PortRestricted,
        firewall: Firewall::NoUdp,
        refusal: Refusal::Reject,
        ..PUBLIC
    },
    Place {
        name: "only-443",
        about: "only TCP to port 443 gets out, the rest vanishes",
        nat: Nat::PortRestricted,
        firewall: Firewall::Only443,
        ..PUBLIC
    },
    Place {
        name: "only-443-reject",
        about: "only TCP to port 443 gets out, the rest is refused",
        nat: Nat::PortRestricted,
        firewall: Firewall::Only443,
        refusal: Refusal::Reject,
        ..PUBLIC
    },
    Place {
        name: "proxy-only",
        about: "only an HTTP CONNECT proxy gets out",
        nat: Nat::PortRestricted,
        firewall: Firewall::ProxyOnly,
        ..PUBLIC
    },
    Place {
        name: "ipv6-only",
        about: "public IPv6 address and no IPv4; the others have no IPv6",
        ipv6_only: true,
        ..PUBLIC
    },
    Place {
        name: "login-blocked",
        about: "port-restricted NAT that blocks the login server's address",
        nat: Nat::PortRestricted,
        login_blocked: true,
        ..PUBLIC
    },
];

/// How a call's voice travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// UDP from one to the other.
    Direct,
    /// UDP to and from a relay.
    RelayedUdp,
    /// Through a relay, with TCP on at least one side.
    Tcp,
}

impl Place {
    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PLACES.iter().find(|place| place.name == name)
    }

    /// Whether UDP gets out.
    pub fn has_udp(&self) -> bool {
        self.firewall == Firewall::Open
    }

    /// What the whole chain of gateways amounts to: the strictest of each property decides, and
    /// among our kinds the strictest gateway has the strictest of both.
    pub fn effective_nat(&self) -> Nat {
        self.outer_nat.map_or(self.nat, |outer| outer.max(self.nat))
    }
}

/// The oracle: how a call between two such places, each alone behind its gateways, must travel.
///
/// Direct wherever mapping and filtering allow it: one side must be able to hear the other's
/// first packet; its answer then passes, because that packet opened the way back.
pub fn outcome(one: &Place, other: &Place) -> Outcome {
    if !one.has_udp() || !other.has_udp() {
        return Outcome::Tcp;
    }
    if one.ipv6_only != other.ipv6_only {
        return Outcome::RelayedUdp;
    }
    let (one, other) = (one.effective_nat(), other.effective_nat());
    if can_hear(one, other) || can_hear(other, one) { Outcome::Direct } else { Outcome::RelayedUdp }
}

/// Whether `listener`, after sending to the address that `speaker` announced, lets in packets that
/// `speaker` sends to the address that `listener` announced.
fn can_hear(listener: Nat, speaker: Nat) -> bool {
    listener.maps_endpoint_independently()
        && (listener.lets_in_other_ports() || speaker.maps_endpoint_independently())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(one: &str, other: &str) -> Outcome {
        outcome(Place::by_name(one).unwrap(), Place::by_name(other).unwrap())
    }

    #[test]
    fn the_oracle_is_symmetric() {
        for one in &PLACES {
            for other in &PLACES {
                assert_eq!(outcome(one, other), outcome(other, one));
            }
        }
    }

    #[test]
    fn only_symmetric_mapping_against_strict_filtering_needs_a_relay() {
        assert_eq!(between("symmetric", "public"), Outcome::Direct);
        assert_eq!(between("symmetric", "full-cone"), Outcome::Direct);
        assert_eq!(between("symmetric", "address-restricted"), Outcome::Direct);
        assert_eq!(between("symmetric", "port-restricted"), Outcome::RelayedUdp);
        assert_eq!(between("symmetric", "double-nat"), Outcome::RelayedUdp);
        assert_eq!(between("symmetric", "symmetric"), Outcome::RelayedUdp);
        assert_eq!(between("port-restricted", "double-nat"), Outcome::Direct);
    }

    #[test]
    fn two_families_meet_at_a_relay_only() {
        assert_eq!(between("ipv6-only", "ipv6-only"), Outcome::Direct);
        assert_eq!(between("ipv6-only", "public"), Outcome::RelayedUdp);
        assert_eq!(between("ipv6-only", "udp-blocked"), Outcome::Tcp);
    }

    #[test]
    fn without_udp_on_either_side_the_voice_takes_tcp() {
        assert_eq!(between("udp-blocked", "public"), Outcome::Tcp);
        assert_eq!(between("proxy-only", "only-443"), Outcome::Tcp);
    }
}
