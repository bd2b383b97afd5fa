//! How long a call takes to come about: from dialling to ringing, and from the answer to the first
//! sound at both ears, between real processes behind real kernels' NATs.
//!
//! The round trip between the two users is four times the delay of one gateway's link, that to a
//! super node twice. Ringing is timed by the caller's own node, from the command to the moment at
//! which it knows that it rings. The answer is the moment at which the callee's node says that the
//! call is accepted, a round trip before both sides know it; the first sound is the first window of
//! 10 ms above -40 dB in the recording of an ear, whose samples carry the time at which they were
//! played.
//!
//! A stranger is called with no connection between the two devices; a buddy is on-line, and the
//! two devices have exchanged their presence before.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail};
use cooee_sim::place::Place;
use serde::Serialize;

use crate::{
    deployment::{CallOptions, Deployment, User, UserOptions},
    matrix::{SERVERS, servers_plan},
    mobility::{now_ns, sound},
    network::Network,
    speech::Voice,
    topology::{Family, Host, LinkConfig, Topology},
};

/// How long it rings: the paths are ready by then.
const RINGING: Duration = Duration::from_secs(2);

/// Talk after the answer.
const TALK_S: f64 = 2.0;

/// How long something at the callee's side may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Rest before each call: the spare super node is attached by then.
const REST: Duration = Duration::from_secs(3);

/// Most round trips from dialling to ringing.
const RING_ROUND_TRIPS_MAX: f64 = 4.0;

/// What the answer may take on top of one round trip until sound is heard, in ms.
const FIRST_SOUND_MS: f64 = 60.0;

/// What the two users are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Neither knows the other.
    Stranger,
    /// Both want to be buddies, and both are on-line.
    Buddy,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct SetupPlan {
    /// Place of both users.
    pub place: &'static Place,
    /// Calls of each kind.
    pub calls: usize,
    /// One-way delay between each user and the core, in ms.
    pub delay_ms: f64,
}

/// The calls of one kind, in medians.
#[derive(Debug, Clone, Serialize)]
pub struct SetupReport {
    /// What the two were to each other.
    pub relation: Relation,
    /// Place of both.
    pub place: &'static str,
    /// Calls measured.
    pub calls: usize,
    /// Round trip between the two users, in ms.
    pub round_trip_ms: f64,
    /// Dialling to ringing, in ms.
    pub ring_ms: f64,
    /// The same in round trips between the two users.
    pub ring_round_trips: f64,
    /// Answer to the first sound at the caller's ear, in ms.
    pub caller_hears_ms: f64,
    /// Answer to the first sound at the callee's ear, in ms.
    pub callee_hears_ms: f64,
    /// Within the targets.
    pub ok: bool,
}

/// One call.
struct Timed {
    ring_ms: f64,
    hears_ms: [f64; 2],
}

/// Measures inside the sandbox; `each` hears of each kind of call.
pub fn run(
    plan: &SetupPlan,
    program: &Path,
    folder: &Path,
    mut each: impl FnMut(&SetupReport),
) -> Result<Vec<SetupReport>> {
    let network = Network::up(&topology(plan), "t")?;
    let deployment = Deployment::start(&network, program, folder, servers_plan(), |_| {})?;
    let options = |name: &str, voice, seed| {
        let speech = folder.join(format!("{name}-speech.wav"));
        sound::write_speech(&speech, voice, seed)?;
        let microphone = Some(format!("wav:{},loop", speech.display()));
        anyhow::Ok(UserOptions { records: true, microphone, ..UserOptions::default() })
    };
    let ours = options("alice", Voice::High, 1)?;
    let theirs = options("bob", Voice::Low, 2)?;
    let alice = deployment.user("a", "alice", ours)?;
    let mut bob = deployment.user("b", "bob", theirs.clone())?;
    let mut reports = Vec::new();
    for relation in [Relation::Stranger, Relation::Buddy] {
        if relation == Relation::Buddy {
            make_buddies(&alice, &bob)?;
        }
        let mut calls = Vec::new();
        for _ in 0..plan.calls {
            if relation == Relation::Stranger {
                // A node that starts anew has no connection to anybody.
                bob.restart(&theirs)?;
            }
            thread::sleep(REST);
            calls.push(call(&alice, &mut bob)?);
        }
        let report = summarise(plan, relation, &calls);
        each(&report);
        reports.push(report);
    }
    Ok(reports)
}

