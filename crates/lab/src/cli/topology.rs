//! `cooee lab places`, `cooee lab run`, `cooee lab example`.

use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf};

use anyhow::{Context, Result, bail};
use cooee_sim::place::PLACES;
use serde_json::json;

use crate::{network::Network, sandbox, topology::Topology};

/// A topology file to start from.
pub(super) const EXAMPLE: &str = include_str!("../../topologies/home.toml");

/// `cooee lab run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Topology file (TOML); `cooee lab example` prints one
    file: PathBuf,
    /// Host to run the command on
    #[arg(long, value_name = "HOST")]
    on: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) fn places(json: bool) -> Result<()> {
    for place in &PLACES {
        if json {
            println!("{}", json!({ "place": place.name, "about": place.about }));
        } else {
            println!("{:<18} {}", place.name, place.about);
        }
    }
    Ok(())
}

pub(super) fn run(arguments: &RunArgs) -> Result<()> {
    let file = arguments.file.display();
    let text =
        fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {file}"))?;
    let topology = Topology::parse(&text).with_context(|| format!("in {file}"))?;
    if !topology.hosts.iter().any(|host| host.name == arguments.on) {
        let names: Vec<_> = topology.hosts.iter().map(|host| host.name.as_str()).collect();
        bail!("{file} has no host \"{}\": there are {}", arguments.on, names.join(", "));
    }
    sandbox::enter()?;
    let network = Network::up(&topology, "lab")?;
    for host in &topology.hosts {
        let addresses = [
            network.ipv4(&host.name).map(|address| address.to_string()),
            network.ipv6(&host.name).map(|address| address.to_string()),
        ];
        let addresses: Vec<_> = addresses.into_iter().flatten().collect();
        eprintln!("{:<8} {}", host.name, addresses.join(" "));
    }
    let status = network
        .command(&arguments.on, &arguments.command[0])
        .args(&arguments.command[1..])
        .status()
        .with_context(|| format!("cannot run {}", arguments.command[0]))?;
    drop(network);
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    if code != 0 {
        bail!("{} ended with {code}", arguments.command[0]);
    }
    Ok(())
}
