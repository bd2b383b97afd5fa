//! Figures 8 to 11: what call set-up and tear-down cost, by protocol and machine: users who are
//! buddies and users who are not, in the three set-ups, end to end and through nodes.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{
    Bench, median, messages, number, spread,
    stage::{Plan, SETUPS, Setup, Stage, play},
};
use crate::{
    capture::{Capture, Packet, flows, flows::totals, rhythm::mark_voice_over_tcp},
    deployment::{CallOptions, User, UserOptions},
    measure::recording::first_sound_ns,
    report::{Section, Table, Target},
};

/// What the paper gives for each set-up.
const PAPER: [&str; 3] = [
    "about 6 kB, TCP end to end",
    "about 8 kB, TCP by way of a node",
    "about 8 kB, TCP by way of nodes",
];

/// Seconds of talk.
const TALK_S: f64 = 3.0;

/// How long what follows the end is watched.
const AFTER: Duration = Duration::from_millis(1500);

/// How long the callee lets it ring: voice paths are prepared meanwhile.
const RINGING: Duration = Duration::from_millis(1500);

/// What counts as sound, of full scale; the microphones say a tone ten times as loud.
const SOUND: f32 = 0.01;

/// How long a call may take to arrive.
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// How long a buddy request may take.
const BUDDY_PATIENCE: Duration = Duration::from_secs(30);

/// One call, as the caller's interface saw it.
struct Seen {
    ring_ms: f64,
    /// From the callee's answer until the caller's node has it.
    answer_ms: f64,
    /// From the callee's answer to the first sound at the caller's and at the callee's speaker.
    sound_ms: [f64; 2],
    setup: Vec<Packet>,
    talk: Vec<Packet>,
    end: Vec<Packet>,
    path: String,
    /// Voice packets that the caller sent before it was answered.
    early_voice: usize,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let hosts: Vec<_> = (0..SETUPS.len()).map(|i| (format!("a{i}"), format!("b{i}"))).collect();
    let users = SETUPS
        .iter()
        .zip(&hosts)
        .flat_map(|(setup, (a, b))| [(a.as_str(), setup.caller), (b.as_str(), setup.callee)]);
    let plan = Plan { servers_on_the_way: true, ..Plan::of(users) };
    play(bench, "call", &plan, |stage| {
        let mut section = Section::new(
            "call",
            "Call set-up and tear-down (Figures 8 to 11)",
            "Seen at the caller's interface: from dialling until the answer is heard (set-up; the \
             callee lets it ring for 1.5 s), and from hanging up on (tear-down); voice packets \
             are left out. A message is a datagram or a TLS record; bytes are payload. The super \
             nodes lie on the way: the round trip between the users is the same directly and \
             through them. Sound: the first at the speaker; the microphone says a tone all the \
             time.",
        );
        let mut sums = Table::new(
            "Set-up and tear-down, all machines together",
            &[
                "set-up",
                "buddies",
                "paper, set-up",
                "set-up: messages out, in",
                "payload out, in",
                "tear-down: messages out, in",
                "payload out, in",
                "voice",
            ],
        );
        let mut times = Table::new(
            "Times, in ms",
            &[
                "set-up",
                "buddies",
                "to ringing",
                "answer to active",
                "answer to first sound: caller",
                "callee",
            ],
        );
        for (index, setup) in SETUPS.iter().enumerate() {
            let (host_a, host_b) = &hosts[index];
            let (a, b) = (format!("caller{index}"), format!("callee{index}"));
            let options = || UserOptions { records: true, ..UserOptions::default() };
            let alice = stage.user(host_a, &a, options())?;
            let mut bob = stage.user(host_b, &b, options())?;
            for (number, are_buddies) in [false, true].into_iter().enumerate() {
                if are_buddies {
                    befriend(&alice, &bob)?;
                }
                let seen = (0..bench.runs)
                    .map(|_| call(stage, host_a, &alice, &mut bob))
                    .collect::<Result<Vec<_>>>()?;
                let word = if are_buddies { "yes" } else { "no" };
                sums.row(sum_row(setup, PAPER[index], word, &seen));
                times.row(time_row(setup, word, &seen));
                judge(&mut section, stage, setup, are_buddies, &seen);
                let last = seen.last().context("there is one run at least")?;
                let title = format!("{}, {}", setup.name, ["strangers", "buddies"][number]);
                let part = |what: &str| format!("{title}: {what}");
                section.tables.push(messages::sums(stage, &last.setup, &part("set-up")));
                section.tables.push(messages::sums(stage, &last.end, &part("tear-down")));
                stage.bench.tell(&format!("call, {title}: done"));
            }
        }
        section.tables.splice(0..0, [sums, times]);
        Ok(section)
    })
}