fn topology(plan: &SetupPlan) -> Topology {
    let mut topology = Topology { name: "setup".to_owned(), seed: 1, ..Topology::default() };
    for name in SERVERS {
        let name = name.to_owned();
        topology.hosts.push(Host { name, behind: None, family: Family::Ipv4, link: None });
    }
    topology.add(plan.place, "a");
    topology.add(plan.place, "b");
    topology.delay_users(SERVERS.len(), plan.delay_ms);
    topology
}

impl Topology {
    /// Gives the outermost link of each user, the hosts after the first `servers`, this delay.
    pub(crate) fn delay_users(&mut self, servers: usize, delay_ms: f64) {
        let link = Some(LinkConfig { delay_ms, ..LinkConfig::default() });
        self.gateways.iter_mut().filter(|it| it.behind.is_none()).for_each(|it| it.link = link);
        let users = self.hosts.iter_mut().skip(servers);
        users.filter(|host| host.behind.is_none()).for_each(|host| host.link = link);
    }
}

fn make_buddies(alice: &User<'_>, bob: &User<'_>) -> Result<()> {
    alice.run(&["buddies", "add", "bob"])?;
    for _ in 0..100 {
        // Not there yet: the request is on its way.
        let _ = bob.run(&["buddies", "accept", "alice"]);
        let sees = alice.run(&["buddies", "list"]).unwrap_or_default();
        if sees["state"] == "mutual" && sees["presence"] == "online" {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    bail!("alice does not see bob as a buddy on-line")
}

fn call(alice: &User<'_>, bob: &mut User<'_>) -> Result<Timed> {
    bob.node().said();
    let mut call = alice.dial("bob", CallOptions { talk_s: TALK_S })?;
    let ring_ms = call.wait_for_ringing()?;
    thread::sleep(RINGING);
    bob.run(&["answer"])?;
    let answered_ns = bob.node().wait_for("answered call", PATIENCE, |line| {
        ["answering", "active"].iter().any(|phase| line["phase"] == *phase).then(now_ns)
    })?;
    call.wait_for_answer()?;
    let report = call.finish()?;
    let id = &report.record["call"];
    bob.node().wait_for("call record", PATIENCE, |line| {
        (line["event"] == "recorded" && line["call"] == *id).then_some(())
    })?;
    // The last samples are written within a quarter of a second.
    thread::sleep(Duration::from_millis(400));
    let hears = |ear: std::path::PathBuf| {
        let ns = sound::first_sound_ns(&ear).with_context(|| ear.display().to_string())?;
        anyhow::Ok((ns as f64 - answered_ns as f64) / 1e6)
    };
    Ok(Timed { ring_ms, hears_ms: [hears(alice.ear())?, hears(bob.ear())?] })
}

fn summarise(plan: &SetupPlan, relation: Relation, calls: &[Timed]) -> SetupReport {
    let median = |of: fn(&Timed) -> f64| {
        let mut values: Vec<f64> = calls.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).map_or(0.0, |ms| (ms * 10.0).round() / 10.0)
    };
    let round_trip_ms = plan.delay_ms * 4.0;
    let ring_ms = median(|call| call.ring_ms);
    let ring_round_trips = (ring_ms / round_trip_ms * 100.0).round() / 100.0;
    let (caller_hears_ms, callee_hears_ms) =
        (median(|call| call.hears_ms[0]), median(|call| call.hears_ms[1]));
    let heard = caller_hears_ms.max(callee_hears_ms) <= round_trip_ms + FIRST_SOUND_MS;
    SetupReport {
        relation,
        place: plan.place.name,
        calls: calls.len(),
        round_trip_ms,
        ring_ms,
        ring_round_trips,
        caller_hears_ms,
        callee_hears_ms,
        ok: !calls.is_empty() && ring_round_trips <= RING_ROUND_TRIPS_MAX && heard,
    }
}
