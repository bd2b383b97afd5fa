//! The gateway kinds as an independent RFC 5780 client sees them: coturn's `turnutils_natdiscovery`
//! against coturn's server, which has the two addresses that RFC 5780 asks for.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cooee_lab::{
    network::Network,
    topology::{Nat, Place, Topology},
};

/// The STUN server; ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server on `host` with its own address and the next one.
fn start_server(network: &Network, host: &str) -> Result<Server> {
    let first = network.ipv4(host).context("the server has an address")?;
    let [a, b, c, d] = first.octets();
    let second = format!("{a}.{b}.{c}.{}", d + 1);
    let add = ["addr", "add", &format!("{second}/24"), "dev", "wan"];
    let added = network.command(host, "ip").args(add).status()?;
    ensure!(added.success(), "the server gets no second address");
    let child = network
        .command(host, "turnserver")
        .args(["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--log-file"])
        .args(["/dev/null", "--pidfile", "/dev/null", "-L", &first.to_string(), "-L", &second])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("turnserver is missing: apt-get install coturn")?;
    Ok(Server(child))
}

/// What the client prints about mapping and filtering.
fn discover(network: &Network, server: &str) -> Result<String> {
    let server = network.ipv4(server).context("the server has an address")?.to_string();
    for _ in 0..20 {
        let output = network
            .command("alice", "turnutils_natdiscovery")
            .args(["-m", "-f", &server])
            .output()
            .context("turnutils_natdiscovery is missing: apt-get install coturn")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains("Mapping!") && text.contains("Filtering!") {
            return Ok(text);
        }
        thread::sleep(Duration::from_millis(250));
    }
    bail!("the STUN server does not answer")
}

pub(crate) fn an_independent_client_sees_each_kind() -> Result<()> {
    let endpoint = "Endpoint Independent";
    let address = "Address Dependent";
    let both = "Address and Port Dependent";
    let kinds = [
        ("full-cone", endpoint, endpoint),
        ("address-restricted", endpoint, address),
        ("port-restricted", endpoint, both),
        ("symmetric", both, both),
        ("double-nat", endpoint, both),
    ];
    for (kind, mapping, filtering) in kinds {
        let place = Place::by_name(kind).context("the kind exists")?;
        ensure!(place.nat != Nat::None, "{kind} has no NAT");
        let mut topology = Topology { name: "stun".to_owned(), ..Topology::default() };
        topology.add(place, "alice");
        topology.add(Place::by_name("public").context("the kind exists")?, "stun");
        let network = Network::up(&topology, "s")?;
        let _server = start_server(&network, "stun")?;
        let seen = discover(&network, "stun")?;
        for (what, wanted) in [("Mapping!", mapping), ("Filtering!", filtering)] {
            ensure!(
                seen.contains(&format!("NAT with {wanted} {what}")),
                "{kind}: wanted {wanted} {what}, the client says:\n{seen}"
            );
        }
    }
    Ok(())
}
