//! Section IV.F: refresh messages, and the idle traffic of an ordinary node: what it sends and
//! hears while nothing happens, measured over minutes and reckoned up to a day.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Result;
use serde_json::json;

use super::{
    Bench, number,
    stage::{Plan, SETUPS, Stage, play},
};
use crate::{
    capture::{Capture, Packet, flows::totals},
    deployment::UserOptions,
    report::{
        Section, Table, Target, picture,
        plot::{Axis, Chart, Series, Style, draw},
    },
};

/// Most bytes a day.
const DAY_BYTES_MAX: f64 = 1e6;

const DAY_S: f64 = 86_400.0;

/// What follows a login is over after this.
const SETTLING: Duration = Duration::from_secs(20);

pub(super) fn run(bench: &Bench) -> Result<Section> {
    // Never less than two keep-alives of 120 s: in half a minute a sound node says nothing.
    let minutes = bench.choose(4.5, 8.0);
    let users = [("u0", SETUPS[0].caller), ("u1", SETUPS[1].caller), ("u2", SETUPS[2].caller)];
    play(bench, "idle", &Plan::of(users), |stage| {
        let mut section = Section::new(
            "idle",
            "Refresh messages and idle traffic",
            "One node in each set-up, attached, no call; 20 s after the login a packet socket on \
             its interface counts every IP packet both ways, headers included.",
        );
        let users = ["u0", "u1", "u2"]
            .iter()
            .map(|host| stage.user(host, &format!("idle-{host}"), UserOptions::default()))
            .collect::<Result<Vec<_>>>()?;
        thread::sleep(SETTLING);
        let captures = ["u0", "u1", "u2"]
            .iter()
            .map(|host| Capture::start(stage.network, host))
            .collect::<Result<Vec<_>>>()?;
        bench.tell(&format!("idle: watching for {minutes} minutes"));
        thread::sleep(Duration::from_secs_f64(60.0 * minutes));
        let seconds = captures[0].now_s();
        let mut table = Table::new(
            &format!("{minutes} minutes, reckoned up to a day"),
            &["set-up", "paper", "IP packets", "bytes", "kB a day", "longest silence, s"],
        );
        let mut kinds = Table::new(
            "What it is",
            &["set-up", "", "with", "what", "packets", "bytes", "first at, s", "every, s"],
        );
        let mut series = Vec::new();
        for (setup, capture) in SETUPS.iter().zip(&captures) {
            let packets = capture.packets();
            let [sent, received] = totals(&packets);
            let bytes = (sent.bytes + received.bytes) as f64;
            let a_day = bytes / seconds * DAY_S;
            let paper = if setup.name == "public" {
                "a message each 120 s"
            } else {
                "a message to its super node"
            };
            table.row([
                setup.name.to_owned(),
                paper.to_owned(),
                packets.len().to_string(),
                number(bytes),
                number(a_day / 1e3),
                number(longest_silence(&packets, seconds)),
            ]);
            kinds.rows.extend(kind_rows(stage, setup.name, &packets));
            section.targets.push(Target::new(
                &format!("idle traffic, {}", setup.name),
                "not given",
                "at most 1 MB a day",
                format!("{} kB a day", number(a_day / 1e3)),
                // Nothing at all is no frugality: a node that is attached says so now and then.
                sent.packets > 0 && received.packets > 0 && a_day <= DAY_BYTES_MAX,
            ));
            section.lines.push(json!({
                "setup": setup.name, "seconds": seconds, "packets": packets.len(), "bytes": bytes,
                "bytes_a_day": a_day.round(),
            }));
            series.push(growth(setup.name, &packets, seconds));
        }
        let caption = "Bytes that an idle node has exchanged";
        picture(bench.pictures.as_ref(), &mut section, "idle.png", caption, |path| {
            draw(&chart(series, seconds, caption), path)
        })?;
        section.tables.extend([table, kinds]);
        section.notes.push(
            "Timers: keep-alive with the super node and with the warm spare each 120 s (the \
             paper's), presence leases renewed each 240 s for buddies, the record published each \
             hour, relay credentials each 30 minutes, the certificate each few days."
                .to_owned(),
        );
        drop(users);
        Ok(section)
    })
}

fn longest_silence(packets: &[Packet], seconds: f64) -> f64 {
    let mut before = 0.0;
    let mut longest: f64 = 0.0;
    for at_s in packets.iter().map(|packet| packet.at_s).chain([seconds]) {
        longest = longest.max(at_s - before);
        before = at_s;
    }
    longest
}

fn kind_rows(stage: &Stage<'_>, setup: &str, packets: &[Packet]) -> Vec<Vec<String>> {
    let mut kinds: BTreeMap<(bool, String, &str), Vec<&Packet>> = BTreeMap::new();
    for packet in packets {
        let key = (!packet.outgoing, stage.names.name(packet.peer().ip()), packet.kind);
        kinds.entry(key).or_default().push(packet);
    }
    let row = |((incoming, peer, kind), of): ((bool, String, &str), Vec<&Packet>)| {
        let (first, last) = (of[0].at_s, of[of.len() - 1].at_s);
        let every = if of.len() > 1 {
            format!("{:.1}", (last - first) / (of.len() - 1) as f64)
        } else {
            "-".to_owned()
        };
        vec![
            setup.to_owned(),
            if incoming { "←" } else { "→" }.to_owned(),
            peer,
            kind.to_owned(),
            of.len().to_string(),
            number(of.iter().map(|packet| packet.bytes).sum::<usize>() as f64),
            format!("{first:.1}"),
            every,
        ]
    };
    kinds.into_iter().map(row).collect()
}

fn growth(name: &str, packets: &[Packet], seconds: f64) -> Series {
    let mut sum = 0.0;
    let mut points = vec![(0.0, 0.0)];
    for packet in packets {
        sum += packet.bytes as f64;
        points.push((packet.at_s, sum));
    }
    points.push((seconds, sum));
    Series { name: name.to_owned(), points, style: Style::Steps }
}

fn chart(series: Vec<Series>, seconds: f64, title: &str) -> Chart {
    let top = series.iter().filter_map(|s| s.points.last()).map(|p| p.1).fold(1.0, f64::max);
    Chart {
        title: title.to_owned(),
        x: Axis::new("time (s)", 0.0, seconds),
        y: Axis::new("bytes", 0.0, top * 1.1),
        series,
        height: 420,
    }
}
