//! One cell of the matrix: a call, and how its voice travelled by what both sides recorded.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cooee_sim::{
    place::{Outcome, Place, outcome},
    reach::reach,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    deployment::{CallOptions, User},
    measure::{Recording, measure},
    mobility::{now_ns, sound},
};

/// How long the callee's record may come after the caller's.
const RECORD_PATIENCE: Duration = Duration::from_secs(15);

/// A call from one place to another.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Kind of place of the caller.
    pub caller: &'static str,
    /// Kind of place of the callee.
    pub callee: &'static str,
    /// What the oracle says.
    pub expected: Outcome,
    /// What the simulator's NAT models say.
    pub simulated: Outcome,
    /// How the voice travelled; none if it did not.
    pub outcome: Option<Outcome>,
    /// Both sides received voice.
    pub connected: bool,
    /// The path as the caller and the callee name it.
    pub paths: [String; 2],
    /// Voice packets that the caller and the callee received.
    pub received: [u64; 2],
    /// From dialling until it rang.
    pub ring_ms: Option<f64>,
    /// From dialling until the caller had a voice path.
    pub setup_ms: Option<f64>,
    /// From dialling until the caller's ear heard the callee, who answers at once.
    pub first_sound_ms: Option<f64>,
    /// From the caller's mouth to the callee's ear, over the whole call.
    pub mouth_to_ear_ms: Option<f64>,
    /// What went wrong.
    pub problem: Option<String>,
}

impl Cell {
    /// A cell without a call yet.
    pub(super) fn new(
        (caller, callee): (&'static str, &'static str),
        expected: Outcome,
        simulated: Outcome,
    ) -> Self {
        Self {
            caller,
            callee,
            expected,
            simulated,
            outcome: None,
            connected: false,
            paths: [String::new(), String::new()],
            received: [0; 2],
            ring_ms: None,
            setup_ms: None,
            first_sound_ms: None,
            mouth_to_ear_ms: None,
            problem: None,
        }
    }
}

/// Calls and talks.
pub(super) fn call(
    places: (&'static Place, &'static Place),
    caller: &mut User<'_>,
    callee: &mut User<'_>,
    talk_s: f64,
) -> Cell {
    let simulated = reach(places.0, places.1, Instant::now());
    let expected = outcome(places.0, places.1);
    let mut cell = Cell::new((places.0.name, places.1.name), expected, simulated);
    if let Err(error) = fill(&mut cell, caller, callee, talk_s) {
        cell.problem = Some(format!("{error:#}"));
    }
    cell
}

pub(super) fn fill(
    cell: &mut Cell,
    caller: &mut User<'_>,
    callee: &mut User<'_>,
    talk_s: f64,
) -> Result<()> {
    callee.node().said();
    let mut call = caller.dial(callee.name(), CallOptions { talk_s })?;
    let ring_ms = call.wait_for_ringing()?;
    let rang_ns = now_ns();
    call.wait_for_answer()?;
    let report = call.finish()?;
    (cell.ring_ms, cell.setup_ms) = (report.ring_ms, report.voice_ms);
    let call = &report.record["call"];
    let heard = callee.node().wait_for("call record", RECORD_PATIENCE, |line| {
        (line["event"] == "recorded" && line["call"] == *call).then(|| line["record"].clone())
    })?;
    let media = [&report.record["media"], &heard["media"]];
    cell.paths = media.map(|media| media["path"].as_str().unwrap_or("none").to_owned());
    cell.received = media.map(|media| media["packets_received"].as_u64().unwrap_or(0));
    cell.connected = cell.received.iter().all(|packets| *packets > 0);
    cell.outcome = travelled(media).context("no voice path")?.into();
    // The last samples are written within a quarter of a second.
    thread::sleep(Duration::from_millis(400));
    let heard_ns = sound::first_sound_ns(&caller.ear())?;
    let since_rung_ms = (heard_ns as f64 - rang_ns as f64) / 1e6;
    cell.first_sound_ms = Some(tenths(ring_ms + since_rung_ms));
    let recording = Recording::from_pair(&caller.mouth(), &callee.ear())?;
    let delay = measure(&recording.mouth, &recording.ear, recording.rate_hz);
    cell.mouth_to_ear_ms = delay.mean_ms.map(tenths);
    Ok(())
}

fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// What both views of the path amount to: a side cannot see whether the other one's relay is
/// reached over TCP, so the worse of the two holds.
fn travelled(media: [&Value; 2]) -> Option<Outcome> {
    let [one, other] = media.map(|media| match media["path"].as_str()? {
        "direct UDP" => Some(Outcome::Direct),
        path if path.starts_with("relayed UDP") => Some(Outcome::RelayedUdp),
        path if path.starts_with("relayed T") => Some(Outcome::Tcp),
        _ => None,
    });
    Some(one?.max(other?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_worse_view_of_a_path_holds() {
        let path = |text: &str| json!({ "path": text });
        let of = |one: &str, other: &str| travelled([&path(one), &path(other)]);
        assert_eq!(of("direct UDP", "direct UDP"), Some(Outcome::Direct));
        assert_eq!(of("relayed UDP (the peer's relay)", "relayed TLS"), Some(Outcome::Tcp));
        assert_eq!(of("direct UDP", "relayed UDP"), Some(Outcome::RelayedUdp));
        assert_eq!(of("direct UDP", "none"), None);
    }
}
