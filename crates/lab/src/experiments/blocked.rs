//! Figure 3: what a client sends when everything is blocked. The paper made `connect()` and
//! `sendto()` fail; here a firewall in the way swallows, or refuses, every packet that leaves.
//!
//! The device has its certificate and no host cache: it knows the super nodes of its invitation.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result};
use cooee_sim::place::PLACES;
use serde_json::json;

use super::{
    Bench, number,
    stage::{Plan, Stage, block, play, refuse, unblock},
};
use crate::{
    capture::{Capture, Packet, Transport},
    deployment::{PASSWORD, UserOptions},
    report::{
        Section, Table, Target, picture,
        plot::{Axis, Chart, Series, Style, draw},
    },
};

const HOST: &str = "u0";

/// What becomes of packets, nft's verdict, and what the node's state must say of it.
const CAUSES: [(&str, &str, &str); 2] = [
    ("dropped", "drop", "no super node answers by UDP or TCP"),
    ("refused", "reject", "refuse connections"),
];

/// Packets closer than this belong to one round, in s.
const ROUND_S: f64 = 0.3;

/// Rows of rounds to show.
const ROUNDS_SHOWN: usize = 30;

/// How long attachment may take when the way is open again.
const OPEN_PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let seconds = bench.choose(15.0, 120.0);
    play(bench, "blocked", &Plan::of([(HOST, &PLACES[1])]), |stage| {
        let mut section = Section::new(
            "blocked",
            "What a client sends when everything is blocked (Figure 3)",
            "A device with a certificate and an empty host cache starts behind a gateway that lets \
             nothing out; a packet socket on its interface notes what it sends. Its invitation \
             names three super nodes and the login server. Then the gateway opens.",
        );
        section.tables.push(fresh_device(stage)?);
        for (word, verdict, cause) in CAUSES {
            let (packets, reattached_s, said) = attempt(stage, seconds, verdict)?;
            section.tables.push(rounds(stage, &packets, word));
            section.tables.push(totals(stage, &packets, seconds, word));
            let file = format!("blocked-{word}.png");
            let caption = format!("What leaves the device while every packet is {word}");
            picture(bench.pictures.as_ref(), &mut section, &file, &caption, |path| {
                draw(&timeline(stage, &packets, seconds, &caption), path)
            })?;
            section.lines.push(json!({
                "blocked": word, "seconds": seconds, "packets": packets.len(),
                "udp": packets.iter().filter(|p| p.transport == Transport::Udp).count(),
                "tcp_opens": opens(&packets), "says": said,
                "attached_after_opening_s": reattached_s,
            }));
            section.notes.push(format!(
                "{word}: the node says \"{said}\"; attached {reattached_s:.1} s after the gateway \
                 opened"
            ));
            section.targets.push(Target::new(
                &format!("tells the user, packets {word}"),
                "never in 15 minutes",
                "says that it cannot connect, and why",
                said.clone(),
                said.contains(cause),
            ));
        }
        Ok(section)
    })
}

/// `cooee login` on a device that knows nothing but the invitation.
fn fresh_device(stage: &Stage<'_>) -> Result<Table> {
    stage.account("fresh")?;
    let mut table = Table::new(
        "`cooee login` on a fresh device, everything blocked",
        &["packets are", "exit code", "after, s", "UDP sent", "TCP connections tried", "says"],
    );
    for (word, verdict) in [("dropped", "drop"), ("refused", "reject")] {
        refuse(stage.network, &format!("{HOST}g"), "", verdict)?;
        let capture = Capture::start(stage.network, HOST)?;
        let output = stage.login(HOST, "fresh", word, PASSWORD)?;
        let took_s = capture.now_s();
        unblock(stage.network, &format!("{HOST}g"))?;
        let mut packets = capture.packets();
        packets.retain(|packet| packet.outgoing);
        table.row([
            word.to_owned(),
            output.status.code().map_or("-".to_owned(), |code| code.to_string()),
            format!("{took_s:.1}"),
            packets.iter().filter(|p| p.transport == Transport::Udp).count().to_string(),
            opens(&packets).to_string(),
            super::stage::said(&output),
        ]);
    }
    stage.bench.tell("blocked: login on a fresh device");
    Ok(table)
}

