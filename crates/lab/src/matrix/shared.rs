//! Two users behind one NAT: they must find each other inside, whether or not the gateway turns
//! packets to its own outer address back in.

use cooee_sim::place::{Nat, Outcome, Refusal};

use super::{Cell, pair};
use crate::{
    deployment::{Deployment, UserOptions},
    topology::{Family, Firewall, Gateway, Host, Topology},
};

/// A gateway that two users share.
#[derive(Debug)]
pub(super) struct Shared {
    name: &'static str,
    hairpin: bool,
}

/// Both kinds.
pub(super) const SHARED: [Shared; 2] =
    [Shared { name: "one-nat", hairpin: false }, Shared { name: "one-nat-hairpin", hairpin: true }];

impl Shared {
    /// Puts the gateway and both users into a topology.
    pub(super) fn add(&self, index: usize, topology: &mut Topology) {
        let gateway = format!("sg{index}");
        topology.gateways.push(Gateway {
            name: gateway.clone(),
            behind: None,
            nat: Nat::PortRestricted,
            hairpin: self.hairpin,
            firewall: Firewall::Open,
            refusal: Refusal::Drop,
            udp_binding_s: None,
            block: Vec::new(),
            link: None,
        });
        for side in ["sa", "sb"] {
            let (name, behind) = (format!("{side}{index}"), Some(gateway.clone()));
            topology.hosts.push(Host { name, behind, family: Family::Ipv4, link: None });
        }
    }

    /// Starts both users, and calls.
    pub(super) fn call(
        &self,
        index: usize,
        deployment: &Deployment<'_>,
        options: UserOptions,
        talk_s: f64,
    ) -> Cell {
        // No packet between them need leave the gateway's inside, where nothing is translated:
        // oracle and models agree without asking.
        let mut cell = Cell::new((self.name, self.name), Outcome::Direct, Outcome::Direct);
        let user = |side: &str, answers| {
            let options = UserOptions { answers, ..options.clone() };
            deployment.user(&format!("{side}{index}"), &format!("{side}-user-{index}"), options)
        };
        let called = user("sa", false).and_then(|mut caller| {
            let mut callee = user("sb", true)?;
            pair::fill(&mut cell, &mut caller, &mut callee, talk_s)
        });
        if let Err(error) = called {
            cell.problem = Some(format!("{error:#}"));
        }
        cell
    }
}