/// Makes the two buddies of each other and lets the news settle.
fn befriend(alice: &User<'_>, bob: &User<'_>) -> Result<()> {
    alice.run(&["buddies", "add", bob.name()])?;
    let until = Instant::now() + BUDDY_PATIENCE;
    // The request has to arrive before it can be accepted.
    while bob.run(&["buddies", "accept", alice.name()]).is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(200));
    }
    loop {
        let entry = alice.run(&["buddies", "list"])?;
        if entry["state"] == "mutual" && entry["presence"] == "online" {
            break;
        }
        anyhow::ensure!(Instant::now() < until, "{} is no buddy yet: {entry}", bob.name());
        thread::sleep(Duration::from_millis(200));
    }
    thread::sleep(Duration::from_secs(2));
    Ok(())
}

fn call(stage: &Stage<'_>, host_a: &str, alice: &User<'_>, bob: &mut User<'_>) -> Result<Seen> {
    bob.node().said();
    let name = bob.name().to_owned();
    let at_alice = Capture::start(stage.network, host_a)?;
    let (began_ms, began_ns) = (unix_ms(), monotonic_ns());
    let ongoing = thread::scope(|scope| {
        let caller = scope.spawn(|| alice.start_call(&name, CallOptions { talk_s: TALK_S }));
        let answered = answer(bob);
        let ongoing = caller.join().expect("does not panic");
        answered.and(ongoing)
    })?;
    let answered_s = at_alice.now_s();
    let report = ongoing.finish()?;
    thread::sleep(AFTER);
    let heard = bob.node().wait_for("call record", Duration::from_secs(15), |line| {
        (line["event"] == "recorded").then(|| line["record"].clone())
    })?;
    let answer_unix_ms = heard["answered_unix_ms"].as_f64().context("it was answered")?;
    // The capture began within a millisecond of `began_ms`.
    let answer_s = (answer_unix_ms - began_ms) / 1e3;
    let hung_up_s = answered_s + TALK_S - 0.05;
    let marked = |capture: &Capture| {
        let mut packets = capture.packets();
        mark_voice_over_tcp(&mut packets, answer_s, hung_up_s);
        packets
    };
    let packets = marked(&at_alice);
    let answered_ns = began_ns + answer_s * 1e9;
    let sound_ms =
        [alice.ear(), bob.ear()].map(|ear| first_sound_ms(&ear, answered_ns).unwrap_or(f64::NAN));
    let part = |from: f64, to: f64| -> Vec<Packet> {
        let of = |packet: &&Packet| (from..to).contains(&packet.at_s) && !packet.is_voice();
        packets.iter().filter(of).cloned().collect()
    };
    Ok(Seen {
        ring_ms: report.ring_ms.unwrap_or(f64::NAN),
        answer_ms: (answered_s - answer_s) * 1e3,
        sound_ms,
        setup: part(0.0, answered_s),
        talk: part(answered_s, hung_up_s),
        end: part(hung_up_s, f64::INFINITY),
        early_voice: packets.iter().filter(|p| p.is_voice() && p.at_s < answer_s).count(),
        path: report.record["media"]["path"].as_str().unwrap_or("none").to_owned(),
    })
}

/// Lets it ring for a while and takes the call.
fn answer(callee: &mut User<'_>) -> Result<()> {
    callee.node().wait_for("incoming call", CALL_PATIENCE, |line| {
        (line["event"] == "incoming").then_some(())
    })?;
    thread::sleep(RINGING);
    callee.run(&["answer"]).map(drop)
}

