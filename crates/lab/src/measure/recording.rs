//! From files to two signals on one time line: left the mouth, right the ear.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// Longest gap between the starts of two recordings that are put together: an hour.
const OFFSET_NS_MAX: u64 = 3_600_000_000_000;

/// Mouth and ear, both starting at the same moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Samples per second of both.
    pub rate_hz: u32,
    /// What was spoken.
    pub mouth: Vec<f32>,
    /// What was heard.
    pub ear: Vec<f32>,
    /// Silence in the ear's recording that stands for missing sound: start and length in
    /// seconds.
    pub ear_gaps_s: Vec<(f64, f64)>,
}

/// The file `X.wav.json` that the node writes beside a recording `X.wav`.
#[derive(Debug, Deserialize)]
struct TimeBase {
    version: u32,
    clock: String,
    rate_hz: u32,
    sample_0_ns: u64,
    #[serde(default)]
    gaps: Vec<Gap>,
}

#[derive(Debug, Deserialize)]
struct Gap {
    at_sample: u64,
    samples: u64,
}

/// What one ear heard, and when.
#[derive(Clone, Debug)]
pub struct Ear {
    /// Samples per second.
    pub rate_hz: u32,
    /// The sound, full scale 1.
    pub samples: Vec<f32>,
    /// When the first sample was heard, on CLOCK_MONOTONIC.
    pub sample_0_ns: u64,
}

/// Reads a recording with its time base.
pub fn read_ear(path: &Path) -> anyhow::Result<Ear> {
    let base = time_base(path)?;
    let (samples, rate_hz) = read_mono(path)?;
    Ok(Ear { rate_hz, samples, sample_0_ns: base.sample_0_ns })
}

impl Recording {
    /// Puts a recording of the mouth and one of the ear together by their time bases.
    pub fn from_pair(mouth: &Path, ear: &Path) -> anyhow::Result<Self> {
        let (mouth_base, ear_base) = (time_base(mouth)?, time_base(ear)?);
        let (mouth, mouth_rate) = read_mono(mouth)?;
        let (ear, ear_rate) = read_mono(ear)?;
        ensure!(
            mouth_rate == ear_rate && mouth_rate == mouth_base.rate_hz,
            "the recordings have different rates: {mouth_rate} and {ear_rate} Hz"
        );
        let start_ns = mouth_base.sample_0_ns;
        let shift = shift_samples(start_ns, ear_base.sample_0_ns, ear_rate)?;
        let ear = shifted(ear, shift);
        let rate = f64::from(ear_rate);
        #[allow(clippy::cast_precision_loss)]
        let ear_gaps_s = ear_base
            .gaps
            .iter()
            .map(|g| ((g.at_sample as f64 + shift as f64) / rate, g.samples as f64 / rate))
            .collect();
        Ok(Self { rate_hz: mouth_rate, mouth, ear, ear_gaps_s })
    }

    /// Reads a stereo file of any rate and width: left the mouth, right the ear.
    pub fn from_stereo(path: &Path) -> anyhow::Result<Self> {
        let (samples, spec) = read(path)?;
        let channels = usize::from(spec.channels);
        if channels != 2 {
            bail!(
                "{} has {channels} channel(s); the mouth goes left, the ear right",
                path.display()
            );
        }
        let pick = |c: usize| samples.chunks_exact(2).map(|frame| frame[c]).collect();
        let rate_hz = spec.sample_rate;
        Ok(Self { rate_hz, mouth: pick(0), ear: pick(1), ear_gaps_s: Vec::new() })
    }

    /// Writes a stereo file of 16 bit: left the mouth, right the ear.
    pub fn write_stereo(&self, path: &Path) -> anyhow::Result<()> {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: self.rate_hz,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec)
            .with_context(|| format!("cannot write {}", path.display()))?;
        for at in 0..self.mouth.len().max(self.ear.len()) {
            for channel in [&self.mouth, &self.ear] {
                let sample = channel.get(at).copied().unwrap_or(0.0);
                #[allow(clippy::cast_possible_truncation)] // clamped: it fits
                writer
                    .write_sample((sample * 32_767.0).round().clamp(-32_768.0, 32_767.0) as i16)?;
            }
        }
        writer.finalize()?;
        Ok(())
    }
}

/// When the first sample louder than `level` of full scale was heard, in ns of CLOCK_MONOTONIC.
pub fn first_sound_ns(recording: &Path, level: f32) -> anyhow::Result<Option<u64>> {
    let base = time_base(recording)?;
    let (samples, rate) = read_mono(recording)?;
    let first = samples.iter().position(|sample| sample.abs() > level);
    Ok(first.map(|index| base.sample_0_ns + index as u64 * 1_000_000_000 / u64::from(rate)))
}

fn time_base(recording: &Path) -> anyhow::Result<TimeBase> {
    let mut path = recording.as_os_str().to_owned();
    path.push(".json");
    let path = Path::new(&path);
    let text = std::fs::read(path)
        .with_context(|| format!("{} has no time base {}", recording.display(), path.display()))?;
    let base: TimeBase = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no time base", path.display()))?;
    ensure!(base.version == 1, "{}: version {} is not known", path.display(), base.version);
    ensure!(base.clock == "CLOCK_MONOTONIC", "{}: clock {:?}", path.display(), base.clock);
    Ok(base)
}

