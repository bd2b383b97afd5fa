//! The frequency response: tones of rising frequency said at one end, their level at the other.
//!
//! The paper: 50 to 8,000 Hz pass, at any bandwidth. A tone counts as passing when it arrives at
//! most 10 dB weaker than it was said: "audible", as the paper has it.

use std::{f64::consts::TAU, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{EAR, Pair, SETTLING_S, Sound, microphone, watch};
use crate::{
    capture::flows::totals,
    experiments::stage::Stage,
    measure::Recording,
    report::{
        Section, Table, Target, picture,
        plot::{Axis, Chart, Series, Style, draw},
    },
    speech::RATE_HZ,
    topology::LinkConfig,
};

/// Callers, one for each bandwidth.
pub(super) const HOSTS: [&str; 4] = ["tone0", "tone7", "tone2", "tone1"];

/// Bytes a second of each caller's link, IP headers included; none: no limit. 7 kB/s leave voice
/// about 32 kbit/s.
const LIMITS: [Option<u64>; 4] = [None, Some(7_000), Some(2_000), Some(1_500)];

/// Frequencies in Hz: thirds of octaves, and the paper's ends.
const TONES_HZ: [f64; 26] = [
    50.0, 63.0, 80.0, 100.0, 125.0, 160.0, 200.0, 315.0, 500.0, 800.0, 1_000.0, 1_600.0, 2_500.0,
    3_150.0, 4_000.0, 5_000.0, 6_300.0, 7_000.0, 7_500.0, 8_000.0, 10_000.0, 12_500.0, 14_000.0,
    15_000.0, 16_000.0, 18_000.0,
];

/// How long each tone lasts, in s, and how long of it is measured, at its end: before that, the
/// tone before may still be on its way.
const TONE_S: f64 = 1.6;
const MEASURED_S: f64 = 0.5;

/// Silence between tones, in s.
const GAP_S: f64 = 0.15;

/// Level of the tones: -20 dB below full scale.
const AMPLITUDE: f64 = 0.1 * std::f64::consts::SQRT_2;

/// A tone passes down to this, relative to the mouth.
const PASSES_DB: f64 = -10.0;

/// Time for rate control to find the rate, in s.
const FINDING_S: f64 = 15.0;

/// One bandwidth's result.
struct Response {
    limit: Option<u64>,
    sent_kb_s: f64,
    /// Level of each tone at the ear relative to the mouth, dB.
    levels_db: Vec<f64>,
}

pub(super) fn run(stage: &Stage<'_>, section: &mut Section) -> Result<()> {
    let which: Vec<_> = match stage.bench.quick {
        true => vec![0],
        false => (0..HOSTS.len()).collect(),
    };
    let sweep = sweep();
    let said = &microphone(stage, "sweep.wav", &sweep)?;
    let responses = thread::scope(|scope| {
        let runs: Vec<_> = which
            .iter()
            .map(|&i| scope.spawn(move || response(stage, said, HOSTS[i], LIMITS[i])))
            .collect();
        runs.into_iter().map(|run| run.join().expect("does not panic")).collect::<Result<Vec<_>>>()
    })?;
    stage.bench.tell("media: tones");
    let names: Vec<_> = responses.iter().map(|response| name(response.limit)).collect();
    let mut columns = vec!["Hz"];
    columns.extend(names.iter().map(String::as_str));
    let mut table = Table::new("Level at the ear in dB, relative to the mouth", &columns);
    for (index, hz) in TONES_HZ.iter().enumerate() {
        let levels = responses.iter().map(|response| format!("{:.1}", response.levels_db[index]));
        table.row([format!("{hz:.0}")].into_iter().chain(levels));
    }
    section.tables.push(table);
    for response in &responses {
        judge(section, response);
    }
    let caption = "Frequency response by tone sweep";
    picture(stage.bench.pictures.as_ref(), section, "media-frequencies.png", caption, |path| {
        draw(&chart(&responses, caption), path)
    })
}

fn name(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), |limit| format!("{:.1} kB/s", limit as f64 / 1e3))
}

