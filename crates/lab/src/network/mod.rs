//! Brings a topology up in the sandbox's kernel: a namespace for each place, wires, routes, NAT.
//!
//! Names are prefixed so that several networks can stand side by side. Dropping a [`Network`]
//! takes it down; the sandbox takes down whatever is left.

mod fault;
mod gateway;

pub(crate) use gateway::PROXY_PORT;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    emulator::{Emulator, LinkHandle},
    sandbox::{feed, run},
    topology::{
        Gateway, Topology,
        plan::{OUTSIDE, Wire, wires},
    },
};

/// A topology that is up.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    topology: Topology,
    wires: Vec<Wire>,
    links: BTreeMap<String, LinkHandle>,
    emulator: Option<Emulator>,
}

impl Network {
    /// Brings `topology` up. Needs to run inside the sandbox. `prefix` keeps networks apart.
    pub fn up(topology: &Topology, prefix: &str) -> Result<Self> {
        topology.check()?;
        let mut network = Self {
            prefix: prefix.to_owned(),
            topology: topology.clone(),
            wires: wires(topology),
            links: BTreeMap::new(),
            emulator: None,
        };
        network.make_namespaces()?;
        network.make_wires()?;
        for gateway in &network.topology.gateways {
            network.load_rules(gateway).with_context(|| format!("NAT of {}", gateway.name))?;
            network.set_timeouts(gateway)?;
        }
        Ok(network)
    }

