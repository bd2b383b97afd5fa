//! Speech without pauses for the mouths, and the longest silence at an ear after a moment.
//!
//! Whatever is silent at the ear is then the network's doing: the speech itself never is for longer
//! than a window.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{
    measure::recording,
    speech::{RATE_HZ, Voice, speak},
};

/// Length of the windows in which loudness is measured. Chosen: shorter than a voice packet.
const WINDOW_MS: usize = 10;

/// Quieter than this is silence, as mean square: -40 dB of full scale, 14 dB below the speech.
const LOUD: f32 = 1e-4;

/// What the mouth may fall to before it is cut out: well above [`LOUD`], since a codec smears.
const KEPT: f32 = 1e-3;

/// Samples of a window.
const fn window(rate_hz: u32) -> usize {
    rate_hz as usize * WINDOW_MS / 1000
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len().max(1) as f32
}

/// Writes half a minute of speech, its pauses cut out.
pub(crate) fn write_speech(path: &Path, voice: Voice, seed: u64) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(path, spec)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for loud in speak(voice, seed, 60.0).chunks_exact(window(RATE_HZ)) {
        if power(loud) > KEPT {
            for sample in loud {
                writer.write_sample(*sample)?;
            }
        }
    }
    writer.finalize()?;
    Ok(())
}

/// When an ear first heard something, on CLOCK_MONOTONIC.
pub(crate) fn first_sound_ns(ear: &Path) -> Result<u64> {
    let heard = recording::read_ear(ear)?;
    let mut windows = heard.samples.chunks_exact(window(heard.rate_hz));
    let first = windows.position(|samples| power(samples) > LOUD);
    let first_ms = first.context("the ear heard nothing at all")? * WINDOW_MS;
    Ok(heard.sample_0_ns + u64::try_from(first_ms)? * 1_000_000)
}

/// The longest silences at an ear.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silences {
    /// Before the moment: what the codec and the path do by themselves.
    pub(super) before_ms: usize,
    /// From the moment on, with what reaches into it.
    pub(super) after_ms: usize,
}

/// Measures the recording of an ear; `at_ns` on CLOCK_MONOTONIC, and no further than `until_ns`.
pub(super) fn silences(ear: &Path, at_ns: u64, until_ns: u64) -> Result<Silences> {
    let heard = recording::read_ear(ear)?;
    let windows: Vec<bool> =
        heard.samples.chunks_exact(window(heard.rate_hz)).map(|w| power(w) > LOUD).collect();
    let index = |ns: u64| {
        let ms = ns.saturating_sub(heard.sample_0_ns) / 1_000_000;
        usize::try_from(ms).unwrap_or(usize::MAX) / WINDOW_MS
    };
    let first = windows.iter().position(|loud| *loud).context("the ear heard nothing at all")?;
    let (at, until) = (index(at_ns), index(until_ns).min(windows.len()));
    ensure!(first < at && at < until, "the ear's recording does not reach around the fault");
    let longest = |windows: &[bool]| {
        let runs = windows.split(|loud| *loud).map(<[bool]>::len);
        runs.max().unwrap_or(0) * WINDOW_MS
    };
    Ok(Silences { before_ms: longest(&windows[first..at]), after_ms: longest(&windows[at..until]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_without_pauses_has_none_and_a_hole_in_it_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let ear = folder.path().join("ear.wav");
        write_speech(&ear, Voice::Low, 3).unwrap();
        let mut reader = hound::WavReader::open(&ear).unwrap();
        let mut samples: Vec<f32> = reader.samples().map(Result::unwrap).collect();
        assert!(samples.len() > 10 * RATE_HZ as usize);
        samples[3 * 48_000..3 * 48_000 + 24_000].fill(0.0);
        let spec = reader.spec();
        let mut writer = hound::WavWriter::create(&ear, spec).unwrap();
        samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
        writer.finalize().unwrap();
        let base = r#"{"version":1,"clock":"CLOCK_MONOTONIC","rate_hz":48000,"sample_0_ns":1000}"#;
        std::fs::write(folder.path().join("ear.wav.json"), base).unwrap();
        let found = silences(&ear, 2_900_000_000, 9_000_000_000).unwrap();
        assert_eq!((found.before_ms, found.after_ms), (0, 500));
    }
}
