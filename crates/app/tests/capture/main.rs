//! What somebody on the path sees of calls: everything that passes the core of a laboratory
//! network is captured while users register, talk (one pair directly, one through a relay), write
//! and ring strangers. No name, no key, no word, no speech may be in it, and nobody's address may
//! reach a stranger before an answer. The same search is let loose on the same things sent in the
//! clear through the same core, and must find them.
//!
//! It has a `main` of its own because the laboratory's sandbox is entered by starting the program
//! again. Where the kernel refuses namespaces it fails and says so.

mod clear;
mod speech;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cooee_lab::{
    deployment::{CallOptions, CallReport, Deployment, DeploymentPlan, User, UserOptions},
    eavesdropper::{Capture, Packet, Sighting, find, flows},
    network::Network,
    sandbox,
    speech::{Voice, speak},
    topology::{Family, Host, Topology},
};
use cooee_sim::place::{PLACES, Place};
use serde_json::Value;
use speech::{RATE_HZ, VOICE, likeness, read, streams};

/// Seconds of talk: windows of the correlation and what a path takes to come up.
const TALK_S: f64 = 6.0;
/// χ² with 255 degrees of freedom that ciphertext exceeds once in 10¹⁰ (mean 255, deviation 23).
const UNEVENNESS_MAX: f64 = 420.0;
/// Windows of unrelated sound look at most this alike (see `cooee_lab::measure`).
const LIKENESS_MAX: f64 = 0.3;

fn main() -> ExitCode {
    if let Err(error) = sandbox::enter() {
        eprintln!("the capture cannot run: {error:#}");
        println!("\ntest result: FAILED. 0 passed; 1 failed; 0 ignored");
        return ExitCode::FAILURE;
    }
    let name = "nobody_on_the_path_learns_names_keys_words_speech_or_a_strangers_address";
    let (verdict, passed) = match everything() {
        Ok(()) => {
            println!("test {name} ... ok");
            ("ok", 1)
        }
        Err(error) => {
            println!("test {name} ... FAILED\n  {error:#}");
            ("FAILED", 0)
        }
    };
    println!("\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored", 1 - passed);
    if passed == 1 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Who is where: the first pair talks directly, the second through a relay, the last only rings.
const USERS: [(&str, &str, &str); 5] = [
    ("wilhelmina", "Queen Wilhelmina", "public"),
    ("bartholomew", "Bartholomew the Elder", "port-restricted"),
    ("evangeline", "Evangeline Castlereagh", "symmetric"),
    ("montgomery", "Montgomery Featherstone", "symmetric"),
    ("hildegarde", "Hildegarde of Bingen", "public"),
];

const SAID: [&str; 2] = ["the eagle lands at midnight", "the harbour, as ever: quarter past"];

fn everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let topology = topology()?;
    let network = Network::up(&topology, "w")?;
    let capture = Capture::start(&network.namespace("core"))?;
    let plan = DeploymentPlan {
        login_server: "login".into(),
        super_nodes: vec!["sn1".into(), "sn2".into()],
        super_node_port: None,
        well_known_ports: false,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_cooee"));
    let deployment = Deployment::start(&network, program, folder.path(), plan, |_| {})?;
    let voices = [Voice::High, Voice::Low, Voice::Child, Voice::Low, Voice::High];
    let users: Vec<User<'_>> = thread::scope(|scope| {
        let starting: Vec<_> = (0..USERS.len())
            .map(|index| {
                let (deployment, folder) = (&deployment, folder.path());
                let voice = voices[index];
                scope.spawn(move || start(deployment, folder, index, voice))
            })
            .collect();
        starting
            .into_iter()
            .map(|user| user.join().expect("no panic in here"))
            .collect::<Result<_>>()
    })?;
    let (direct, relayed) = thread::scope(|scope| {
        let direct = scope.spawn(|| talk(&users[0], &users[1]));
        let relayed = scope.spawn(|| talk(&users[2], &users[3]));
        (direct.join().expect("no panic"), relayed.join().expect("no panic"))
    });
    let (direct, relayed) = (direct?, relayed?);
    let talked = capture.finish()?;
    ensure!(direct.record["media"]["path"] == "direct UDP", "{}", direct.record);
    let path = relayed.record["media"]["path"].as_str().unwrap_or_default();
    ensure!(path.starts_with("relayed UDP"), "{}", relayed.record);

    let ringing = Capture::start(&network.namespace("core"))?;
    ring(&users[0], "hildegarde")?;
    let rung = ringing.finish()?;

    let secrets = secrets(folder.path())?;
    let all = [&talked[..], &rung[..]].concat();
    let seen = sightings(&all, &secrets);
    ensure!(seen.is_empty(), "seen on the path: {seen:#?}");
    let sent = [&direct, &relayed].map(|report| &report.record["media"]);
    check_speech(&network, &talked, folder.path(), &sent)?;
    check_stranger(&network, &rung)?;
    drop(users);
    drop(deployment);
    clear::is_found(&network, folder.path(), &secrets)
}

