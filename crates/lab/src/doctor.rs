//! `cooee doctor` in every kind of place: does it tell the NAT and the firewall that are there?

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use cooee_sim::place::{Nat, Place};
use serde::Serialize;
use serde_json::Value;

use crate::{
    deployment::{Deployment, UserOptions},
    matrix::{SERVERS, proxy_of, servers_plan},
    network::Network,
    topology::{Family, Host, Topology},
};

/// How often it is asked again where it could not tell all, and after what.
const RETRIES: usize = 3;
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// What the doctor said in one place.
#[derive(Debug, Clone, Serialize)]
pub struct DoctorReport {
    /// Kind of place.
    pub place: &'static str,
    /// What it said about TCP, UDP, NAT and filters, in words.
    pub says: String,
    /// Its findings as data.
    pub data: Value,
    /// What it should have found.
    pub expected: Expected,
    /// It found that.
    pub ok: bool,
    /// What went wrong.
    pub problem: Option<String>,
}

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// UDP gets out.
    pub udp: bool,
    /// An address is translated.
    pub translated: bool,
    /// RFC 4787 mapping, as the doctor's data name it.
    pub mapping: &'static str,
    /// RFC 4787 filtering.
    pub filtering: &'static str,
}

const INDEPENDENT: &str = "EndpointIndependent";
const BY_ADDRESS: &str = "AddressDependent";
const BY_PORT: &str = "AddressAndPortDependent";

impl Expected {
    /// What a doctor must find in this place.
    fn of(place: &Place) -> Self {
        let nat = place.effective_nat();
        Self {
            udp: place.has_udp(),
            translated: nat != Nat::None,
            mapping: if nat.maps_endpoint_independently() { INDEPENDENT } else { BY_PORT },
            filtering: match nat {
                Nat::None | Nat::FullCone => INDEPENDENT,
                Nat::AddressRestricted => BY_ADDRESS,
                Nat::PortRestricted | Nat::Symmetric => BY_PORT,
            },
        }
    }

    fn is_found(&self, lines: &[Value]) -> bool {
        let find = |check: &str| lines.iter().find(|line| line["check"] == check);
        if !self.udp {
            return find("udp").is_some_and(|udp| udp["verdict"] != "good");
        }
        let Some(nat) = find("nat").map(|nat| &nat["data"]) else { return false };
        nat["udp"] == true
            && nat["translated"] == self.translated
            && nat["mapping"] == self.mapping
            && nat["filtering"] == self.filtering
    }
}

/// Runs it in each place inside the sandbox, all at once; `each` hears of each.
pub fn run(
    places: &[&'static Place],
    program: &Path,
    folder: &Path,
    mut each: impl FnMut(&DoctorReport),
) -> Result<Vec<DoctorReport>> {
    let mut topology = Topology { name: "doctor".to_owned(), ..Topology::default() };
    for name in SERVERS {
        let name = name.to_owned();
        topology.hosts.push(Host { name, behind: None, family: Family::Dual, link: None });
    }
    for (index, place) in places.iter().enumerate() {
        topology.add(place, &format!("d{index}"));
    }
    let network = Network::up(&topology, "d")?;
    let deployment = Deployment::start(&network, program, folder, servers_plan(), |_| {})?;
    let mut reports = Vec::new();
    thread::scope(|scope| {
        let (network, deployment) = (&network, &deployment);
        let asked: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(index, place)| scope.spawn(move || ask(network, deployment, index, place)))
            .collect();
        for (asked, place) in asked.into_iter().zip(places) {
            let report = asked.join().expect("no panic in here");
            let report = report.unwrap_or_else(|error| DoctorReport {
                place: place.name,
                says: String::new(),
                data: Value::Null,
                expected: Expected::of(place),
                ok: false,
                problem: Some(format!("{error:#}")),
            });
            each(&report);
            reports.push(report);
        }
    });
    Ok(reports)
}

fn ask(
    network: &Network,
    deployment: &Deployment<'_>,
    index: usize,
    place: &'static Place,
) -> Result<DoctorReport> {
    let host = format!("d{index}");
    let proxy = proxy_of(network, place, &host)?;
    let options = UserOptions { proxy: proxy.clone(), ..UserOptions::default() };
    let user = deployment.user(&host, &format!("patient-{index}"), options)?;
    let mut arguments = vec!["doctor"];
    if let Some(proxy) = &proxy {
        arguments.extend(["--proxy", proxy]);
    }
    let expected = Expected::of(place);
    let mut lines = user.lines(&arguments)?;
    // Super nodes that were just started do not know each other yet, and so cannot tell all.
    for _ in 0..RETRIES {
        if expected.is_found(&lines) {
            break;
        }
        thread::sleep(RETRY_AFTER);
        lines = user.lines(&arguments)?;
    }
    let of = |check: &str| lines.iter().find(|line| line["check"] == check);
    let nat = of("nat").context("the doctor says nothing about the NAT")?;
    let words = ["tcp", "udp", "nat"].map(|check| of(check).and_then(|line| line["says"].as_str()));
    let words: Vec<&str> = words.into_iter().flatten().collect();
    Ok(DoctorReport {
        place: place.name,
        says: words.join(" "),
        data: nat["data"].clone(),
        expected,
        ok: expected.is_found(&lines),
        problem: None,
    })
}