    /// The topology as it was brought up.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The kernel's name for a place's namespace.
    pub fn namespace(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    /// A command that will run on a host.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// IPv4 address of a place's outer side.
    pub fn ipv4(&self, place: &str) -> Option<Ipv4Addr> {
        self.wire(place)?.inner_ipv4
    }

    /// IPv6 address of a public host.
    pub fn ipv6(&self, place: &str) -> Option<Ipv6Addr> {
        self.wire(place)?.inner_ipv6
    }

    /// Address of a host's gateway on its inside, where a proxy would listen.
    pub fn inside_of_gateway(&self, host: &str) -> Option<Ipv4Addr> {
        Some(self.wire(host)?.outer_ipv4)
    }

    /// Bytes that have passed a host's interface, both ways, packet headers included.
    pub fn bytes(&self, host: &str) -> Result<u64> {
        let shown = ["-n", &self.namespace(host), "-s", "-j", "link", "show", OUTSIDE];
        let shown: serde_json::Value = serde_json::from_str(&run("ip", &shown)?)?;
        let of = |way: &str| shown[0]["stats64"][way]["bytes"].as_u64();
        of("rx").zip(of("tx")).map(|(rx, tx)| rx + tx).context("ip counts bytes")
    }

    /// The emulated link of a place, to change it while it runs.
    pub fn link(&self, place: &str) -> Option<&LinkHandle> {
        self.links.get(place)
    }

    /// Replaces a gateway's rules while it runs, as when a firewall is switched on in a call.
    /// [`Self::topology`] goes on to say what was brought up.
    pub fn change_gateway(&self, changed: &Gateway) -> Result<()> {
        let known = self.topology.gateways.iter().any(|gateway| gateway.name == changed.name);
        anyhow::ensure!(known, "no gateway \"{}\"", changed.name);
        self.load_rules(changed)
    }

    /// Makes a gateway forget every mapping, as after a restart: hosts get new ones.
    pub fn forget_mappings(&self, gateway: &str) -> Result<()> {
        // Reloading the address of the outer interface makes `masquerade` drop its entries.
        let wire = self.wire(gateway).with_context(|| format!("no gateway \"{gateway}\""))?;
        let namespace = self.namespace(gateway);
        run("ip", &["-n", &namespace, "link", "set", OUTSIDE, "down"])?;
        run("ip", &["-n", &namespace, "link", "set", OUTSIDE, "up"])?;
        let route = format!("route replace default via {}\n", wire.outer_ipv4);
        feed("ip", &["-n", &namespace, "-batch", "-"], &route)?;
        Ok(())
    }

    fn wire(&self, place: &str) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.inner == place)
    }

    fn places(&self) -> impl Iterator<Item = &str> {
        std::iter::once("core").chain(self.wires.iter().map(|wire| wire.inner.as_str()))
    }

    fn make_namespaces(&self) -> Result<()> {
        let mut make = String::new();
        for place in self.places() {
            writeln!(make, "netns add {}", self.namespace(place))?;
        }
        feed("ip", &["-batch", "-"], &make)?;
        for place in self.places() {
            let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                           echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
                           echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter";
            run("ip", &["netns", "exec", &self.namespace(place), "sh", "-c", forward])?;
        }
        Ok(())
    }

    fn make_wires(&mut self) -> Result<()> {
        let emulated: Vec<_> = self.wires.iter().filter(|wire| wire.link.is_some()).collect();
        if !emulated.is_empty() {
            let (emulator, links) = Emulator::start(&emulated, &self.prefix, self.topology.seed)?;
            self.emulator = Some(emulator);
            self.links = links;
        }
        let mut plain = String::new();
        for wire in self.wires.iter().filter(|wire| wire.link.is_none()) {
            let (outer, inner) = (self.namespace(&wire.outer), self.namespace(&wire.inner));
            let to = &wire.outer_interface;
            writeln!(
                plain,
                "link add {to} netns {outer} type veth peer name {OUTSIDE} netns {inner}"
            )?;
        }
        feed("ip", &["-batch", "-"], &plain)?;
        for place in self.places() {
            let commands = self.addresses_of(place)?;
            feed("ip", &["-n", &self.namespace(place), "-batch", "-"], &commands)?;
        }
        Ok(())
    }

    /// The `ip` commands that give one place its addresses and routes.
    fn addresses_of(&self, place: &str) -> Result<String> {
        let mut commands = String::from("link set lo up\n");
        for wire in self.wires.iter().filter(|wire| wire.outer == place) {
            let to = &wire.outer_interface;
            writeln!(commands, "addr add {}/24 dev {to}", wire.outer_ipv4)?;
            if let Some(ipv6) = wire.outer_ipv6 {
                writeln!(commands, "addr add {ipv6}/64 dev {to} nodad")?;
            }
            writeln!(commands, "link set {to} up")?;
        }
        if let Some(wire) = self.wire(place) {
            if let Some(ipv4) = wire.inner_ipv4 {
                writeln!(commands, "addr add {ipv4}/24 dev {OUTSIDE}")?;
            }
            if let Some(ipv6) = wire.inner_ipv6 {
                writeln!(commands, "addr add {ipv6}/64 dev {OUTSIDE} nodad")?;
            }
            writeln!(commands, "link set {OUTSIDE} up")?;
            if wire.inner_ipv4.is_some() {
                writeln!(commands, "route add default via {}", wire.outer_ipv4)?;
            }
            // The family is that of the router: options of `ip` cannot stand in a batch.
            if let (Some(_), Some(router)) = (wire.inner_ipv6, wire.outer_ipv6) {
                writeln!(commands, "route add default via {router}")?;
            }
        }
        Ok(commands)
    }

    fn load_rules(&self, gateway: &Gateway) -> Result<()> {
        let rules = gateway::rules(gateway, &self.topology, &self.wires);
        let namespace = self.namespace(&gateway.name);
        feed("ip", &["netns", "exec", &namespace, "nft", "-f", "-"], &rules)?;
        Ok(())
    }

    fn set_timeouts(&self, gateway: &Gateway) -> Result<()> {
        let Some(seconds) = gateway.udp_binding_s else { return Ok(()) };
        let set = format!(
            "echo {seconds} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout; \
             echo {seconds} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream"
        );
        run("ip", &["netns", "exec", &self.namespace(&gateway.name), "sh", "-c", &set])?;
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The emulator holds interfaces of these namespaces: it has to end first.
        self.emulator = None;
        let mut remove = String::new();
        for place in self.places() {
            let _ = writeln!(remove, "netns del {}", self.namespace(place));
        }
        let _ = feed("ip", &["-force", "-batch", "-"], &remove);
    }
}
