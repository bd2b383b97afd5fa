//! Packets of voice in the three set-ups, with speech and with silence, and of a call on hold.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Pair, SETTLING_S, Sound, speech, watch};
use crate::{
    capture::{Packet, flows::totals},
    experiments::{
        number,
        stage::{SETUPS, Stage},
    },
    report::{Section, Table, Target},
};

/// The paper: payload sizes, packets both ways in a second, kB/s of payload both ways.
const PAPER: [(&str, &str, &str); 3] =
    [("40 to 120", "85", "5"), ("40 to 110", "-", "5"), ("30 to 90", "-", "5.5")];

/// One direction of a call's voice.
struct Voice {
    smallest: usize,
    median: usize,
    largest: usize,
    per_s: f64,
    payload_per_s: f64,
    bytes_per_s: f64,
}

impl Voice {
    fn of(packets: &[Packet], outgoing: bool, seconds: f64) -> Self {
        let voice: Vec<_> = packets
            .iter()
            .filter(|packet| packet.outgoing == outgoing && packet.is_voice())
            .collect();
        let mut sizes: Vec<_> = voice.iter().map(|packet| packet.payload).collect();
        sizes.sort_unstable();
        let at = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let index = (sizes.len().saturating_sub(1) as f64 * share) as usize;
            sizes.get(index).copied().unwrap_or(0)
        };
        let sum = |of: fn(&Packet) -> usize| voice.iter().map(|p| of(p)).sum::<usize>() as f64;
        Self {
            smallest: at(0.01),
            median: at(0.5),
            largest: at(0.99),
            per_s: voice.len() as f64 / seconds,
            payload_per_s: sum(|packet| packet.payload) / seconds,
            bytes_per_s: sum(|packet| packet.bytes) / seconds,
        }
    }

    fn sizes(&self) -> String {
        format!("{} to {}, median {}", self.smallest, self.largest, self.median)
    }
}

/// The three set-ups with speech and with silence.
pub(super) fn set_ups(stage: &Stage<'_>, section: &mut Section) -> Result<()> {
    let seconds = stage.bench.choose(4.0, 20.0);
    let mut table = Table::new(
        "Voice packets, one direction",
        &[
            "set-up",
            "sound",
            "paper: bytes",
            "payload bytes (1 to 99 %)",
            "packets/s",
            "payload kB/s",
            "on the wire kB/s",
            "by the program's own count kB/s",
            "paper, both ways",
            "payload both ways kB/s",
        ],
    );
    let said = speech(stage)?;
    for (index, setup) in SETUPS.iter().enumerate() {
        for (word, microphone) in [("speech", said.as_str()), ("silence", "silence")] {
            let sound = Sound { microphone: Some(microphone.to_owned()), records: false };
            let hosts = (format!("a{index}"), format!("b{index}"));
            let name = format!("{word}{index}");
            let pair = Pair::start(stage, (&hosts.0, &hosts.1), &name, &sound)?;
            let call = pair.call()?;
            thread::sleep(Duration::from_secs_f64(SETTLING_S));
            let packets = watch(stage, &hosts.0, seconds)?;
            let record = call.hang_up()?.record;
            let path = record["media"]["path"].as_str().unwrap_or("-").to_owned();
            let own_per_s = own_bytes_per_s(&record);
            let (up, down) =
                (Voice::of(&packets, true, seconds), Voice::of(&packets, false, seconds));
            let both = up.payload_per_s + down.payload_per_s;
            table.row([
                format!("{}, {path}", setup.name),
                word.to_owned(),
                PAPER[index].0.to_owned(),
                up.sizes(),
                format!("{:.1}", up.per_s),
                format!("{:.2}", up.payload_per_s / 1e3),
                format!("{:.2}", up.bytes_per_s / 1e3),
                format!("{:.2}", own_per_s / 1e3),
                format!("{} packets/s, {} kB/s", PAPER[index].1, PAPER[index].2),
                format!("{:.2}", both / 1e3),
            ]);
            let [sent, received] = totals(&packets);
            section.lines.push(json!({
                "setup": setup.name, "sound": word, "path": path, "packets_per_s": up.per_s,
                "payload_bytes_median": up.median, "payload_bytes_per_s": up.payload_per_s,
                "wire_bytes_per_s": up.bytes_per_s,
                "own_bytes_per_s": own_per_s, "both_ways_bytes_per_s": both,
                "all_packets": [sent.packets, received.packets],
            }));
            stage.bench.tell(&format!("media: {}, {word}", setup.name));
        }
    }
    section.tables.push(table);
    section.notes.push(
        "Skype 1.4 sent silence like speech (about 5 kB/s); see the rows \"silence\" for ours."
            .to_owned(),
    );
    section.notes.push(
        "Voice over TCP is told by its rhythm, each direction by itself: the two sides use \
         connections of their own. The program's count is of the voice alone, before encryption."
            .to_owned(),
    );
    Ok(())
}