/// Runs a node behind the closed gateway: what it sent, how long it took to get attached after
/// the gateway opened, and what it said meanwhile.
fn attempt(stage: &Stage<'_>, seconds: f64, verdict: &str) -> Result<(Vec<Packet>, f64, String)> {
    let user = format!("user-{verdict}");
    let mut online = stage.user(HOST, &user, UserOptions::default())?;
    online.node().end()?;
    let _ = std::fs::remove_file(format!("{}/host-cache.json", online.profile()));
    let gateway = format!("{HOST}g");
    if verdict == "drop" {
        block(stage.network, &gateway, "")?;
    } else {
        refuse(stage.network, &gateway, "", verdict)?;
    }
    let capture = Capture::start(stage.network, HOST)?;
    let arguments = ["up", "--profile-dir", online.profile(), "--no-well-known-ports"];
    let sound = ["--super-node", "never", "--microphone", "silence", "--speaker", "null"];
    let arguments = [&arguments[..], &sound[..]].concat();
    let mut node = stage.deployment.start_daemon(&format!("{user}-blocked"), HOST, &arguments)?;
    stage.bench.tell(&format!("blocked ({verdict}): watching for {seconds} s"));
    thread::sleep(Duration::from_secs_f64(seconds));
    let mut packets = capture.between(0.0, seconds);
    packets.retain(|packet| packet.outgoing);
    let said = node
        .said()
        .iter()
        .filter(|line| line["event"] == "state_changed")
        .filter_map(|line| line["detail"].as_str().map(str::to_owned))
        .next_back()
        .unwrap_or_default();
    unblock(stage.network, &gateway)?;
    let opened_s = capture.now_s();
    node.wait_for("attachment", OPEN_PATIENCE, |line| (line["event"] == "attached").then_some(()))
        .context("the way is open again")?;
    Ok((packets, capture.now_s() - opened_s, said))
}

/// TCP connections tried: first SYNs, without their repetitions.
fn opens(packets: &[Packet]) -> usize {
    let flows: std::collections::BTreeSet<_> =
        packets.iter().filter(|p| p.is_tcp_open()).map(|p| (p.from, p.to)).collect();
    flows.len()
}

/// What is sent, in words: to whom and how.
fn what(stage: &Stage<'_>, packet: &Packet) -> (String, String) {
    let name = stage.names.name(packet.to.ip());
    let who = if name.starts_with("super node") { "super nodes".to_owned() } else { name };
    let how = match packet.transport {
        Transport::Udp => format!("UDP {} bytes ({})", packet.payload, packet.kind),
        Transport::Tcp => format!("TCP to port {}", port(packet.to.port())),
        Transport::Other => "ICMP".to_owned(),
    };
    (who, how)
}

/// 443, 80 or the port of its own.
fn port(port: u16) -> String {
    if port == 443 || port == 80 { port.to_string() } else { "of its own".to_owned() }
}

fn rounds(stage: &Stage<'_>, packets: &[Packet], word: &str) -> Table {
    let title = format!("What is sent, packets {word}, in rounds");
    let mut table = Table::new(&title, &["after, s", "to", "what", "packets"]);
    let mut at = 0;
    while at < packets.len() && table.rows.len() < ROUNDS_SHOWN {
        let start = at;
        while at < packets.len()
            && (at == start || packets[at].at_s - packets[at - 1].at_s < ROUND_S)
        {
            at += 1;
        }
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for packet in &packets[start..at] {
            *counts.entry(what(stage, packet)).or_default() += 1;
        }
        for ((who, how), count) in counts {
            table.row([format!("{:.2}", packets[start].at_s), who, how, count.to_string()]);
        }
    }
    table
}

fn totals(stage: &Stage<'_>, packets: &[Packet], seconds: f64, word: &str) -> Table {
    let title = format!("The same, packets {word}, in sum over {seconds} s");
    let mut table = Table::new(&title, &["to", "what", "packets", "bytes"]);
    let mut counts: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for packet in packets {
        let count = counts.entry(what(stage, packet)).or_default();
        *count = (count.0 + 1, count.1 + packet.bytes);
    }
    for ((who, how), (count, bytes)) in counts {
        table.row([who, how, count.to_string(), number(bytes as f64)]);
    }
    table
}

fn timeline(stage: &Stage<'_>, packets: &[Packet], seconds: f64, title: &str) -> Chart {
    let row = |packet: &Packet| {
        let how = match packet.transport {
            Transport::Udp => "UDP".to_owned(),
            Transport::Tcp => format!("TCP {}", port(packet.to.port())),
            Transport::Other => "ICMP".to_owned(),
        };
        format!("{}, {how}", stage.names.name(packet.to.ip()))
    };
    let mut names: Vec<_> = packets.iter().map(row).collect();
    names.sort();
    names.dedup();
    let series = [("UDP", Transport::Udp), ("TCP", Transport::Tcp)].map(|(name, transport)| {
        let of = packets.iter().filter(|packet| packet.transport == transport);
        let points = of.map(|packet| {
            let index = names.binary_search(&row(packet)).unwrap_or(0);
            (packet.at_s, index as f64)
        });
        Series { name: name.to_owned(), points: points.collect(), style: Style::Points }
    });
    let height = 140 + 36 * u32::try_from(names.len()).unwrap_or(10);
    Chart {
        title: title.to_owned(),
        x: Axis::new("time (s)", 0.0, seconds),
        y: Axis::of_names("", names),
        series: series.into(),
        height,
    }
}
