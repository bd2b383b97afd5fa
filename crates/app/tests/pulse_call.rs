//! A call between two processes whose microphones and speakers are real PulseAudio devices, with
//! echo cancellation, noise suppression and gain control on; its delay from mouth to ear beside
//! that of the same rig without Cooee; and devices that are pulled out and exchanged in it.
//!
//! ```text
//!   speech ─▶ sink "mouth" ─monitor─▶ Alice's cooee ─▶ Bob's cooee ─▶ sink "ear" ─monitor─▶ WAV
//! ```
//!
//! It has a `main` of its own because the sound server is found by the environment: the program
//! starts itself again with that set.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cooee_lab::{
    deployment::{CallOptions, Deployment, DeploymentPlan, User, UserOptions},
    measure::{DelayReport, Recording, measure},
    pulse::{PulseServer, WithSound},
    speech::{RATE_HZ, Voice, speak},
};
use cooee_node::audio::{AudioConfig, AudioLeg, MicrophoneSpec, SpeakerSpec, path::Loop};
use serde_json::Value;

/// Says to the second start of this program where the sound server is.
const SERVER: &str = "COOEE_TEST_PULSE";

/// Seconds of speech in each measurement.
const SPEECH_S: f64 = 12.0;

/// The call ends before that, by a command.
const TALK_S: f64 = 200.0;

/// Measurements before a source counts as unheard.
const ATTEMPTS: usize = 5;

/// Seconds at its start that do not count: streams and the voice path come up.
const SETTLE_S: usize = 3;