/// Bytes of voice a second that the program says it sent, from the answer to the end: what the
/// interface shows must be more, by headers and encryption.
fn own_bytes_per_s(record: &Value) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let lasted_ms = number(&record["ended_unix_ms"]) - number(&record["answered_unix_ms"]);
    number(&record["media"]["bytes_sent"]) / lasted_ms * 1e3
}

/// A call on hold: one packet each 3 s, the paper says, and something over TCP now and then.
pub(super) fn hold(stage: &Stage<'_>, section: &mut Section) -> Result<()> {
    let seconds = stage.bench.choose(12.0, 45.0);
    let mut table = Table::new(
        "A call on hold (the paper: a UDP packet each 3 s, and TCP messages now and then)",
        &["set-up", "", "what", "packets", "each, s", "bytes/s, IP"],
    );
    for index in [0, 2] {
        let setup = &SETUPS[index];
        let hosts = (format!("a{index}"), format!("b{index}"));
        let sound = Sound { microphone: Some("tone:440".to_owned()), records: false };
        let pair = Pair::start(stage, (&hosts.0, &hosts.1), &format!("hold{index}"), &sound)?;
        let call = pair.call()?;
        thread::sleep(Duration::from_secs_f64(SETTLING_S));
        pair.caller.run(&["hold"])?;
        thread::sleep(Duration::from_secs(2));
        let packets = watch(stage, &hosts.0, seconds)?;
        call.hang_up()?;
        let mut kinds: BTreeMap<(bool, &str), Vec<&Packet>> = BTreeMap::new();
        for packet in packets.iter().filter(|packet| packet.payload > 0) {
            kinds.entry((!packet.outgoing, packet.kind)).or_default().push(packet);
        }
        for ((incoming, kind), of) in &kinds {
            let bytes: usize = of.iter().map(|packet| packet.bytes).sum();
            table.row([
                setup.name.to_owned(),
                if *incoming { "←" } else { "→" }.to_owned(),
                (*kind).to_owned(),
                of.len().to_string(),
                format!("{:.1}", seconds / of.len() as f64),
                number(bytes as f64 / seconds),
            ]);
        }
        let sent: Vec<_> = packets.iter().filter(|p| p.outgoing && p.payload > 0).collect();
        let [out, back] = totals(&packets);
        let longest = gap_s(&sent, seconds);
        section.targets.push(Target::new(
            &format!("hold, {}: longest pause between packets that are sent", setup.name),
            "3 s",
            "at most 4 s, so that no NAT forgets",
            format!("{longest:.1} s"),
            longest <= 4.0,
        ));
        section.lines.push(json!({
            "hold": setup.name, "sent": sent.len(), "seconds": seconds,
            "each_s": seconds / sent.len().max(1) as f64, "longest_pause_s": longest,
            "bytes_per_s": (out.bytes + back.bytes) as f64 / seconds,
        }));
        stage.bench.tell(&format!("media: {} on hold", setup.name));
    }
    section.tables.push(table);
    Ok(())
}

fn gap_s(packets: &[&Packet], seconds: f64) -> f64 {
    let times = packets.iter().map(|packet| packet.at_s).chain([seconds]);
    times.fold((0.0, 0.0_f64), |(before, most), at| (at, most.max(at - before))).1
}