/// All tones, one after the other.
fn sweep() -> Vec<f32> {
    let rate = f64::from(RATE_HZ);
    let mut samples = Vec::new();
    for hz in TONES_HZ {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
        let (tone, gap) = ((TONE_S * rate) as usize, (GAP_S * rate) as usize);
        let edge = rate * 0.02;
        for n in 0..tone {
            let to_edge = n.min(tone - n) as f64;
            let fade = (to_edge / edge).min(1.0);
            #[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
            samples.push((AMPLITUDE * fade * (TAU * hz * n as f64 / rate).sin()) as f32);
        }
        samples.resize(samples.len() + gap, 0.0);
    }
    samples
}

fn response(stage: &Stage<'_>, said: &str, host: &str, limit: Option<u64>) -> Result<Response> {
    let sound = Sound { microphone: Some(said.to_owned()), records: true };
    let mut pair = Pair::start(stage, (host, EAR), host, &sound)?;
    let call = pair.call()?;
    thread::sleep(Duration::from_secs_f64(SETTLING_S));
    let link = stage.network.link(host).context("the link is emulated")?;
    let free = LinkConfig { delay_ms: stage.bench.delay_ms / 2.0, ..LinkConfig::default() };
    if let Some(limit) = limit {
        link.set(LinkConfig { rate_bps: Some(8 * limit), queue_ms: 500.0, ..free });
        thread::sleep(Duration::from_secs_f64(FINDING_S));
    }
    // One whole sweep, wherever in it the file is now, and the end of the tone that is cut.
    let sweep_s = TONES_HZ.len() as f64 * (TONE_S + GAP_S);
    let packets = watch(stage, host, sweep_s + 2.0 * TONE_S)?;
    call.hang_up()?;
    link.set(free);
    let (mouth, ear) = (pair.caller.mouth(), pair.callee.ear());
    pair.caller.node().end()?;
    pair.callee.node().end()?;
    let recording = Recording::from_pair(&mouth, &ear)?;
    let levels_db = TONES_HZ.iter().map(|hz| gain_db(&recording, *hz)).collect();
    let [sent, _] = totals(&packets);
    let sent_kb_s = sent.bytes as f64 / (sweep_s + 2.0 * TONE_S) / 1e3;
    Ok(Response { limit, sent_kb_s, levels_db })
}

/// Level of a tone at the ear relative to the mouth, the last time that it was said whole.
fn gain_db(recording: &Recording, hz: f64) -> f64 {
    let rate = f64::from(recording.rate_hz);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
    let samples = |seconds: f64| (seconds * rate) as usize;
    let (step, measured) = (samples(0.06), samples(MEASURED_S));
    let end = recording.mouth.len().min(recording.ear.len());
    // From the end back: the first place where the mouth holds the tone for the whole time.
    let mut at = end.saturating_sub(measured);
    let loud = AMPLITUDE * 0.7;
    while at > 0 {
        let start = at.saturating_sub(samples(TONE_S - MEASURED_S - 0.1));
        let is_whole = amplitude(&recording.mouth[start..start + step], hz, rate) > loud
            && amplitude(&recording.mouth[at..at + measured], hz, rate) > loud;
        if is_whole {
            let said = amplitude(&recording.mouth[at..at + measured], hz, rate);
            let heard = amplitude(&recording.ear[at..at + measured], hz, rate);
            return 20.0 * (heard.max(1e-6) / said).log10();
        }
        at = at.saturating_sub(step);
    }
    f64::NAN
}

/// Amplitude of one frequency: the upper quartile over short windows, so that a jump in phase
/// where the player changed its delay, or a gap, does not count.
fn amplitude(samples: &[f32], hz: f64, rate_hz: f64) -> f64 {
    let windows = samples.chunks_exact(WINDOW_SAMPLES.min(samples.len()));
    let mut levels: Vec<_> = windows.map(|part| window_amplitude(part, hz, rate_hz)).collect();
    levels.sort_by(f64::total_cmp);
    levels.get(levels.len() * 3 / 4).copied().unwrap_or(0.0)
}

