//! What the tests of whole networks share: a deployment of real processes on loopback, commands
//! with their exit codes, signals, and the loudness of recordings.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cooee_lab::deployment::{Deployment, DeploymentPlan, ThisMachine, User};
use serde_json::Value;

pub(crate) const COOEE: &str = env!("CARGO_BIN_EXE_cooee");

/// A login server and so many super nodes.
pub(crate) fn network(folder: &Path, super_nodes: usize) -> Deployment<'static> {
    let plan = DeploymentPlan {
        login_server: "here".into(),
        super_nodes: vec!["here".into(); super_nodes],
        super_node_port: None,
        well_known_ports: false,
    };
    Deployment::start(&ThisMachine, Path::new(COOEE), folder, plan, |_| {}).unwrap()
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// The record of the call that the command followed.
    pub(crate) fn record(&self) -> Value {
        let lines = self.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut records = lines.filter(|line| line["event"] == "recorded");
        records.next().unwrap_or_else(|| panic!("no record: {self:?}"))["record"].clone()
    }
}

pub(crate) fn command(profile: &Path, arguments: &[&str]) -> Command {
    // A shell's background jobs ignore SIGINT, and so would all that they start.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", COOEE, "--json"])
        .args(arguments)
        .arg("--profile-dir")
        .arg(profile);
    command.stdin(Stdio::null()).env("COOEE_PASSWORD", "correct horse battery staple");
    command
}

pub(crate) fn run(profile: &Path, arguments: &[&str]) -> Done {
    command(profile, arguments).output().unwrap().into()
}

/// A command that goes on; its end can be waited for.
pub(crate) fn start(profile: &Path, arguments: &[&str]) -> thread::JoinHandle<Done> {
    let mut command = command(profile, arguments);
    thread::spawn(move || command.output().unwrap().into())
}

/// Waits until `look` sees what it looks for.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "no {what} within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}

fn lines(profile: &Path, arguments: &[&str]) -> Vec<Value> {
    let done = run(profile, arguments);
    done.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The calls of a user that are not over.
pub(crate) fn calls(profile: &Path) -> Vec<Value> {
    lines(profile, &["calls"])
}

/// The records of a user's past calls, the newest last.
pub(crate) fn records(profile: &Path) -> Vec<Value> {
    lines(profile, &["records"])
}

/// Waits until a user's only call is in a phase; the call as `cooee calls` shows it.
pub(crate) fn wait_for_phase(profile: &Path, phase: &str) -> Value {
    wait_for(phase, || {
        let done = run(profile, &["calls"]);
        let calls = done.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        calls.into_iter().find(|call| call["phase"] == phase)
    })
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success());
}

/// Index of the super node that a user is attached to.
pub(crate) fn super_node_in_use(network: &Deployment<'_>, user: &User<'_>) -> usize {
    let address = user.status().unwrap()["super_node"].as_str().expect("attached").to_owned();
    let mut addresses = network.super_node_addresses().iter();
    addresses.position(|of| of.to_string() == address).expect("one of ours")
}

/// Milliseconds of a recording window.
const WINDOW_MS: usize = 20;

/// Whether each 20 ms of a recording are louder than -40 dB of full scale.
pub(crate) fn loud(path: &Path) -> Vec<bool> {
    let mut reader = hound::WavReader::open(path).unwrap();
    let length = reader.spec().sample_rate as usize * WINDOW_MS / 1000;
    let samples: Vec<f64> =
        reader.samples::<i16>().map(|s| f64::from(s.unwrap()) / 32_768.0).collect();
    let power = |window: &[f64]| window.iter().map(|s| s * s).sum::<f64>() / length as f64;
    samples.chunks_exact(length).map(|window| power(window) > 1e-4).collect()
}

/// Milliseconds of sound, and of the longest silence between sound.
pub(crate) fn sound_and_gap_ms(path: &Path) -> (usize, usize) {
    let loud = loud(path);
    let from = loud.iter().position(|l| *l).unwrap_or(0);
    let to = loud.iter().rposition(|l| *l).map_or(0, |last| last + 1);
    let gap = loud[from..to].split(|l| *l).map(<[bool]>::len).max().unwrap_or(0);
    (loud.iter().filter(|l| **l).count() * WINDOW_MS, gap * WINDOW_MS)
}
