//! The paper's Table I: how long a login takes and what it costs, in the three set-ups, on a
//! device that was never online (cold) and on one that was (warm).
//!
//! Cold is `cooee login` (password, certificate) and then `cooee up` until attached; warm is
//! `cooee up` alone, with the host cache of the first time. Times are the program's own; bytes
//! are what the kernel counted on the user's interface, packet headers included, until then.

use std::path::Path;

use anyhow::{Context, Result};
use cooee_sim::place::{PLACES, Place};
use serde::Serialize;
use serde_json::Value;

use crate::{
    deployment::{Deployment, User, UserOptions},
    matrix::{SERVERS, servers_plan},
    network::Network,
    topology::{Family, Host, LinkConfig, Topology},
};

/// What the paper measured in one set-up, and what we want.
#[derive(Debug, Clone, Copy)]
struct Row {
    place: &'static Place,
    paper: &'static str,
    target_ms: u64,
}

/// Section IV.B and Table I of the paper; targets are ours.
const ROWS: [Row; 3] = [
    Row { place: &PLACES[0], paper: "3 to 7 s, 10 kB", target_ms: 1000 },
    Row { place: &PLACES[1], paper: "3 to 7 s, 11 kB", target_ms: 1000 },
    Row { place: &PLACES[2], paper: "35 s, 7 kB", target_ms: 2000 },
];

/// Most bytes that a login may take.
const TARGET_BYTES: u64 = 10_000;

/// One set-up's login.
#[derive(Debug, Clone, Serialize)]
pub struct LoginReport {
    /// Kind of place.
    pub setup: &'static str,
    /// First login on a fresh device until attached, in ms.
    pub cold_ms: u64,
    /// Login with a certificate and a warm host cache until attached, in ms.
    pub warm_ms: u64,
    /// Bytes of the cold login on the user's interface, both ways, headers included.
    pub bytes: u64,
    /// The same of the warm login.
    pub warm_bytes: u64,
    /// Of the cold time: password and certificate at the login server.
    pub account_ms: u64,
    /// Times and bytes within the targets.
    pub ok: bool,
    /// What the paper measured.
    pub paper: &'static str,
}

/// Measures all set-ups inside the sandbox, with `delay_ms` each way between users and servers.
pub fn run(
    delay_ms: f64,
    program: &Path,
    folder: &Path,
    mut tell: impl FnMut(&str),
) -> Result<Vec<LoginReport>> {
    let mut topology = Topology { name: "login".to_owned(), seed: 1, ..Topology::default() };
    for name in SERVERS.iter().chain(&["home"]) {
        let name = (*name).to_owned();
        topology.hosts.push(Host { name, behind: None, family: Family::Ipv4, link: None });
    }
    let link = Some(LinkConfig { delay_ms, ..LinkConfig::default() });
    for (index, row) in ROWS.iter().enumerate() {
        topology.add(row.place, &format!("u{index}"));
    }
    for gateway in &mut topology.gateways {
        gateway.link = link;
    }
    for host in topology.hosts.iter_mut().skip(SERVERS.len() + 1) {
        if host.behind.is_none() {
            host.link = link;
        }
    }
    let network = Network::up(&topology, "l")?;
    let deployment = Deployment::start(&network, program, folder, servers_plan(), &mut tell)?;
    let mut reports = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        let name = format!("user-{index}");
        // The account is made elsewhere: what is measured is a login on another device.
        let mut home = deployment.user("home", &name, UserOptions::default())?;
        home.node().end()?;
        drop(home);
        reports.push(measure(row, &network, &deployment, &format!("u{index}"), &name)?);
    }
    Ok(reports)
}

fn measure(
    row: &Row,
    network: &Network,
    deployment: &Deployment<'_>,
    host: &str,
    name: &str,
) -> Result<LoginReport> {
    let options = UserOptions { device: Some("second".to_owned()), ..UserOptions::default() };
    let before = network.bytes(host)?;
    let mut user: User<'_> = deployment.user(host, name, options.clone())?;
    let bytes = network.bytes(host)? - before;
    let account_ms = number(user.registered(), "took_ms")?;
    let cold_ms = account_ms + number(user.attached(), "login_ms")?;
    // A day passes: the node stores its host cache when it ends.
    user.node().end()?;
    let before = network.bytes(host)?;
    user.restart(&options)?;
    let warm_bytes = network.bytes(host)? - before;
    let warm_ms = number(user.attached(), "login_ms")?;
    let ok = cold_ms.max(warm_ms) <= row.target_ms && bytes.max(warm_bytes) <= TARGET_BYTES;
    let (setup, paper) = (row.place.name, row.paper);
    Ok(LoginReport { setup, cold_ms, warm_ms, bytes, warm_bytes, account_ms, ok, paper })
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("the program prints {key}"))
}
