//! The play: servers, users, one call.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use cooee_lab::{
    deployment::{CallOptions, CallReport, Deployment, DeploymentPlan, ThisMachine, UserOptions},
    speech::{RATE_HZ, Voice, speak},
};
use serde_json::Value;

/// File that marks a folder as the demo's own, to be cleared at the next run.
pub(super) const MARK: &str = ".cooee-demo";

/// What the demo saw.
pub(super) struct Played {
    pub(super) registered: Value,
    pub(super) attached: Value,
    pub(super) call: CallReport,
    pub(super) caller: Value,
    pub(super) callee_record: Value,
    pub(super) relayed_bytes: Vec<u64>,
    pub(super) talk_s: f64,
}

/// Runs a network in `folder` and lets Alice call Bob.
pub(super) fn play(folder: &Path, talk_s: f64, step: &mut dyn FnMut(&str)) -> Result<Played> {
    fs::write(folder.join(MARK), "")?;
    for (name, voice, seed) in [("alice", Voice::High, 1), ("bob", Voice::Low, 2)] {
        write_speech(&folder.join(format!("{name}-speech.wav")), voice, seed)?;
    }
    let program = std::env::current_exe().context("cannot find the running program")?;
    let plan = DeploymentPlan {
        login_server: "login".to_owned(),
        super_nodes: vec!["sn1".to_owned(), "sn2".to_owned(), "sn3".to_owned()],
        super_node_port: None,
        well_known_ports: false,
    };
    let ground = ThisMachine;
    let mut deployment = Deployment::start(&ground, &program, folder, plan, |what| step(what))?;
    let speech = |name: &str| {
        let path = folder.join(format!("{name}-speech.wav"));
        Some(format!("wav:{},loop", path.display()))
    };
    let options = |name: &str| UserOptions {
        microphone: speech(name),
        records: true,
        answers: name == "bob",
        ..UserOptions::default()
    };
    let (registered, attached, call, caller, callee_record) = {
        let mut alice = deployment.user("alice", "alice", options("alice"))?;
        step(&format!("alice is registered and online ({} ms)", alice.attached()["login_ms"]));
        let mut bob = deployment.user("bob", "bob", options("bob"))?;
        step(&format!("bob is registered and online ({} ms)", bob.attached()["login_ms"]));
        let ongoing = alice.start_call("bob", CallOptions { talk_s })?;
        step("alice calls bob, bob answers, speech flows both ways");
        let call = ongoing.finish()?;
        step("alice hangs up");
        let caller = alice.status()?;
        let callee_record = bob.run(&["records"])?;
        let kept = (alice.registered().clone(), alice.attached().clone());
        alice.node().end()?;
        bob.node().end()?;
        (kept.0, kept.1, call, caller, callee_record)
    };
    let relayed_bytes = deployment.relayed_bytes()?;
    for super_node in deployment.super_nodes() {
        super_node.end()?;
    }
    step("everybody has left");
    Ok(Played { registered, attached, call, caller, callee_record, relayed_bytes, talk_s })
}

fn write_speech(path: &Path, voice: Voice, seed: u64) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for sample in speak(voice, seed, 30.0) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
        writer.write_sample((f64::from(sample) * 32_767.0).clamp(-32_768.0, 32_767.0) as i16)?;
    }
    writer.finalize()?;
    Ok(())
}
