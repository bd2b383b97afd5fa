//! `cooee lab cost`: what a node costs its machine, idle and in a call, and what each attached node
//! costs a super node. Real processes on loopback, read from `/proc`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    deployment::{CallOptions, Deployment, DeploymentPlan, UserOptions},
    pulse::{PulseServer, WithSound},
    speech::{RATE_HZ, Voice, speak},
};

/// Until a node has given back what attaching or setting up a call needed (it waits 4 to 8 s).
const SETTLE: Duration = Duration::from_secs(10);

/// `cooee lab cost`.
#[derive(Debug, clap::Args)]
pub struct CostArgs {
    /// Seconds of each measured call
    #[arg(long, default_value_t = 25.0)]
    talk: f64,
    /// Idle nodes to attach
    #[arg(long, default_value_t = 40)]
    nodes: usize,
}

/// Resident memory and processor time of a process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    rss_kib: f64,
    cpu_s: f64,
}

/// What one call costs one of its two nodes.
#[derive(Debug, Clone, Copy)]
struct CallCost {
    idle_mib: f64,
    call_mib: f64,
    cpu_percent: f64,
}

/// How a measured call is made.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sound {
    /// Files for microphones, nothing for speakers, no processing.
    Files,
    /// The same with echo cancellation, noise suppression and gain control.
    Processed,
    /// A sound server's devices, with processing.
    Devices,
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
    // Without a sound server only the columns that need one are missing.
    let sound = PulseServer::start().inspect_err(|error| eprintln!("{error:#}")).ok();
    let ground = WithSound { server: sound.as_ref().map(PulseServer::address).unwrap_or_default() };
    let mut deployment = Deployment::start(&ground, &program, folder.path(), plan, |step| {
        eprintln!("{step}");
    })?;
    let super_node = deployment.super_nodes().first().context("there is one")?.pid();
    let attached = attach(&deployment, super_node, arguments.nodes)?;

    let speech = speech_file(folder.path().join("speech.wav"))?;
    let files = call(&deployment, Sound::Files, &speech, arguments.talk)?;
    let processed = call(&deployment, Sound::Processed, &speech, arguments.talk)?;
    let devices = match &sound {
        Some(server) => {
            for sink in ["voice", "high-ear", "low-ear"] {
                server.plug(sink)?;
            }
            let _player = server.play(&speech, "voice")?;
            Some(call(&deployment, Sound::Devices, &speech, arguments.talk)?)
        }
        None => None,
    };
    if json {
        let line = json!({
            "ok": true, "idle_rss_mib": files.idle_mib, "call_rss_mib": files.call_mib,
            "call_cpu_percent": files.cpu_percent,
            "processed_rss_mib": processed.call_mib, "processed_cpu_percent": processed.cpu_percent,
            "devices_rss_mib": devices.map(|cost| cost.call_mib),
            "devices_cpu_percent": devices.map(|cost| cost.cpu_percent),
            "super_node_rss_mib": attached.rss_kib / 1024.0,
            "super_node_kib_per_node": attached.per_node_kib, "nodes": arguments.nodes,
        });
        println!("{line}");
    } else {
        println!("node, idle                 {:.1} MiB", files.idle_mib);
        for (name, cost) in [
            ("in a call, files", Some(files)),
            ("  sound processing on", Some(processed)),
            ("  and real sound devices", devices),
        ] {
            match cost {
                Some(CallCost { call_mib, cpu_percent, .. }) => {
                    println!("{name:<26} {call_mib:.1} MiB, {cpu_percent:.2} % of a core");
                }
                None => println!("{name:<26} not measured: no sound server"),
            }
        }
        println!("super node                 {:.1} MiB", attached.rss_kib / 1024.0);
        println!(
            "  for each attached node   {:.0} KiB ({} nodes)",
            attached.per_node_kib, arguments.nodes
        );
    }
    Ok(())
}

/// What attached nodes cost a super node.
struct Attached {
    rss_kib: f64,
    per_node_kib: f64,
}

/// Attaches idle nodes, the first half before the measure begins: what the super node needs once
/// for all of them is then there. Only memory that it wrote counts (code is shared, and given
/// back).
fn attach(deployment: &Deployment<'_>, super_node: u32, nodes: usize) -> Result<Attached> {
    let quiet = UserOptions { microphone: Some("silence".to_owned()), ..UserOptions::default() };
    let mut idle = Vec::new();
    let mut written_kib = Vec::new();
    for half in [0..nodes.div_ceil(2), nodes.div_ceil(2)..nodes] {
        for index in half {
            idle.push(deployment.user("idle", &format!("idle{index}"), quiet.clone())?);
        }
        thread::sleep(SETTLE);
        written_kib.push(anonymous_kib(super_node)?);
    }
    let more_kib = written_kib[1] - written_kib[0];
    let rss_kib = usage(super_node)?.rss_kib;
    Ok(Attached { rss_kib, per_node_kib: more_kib / (nodes / 2).max(1) as f64 })
}

/// A call between two new users; memory of the caller, processor time of both on average.
fn call(deployment: &Deployment<'_>, sound: Sound, speech: &Path, talk_s: f64) -> Result<CallCost> {
    let user = |voice: &str, answers| {
        let (microphone, speaker) = match sound {
            Sound::Devices => ("device:voice.monitor".to_owned(), format!("device:{voice}-ear")),
            _ => (format!("wav:{},loop", speech.display()), "null".to_owned()),
        };
        let processing = if sound == Sound::Files { "off" } else { "on" };
        let options = UserOptions {
            microphone: Some(microphone),
            speaker: Some(speaker),
            answers,
            more: vec!["--processing".to_owned(), processing.to_owned()],
            ..UserOptions::default()
        };
        let name = format!("{voice}.{sound:?}").to_lowercase();
        deployment.user(voice, &name, options)
    };
    let (mut caller, mut callee) = (user("high", false)?, user("low", true)?);
    thread::sleep(SETTLE);
    let (pid_caller, pid_callee) = (caller.node().pid(), callee.node().pid());
    let idle_mib = usage(pid_caller)?.rss_kib / 1024.0;
    let ongoing = caller.start_call(callee.name(), CallOptions { talk_s })?;
    thread::sleep(SETTLE);
    let start = (usage(pid_caller)?, usage(pid_callee)?);
    let measured_s = (talk_s - SETTLE.as_secs_f64() - 1.0).max(1.0);
    thread::sleep(Duration::from_secs_f64(measured_s));
    let end = (usage(pid_caller)?, usage(pid_callee)?);
    ongoing.finish()?;
    let cpu_s = (end.0.cpu_s - start.0.cpu_s + end.1.cpu_s - start.1.cpu_s) / 2.0;
    let (call_mib, cpu_percent) = (end.0.rss_kib / 1024.0, cpu_s / measured_s * 100.0);
    Ok(CallCost { idle_mib, call_mib, cpu_percent })
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

/// Memory of a process that no file backs.
fn anonymous_kib(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|text| text.split_whitespace().next()).context("Anonymous")?;
    Ok(kib.parse()?)
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
