//! The matrix: calls from every kind of place to every other, by the shipped program over real
//! kernels' NATs, each compared with the oracle ([`cooee_sim::place::outcome`]).
//!
//! ```text
//!   a0 b0 … an bn   one caller and one callee in each kind of place, every one behind
//!     \  \   /  /   gateways of its own
//!        core ──── login server, three super nodes (their port, 443 and 80)
//! ```
//!
//! The calls go in rounds in which nobody takes part twice, several at a time.

mod pair;
mod report;
mod shared;

use std::{
    path::Path,
    sync::{Mutex, PoisonError, mpsc::sync_channel},
    thread,
};

use anyhow::{Context, Result};
use cooee_sim::place::{Firewall, Place};

pub use pair::Cell;
pub use report::{Summary, summarise};
use shared::SHARED;

use crate::{
    deployment::{Deployment, DeploymentPlan, User, UserOptions},
    mobility::sound,
    network::{Network, PROXY_PORT},
    proxy,
    speech::Voice,
    topology::{Family, Host, LinkConfig, Topology},
};

/// Most users that start at the same time.
const STARTS_AT_ONCE: usize = 8;

/// What to run.
#[derive(Debug, Clone)]
pub struct MatrixPlan {
    /// The kinds of place.
    pub places: Vec<&'static Place>,
    /// Both directions of each pair, instead of one.
    pub ordered: bool,
    /// Seconds of talk in each call.
    pub talk_s: f64,
    /// Calls at a time.
    pub parallel: usize,
    /// One-way delay in ms between each user and the core; none: plain wires.
    pub delay_ms: Option<f64>,
    /// Also a call between two users behind one NAT, with and without hairpinning.
    pub shared: bool,
}

impl MatrixPlan {
    /// The pairs to call, in rounds in which nobody takes part twice.
    fn rounds(&self) -> Vec<Vec<(usize, usize)>> {
        let count = self.places.len();
        let is_wanted = |pair: &(usize, usize)| self.ordered || pair.0 <= pair.1;
        (0..count)
            .map(|shift| (0..count).map(move |from| (from, (from + shift) % count)))
            .map(|round| round.filter(is_wanted).collect())
            .collect()
    }

    fn topology(&self) -> Topology {
        let link = self.delay_ms.map(|delay_ms| LinkConfig { delay_ms, ..LinkConfig::default() });
        let mut topology = Topology { name: "matrix".to_owned(), seed: 1, ..Topology::default() };
        for name in SERVERS {
            let name = name.to_owned();
            // Both families: whoever has only one of them can reach the servers.
            topology.hosts.push(Host { name, behind: None, family: Family::Dual, link: None });
        }
        for (index, place) in self.places.iter().enumerate() {
            for side in ["a", "b"] {
                topology.add(place, &format!("{side}{index}"));
            }
        }
        if self.shared {
            SHARED.iter().enumerate().for_each(|(index, kind)| kind.add(index, &mut topology));
        }
        for gateway in topology.gateways.iter_mut().filter(|gateway| gateway.behind.is_none()) {
            gateway.link = link;
        }
        let users = topology.hosts.iter_mut().skip(SERVERS.len());
        for host in users.filter(|host| host.behind.is_none()) {
            host.link = link;
        }
        topology
    }
}

/// Login server and super nodes, each with a public address.
pub(crate) const SERVERS: [&str; 4] = ["login", "sn1", "sn2", "sn3"];

/// The plan of a network of [`SERVERS`], whose super nodes also listen on 443 and 80.
pub(crate) fn servers_plan() -> DeploymentPlan {
    DeploymentPlan {
        login_server: SERVERS[0].to_owned(),
        super_nodes: SERVERS[1..].iter().map(|&name| name.to_owned()).collect(),
        super_node_port: None,
        well_known_ports: true,
    }
}

/// The proxy that a host in this kind of place must use, started on its gateway.
pub(crate) fn proxy_of(network: &Network, place: &Place, host: &str) -> Result<Option<String>> {
    if place.firewall != Firewall::ProxyOnly {
        return Ok(None);
    }
    proxy::start(&network.namespace(&format!("{host}g")), PROXY_PORT)?;
    let address = network.inside_of_gateway(host).context("a gateway has an address")?;
    Ok(Some(format!("http://{address}:{PROXY_PORT}")))
}

