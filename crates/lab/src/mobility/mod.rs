//! Faults in a running call, between real processes behind real kernels' NATs: how long is no sound
//! at either ear, and by which path does the voice go on?
//!
//! ```text
//!   a ── ag ──┐                ┌── bg ── b     25 ms each way from each gateway to the core
//!   └─── am ──┤  core: servers ┤               (am: a second network, for moves)
//!             └────────────────┘
//! ```
//!
//! Both sides speak without pause. The gap is the longest silence in the recording of either ear
//! between the fault and the end of the measurement; before the fault there is none longer than a
//! few windows, which is checked and reported too.

mod fault;
pub(crate) mod sound;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::Value;

pub use fault::{FAULTS, Fault};
use fault::{Strike, Targets};

use crate::{
    deployment::{CallOptions, Deployment, User, UserOptions},
    matrix::{SERVERS, servers_plan},
    network::Network,
    speech::Voice,
    topology::{Family, Host, LinkConfig, Topology},
};

/// Talk before the fault: the path has settled by then.
const SETTLING: Duration = Duration::from_secs(5);

/// Talk after the call's last fault.
const RECOVERY: Duration = Duration::from_secs(8);

/// The end of the talk, which is no gap.
const MARGIN: Duration = Duration::from_millis(1200);

/// How long the callee's record may come after the caller's.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);

/// What one fault did to a call.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// Name of the fault.
    pub fault: &'static str,
    /// Longest silence at the worse ear, in ms.
    pub gap_ms: usize,
    /// How the voice travelled before, as the caller's and the callee's node say.
    pub path_before: String,
    /// And at the end of the measurement.
    pub path_after: String,
    /// The gap is within the limit, the path is as it must be, and the call went on to its end.
    pub ok: bool,
    /// Longest silences at the caller's and the callee's ear, in ms.
    pub ears_ms: [usize; 2],
    /// The same before the fault.
    pub before_ms: [usize; 2],
    /// Longest gap that may be, in ms.
    pub limit_ms: usize,
    /// What went wrong.
    pub problem: Option<String>,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct MobilityPlan {
    /// The faults, each in a network of its own.
    pub faults: Vec<&'static Fault>,
    /// Networks at a time.
    pub parallel: usize,
    /// One-way delay between each user's gateway and the core, in ms.
    pub delay_ms: f64,
}

