//! Figure 4: the minimal set of messages of a login, message by message, on a public address:
//! `cooee login` on a fresh device, then `cooee up` until it is attached.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use cooee_sim::place::PLACES;
use serde_json::json;

use super::{
    Bench, number,
    stage::{Plan, Stage, play, said},
};
use crate::{
    capture::{Capture, Packet, flows, flows::totals},
    deployment::{PASSWORD, UserOptions},
    report::{
        Section, Table, picture,
        plot::{Axis, Chart, Series, Style, draw},
    },
};

const HOST: &str = "u0";

/// How long after the attachment the node is watched: what it does next belongs to a login.
const AFTER_S: f64 = 2.0;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    play(bench, "messages", &Plan::of([(HOST, &PLACES[0])]), |stage| {
        let mut section = Section::new(
            "messages",
            "The messages of a login (Figure 4)",
            "Seen by a packet socket on the device's interface, public address. A message is a \
             datagram or a TLS record; acknowledgements are left out; bytes are payload above UDP \
             or TCP, as in the paper's figure, which shows two messages each way with the login \
             server (5 bytes each; about 400 and 217 bytes) and a UDP and a TCP exchange with a \
             bootstrap super node and a super node.",
        );
        stage.account("alice")?;
        let capture = Capture::start(stage.network, HOST)?;
        let output = stage.login(HOST, "alice", "second", PASSWORD)?;
        anyhow::ensure!(output.status.success(), "login: {}", said(&output));
        thread::sleep(Duration::from_millis(200));
        let account = capture.packets();
        section.tables.push(messages(
            stage,
            &account,
            "1. `cooee login`: password and certificate",
        ));
        section.tables.push(sums(stage, &account, "The same by machine"));
        drop(capture);

        let options = UserOptions { device: Some("third".to_owned()), ..UserOptions::default() };
        let mut user = stage.deployment.user(HOST, "alice", options.clone())?;
        user.node().end()?;
        for (file, word) in [("cold", "empty"), ("warm", "warm")] {
            if file == "cold" {
                std::fs::remove_file(format!(
                    "{}/host-cache.json",
                    stage.profile("alice", "third")?
                ))
                .context("a node that ends stores its host cache")?;
            }
            let capture = Capture::start(stage.network, HOST)?;
            user.restart(&options)?;
            let attached_s = capture.now_s();
            thread::sleep(Duration::from_secs_f64(AFTER_S));
            let packets = capture.packets();
            let title = format!("2. `cooee up`, {word} host cache, until attached");
            section.tables.push(messages(stage, &capture.between(0.0, attached_s), &title));
            let title = format!("The same by machine, until {AFTER_S} s later");
            section.tables.push(sums(stage, &packets, &title));
            let name = format!("messages-{file}.png");
            let caption = format!("`cooee up` with {word} host cache: payload over time");
            picture(bench.pictures.as_ref(), &mut section, &name, &caption, |path| {
                draw(&chart(stage, &packets, &caption), path)
            })?;
            let [sent, received] = totals(&capture.between(0.0, attached_s));
            section.lines.push(json!({
                "host_cache": word, "attached_s": attached_s, "sent": sent, "received": received,
                "flows": flows(&packets, &stage.names),
            }));
            user.node().end()?;
        }
        Ok(section)
    })
}

/// Every message that carries something, segments of one direction that follow each other in one
/// row.
fn messages(stage: &Stage<'_>, packets: &[Packet], title: &str) -> Table {
    let mut table = Table::new(title, &["ms", "", "with", "over", "bytes", "what"]);
    let mut last: Option<(String, usize)> = None;
    for packet in packets.iter().filter(|p| p.messages > 0 || p.payload > 0 || p.is_tcp_open()) {
        let peer = format!("{}:{}", stage.names.name(packet.peer().ip()), packet.peer().port());
        let way = if packet.outgoing { "→" } else { "←" };
        let key = format!("{way}{peer}{:?}{}", packet.transport, packet.from);
        if packet.kind == "TLS continued"
            && let Some((before, bytes)) = &mut last
            && *before == key
            && let Some(cell) = table.rows.last_mut()
        {
            *bytes += packet.payload;
            cell[4] = number(*bytes as f64);
            continue;
        }
        last = Some((key, packet.payload));
        table.row([
            format!("{:.0}", packet.at_s * 1e3),
            way.to_owned(),
            peer,
            packet.transport.name().to_owned(),
            number(packet.payload as f64),
            packet.kind.to_owned(),
        ]);
    }
    table
}

/// Messages and bytes by machine and transport.
pub(super) fn sums(stage: &Stage<'_>, packets: &[Packet], title: &str) -> Table {
    let mut table = Table::new(
        title,
        &["with", "over", "messages out", "in", "payload out", "in", "IP bytes, both"],
    );
    for flow in flows(packets, &stage.names) {
        table.row([
            flow.peer,
            flow.transport.name().to_owned(),
            flow.sent.messages.to_string(),
            flow.received.messages.to_string(),
            number(flow.sent.payload as f64),
            number(flow.received.payload as f64),
            number((flow.sent.bytes + flow.received.bytes) as f64),
        ]);
    }
    table
}

fn chart(stage: &Stage<'_>, packets: &[Packet], title: &str) -> Chart {
    let name = |packet: &Packet| {
        format!("{}, {}", stage.names.name(packet.peer().ip()), packet.transport.name())
    };
    let mut names: Vec<_> = packets.iter().map(name).collect();
    names.sort();
    names.dedup();
    let end = packets.last().map_or(1.0, |packet| packet.at_s) * 1e3;
    let series = [("sent", true), ("received", false)].map(|(word, outgoing)| {
        let of = packets.iter().filter(|packet| packet.outgoing == outgoing);
        let points = of.map(|packet| {
            let index = names.binary_search(&name(packet)).unwrap_or(0) as f64;
            (packet.at_s * 1e3, index + if outgoing { 0.15 } else { -0.15 })
        });
        Series { name: word.to_owned(), points: points.collect(), style: Style::Points }
    });
    let height = 140 + 48 * u32::try_from(names.len()).unwrap_or(10);
    Chart {
        title: title.to_owned(),
        x: Axis::new("time (ms)", 0.0, end),
        y: Axis::of_names("", names),
        series: series.into(),
        height,
    }
}