/// Runs the matrix inside the sandbox. `tell` hears of each step, `each` of each call.
pub fn run(
    plan: &MatrixPlan,
    program: &Path,
    folder: &Path,
    mut tell: impl FnMut(&str),
    mut each: impl FnMut(&Cell),
) -> Result<Vec<Cell>> {
    let network = Network::up(&plan.topology(), "m")?;
    tell(&format!("{} places are up", plan.places.len()));
    let deployment = Deployment::start(&network, program, folder, servers_plan(), &mut tell)?;
    speech(folder)?;
    let users = start_users(plan, &network, &deployment, folder, &mut tell)?;
    let mut cells = Vec::new();
    if plan.shared {
        for (index, kind) in SHARED.iter().enumerate() {
            let cell = kind.call(index, &deployment, options(folder, false), plan.talk_s);
            each(&cell);
            cells.push(cell);
        }
    }
    for round in plan.rounds() {
        for batch in round.chunks(plan.parallel.max(1)) {
            let (sender, results) = sync_channel(batch.len());
            thread::scope(|scope| {
                for &(from, to) in batch {
                    let (sender, users) = (sender.clone(), &users);
                    scope.spawn(move || {
                        let mut caller = lock(&users[2 * from]);
                        let mut callee = lock(&users[2 * to + 1]);
                        let places = (plan.places[from], plan.places[to]);
                        let cell = pair::call(places, &mut caller, &mut callee, plan.talk_s);
                        let _ = sender.send(cell);
                    });
                }
                drop(sender);
                for cell in results {
                    each(&cell);
                    cells.push(cell);
                }
            });
        }
    }
    Ok(cells)
}

/// What everybody says.
fn speech(folder: &Path) -> Result<()> {
    sound::write_speech(&folder.join(SPEECH), Voice::High, 1)
}

/// File of [`speech`].
const SPEECH: &str = "speech.wav";

fn options(folder: &Path, answers: bool) -> UserOptions {
    let microphone = Some(format!("wav:{},loop", folder.join(SPEECH).display()));
    UserOptions { answers, microphone, records: true, ..UserOptions::default() }
}

/// One caller and one callee in each place, in that order.
fn start_users<'d>(
    plan: &MatrixPlan,
    network: &Network,
    deployment: &'d Deployment<'d>,
    folder: &Path,
    tell: &mut impl FnMut(&str),
) -> Result<Vec<Mutex<User<'d>>>> {
    let mut wanted = Vec::new();
    for (index, place) in plan.places.iter().enumerate() {
        for (side, name) in [("a", "caller"), ("b", "callee")] {
            let host = format!("{side}{index}");
            let proxy = proxy_of(network, place, &host)?;
            let options = UserOptions { proxy, ..options(folder, side == "b") };
            let name = format!("{name}-{index}");
            wanted.push((place.name, host, name, options));
        }
    }
    let mut users = Vec::new();
    for batch in wanted.chunks(STARTS_AT_ONCE) {
        let started: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> = batch
                .iter()
                .map(|(place, host, name, options)| {
                    scope.spawn(move || {
                        let user = deployment.user(host, name, options.clone());
                        user.with_context(|| format!("a user in the place \"{place}\""))
                    })
                })
                .collect();
            starting.into_iter().map(|user| user.join().expect("no panic in here")).collect()
        });
        for user in started {
            users.push(Mutex::new(user?));
        }
        tell(&format!("{} of {} users are online", users.len(), wanted.len()));
    }
    Ok(users)
}

fn lock<'u, 'd>(user: &'u Mutex<User<'d>>) -> std::sync::MutexGuard<'u, User<'d>> {
    user.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cooee_sim::place::PLACES;

    use super::*;

    #[test]
    fn rounds_hold_every_pair_once_and_nobody_twice() {
        let places = PLACES.iter().collect();
        let plan = MatrixPlan {
            places,
            ordered: true,
            talk_s: 1.0,
            parallel: 4,
            delay_ms: Some(25.0),
            shared: true,
        };
        let rounds = plan.rounds();
        let pairs: BTreeSet<_> = rounds.iter().flatten().collect();
        assert_eq!(pairs.len(), 196);
        for round in &rounds {
            let callees: BTreeSet<_> = round.iter().map(|pair| pair.1).collect();
            assert_eq!(callees.len(), round.len());
        }
        let unordered = MatrixPlan { ordered: false, ..plan };
        assert_eq!(unordered.rounds().iter().flatten().count(), 105);
        unordered.topology().check().unwrap();
    }
}