/// How many samples after the mouth's sample 0 the ear's sample 0 was heard.
fn shift_samples(mouth_ns: u64, ear_ns: u64, rate_hz: u32) -> anyhow::Result<i64> {
    ensure!(
        mouth_ns.abs_diff(ear_ns) < OFFSET_NS_MAX,
        "the recordings are {} s apart: not of one run",
        mouth_ns.abs_diff(ear_ns) / 1_000_000_000
    );
    let offset_ns = i128::from(ear_ns) - i128::from(mouth_ns);
    let rate = i128::from(rate_hz);
    let samples = (offset_ns * rate + 500_000_000).div_euclid(1_000_000_000);
    Ok(i64::try_from(samples)?)
}

fn shifted(samples: Vec<f32>, shift: i64) -> Vec<f32> {
    let by = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
    if shift < 0 {
        return samples.into_iter().skip(by).collect();
    }
    let mut out = vec![0.0; by];
    out.extend(samples);
    out
}

fn read_mono(path: &Path) -> anyhow::Result<(Vec<f32>, u32)> {
    let (samples, spec) = read(path)?;
    ensure!(spec.channels == 1, "{} is not mono", path.display());
    Ok((samples, spec.sample_rate))
}

fn read(path: &Path) -> anyhow::Result<(Vec<f32>, hound::WavSpec)> {
    let mut reader =
        hound::WavReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec = reader.spec();
    ensure!(spec.sample_rate >= 4_000, "{}: {} Hz is too low", path.display(), spec.sample_rate);
    let samples: Result<Vec<f32>, _> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect(),
        hound::SampleFormat::Int => {
            #[allow(clippy::cast_precision_loss)]
            let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
            #[allow(clippy::cast_precision_loss)]
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 * scale)).collect()
        }
    };
    Ok((samples.with_context(|| format!("{} is damaged", path.display()))?, spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::measure, speech};

    fn write_mono(path: &Path, samples: &[f32], sample_0_ns: u64) {
        let recording = Recording {
            rate_hz: 48_000,
            mouth: samples.to_vec(),
            ear: samples.to_vec(),
            ear_gaps_s: vec![],
        };
        recording.write_stereo(path).unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 48_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        for sample in samples {
            writer.write_sample((sample * 32_767.0) as i16).unwrap();
        }
        writer.finalize().unwrap();
        let json = format!(
            r#"{{"version":1,"clock":"CLOCK_MONOTONIC","rate_hz":48000,"sample_0_ns":{sample_0_ns},
            "samples":{},"gaps":[{{"at_sample":48000,"samples":480}}],"gaps_left_out":0,
            "finished":false}}"#,
            samples.len()
        );
        std::fs::write(format!("{}.json", path.display()), json).unwrap();
    }

    #[test]
    fn two_processes_recordings_meet_on_one_time_line() {
        let folder = tempfile::tempdir().unwrap();
        let (mouth, ear) = (folder.path().join("mouth.wav"), folder.path().join("ear.wav"));
        let spoken = speech::speak(speech::Voice::Low, 1, 6.0);
        let boot = 77_000_000_000_u64;
        // The ear's file starts 250 ms later and holds what was spoken 60 ms before.
        for (offset_ms, file_lag_ms, delay_ms) in [(250_i64, 190_i64, 60.0), (-100, -150, 50.0)] {
            let lag = file_lag_ms * 48;
            let heard: Vec<f32> = (0..spoken.len() as i64)
                .map(|n| usize::try_from(n + lag).ok().and_then(|n| spoken.get(n)).copied())
                .map(|sample| sample.unwrap_or(0.0))
                .collect();
            write_mono(&mouth, &spoken, boot);
            write_mono(&ear, &heard, boot.checked_add_signed(offset_ms * 1_000_000).unwrap());
            let recording = Recording::from_pair(&mouth, &ear).unwrap();
            let report = measure(&recording.mouth, &recording.ear, recording.rate_hz);
            assert!((report.mean_ms.unwrap() - delay_ms).abs() < 0.05, "{report:?}");
            let gap = recording.ear_gaps_s[0];
            assert!((gap.0 - 1.0 - offset_ms as f64 / 1e3).abs() < 1e-9 && gap.1 == 0.01);
            let stereo = folder.path().join("both.wav");
            recording.write_stereo(&stereo).unwrap();
            let again = Recording::from_stereo(&stereo).unwrap();
            let again = measure(&again.mouth, &again.ear, again.rate_hz);
            assert!((again.mean_ms.unwrap() - delay_ms).abs() < 0.05);
        }
    }

    #[test]
    fn recordings_that_do_not_belong_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mouth, ear) = (folder.path().join("mouth.wav"), folder.path().join("ear.wav"));
        write_mono(&mouth, &[0.1; 100], 1);
        write_mono(&ear, &[0.1; 100], 2 * OFFSET_NS_MAX);
        assert!(Recording::from_pair(&mouth, &ear).unwrap_err().to_string().contains("apart"));
        std::fs::remove_file(folder.path().join("ear.wav.json")).unwrap();
        let error = Recording::from_pair(&mouth, &ear).unwrap_err().to_string();
        assert!(error.contains("time base"), "{error}");
        let error = Recording::from_stereo(&mouth).unwrap_err().to_string();
        assert!(error.contains("1 channel"), "{error}");
    }
}
