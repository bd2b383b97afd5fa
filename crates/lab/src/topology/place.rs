//! Puts a host of some kind of place into a topology, with the gateways that the kind needs.

use super::{Family, Firewall, Gateway, Host, Nat, Place, Topology};

/// Name of the login server's host, by which a gateway knows what to block.
const LOGIN: &str = "login";

impl Topology {
    /// Adds a host called `name` in a place of this kind; its gateways are named after it.
    pub fn add(&mut self, place: &Place, name: &str) {
        let login = self.hosts.iter().any(|host| host.name == LOGIN);
        let block = if place.login_blocked && login { vec![LOGIN.to_owned()] } else { Vec::new() };
        let gateway = |name: String, nat, behind| Gateway {
            name,
            behind,
            nat,
            hairpin: false,
            firewall: Firewall::Open,
            refusal: place.refusal,
            udp_binding_s: place.udp_binding_s,
            block: block.clone(),
            link: None,
        };
        let mut behind = None;
        if let Some(outer) = place.outer_nat {
            let outside = format!("{name}o");
            self.gateways.push(gateway(outside.clone(), outer, None));
            behind = Some(outside);
        }
        if place.nat != Nat::None {
            let inside = format!("{name}g");
            let inner = gateway(inside.clone(), place.nat, behind);
            self.gateways.push(Gateway { firewall: place.firewall, ..inner });
            behind = Some(inside);
        }
        let family = if place.ipv6_only { Family::Ipv6 } else { Family::Ipv4 };
        self.hosts.push(Host { name: name.to_owned(), behind, family, link: None });
    }
}

#[cfg(test)]
mod tests {
    use cooee_sim::place::PLACES;

    use super::*;

    #[test]
    fn every_kind_makes_a_topology_that_can_be_built() {
        for place in &PLACES {
            let mut topology = Topology::default();
            topology.add(place, "alice");
            topology.check().unwrap();
        }
    }
}
