//! What the demo says at the end: a table beside the paper's figures, one JSON line, the picture.

use std::path::Path;

use anyhow::{Context, Result};
use cooee_lab::measure::{DelayReport, Recording, draw, measure};
use serde::Serialize;

use super::stage::Played;
use crate::output::Output;

/// Mouth-to-ear delay of Skype in the paper's Table III, and its standard deviation, in ms.
const PAPER_DELAY_MS: (f64, f64) = (96.0, 4.0);

/// The last line of `cooee demo --json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Everything worked and was measured.
    pub(super) ok: bool,
    login_ms: u64,
    login_bytes: u64,
    ring_ms: f64,
    setup_ms: f64,
    path: String,
    cipher: String,
    codec: String,
    mouth_to_ear_ms_mean: f64,
    mouth_to_ear_ms_sd: f64,
    bytes_per_s: f64,
    rss_mib: f64,
    #[serde(skip)]
    lines: Vec<String>,
}

impl Report {
    /// Measures the recordings in `folder` and draws the picture.
    pub(super) fn new(folder: &Path, played: &Played) -> Result<Self> {
        let there = heard(folder, "alice", "bob")?;
        let back = heard(folder, "bob", "alice")?;
        let media = &played.call.record["media"];
        let text = |key: &str| media[key].as_str().unwrap_or("none").to_owned();
        let bytes = media["bytes_sent"].as_u64().unwrap_or(0);
        let mean = there.mean_ms.context("bob heard nothing of alice")?;
        let sd = there.sd_ms.unwrap_or(0.0);
        let back_mean = back.mean_ms.context("alice heard nothing of bob")?;
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        let relayed: u64 = played.relayed_bytes.iter().sum();
        let mut report = Self {
            ok: true,
            login_ms: number(&played.attached["login_ms"]),
            login_bytes: number(&played.attached["login_bytes"]),
            ring_ms: played.call.ring_ms.unwrap_or(0.0),
            setup_ms: played.call.setup_ms.unwrap_or(0.0),
            path: text("path"),
            cipher: text("cipher"),
            codec: text("codec"),
            mouth_to_ear_ms_mean: mean,
            mouth_to_ear_ms_sd: sd,
            bytes_per_s: bytes as f64 / played.talk_s,
            rss_mib: played.caller["rss_mib"].as_f64().unwrap_or(0.0),
            lines: Vec::new(),
        };
        report.ok = media["packets_received"].as_u64().unwrap_or(0) > 0;
        report.lines = report.table(played, back_mean, relayed, folder);
        Ok(report)
    }

    fn table(&self, played: &Played, back_ms: f64, relayed: u64, folder: &Path) -> Vec<String> {
        let row =
            |what: &str, ours: String, paper: &str| format!("  {what:<22} {ours:<34} {paper}");
        vec![
            row("", "here".to_owned(), "the paper's Skype (2005)"),
            row("registration", format!("{} ms", played.registered["took_ms"]), ""),
            row(
                "login, certificate held",
                format!("{} ms, {} bytes", self.login_ms, self.login_bytes),
                "3 to 7 s, 10 kB",
            ),
            row(
                "call: ring, answer",
                format!("{:.0} ms, {:.0} ms", self.ring_ms, self.setup_ms),
                "",
            ),
            row("path", self.path.clone(), "UDP, direct"),
            row("cipher", self.cipher.clone(), "AES-256"),
            row("codec", self.codec.clone(), "iSAC"),
            row(
                "mouth to ear",
                format!("{:.1} ms (sd {:.2})", self.mouth_to_ear_ms_mean, self.mouth_to_ear_ms_sd),
                &format!("{} ms (sd {})", PAPER_DELAY_MS.0, PAPER_DELAY_MS.1),
            ),
            row("  the other way", format!("{back_ms:.1} ms"), ""),
            row("voice sent", format!("{:.1} kB/s", self.bytes_per_s / 1000.0), "5 kB/s"),
            row("relayed by super nodes", format!("{relayed} bytes of voice"), ""),
            row("memory of a client", format!("{:.1} MiB", self.rss_mib), "21 to 27 MB"),
            row(
                "safety number",
                safety(&played.call.record).to_owned(),
                if safety(&played.call.record) == safety(&played.callee_record) {
                    "(the same on both sides)"
                } else {
                    "(DIFFERS on the other side)"
                },
            ),
            String::new(),
            format!("Recordings, picture and logs: {}", folder.display()),
            format!("Listen: {}", folder.join("alice-to-bob.wav").display()),
            format!("Look:   {}", folder.join("alice-to-bob.png").display()),
        ]
    }

    /// Prints the table, or the JSON line.
    pub(super) fn print(&self, output: Output) {
        output.line("");
        for line in &self.lines {
            output.line(line);
        }
        output.json_line(self);
    }
}

/// The first groups of the safety number.
fn safety(record: &serde_json::Value) -> &str {
    let number = record["safety_number"].as_str().unwrap_or("none");
    number.get(..29).unwrap_or(number)
}

/// Puts mouth and ear together, measures the delay and leaves a stereo file and a picture.
fn heard(folder: &Path, mouth: &str, ear: &str) -> Result<DelayReport> {
    let recording = Recording::from_pair(
        &folder.join(format!("{mouth}-mouth.wav")),
        &folder.join(format!("{ear}-ear.wav")),
    )?;
    let report = measure(&recording.mouth, &recording.ear, recording.rate_hz);
    recording.write_stereo(&folder.join(format!("{mouth}-to-{ear}.wav")))?;
    let title = format!("What {mouth} says and {ear} hears");
    draw(&recording, &report, &title, &folder.join(format!("{mouth}-to-{ear}.png")))?;
    Ok(report)
}
