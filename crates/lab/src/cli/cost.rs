//! `cooee lab cost`: what a node costs its machine, idle and in a call, and what each attached node
//! costs a super node. Real processes on loopback, read from `/proc`.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    deployment::{CallOptions, Deployment, DeploymentPlan, ThisMachine, UserOptions},
    speech::{RATE_HZ, Voice, speak},
};

/// `cooee lab cost`.
#[derive(Debug, clap::Args)]
pub struct CostArgs {
    /// Seconds of the measured call
    #[arg(long, default_value_t = 20.0)]
    talk: f64,
    /// Idle nodes to attach
    #[arg(long, default_value_t = 20)]
    nodes: usize,
}

/// Resident memory and processor time of a process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    rss_kib: f64,
    cpu_s: f64,
}

pub(super) fn cost(arguments: &CostArgs, json: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = std::env::current_exe().context("cannot find the running program")?;
    let plan = DeploymentPlan {
        login_server: "login".to_owned(),
        super_nodes: vec!["sn1".to_owned()],
        super_node_port: None,
        well_known_ports: false,
    };
    let ground = ThisMachine;
    let mut deployment = Deployment::start(&ground, &program, folder.path(), plan, |step| {
        eprintln!("{step}");
    })?;
    let super_node = deployment.super_nodes().first().context("there is one")?.pid();
    let before = usage(super_node)?;
    let quiet = UserOptions { microphone: Some("silence".to_owned()), ..UserOptions::default() };
    let mut idle = Vec::new();
    for index in 0..arguments.nodes {
        idle.push(deployment.user("idle", &format!("idle{index}"), quiet.clone())?);
    }
    thread::sleep(Duration::from_secs(2));
    let after = usage(super_node)?;
    let per_node_kib = (after.rss_kib - before.rss_kib) / arguments.nodes.max(1) as f64;

    let speech = speech_file(folder.path().join("speech.wav"))?;
    let talker = |answers| UserOptions {
        microphone: Some(format!("wav:{},loop", speech.display())),
        answers,
        ..UserOptions::default()
    };
    let mut alice = deployment.user("alice", "alice", talker(false))?;
    let mut bob = deployment.user("bob", "bob", talker(true))?;
    let idle_mib = usage(alice.node().pid())?.rss_kib / 1024.0;
    let call = alice.start_call("bob", CallOptions { talk_s: arguments.talk })?;
    thread::sleep(Duration::from_secs(2));
    let (pid_alice, pid_bob) = (alice.node().pid(), bob.node().pid());
    let start = (usage(pid_alice)?, usage(pid_bob)?);
    let measured_s = (arguments.talk - 4.0).max(1.0);
    thread::sleep(Duration::from_secs_f64(measured_s));
    let end = (usage(pid_alice)?, usage(pid_bob)?);
    let cpu_s = (end.0.cpu_s - start.0.cpu_s + end.1.cpu_s - start.1.cpu_s) / 2.0;
    let cpu_percent = cpu_s / measured_s * 100.0;
    let call_mib = end.0.rss_kib / 1024.0;
    call.finish()?;
    if json {
        let line = json!({
            "ok": true, "idle_rss_mib": idle_mib, "call_rss_mib": call_mib,
            "call_cpu_percent": cpu_percent, "super_node_rss_mib": after.rss_kib / 1024.0,
            "super_node_kib_per_node": per_node_kib, "nodes": arguments.nodes,
        });
        println!("{line}");
    } else {
        println!("node, idle                 {idle_mib:.1} MiB");
        println!("node, in a call            {call_mib:.1} MiB, {cpu_percent:.2} % of a core");
        println!("super node                 {:.1} MiB", after.rss_kib / 1024.0);
        println!("  for each attached node   {per_node_kib:.0} KiB ({} nodes)", arguments.nodes);
    }
    Ok(())
}

fn speech_file(path: PathBuf) -> Result<PathBuf> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&path, spec)?;
    for sample in speak(Voice::High, 1, 20.0) {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(path)
}

fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("process has ended")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss_kib = rss.and_then(|text| text.split_whitespace().next()).context("VmRSS")?.parse()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    // Fields 14 and 15 of proc(5), counted after the name in parentheses.
    let total = ticks(12).context("utime")? + ticks(13).context("stime")?;
    Ok(Usage { rss_kib, cpu_s: total / rustix::param::clock_ticks_per_second() as f64 })
}