/// Goertzel's sum with a Hann window.
fn window_amplitude(samples: &[f32], hz: f64, rate_hz: f64) -> f64 {
    let length = samples.len() as f64;
    let (mut re, mut im, mut weight) = (0.0, 0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let n = n as f64;
        let window = 0.5 - 0.5 * (TAU * n / length).cos();
        let phase = TAU * hz * n / rate_hz;
        re += f64::from(*sample) * window * phase.cos();
        im += f64::from(*sample) * window * phase.sin();
        weight += window;
    }
    2.0 * re.hypot(im) / weight
}

/// 60 ms: three periods of the lowest tone.
const WINDOW_SAMPLES: usize = 2_880;

/// The lowest and highest tone of the unbroken run around 1 kHz that passes.
fn passes(levels_db: &[f64]) -> (f64, f64) {
    let middle = TONES_HZ.iter().position(|hz| *hz == 1_000.0).unwrap_or(0);
    if levels_db.get(middle).is_none_or(|level| level.is_nan() || *level < PASSES_DB) {
        return (f64::NAN, f64::NAN);
    }
    let (mut low, mut high) = (middle, middle);
    while low > 0 && levels_db[low - 1] >= PASSES_DB {
        low -= 1;
    }
    while high + 1 < levels_db.len() && levels_db[high + 1] >= PASSES_DB {
        high += 1;
    }
    (TONES_HZ[low], TONES_HZ[high])
}

fn judge(section: &mut Section, response: &Response) {
    let (low, high) = passes(&response.levels_db);
    let is_wide = response.limit.is_none_or(|limit| limit >= 7_000);
    let wanted = if is_wide { 15_000.0 } else { 7_000.0 };
    section.targets.push(Target::new(
        &format!("frequencies, {}", name(response.limit)),
        "50 to 8,000 Hz",
        &format!("50 to {wanted:.0} Hz"),
        if low.is_finite() {
            format!("{low:.0} to {high:.0} Hz at {:.1} kB/s on the wire", response.sent_kb_s)
        } else {
            format!("1 kHz is lost, at {:.1} kB/s on the wire", response.sent_kb_s)
        },
        low <= 50.0 && high >= wanted,
    ));
    section.lines.push(json!({
        "tones": name(response.limit), "low_hz": low, "high_hz": high,
        "sent_bytes_per_s": response.sent_kb_s * 1e3, "levels_db": response.levels_db,
        "tones_hz": TONES_HZ,
    }));
}

fn chart(responses: &[Response], title: &str) -> Chart {
    let series = responses.iter().map(|response| {
        let points =
            TONES_HZ.iter().copied().zip(response.levels_db.iter().map(|db| db.max(-60.0)));
        Series { name: name(response.limit), points: points.collect(), style: Style::Line }
    });
    Chart {
        title: title.to_owned(),
        x: Axis::logarithmic("frequency (Hz)", 45.0, 20_000.0),
        y: Axis::new("level (dB)", -62.0, 12.0),
        series: series.collect(),
        height: 460,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weaker_and_later_tone_is_measured_as_what_it_is() {
        let mouth: Vec<f32> = [sweep(), sweep()].concat();
        let mut ear = vec![0.0; 9_600];
        ear.extend(mouth.iter().map(|sample| sample * 0.5));
        let recording = Recording { rate_hz: RATE_HZ, mouth, ear, ear_gaps_s: vec![] };
        for hz in [50.0, 1_000.0, 15_000.0] {
            let gain = gain_db(&recording, hz);
            assert!((gain + 6.02).abs() < 0.2, "{hz}: {gain}");
        }
        let mut levels = vec![0.0; TONES_HZ.len()];
        levels[0] = -20.0;
        levels[TONES_HZ.len() - 1] = f64::NAN;
        assert_eq!(passes(&levels), (63.0, 16_000.0));
    }
}
