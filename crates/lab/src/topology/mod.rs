//! Topologies as data: which hosts there are, behind which gateways, over which links.
//!
//! ```text
//!   host ── gateway (NAT, firewall) ── [gateway] ──┐
//!   host ──────────────────────────────────────────┤ core: routes between the public /24s
//!   host ── gateway ───────────────────────────────┘
//! ```
//!
//! A topology is read from TOML or made by code, checked, and brought up by [`crate::network`].

mod check;
mod place;
pub mod plan;

use serde::{Deserialize, Serialize};

pub use check::TopologyError;
pub use cooee_sim::{
    link::{LinkConfig, Loss},
    place::{Firewall, Nat, Place, Refusal},
};

/// Which internet protocols a public side has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both.
    Dual,
}

/// A gateway with a private network behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Gateway {
    /// Unique name, at most 8 letters and digits.
    pub name: String,
    /// Gateway whose private network this one's outer side is in; none: the core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Address translation.
    pub nat: Nat,
    /// Whether hosts inside reach each other's mapped addresses.
    #[serde(default)]
    pub hairpin: bool,
    /// What is let out.
    #[serde(default)]
    pub firewall: Firewall,
    /// What happens to the rest.
    #[serde(default)]
    pub refusal: Refusal,
    /// Life of an idle UDP binding in seconds; none: the kernel's 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_binding_s: Option<u32>,
    /// Addresses of hosts (by name) that nothing inside may reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<String>,
    /// Link from the outer side, the same both ways; none: a plain wire without emulation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkConfig>,
}

/// A machine that runs programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Host {
    /// Unique name, at most 8 letters and digits.
    pub name: String,
    /// Gateway that it is behind; none: a public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Protocols of a public host.
    #[serde(default)]
    pub family: Family,
    /// Link to the core or gateway, the same both ways; none: a plain wire without emulation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkConfig>,
}

/// A whole network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// What to call it.
    pub name: String,
    /// Seed of every link's chances.
    #[serde(default)]
    pub seed: u64,
    /// Gateways, outer ones first.
    #[serde(default, rename = "gateway", skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Gateway>,
    /// Hosts.
    #[serde(default, rename = "host", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
}

impl Topology {
    /// Reads and checks a topology file's text.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self =
            toml::from_str(text).map_err(|error| TopologyError::Syntax(error.to_string()))?;
        topology.check()?;
        Ok(topology)
    }
}
