//! The stage that most experiments share: a login server, super nodes, and users in kinds of
//! place, every machine at the same distance from every other.

use std::process::Output;

use anyhow::{Context, Result};
use cooee_sim::place::{PLACES, Place};
use serde_json::Value;

use super::Bench;
use crate::{
    capture::flows::Names,
    deployment::{Deployment, DeploymentPlan, PASSWORD, User, UserOptions},
    network::Network,
    sandbox,
    topology::{Family, Host, LinkConfig, Topology, plan::OUTSIDE},
};

/// One of the paper's three set-ups (section III.A).
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// Name for tables and scripts.
    pub(super) name: &'static str,
    /// Where the caller, or the only user, is.
    pub(super) caller: &'static Place,
    /// Where the callee is.
    pub(super) callee: &'static Place,
}

/// All three.
pub(super) const SETUPS: [Setup; 3] = [
    // Both on public addresses.
    Setup { name: "public", caller: &PLACES[0], callee: &PLACES[0] },
    // The caller behind a port-restricted NAT.
    Setup { name: "port-restricted", caller: &PLACES[1], callee: &PLACES[0] },
    // Both behind a port-restricted NAT and a firewall without UDP.
    Setup { name: "udp-blocked", caller: &PLACES[2], callee: &PLACES[2] },
];

/// Where accounts are made, so that what is measured is a login on another device.
pub(super) const HOME: &str = "home";

const LOGIN: &str = "login";

/// What stands on the stage.
#[derive(Debug, Clone)]
pub(super) struct Plan<'p> {
    /// Super nodes.
    pub(super) super_nodes: usize,
    /// Hosts of users and their kinds of place.
    pub(super) users: Vec<(String, &'p Place)>,
    /// Servers lie on the way between users, instead of beside it: they add no delay, so that the
    /// round trip between two users is the same directly and by way of a super node.
    pub(super) servers_on_the_way: bool,
}

impl<'p> Plan<'p> {
    /// Three super nodes and these users.
    pub(super) fn of(users: impl IntoIterator<Item = (&'p str, &'p Place)>) -> Self {
        let users = users.into_iter().map(|(name, place)| (name.to_owned(), place)).collect();
        Self { super_nodes: 3, users, servers_on_the_way: false }
    }
}

/// A network that runs.
pub(super) struct Stage<'n> {
    pub(super) bench: &'n Bench,
    pub(super) network: &'n Network,
    pub(super) deployment: Deployment<'n>,
    pub(super) names: Names,
}