/// From the answer to the first sound in an ear's recording.
fn first_sound_ms(ear: &Path, answered_ns: f64) -> Result<f64> {
    let heard = first_sound_ns(ear, SOUND)?;
    Ok(heard.map_or(f64::NAN, |ns| (ns as f64 - answered_ns) / 1e6))
}

/// Now, on the clock of recordings.
fn monotonic_ns() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn sum_row(setup: &Setup, paper: &str, buddies: &str, seen: &[Seen]) -> Vec<String> {
    let both = |of: fn(&Seen) -> &Vec<Packet>| {
        let counts: Vec<_> = seen.iter().map(|seen| totals(of(seen))).collect();
        let middle = |way: usize, is_payload: bool| {
            let of = |count: &[crate::capture::flows::Count; 2]| {
                if is_payload { count[way].payload as f64 } else { count[way].messages as f64 }
            };
            number(median(&counts.iter().map(of).collect::<Vec<_>>()))
        };
        let text = |is_payload| format!("{}, {}", middle(0, is_payload), middle(1, is_payload));
        [text(false), text(true)]
    };
    let [setup_messages, setup_bytes] = both(|seen| &seen.setup);
    let [end_messages, end_bytes] = both(|seen| &seen.end);
    let path = seen.last().map_or("-".to_owned(), |seen| seen.path.clone());
    let head = [setup.name, buddies, paper].map(str::to_owned);
    head.into_iter().chain([setup_messages, setup_bytes, end_messages, end_bytes, path]).collect()
}

fn time_row(setup: &Setup, buddies: &str, seen: &[Seen]) -> Vec<String> {
    let of = |value: &dyn Fn(&Seen) -> f64| spread(&seen.iter().map(value).collect::<Vec<_>>());
    vec![
        setup.name.to_owned(),
        buddies.to_owned(),
        of(&|seen| seen.ring_ms),
        of(&|seen| seen.answer_ms),
        of(&|seen| seen.sound_ms[0]),
        of(&|seen| seen.sound_ms[1]),
    ]
}

fn judge(section: &mut Section, stage: &Stage<'_>, setup: &Setup, buddies: bool, seen: &[Seen]) {
    let round_trip_ms = 2.0 * stage.bench.delay_ms;
    let ring_ms = median(&seen.iter().map(|seen| seen.ring_ms).collect::<Vec<_>>());
    let sound =
        |way: usize| median(&seen.iter().map(|seen| seen.sound_ms[way]).collect::<Vec<_>>());
    let sounds = [sound(0), sound(1)];
    if buddies {
        let trips = ring_ms / round_trip_ms;
        section.targets.push(Target::new(
            &format!("dialling to ringing, buddy, {}", setup.name),
            "not given",
            "at most 4 round trips",
            format!("{} ms, {trips:.1} round trips", number(ring_ms)),
            trips <= 4.0,
        ));
        let worst = sounds[0].max(sounds[1]);
        section.targets.push(Target::new(
            &format!("answer to first sound, {}", setup.name),
            "not given",
            "at most 1 round trip plus 60 ms",
            format!(
                "{} ms at the caller, {} ms at the callee",
                number(sounds[0]),
                number(sounds[1])
            ),
            worst <= round_trip_ms + 60.0,
        ));
    }
    let bytes = |of: fn(&Seen) -> &Vec<Packet>| {
        let all = seen.iter().map(|seen| totals(of(seen)));
        median(&all.map(|[out, back]| (out.payload + back.payload) as f64).collect::<Vec<_>>())
    };
    let last: Vec<Value> = seen.last().map_or(Vec::new(), |seen| {
        flows(&seen.setup, &stage.names).into_iter().map(|flow| json!(flow)).collect()
    });
    section.lines.push(json!({
        "setup": setup.name, "buddies": buddies, "ring_ms": ring_ms,
        "answer_ms": median(&seen.iter().map(|seen| seen.answer_ms).collect::<Vec<_>>()),
        "first_sound_ms": sounds, "setup_bytes": bytes(|seen| &seen.setup),
        "talk_signalling_bytes": bytes(|seen| &seen.talk), "end_bytes": bytes(|seen| &seen.end),
        "path": seen.last().map(|seen| seen.path.clone()),
        "early_voice": seen.last().map(|seen| seen.early_voice), "runs": seen.len(), "flows": last,
    }));
}