fn main() -> ExitCode {
    let name = "a_call_between_real_sound_devices_survives_their_being_pulled_out";
    let done = match std::env::var(SERVER) {
        Ok(_) => everything(),
        Err(_) => start_again(),
    };
    if std::env::var(SERVER).is_ok() {
        return done.map_or_else(
            |error| {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let verdict = if done.is_ok() { "ok" } else { "FAILED" };
    println!("test {name} ... {verdict}");
    if let Err(error) = &done {
        println!("  {error:#}");
    }
    let (passed, failed) = if done.is_ok() { (1, 0) } else { (0, 1) };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start_again() -> Result<()> {
    let server = PulseServer::start()?;
    for sink in ["mouth", "ear", "other", "silent"] {
        server.plug(sink)?;
    }
    let status = Command::new(std::env::current_exe()?)
        .env("PULSE_SERVER", server.address())
        .env(SERVER, "1")
        .status()?;
    ensure!(status.success(), "see above");
    Ok(())
}

fn pactl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("pactl").args(arguments).output()?;
    ensure!(output.status.success(), "pactl {arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let speech = speech(folder.path())?;
    pactl(&["set-default-sink", "ear"])?;
    let floor = heard(folder.path(), &speech, "mouth.monitor")?;

    let ground = WithSound { server: std::env::var("PULSE_SERVER")? };
    let plan = DeploymentPlan {
        login_server: "login".into(),
        super_nodes: vec!["sn".into()],
        super_node_port: None,
        well_known_ports: false,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_cooee"));
    let network = Deployment::start(&ground, program, folder.path(), plan, |_| {})?;
    let microphone = "device:mouth.monitor".to_owned();
    let options = UserOptions {
        microphone: Some(microphone),
        speaker: Some("device:other".into()),
        ..UserOptions::default()
    };
    let alice = network.user("here", "alice", options)?;
    // Nobody speaks into Bob's microphone; his speaker is the default one.
    let options = UserOptions {
        microphone: Some("device:silent.monitor".into()),
        speaker: Some("default".into()),
        answers: true,
        ..UserOptions::default()
    };
    let bob = network.user("here", "bob", options)?;
    let call = alice.start_call("bob", CallOptions { talk_s: TALK_S })?;
    let through = heard(folder.path(), &speech, "ear.monitor")?;
    let figures = |report: &DelayReport| {
        let (mean, sd) = (report.mean_ms.unwrap_or(f64::NAN), report.sd_ms.unwrap_or(f64::NAN));
        format!("{mean:.1} ms, standard deviation {sd:.1} ms, {} windows", report.delays().count())
    };
    println!("null sink alone:  {}", figures(&floor));
    println!("with the call:    {}", figures(&through));
    let now = statistics(&bob)?;
    let (said, all, rig) = (now["mouth_to_ear_ms"].as_f64(), through.mean_ms, floor.mean_ms);
    let measured = all.zip(rig).map(|(all, rig)| all - rig);
    println!(
        "mouth to ear without the rig: measured {measured:.1?} ms, the node says {said:.1?} ms"
    );
    println!("as the node says: {now}");
    devices_come_and_go(&alice, &bob)?;
    alice.run(&["hang-up"])?;
    let report = call.finish()?;
    ensure!(report.record["reason"] == "hung_up", "{}", report.record);
    println!("{}", report.record["media"]);
    Ok(())
}

/// [`listen`], again while too little is heard: on a machine that is busy with other work the sound
/// server itself stumbles, since it gets no real-time priority everywhere.
fn heard(folder: &Path, speech: &Path, source: &str) -> Result<DelayReport> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let report = listen(folder, speech, source)?;
        if report.delays().count() >= 2 {
            return Ok(report);
        }
        println!("{source}: too little was heard, once more");
        last = Some(report);
    }
    anyhow::bail!("nothing is heard of {source}: {last:?}")
}

/// Speaks into the sink "mouth" and listens to a source; the delay between.
fn listen(folder: &Path, speech: &Path, source: &str) -> Result<DelayReport> {
    let mouth = AudioConfig {
        microphone: MicrophoneSpec::Wav { path: speech.to_owned(), repeat: false },
        speaker: SpeakerSpec::Device("mouth".into()),
        mouth_recording: Some(folder.join("mouth.wav")),
    };
    let ear = AudioConfig {
        microphone: MicrophoneSpec::Device(source.into()),
        speaker: SpeakerSpec::Wav { path: folder.join("ear.wav") },
        mouth_recording: None,
    };
    let ear = AudioLeg::start(&ear, Loop::new(0))?;
    let mouth = AudioLeg::start(&mouth, Loop::new(0))?;
    thread::sleep(Duration::from_secs_f64(SPEECH_S));
    drop((mouth, ear));
    let recording = Recording::from_pair(&folder.join("mouth.wav"), &folder.join("ear.wav"))?;
    let from = SETTLE_S * recording.rate_hz as usize;
    let (mouth, ear) = (&recording.mouth, &recording.ear);
    ensure!(mouth.len() > from && ear.len() > from, "too little was recorded");
    Ok(measure(&mouth[from..], &ear[from..], recording.rate_hz))
}

fn speech(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("speech.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&path, spec)?;
    for sample in speak(Voice::Low, 5, SPEECH_S + 2.0) {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(path)
}

fn statistics(user: &User<'_>) -> Result<Value> {
    Ok(user.run(&["calls"]).context("a call goes on")?["statistics"].clone())
}

/// The default speaker changes and goes, a microphone is pulled out and put in again; the call
/// stays and follows.
fn devices_come_and_go(alice: &User<'_>, bob: &User<'_>) -> Result<()> {
    let speaker = |name: &str| {
        wait_until(&format!("Bob's speaker is {name}"), || Ok(statistics(bob)?["speaker"] == name))
    };
    speaker("ear")?;
    let headset = pactl(&["load-module", "module-null-sink", "sink_name=headset"])?;
    pactl(&["set-default-sink", "headset"])?;
    speaker("headset")?;
    pactl(&["unload-module", &headset])?;
    wait_until("Bob's speaker is one that is there", || {
        let now = statistics(bob)?["speaker"].clone();
        Ok(now.is_string() && now != "headset")
    })?;
    let modules = pactl(&["list", "short", "modules"])?;
    let mouth = modules.lines().find(|line| line.contains("sink_name=mouth"));
    let mouth = mouth.and_then(|line| line.split('\t').next()).context("the mouth's module")?;
    pactl(&["unload-module", mouth])?;
    wait_until("Alice's microphone is gone", || {
        Ok(statistics(alice)?["microphone"] != "mouth.monitor")
    })?;
    pactl(&["load-module", "module-null-sink", "sink_name=mouth", "rate=48000"])?;
    wait_until("Alice's microphone is back", || {
        Ok(statistics(alice)?["microphone"] == "mouth.monitor")
    })
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(12);
    while !is_so()? {
        ensure!(Instant::now() < until, "not within 12 s: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
