//! Speech over a link of 2 and of 1.5 kB a second each way, where Skype was barely audible and
//! almost unintelligible.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{EAR, Pair, SETTLING_S, Sound, speech, watch};
use crate::{
    capture::{Packet, flows::totals},
    experiments::stage::Stage,
    measure::{Recording, draw, measure},
    report::{
        Section, Table, Target, picture,
        plot::{self, Axis, Chart, Series, Style},
    },
    topology::LinkConfig,
};

/// Callers whose links are slow.
pub(super) const HOSTS: [&str; 2] = ["slow2", "slow1"];

/// Each link's bytes a second, IP headers included, and what the paper says of it.
const LIMITS: [(u64, &str); 2] = [(2_000, "barely audible"), (1_500, "almost unintelligible")];

/// Longest time in the queue in front of the link, in ms: a home router's.
const QUEUE_MS: f64 = 500.0;

/// Time for rate control to find the rate, in s.
const FINDING_S: f64 = 15.0;

pub(super) fn run(stage: &Stage<'_>, section: &mut Section) -> Result<()> {
    let seconds = stage.bench.choose(6.0, 24.0);
    let mut rates = Vec::new();
    let mut table = Table::new(
        "Little bandwidth: the caller speaks over a slow link, both ways limited alike",
        &[
            "limit, kB/s",
            "paper",
            "sent, kB/s on the wire",
            "windows of 2 s heard",
            "likeness (correlation)",
            "mouth to ear, ms",
            "lost",
            "path (changes)",
        ],
    );
    for (host, (limit, paper)) in HOSTS.iter().zip(LIMITS) {
        let sound = Sound { microphone: Some(speech(stage)?), records: true };
        let mut pair = Pair::start(stage, (host, EAR), host, &sound)?;
        let call = pair.call()?;
        thread::sleep(Duration::from_secs_f64(SETTLING_S));
        let link = stage.network.link(host).context("the link is emulated")?;
        let free = LinkConfig { delay_ms: stage.bench.delay_ms / 2.0, ..LinkConfig::default() };
        link.set(LinkConfig { rate_bps: Some(8 * limit), queue_ms: QUEUE_MS, ..free });
        let all = watch(stage, host, FINDING_S + seconds)?;
        link.set(free);
        let packets: Vec<_> = all.iter().filter(|p| p.at_s >= FINDING_S).cloned().collect();
        for (word, outgoing) in [("sent", true), ("received", false)] {
            rates.push(rate(&all, outgoing, &format!("{:.1} kB/s, {word}", limit as f64 / 1e3)));
        }
        let record = call.hang_up()?.record["media"].clone();
        let (mouth, ear) = (pair.caller.mouth(), pair.callee.ear());
        pair.caller.node().end()?;
        pair.callee.node().end()?;
        let mut whole = Recording::from_pair(&mouth, &ear)?;
        keep_seconds(&mut whole, SETTLING_S + FINDING_S, SETTLING_S + FINDING_S + seconds);
        let report = measure(&whole.mouth, &whole.ear, whole.rate_hz);
        let spoken = report.windows.iter().filter(|w| w.confidence > 0.0).count();
        let heard = report.delays().count();
        let likeness = mean(report.windows.iter().map(|w| w.confidence).filter(|c| *c > 0.0));
        let [sent, _] = totals(&packets);
        let kb = sent.bytes as f64 / seconds / 1e3;
        let delay = report.mean_ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        let loss = record["loss"].as_f64().unwrap_or(f64::NAN);
        table.row([
            format!("{:.1}", limit as f64 / 1e3),
            paper.to_owned(),
            format!("{kb:.2}"),
            format!("{heard} of {spoken}"),
            format!("{likeness:.2}"),
            delay,
            format!("{:.0} %", 100.0 * loss),
            format!("{} ({})", text(&record["path"]), record["path_changes"]),
        ]);
        section.targets.push(Target::new(
            &format!("speech at {:.1} kB/s", limit as f64 / 1e3),
            paper,
            "heard in nine windows of ten",
            format!("{heard} of {spoken}"),
            spoken > 0 && 10 * heard >= 9 * spoken,
        ));
        section.lines.push(json!({
            "limit_bytes_per_s": limit, "sent_bytes_per_s": kb * 1e3, "windows": spoken,
            "heard": heard, "likeness": likeness, "mouth_to_ear_ms": report.mean_ms,
            "loss": loss, "sent_by_kind_bytes_per_s": by_kind(&packets, seconds),
            "path_changes": record["path_changes"],
        }));
        let title = format!("Speech over {:.1} kB/s", limit as f64 / 1e3);
        let file = format!("media-{limit}.png");
        picture(stage.bench.pictures.as_ref(), section, &file, &title, |path| {
            draw(&whole, &report, &title, path)
        })?;
        stage.bench.tell(&format!("media: {title}"));
    }
    section.tables.push(table);
    let caption = "What the caller sends and hears on a slow link, from the limit on";
    let top = rates.iter().flat_map(|s: &Series| &s.points).map(|p| p.1).fold(3.0, f64::max);
    let chart = Chart {
        title: caption.to_owned(),
        x: Axis::new("time (s)", 0.0, FINDING_S + seconds),
        y: Axis::new("kB/s on the wire", 0.0, top * 1.1),
        series: rates,
        height: 420,
    };
    picture(stage.bench.pictures.as_ref(), section, "media-slow.png", caption, |path| {
        plot::draw(&chart, path)
    })
}

/// kB in each second.
fn rate(packets: &[Packet], outgoing: bool, name: &str) -> Series {
    let mut seconds: BTreeMap<u64, f64> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.outgoing == outgoing) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
        let second = packet.at_s as u64;
        *seconds.entry(second).or_default() += packet.bytes as f64 / 1e3;
    }
    let points = seconds.into_iter().map(|(second, kb)| (second as f64, kb)).collect();
    Series { name: name.to_owned(), points, style: Style::Steps }
}

/// Bytes a second that are sent, by what the packets are.
fn by_kind(packets: &[Packet], seconds: f64) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.outgoing) {
        let kind = format!("{}, {} B", packet.kind, packet.payload.next_multiple_of(50));
        *kinds.entry(kind).or_default() += packet.bytes as f64 / seconds;
    }
    kinds
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

/// Leaves of a recording what lies between two moments.
fn keep_seconds(recording: &mut Recording, from_s: f64, to_s: f64) {
    let rate = f64::from(recording.rate_hz);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
    let (from, to) = ((from_s * rate) as usize, (to_s * rate) as usize);
    for samples in [&mut recording.mouth, &mut recording.ear] {
        samples.truncate(to.min(samples.len()));
        samples.drain(..from.min(samples.len()));
    }
    recording.ear_gaps_s.clear();
}