fn topology() -> Result<Topology> {
    let mut topology = Topology { name: "capture".into(), seed: 1, ..Topology::default() };
    for name in ["login", "sn1", "sn2"] {
        let name = name.to_owned();
        topology.hosts.push(Host { name, behind: None, family: Family::Ipv4, link: None });
    }
    for (index, (_, _, place)) in USERS.iter().enumerate() {
        let place: &Place = PLACES.iter().find(|kind| kind.name == *place).context("a place")?;
        topology.add(place, &format!("u{index}"));
    }
    Ok(topology)
}

fn start<'d>(
    deployment: &'d Deployment<'d>,
    folder: &Path,
    index: usize,
    voice: Voice,
) -> Result<User<'d>> {
    let (name, display_name, _) = USERS[index];
    let microphone = speech_file(folder, index, voice)?;
    let options = UserOptions {
        microphone: Some(format!("wav:{}", microphone.display())),
        answers: index % 2 == 1,
        records: true,
        display_name: Some(display_name.to_owned()),
        ..UserOptions::default()
    };
    deployment.user(&format!("u{index}"), name, options)
}

fn speech_file(folder: &Path, index: usize, voice: Voice) -> Result<PathBuf> {
    let path = folder.join(format!("speech-{index}.wav"));
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&path, spec)?;
    for sample in speak(voice, index as u64 + 11, TALK_S + 4.0) {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(path)
}

/// A call during which both also write to each other.
fn talk(caller: &User<'_>, callee: &User<'_>) -> Result<CallReport> {
    let call = caller.start_call(callee.name(), CallOptions { talk_s: TALK_S })?;
    caller.run(&["message", callee.name(), SAID[0]])?;
    callee.run(&["message", caller.name(), SAID[1]])?;
    call.finish()
}

/// A stranger's call that is not answered.
fn ring(caller: &User<'_>, callee: &str) -> Result<()> {
    thread::scope(|scope| {
        let calling = scope.spawn(|| caller.run(&["call", callee]));
        thread::sleep(Duration::from_secs(3));
        let rings = caller.run(&["calls"])?;
        ensure!(rings["phase"] == "remote_ringing", "{rings}");
        caller.run(&["hang-up"])?;
        ensure!(calling.join().expect("no panic").is_err(), "nobody answered");
        Ok(())
    })
}

/// What must not be seen, with a name for each.
pub(crate) type Secrets = Vec<(String, Vec<u8>)>;

fn secrets(folder: &Path) -> Result<Secrets> {
    let mut secrets: Secrets = Vec::new();
    let mut add = |what: String, bytes: &[u8]| secrets.push((what, bytes.to_vec()));
    add("the password".into(), b"correct horse battery staple");
    for said in SAID {
        add("a message".into(), said.as_bytes());
    }
    for (index, (name, display_name, _)) in USERS.iter().enumerate() {
        add(format!("user name of {index}"), name.as_bytes());
        add(format!("display name of {index}"), display_name.as_bytes());
        let key = std::fs::read_to_string(folder.join(name).join("device.key"))?;
        let seed: Vec<u8> = (0..key.trim().len() / 2)
            .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16))
            .collect::<Result<_, _>>()?;
        ensure!(seed.len() == 32, "a device key is a seed of 32 bytes");
        add(format!("device key of {index}"), &seed);
        let status = std::fs::read(folder.join(name).join("certificate.der"))?;
        // SubjectPublicKeyInfo of Ed25519 (RFC 8410): 03 21 00, then the key.
        let at = status.windows(3).position(|bytes| bytes == [3, 33, 0]).context("a key")?;
        add(format!("public key of {index}"), &status[at + 3..at + 35]);
    }
    Ok(secrets)
}

