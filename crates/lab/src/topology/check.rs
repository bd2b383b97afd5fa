//! What makes a topology impossible, found before anything is built.

use std::collections::BTreeSet;

use super::{LinkConfig, Topology};

/// Longest name of a host or gateway: interface names carry it (15 bytes in the kernel).
const NAME_BYTES_MAX: usize = 8;

/// Most gateways plus hosts: each public one takes a /24 of 198.18.0.0/15.
const PLACES_MAX: usize = 250;

/// Why a topology cannot be built. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Not TOML, or not these keys.
    #[error("the topology file is not valid:\n{0}")]
    Syntax(String),
    /// A name that interface names cannot carry.
    #[error("\"{0}\": names are 1 to {NAME_BYTES_MAX} lower-case letters and digits")]
    Name(String),
    /// Two places of one name.
    #[error("\"{0}\" is there twice")]
    Twice(String),
    /// A reference to nothing.
    #[error("\"{from}\" names \"{to}\", which is no {what} above it")]
    Unknown {
        /// Who refers.
        from: String,
        /// To what.
        to: String,
        /// What it should have been.
        what: &'static str,
    },
    /// A link with impossible values.
    #[error("link of \"{of}\": {problem}")]
    Link {
        /// Whose link.
        of: String,
        /// What is wrong.
        problem: String,
    },
    /// More than the laboratory's address plan holds.
    #[error("{0} hosts and gateways, at most {PLACES_MAX}")]
    TooLarge(usize),
}

impl Topology {
    /// Checks names, references and links.
    pub fn check(&self) -> Result<(), TopologyError> {
        let places = self.gateways.len() + self.hosts.len();
        if places > PLACES_MAX {
            return Err(TopologyError::TooLarge(places));
        }
        let mut names = BTreeSet::from(["core".to_owned()]);
        let mut gateways = BTreeSet::new();
        for gateway in &self.gateways {
            take_name(&mut names, &gateway.name)?;
            check_behind(&gateways, &gateway.name, gateway.behind.as_ref())?;
            check_link(&gateway.name, gateway.link.as_ref())?;
            gateways.insert(gateway.name.clone());
        }
        for host in &self.hosts {
            take_name(&mut names, &host.name)?;
            check_behind(&gateways, &host.name, host.behind.as_ref())?;
            check_link(&host.name, host.link.as_ref())?;
        }
        for gateway in &self.gateways {
            for blocked in &gateway.block {
                if !self.hosts.iter().any(|host| host.name == *blocked && host.behind.is_none()) {
                    return Err(TopologyError::Unknown {
                        from: gateway.name.clone(),
                        to: blocked.clone(),
                        what: "public host",
                    });
                }
            }
        }
        Ok(())
    }
}

fn take_name(names: &mut BTreeSet<String>, name: &str) -> Result<(), TopologyError> {
    let legal = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !legal {
        return Err(TopologyError::Name(name.to_owned()));
    }
    if !names.insert(name.to_owned()) {
        return Err(TopologyError::Twice(name.to_owned()));
    }
    Ok(())
}

fn check_behind(
    gateways: &BTreeSet<String>,
    name: &str,
    behind: Option<&String>,
) -> Result<(), TopologyError> {
    match behind {
        Some(gateway) if !gateways.contains(gateway) => Err(TopologyError::Unknown {
            from: name.to_owned(),
            to: gateway.clone(),
            what: "gateway",
        }),
        _ => Ok(()),
    }
}

fn check_link(name: &str, link: Option<&LinkConfig>) -> Result<(), TopologyError> {
    link.map_or(Ok(()), LinkConfig::check)
        .map_err(|error| TopologyError::Link { of: name.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = r#"
        name = "home"
        [[gateway]]
        name = "gw"
        nat = "port-restricted"
        link = { delay-ms = 50.0, loss = { random = 0.01 } }
        [[host]]
        name = "alice"
        behind = "gw"
        [[host]]
        name = "sn1"
    "#;

    #[test]
    fn a_topology_survives_its_own_text() {
        let topology = Topology::parse(HOME).unwrap();
        let text = toml::to_string(&topology).unwrap();
        assert_eq!(Topology::parse(&text).unwrap(), topology);
    }

    #[test]
    fn each_mistake_is_named() {
        let say = |from: &str, to: &str| {
            Topology::parse(&HOME.replace(from, to)).unwrap_err().to_string()
        };
        assert!(say("behind = \"gw\"", "behind = \"gate\"").contains("\"gate\""));
        assert!(say("name = \"sn1\"", "name = \"alice\"").contains("twice"));
        assert!(say("name = \"sn1\"", "name = \"Super Node\"").contains("Super Node"));
        assert!(say("random = 0.01", "random = 2.0").contains("between 0 and 1"));
        assert!(say("port-restricted", "conical").contains("conical"));
        assert!(say("delay-ms", "delay").contains("delay"));
    }
}
