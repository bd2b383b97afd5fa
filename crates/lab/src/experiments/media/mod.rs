//! Section IV.E: what voice costs and how it behaves: packet sizes and rates and bandwidth in the
//! three set-ups, silence, hold, little bandwidth; and the frequency response ([`tones`]).

mod packets;
mod slow;
mod tones;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use cooee_sim::place::{PLACES, Place};

use super::{
    Bench,
    stage::{Plan, SETUPS, Stage, play},
};
use crate::{
    capture::{Capture, Packet, rhythm::mark_voice_over_tcp},
    deployment::{CallOptions, OngoingCall, User, UserOptions},
    report::Section,
    speech::{RATE_HZ, Voice, speak},
};

/// How long a call runs before it is measured: rate control and path have settled, in s.
const SETTLING_S: f64 = 4.0;

/// A talk that is ended by hand.
const LONG_S: f64 = 600.0;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let mut users: Vec<(String, &Place)> = Vec::new();
    for (index, setup) in SETUPS.iter().enumerate() {
        users.push((format!("a{index}"), setup.caller));
        users.push((format!("b{index}"), setup.callee));
    }
    for host in slow::HOSTS.iter().chain(&tones::HOSTS).chain(&[EAR]) {
        users.push(((*host).to_owned(), &PLACES[0]));
    }
    let plan = Plan { super_nodes: 3, users, servers_on_the_way: true };
    play(bench, "media", &plan, |stage| {
        let mut section = Section::new(
            "media",
            "Voice: packets, bandwidth, silence, hold, little bandwidth, frequencies (section \
             IV.E)",
            "Seen at the caller's interface in calls of synthetic speech. Payload is that of UDP \
             or TCP, as in the paper; on the wire are IP packets. kB are 1,000 bytes.",
        );
        packets::set_ups(stage, &mut section)?;
        packets::hold(stage, &mut section)?;
        slow::run(stage, &mut section)?;
        tones::run(stage, &mut section)?;
        Ok(section)
    })
}

/// Where those are called whose callers' links are slow.
const EAR: &str = "ear";

/// A call that goes on between two users of a stage.
struct Pair<'s> {
    caller: User<'s>,
    callee: User<'s>,
}

/// What a pair says and keeps.
#[derive(Debug, Clone, Default)]
struct Sound {
    microphone: Option<String>,
    records: bool,
}

impl<'s> Pair<'s> {
    fn start(stage: &'s Stage<'_>, hosts: (&str, &str), name: &str, sound: &Sound) -> Result<Self> {
        let options = |answers| UserOptions {
            microphone: sound.microphone.clone(),
            records: sound.records,
            answers,
            ..UserOptions::default()
        };
        let caller = stage.user(hosts.0, &format!("{name}-a"), options(false))?;
        let callee = stage.user(hosts.1, &format!("{name}-b"), options(true))?;
        Ok(Self { caller, callee })
    }

    fn call(&self) -> Result<OngoingCall> {
        self.caller.start_call(self.callee.name(), CallOptions { talk_s: LONG_S })
    }
}

/// The packets of `seconds` of a call, voice over TCP marked.
fn watch(stage: &Stage<'_>, host: &str, seconds: f64) -> Result<Vec<Packet>> {
    let capture = Capture::start(stage.network, host)?;
    thread::sleep(Duration::from_secs_f64(seconds));
    let mut packets = capture.between(0.0, seconds);
    mark_voice_over_tcp(&mut packets, 0.0, seconds);
    Ok(packets)
}

/// A file of speech for a microphone, and the words that name it.
fn speech(stage: &Stage<'_>) -> Result<String> {
    let samples = speak(Voice::High, 5, 30.0);
    microphone(stage, "speech.wav", &samples)
}

/// Writes samples for a microphone that plays them over and over.
fn microphone(stage: &Stage<'_>, file: &str, samples: &[f32]) -> Result<String> {
    let path: PathBuf = stage.deployment.folder().join(file);
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&path, spec)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    writer.finalize()?;
    Ok(format!("wav:{},loop", path.display()))
}