pub(crate) fn sightings(packets: &[Packet], secrets: &Secrets) -> Vec<Sighting> {
    let flows = flows(packets);
    secrets.iter().flat_map(|(what, bytes)| find(&flows, what, bytes)).collect()
}

/// Every voice stream of both calls was captured whole, and none of them gives anything away.
fn check_speech(
    network: &Network,
    packets: &[Packet],
    folder: &Path,
    records: &[&Value],
) -> Result<()> {
    let servers = ["sn1", "sn2"].map(|host| network.ipv4(host).map(IpAddr::from));
    // Each relayed stream is seen once more from the relay on.
    let streams = streams(packets, &VOICE, 100);
    let from_users = || streams.iter().filter(|stream| !servers.contains(&Some(stream.from)));
    let captured: usize = from_users().map(|stream| stream.packets.len()).sum();
    let number = |record: &Value, key: &str| record[key].as_u64().unwrap_or(0);
    let received: u64 = records.iter().map(|record| number(record, "packets_received")).sum();
    let sent: u64 = records.iter().map(|record| number(record, "packets_sent")).sum();
    println!("{captured} voice packets captured of {} streams", streams.len());
    ensure!(from_users().count() == 4 && streams.len() >= 6, "two calls, one over a relay");
    ensure!(captured as u64 >= received + sent - 8, "{captured} of {received} + {sent} captured");
    for stream in &streams {
        let uneven = stream.unevenness();
        ensure!(!stream.has_extension, "an RTP header extension is readable");
        ensure!(uneven < UNEVENNESS_MAX, "stream {:x} is no noise: {uneven}", stream.ssrc);
        for (name, _, _) in &USERS[..4] {
            let mouth = read(&folder.join(format!("{name}-mouth.wav")));
            for (kind, sound) in [("Opus", stream.decode()), ("PCM", stream.as_samples())] {
                let (windows, best) = likeness(&mouth, &sound);
                ensure!(
                    windows == 0 && best < LIKENESS_MAX,
                    "{name} can be heard in what {} sent, read as {kind}: {best}",
                    stream.from
                );
            }
        }
    }
    Ok(())
}

/// While a stranger rings, nothing passes between the two, and neither side is told the other's
/// address in any writing.
fn check_stranger(network: &Network, rung: &[Packet]) -> Result<()> {
    let address = |host: &str| network.ipv4(host).context("a public host has an address");
    let (caller, callee) = (address("u0")?, address("u4")?);
    ensure!(rung.iter().any(|packet| packet.to.ip() == caller), "nothing was captured");
    for (who, other) in [(caller, callee), (callee, caller)] {
        let toward = |packet: &&Packet| packet.to.ip() == IpAddr::from(who);
        let heard: Vec<Packet> = rung.iter().filter(toward).cloned().collect();
        let direct = heard.iter().find(|packet| packet.from.ip() == IpAddr::from(other));
        ensure!(direct.is_none(), "a packet came straight from a stranger: {direct:?}");
        let flows = flows(&heard);
        let mut told = find(&flows, "address as text", other.to_string().as_bytes());
        told.extend(find(&flows, "address", &other.octets()));
        // As STUN and TURN write addresses (RFC 8489 section 14.2).
        let masked = Ipv4Addr::from(u32::from(other) ^ 0x2112_A442);
        told.extend(find(&flows, "masked address", &masked.octets()));
        ensure!(told.is_empty(), "{who} was told of {other}: {told:#?}");
    }
    Ok(())
}