/// Brings the stage up, plays `act` on it, and takes it down.
pub(super) fn play<T>(
    bench: &Bench,
    name: &str,
    plan: &Plan<'_>,
    act: impl FnOnce(&mut Stage<'_>) -> Result<T>,
) -> Result<T> {
    let servers: Vec<_> = (1..=plan.super_nodes).map(|number| format!("sn{number}")).collect();
    let network = Network::up(&topology(bench, &servers, plan), "l")?;
    let deployment_plan = DeploymentPlan {
        login_server: LOGIN.to_owned(),
        super_nodes: servers.clone(),
        super_node_port: None,
        well_known_ports: true,
    };
    bench.tell(&format!("{name}: a login server and {} super nodes", plan.super_nodes));
    let folder = bench.folder_for(name)?;
    let deployment = Deployment::start(&network, &bench.program, &folder, deployment_plan, |_| {})?;
    let titles: Vec<_> = (1..=plan.super_nodes).map(|n| format!("super node {n}")).collect();
    let mut named = vec![(LOGIN, "login server"), (HOME, "home")];
    named.extend(servers.iter().map(String::as_str).zip(titles.iter().map(String::as_str)));
    let gateways: Vec<_> = plan.users.iter().map(|(host, _)| format!("{host}g")).collect();
    for ((host, _), gateway) in plan.users.iter().zip(&gateways) {
        named.push((host, host));
        named.push((gateway, host));
    }
    let names = Names::of(&network, &named);
    act(&mut Stage { bench, network: &network, deployment, names })
}

fn topology(bench: &Bench, servers: &[String], plan: &Plan<'_>) -> Topology {
    let mut topology = Topology { name: "paper".to_owned(), seed: 1, ..Topology::default() };
    let others = [LOGIN.to_owned(), HOME.to_owned()];
    for name in others.iter().chain(servers) {
        let name = name.clone();
        topology.hosts.push(Host { name, behind: None, family: Family::Ipv4, link: None });
    }
    for (name, place) in &plan.users {
        topology.add(place, name);
    }
    // Half the way to the core for everybody: any two machines are the whole delay apart.
    let delay_ms = bench.delay_ms / 2.0;
    let link = Some(LinkConfig { delay_ms, ..LinkConfig::default() });
    for gateway in topology.gateways.iter_mut().filter(|gateway| gateway.behind.is_none()) {
        gateway.link = link;
    }
    for host in topology.hosts.iter_mut().filter(|host| host.behind.is_none()) {
        let is_server = host.name == LOGIN || servers.contains(&host.name);
        let is_near = host.name == HOME || (is_server && plan.servers_on_the_way);
        host.link = if is_near { None } else { link };
    }
    topology
}

impl<'n> Stage<'n> {
    /// Makes an account on a machine elsewhere and leaves it offline.
    pub(super) fn account(&self, user: &str) -> Result<()> {
        let profile = self.deployment.folder().join(format!("{user}-home"));
        let profile = profile.to_str().context("the folder's path is not UTF-8")?;
        let arguments = ["register", user, "--profile-dir", profile];
        let invitation = ["--invitation", self.deployment.invitation()];
        let output = self.deployment.attempt(
            HOME,
            &[&arguments[..], &invitation[..]].concat(),
            &[("COOEE_PASSWORD", PASSWORD)],
        )?;
        anyhow::ensure!(output.status.success(), "cannot register {user}: {}", said(&output));
        Ok(())
    }

    /// `cooee login` of `user` on a fresh device.
    pub(super) fn login(
        &self,
        host: &str,
        user: &str,
        device: &str,
        password: &str,
    ) -> Result<Output> {
        let profile = self.profile(user, device)?;
        let arguments = ["login", user, "--profile-dir", &profile];
        let invitation = ["--invitation", self.deployment.invitation()];
        let arguments = [&arguments[..], &invitation[..]].concat();
        self.deployment.attempt(host, &arguments, &[("COOEE_PASSWORD", password)])
    }

    /// Directory of a device's profile.
    pub(super) fn profile(&self, user: &str, device: &str) -> Result<String> {
        let path = self.deployment.folder().join(format!("{user}-{device}"));
        path.to_str().map(str::to_owned).context("the folder's path is not UTF-8")
    }

    /// A new user with a running node.
    pub(super) fn user(&self, host: &str, name: &str, options: UserOptions) -> Result<User<'_>> {
        let user = self.deployment.user(host, name, options)?;
        self.bench.tell(&format!("{name} is online"));
        Ok(user)
    }
}

/// Makes packets vanish that leave a place, or pass it if it is a gateway: `matches` says which,
/// in nft's words; nothing means all.
pub(super) fn block(network: &Network, place: &str, matches: &str) -> Result<()> {
    refuse(network, place, matches, "drop")
}

/// The same with another verdict: `reject` tells the sender.
pub(super) fn refuse(network: &Network, place: &str, matches: &str, verdict: &str) -> Result<()> {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{\n type filter hook {hook} priority filter;\n \
             oifname \"{OUTSIDE}\" {matches} {verdict}\n}}\n"
        )
    };
    let rules = format!("table inet experiment {{\n{}{}}}\n", chain("output"), chain("forward"));
    nft(network, place, &rules)
}

/// Takes [`block`] back.
pub(super) fn unblock(network: &Network, place: &str) -> Result<()> {
    nft(network, place, "delete table inet experiment\n")
}

fn nft(network: &Network, place: &str, rules: &str) -> Result<()> {
    let namespace = network.namespace(place);
    sandbox::feed("ip", &["netns", "exec", &namespace, "nft", "-f", "-"], rules)?;
    Ok(())
}

/// The last JSON line of a program's output.
pub(super) fn last_line(output: &Output) -> Option<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// What a program said on standard error, in one line.
pub(super) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