/// Runs the faults inside the sandbox; `each` hears of each as it is over.
pub fn run(
    plan: &MobilityPlan,
    program: &Path,
    folder: &Path,
    each: impl FnMut(&FaultReport) + Send,
) -> Vec<FaultReport> {
    let todo = Mutex::new(plan.faults.iter().enumerate());
    let done = Mutex::new((Vec::new(), each));
    thread::scope(|scope| {
        for _ in 0..plan.parallel.max(1) {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, fault)) = next else { return };
                    let folder = folder.join(fault.name);
                    let reports = match measure(fault, plan, index, program, &folder) {
                        Ok(reports) => reports,
                        Err(error) => vec![failed(fault, &error)],
                    };
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    for report in reports {
                        done.1(&report);
                        done.0.push(report);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).0
}

fn failed(fault: &Fault, error: &anyhow::Error) -> FaultReport {
    FaultReport {
        fault: fault.name,
        gap_ms: 0,
        path_before: String::new(),
        path_after: String::new(),
        ok: false,
        ears_ms: [0; 2],
        before_ms: [0; 2],
        limit_ms: fault.limit_ms,
        problem: Some(format!("{error:#}")),
    }
}

fn topology(fault: &Fault, delay_ms: f64) -> Topology {
    let mut topology = Topology { name: "mobility".to_owned(), seed: 1, ..Topology::default() };
    for name in SERVERS {
        let name = name.to_owned();
        topology.hosts.push(Host { name, behind: None, family: Family::Ipv4, link: None });
    }
    topology.add(fault.caller, "a");
    topology.add(fault.callee, "b");
    // The second network's own host only gives its gateway a reason to be.
    topology.add(fault.caller, "am");
    if let Some(gateway) = topology.gateways.iter_mut().find(|gateway| gateway.name == "amg") {
        gateway.name = "am".to_owned();
    }
    topology.hosts.retain(|host| host.name != "am");
    let link = Some(LinkConfig { delay_ms, ..LinkConfig::default() });
    for gateway in &mut topology.gateways {
        gateway.link = link;
    }
    topology
}

fn measure(
    fault: &'static Fault,
    plan: &MobilityPlan,
    index: usize,
    program: &Path,
    folder: &Path,
) -> Result<Vec<FaultReport>> {
    std::fs::create_dir_all(folder)?;
    let ground = Network::up(&topology(fault, plan.delay_ms), &format!("x{index}"))?;
    if fault.strikes.contains(&Strike::Move) {
        ground.add_second_uplink("a", "am")?;
    }
    let deployment = Deployment::start(&ground, program, folder, servers_plan(), |_| {})?;
    let mut users = Vec::new();
    for (host, voice, seed) in [("a", Voice::High, 1), ("b", Voice::Low, 2)] {
        let speech = folder.join(format!("{host}-speech.wav"));
        sound::write_speech(&speech, voice, seed)?;
        let options = UserOptions {
            answers: host == "b",
            records: true,
            microphone: Some(format!("wav:{},loop", speech.display())),
            ..UserOptions::default()
        };
        let name = if host == "a" { "alice" } else { "bob" };
        users.push(deployment.user(host, name, options)?);
    }
    let mut bob = users.pop().context("two users")?;
    let alice = users.pop().context("two users")?;
    let pauses = RECOVERY * u32::try_from(fault.strikes.len())?;
    let talk_s = (SETTLING + pauses + MARGIN).as_secs_f64();
    let relayed = deployment.relayed_bytes()?;
    let call = alice.start_call("bob", CallOptions { talk_s })?;
    thread::sleep(SETTLING);
    let targets = Targets::find(&ground, &deployment, &alice, &relayed)?;
    let mut moments = Vec::new();
    let mut paths = vec![paths(&alice, &bob)];
    for strike in fault.strikes {
        moments.push(now_ns());
        strike.carry_out(&ground, &targets)?;
        thread::sleep(RECOVERY);
        paths.push(self::paths(&alice, &bob));
    }
    moments.push(now_ns());
    let report = call.finish()?;
    targets.release();
    let call = &report.record["call"];
    let heard: Value = bob.node().wait_for("call record", RECORD_PATIENCE, |line| {
        (line["event"] == "recorded" && line["call"] == *call).then(|| line["record"].clone())
    })?;
    let ends = [&report.record, &heard].map(|record| record["reason"].to_string());
    let orderly = ends.iter().all(|reason| reason == "\"hung_up\"");
    // The last samples are written within a quarter of a second.
    thread::sleep(Duration::from_millis(400));
    let mut reports = Vec::new();
    for (number, strike) in fault.strikes.iter().enumerate() {
        let (at, until) = (moments[number], moments[number + 1]);
        let ears = [alice.ear(), bob.ear()].map(|ear| sound::silences(&ear, at, until));
        let [caller, callee] = ears;
        let (caller, callee) = (caller?, callee?);
        let gap_ms = caller.after_ms.max(callee.after_ms);
        let path_after = paths[number + 1].clone();
        let fits =
            fault::travelled(&path_after).is_some_and(|how| how <= strike.path_wanted(fault));
        reports.push(FaultReport {
            fault: strike.name(fault),
            gap_ms,
            path_before: paths[number].clone(),
            path_after,
            ok: gap_ms <= fault.limit_ms && fits && orderly,
            ears_ms: [caller.after_ms, callee.after_ms],
            before_ms: [caller.before_ms, callee.before_ms],
            limit_ms: fault.limit_ms,
            problem: (!orderly).then(|| format!("the call ended: {}", ends.join(" and "))),
        });
    }
    Ok(reports)
}

/// The paths of both sides, in one word if they agree.
fn paths(alice: &User<'_>, bob: &User<'_>) -> String {
    let of = |user: &User<'_>| {
        let call = user.run(&["calls"]).unwrap_or_default();
        call["path"].as_str().unwrap_or("none").to_owned()
    };
    let (one, other) = (of(alice), of(bob));
    if one == other { one } else { format!("{one} | {other}") }
}

/// CLOCK_MONOTONIC in nanoseconds, as the recordings have it.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
