//! The delay between two signals, window by window.

use rustfft::{Fft, FftPlanner, num_complex::Complex};
use serde::Serialize;
use std::sync::Arc;

/// Length of a window in seconds (the paper's).
pub const WINDOW_SECONDS: f64 = 2.0;

/// Longest delay looked for, in seconds (chosen: longer, and nobody talks).
pub const DELAY_SECONDS_MAX: f64 = 2.0;

/// Delays down to this are looked for too, so that swapped channels are seen.
const DELAY_SECONDS_MIN: f64 = -0.1;

/// A window whose level is this far below the loud windows' holds no speech (chosen).
const SPEECH_BELOW_LOUDEST_DB: f64 = 26.0;

/// A window below this level holds no speech whatever the others do, dB below full scale.
const SPEECH_DBFS_MIN: f64 = -75.0;

/// A window counts from this correlation coefficient up (chosen: unrelated speech stays below
/// 0.2, a low-rate codec above 0.5).
pub const CONFIDENCE_MIN: f64 = 0.3;

/// A window counts only if its best lag is this much better than every other lag. Measured by
/// scripts/quality/uniqueness.py: all windows of six voices are above 1.4, in noise four times as
/// strong as the voice too; a steady vowel, which looks the same a pitch period later, is near 1.
pub const UNIQUENESS_MIN: f64 = 1.05;

/// Lags this near the best one belong to the same peak, in seconds: half the shortest pitch period.
const PEAK_SECONDS: f64 = 0.001;

/// What the correlation looks at, Hz: below is hum, above is what narrow codecs drop.
const BAND_HZ: (f64, f64) = (100.0, 7_000.0);

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DelayWindow {
    /// Its start in the mouth's signal, seconds.
    pub start_s: f64,
    /// The delay in milliseconds, if there was speech and it was heard.
    pub delay_ms: Option<f64>,
    /// Correlation coefficient of mouth and ear at that delay, 0 to 1; 0 without speech.
    pub confidence: f64,
    /// How much better that delay is than the best one elsewhere, from 1 up; 0 without speech.
    pub uniqueness: f64,
}

/// All windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DelayReport {
    /// Mean over the windows that count.
    pub mean_ms: Option<f64>,
    /// Their standard deviation.
    pub sd_ms: Option<f64>,
    /// Trend of the delay, milliseconds per minute (least squares; needs three windows).
    pub growth_ms_per_minute: Option<f64>,
    /// Every window, in order.
    pub windows: Vec<DelayWindow>,
}

impl DelayReport {
    /// The windows that count: start in seconds and delay in milliseconds.
    pub fn delays(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.windows.iter().filter_map(|w| Some((w.start_s, w.delay_ms?)))
    }
}

/// Measures how much later `ear` hears what `mouth` says; both start at the same moment.
pub fn measure(mouth: &[f32], ear: &[f32], rate_hz: u32) -> DelayReport {
    let correlator = Correlator::new(rate_hz);
    let length = correlator.window;
    let levels: Vec<f64> = mouth.chunks_exact(length).map(level_dbfs).collect();
    let loudest = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let threshold = (loudest - SPEECH_BELOW_LOUDEST_DB).max(SPEECH_DBFS_MIN);
    let windows: Vec<DelayWindow> = levels
        .iter()
        .enumerate()
        .map(|(index, level)| {
            let start = index * length;
            #[allow(clippy::cast_precision_loss)]
            let start_s = start as f64 / f64::from(rate_hz);
            if *level < threshold {
                return DelayWindow { start_s, delay_ms: None, confidence: 0.0, uniqueness: 0.0 };
            }
            let (lag, confidence, uniqueness) =
                correlator.correlate(&mouth[start..start + length], ear, start);
            let is_sure = confidence >= CONFIDENCE_MIN && uniqueness >= UNIQUENESS_MIN;
            let delay_ms = is_sure.then(|| 1_000.0 * lag / f64::from(rate_hz));
            DelayWindow { start_s, delay_ms, confidence, uniqueness }
        })
        .collect();
    summarise(windows)
}

fn summarise(windows: Vec<DelayWindow>) -> DelayReport {
    let mut report =
        DelayReport { mean_ms: None, sd_ms: None, growth_ms_per_minute: None, windows };
    let delays: Vec<(f64, f64)> = report.delays().collect();
    if delays.is_empty() {
        return report;
    }
    #[allow(clippy::cast_precision_loss)]
    let count = delays.len() as f64;
    let mean = delays.iter().map(|(_, d)| d).sum::<f64>() / count;
    let variance = delays.iter().map(|(_, d)| (d - mean).powi(2)).sum::<f64>() / count;
    report.mean_ms = Some(mean);
    report.sd_ms = Some(variance.sqrt());
    if delays.len() >= 3 {
        let middle = delays.iter().map(|(t, _)| t).sum::<f64>() / count;
        let spread: f64 = delays.iter().map(|(t, _)| (t - middle).powi(2)).sum();
        let slope = delays.iter().map(|(t, d)| (t - middle) * (d - mean)).sum::<f64>() / spread;
        report.growth_ms_per_minute = Some(60.0 * slope);
    }
    report
}

/// RMS level, dB below full scale.
pub(super) fn level_dbfs(samples: &[f32]) -> f64 {
    let power: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
    #[allow(clippy::cast_precision_loss)]
    let mean = power / samples.len().max(1) as f64;
    10.0 * mean.max(1e-15).log10()
}

struct Correlator {
    window: usize,
    lag_min: isize,
    lags: usize,
    forward: Arc<dyn Fft<f64>>,
    inverse: Arc<dyn Fft<f64>>,
    size: usize,
    /// Lags to each side of the best one that belong to its peak.
    peak: usize,
    /// Bins of the band, both signs.
    band: std::ops::Range<usize>,
}

impl Correlator {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn new(rate_hz: u32) -> Self {
        let rate = f64::from(rate_hz);
        let window = (WINDOW_SECONDS * rate) as usize;
        let lag_min = (DELAY_SECONDS_MIN * rate) as isize;
        let lags = ((DELAY_SECONDS_MAX - DELAY_SECONDS_MIN) * rate) as usize;
        let size = (2 * window + lags).next_power_of_two();
        let mut planner = FftPlanner::new();
        let bin = |hz: f64| ((hz / rate * size as f64) as usize).clamp(1, size / 2 - 1);
        Self {
            window,
            lag_min,
            lags,
            forward: planner.plan_fft_forward(size),
            inverse: planner.plan_fft_inverse(size),
            size,
            peak: (PEAK_SECONDS * rate) as usize,
            band: bin(BAND_HZ.0)..bin(BAND_HZ.1),
        }
    }

    /// The lag in samples (fractional) at which `ear` looks most like `mouth`, which begins at
    /// sample `start`, the correlation coefficient there, and how unique it is.
    fn correlate(&self, mouth: &[f32], ear: &[f32], start: usize) -> (f64, f64, f64) {
        let mouth_spectrum = self.spectrum(mouth.iter().copied());
        let first = isize::try_from(start).unwrap_or(isize::MAX).saturating_add(self.lag_min);
        let heard = (0..self.window + self.lags).map(|offset| {
            let at = first + isize::try_from(offset).unwrap_or(isize::MAX);
            usize::try_from(at).ok().and_then(|at| ear.get(at)).copied().unwrap_or(0.0)
        });
        let ear_spectrum = self.spectrum(heard);
        // Half-way whitened: sharper than plain correlation, hardier in noise than PHAT
        // (Knapp and Carter, 1976).
        let cross = self.in_band(|k| {
            let product = ear_spectrum[k] * mouth_spectrum[k].conj();
            product / product.norm().sqrt().max(1e-12)
        });
        let best = (0..self.lags).max_by(|a, b| cross[*a].re.total_cmp(&cross[*b].re)).unwrap_or(0);
        let fraction = self.peak_fraction(&cross, best);
        let lag = isize::try_from(best).unwrap_or(0) + self.lag_min;
        let confidence = self.coefficient(&mouth_spectrum, &ear_spectrum, best);
        #[allow(clippy::cast_precision_loss)]
        let lag = lag as f64 + fraction;
        // Not whitened: whitening makes the edges of the window stand out even in a steady vowel.
        let plain = self.in_band(|k| ear_spectrum[k] * mouth_spectrum[k].conj());
        (lag, confidence, self.uniqueness(&plain, best))
    }

    /// The best peak's height over the highest elsewhere.
    fn uniqueness(&self, cross: &[Complex<f64>], best: usize) -> f64 {
        let highest = |near: bool| {
            let lags = (0..self.lags).filter(|lag| (lag.abs_diff(best) <= self.peak) == near);
            lags.map(|lag| cross[lag].re).fold(0.0, f64::max)
        };
        highest(true) / highest(false).max(1e-30)
    }

    fn spectrum(&self, samples: impl Iterator<Item = f32>) -> Vec<Complex<f64>> {
        let mut buffer: Vec<_> = samples.map(|s| Complex::new(f64::from(s), 0.0)).collect();
        buffer.resize(self.size, Complex::default());
        self.forward.process(&mut buffer);
        buffer
    }

    /// Back to time with only the band's bins, given by `bin` for the positive frequencies.
    fn in_band(&self, bin: impl Fn(usize) -> Complex<f64>) -> Vec<Complex<f64>> {
        let mut buffer = vec![Complex::default(); self.size];
        for k in self.band.clone() {
            buffer[k] = bin(k);
            buffer[self.size - k] = buffer[k].conj();
        }
        self.inverse.process(&mut buffer);
        buffer
    }

    /// Where between the samples the peak lies: the parabola through it and its neighbours.
    fn peak_fraction(&self, cross: &[Complex<f64>], best: usize) -> f64 {
        if best == 0 || best + 1 >= self.lags {
            return 0.0;
        }
        let (before, peak, after) = (cross[best - 1].re, cross[best].re, cross[best + 1].re);
        let curvature = before - 2.0 * peak + after;
        if curvature >= 0.0 { 0.0 } else { 0.5 * (before - after) / curvature }
    }

    /// Correlation coefficient of the window and what was heard `best` samples into the search.
    fn coefficient(&self, mouth: &[Complex<f64>], ear: &[Complex<f64>], best: usize) -> f64 {
        let mouth = self.in_band(|k| mouth[k]);
        let ear = self.in_band(|k| ear[k]);
        let (mut both, mut mouth_power, mut ear_power) = (0.0, 0.0, 0.0);
        for (m, e) in mouth.iter().zip(&ear[best..]).take(self.window) {
            both += m.re * e.re;
            mouth_power += m.re * m.re;
            ear_power += e.re * e.re;
        }
        (both / (mouth_power * ear_power).sqrt().max(1e-30)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::speech::{Voice, speak};

    fn delayed(signal: &[f32], samples: usize) -> Vec<f32> {
        let mut ear = vec![0.0; samples];
        ear.extend_from_slice(signal);
        ear
    }

    /// Delays by any real number of samples with a windowed sinc.
    fn delayed_by(signal: &[f32], delay: impl Fn(usize) -> f64, length: usize) -> Vec<f32> {
        (0..length)
            .map(|n| {
                let at = n as f64 - delay(n);
                let centre = at.floor() as isize;
                (centre - 31..=centre + 32)
                    .filter_map(|k| Some((k, *signal.get(usize::try_from(k).ok()?)?)))
                    .map(|(k, sample)| {
                        let x = at - k as f64;
                        let sinc = if x.abs() < 1e-9 {
                            1.0
                        } else {
                            (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x)
                        };
                        let hann = 0.5 + 0.5 * (std::f64::consts::PI * x / 32.5).cos();
                        sample * (sinc * hann) as f32
                    })
                    .sum()
            })
            .collect()
    }

    fn noise(length: usize, level: f32) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha12Rng::seed_from_u64(99);
        (0..length).map(|_| random.random_range(-level..level)).collect()
    }

    #[test]
    fn a_known_delay_is_found_in_every_voice_and_at_every_rate() {
        for voice in [Voice::Low, Voice::High, Voice::Child] {
            let mouth = speak(voice, 11, 10.0);
            for delay in [0, 1, 480, 4_608, 33_333] {
                let report = measure(&mouth, &delayed(&mouth, delay), 48_000);
                let expected = delay as f64 / 48.0;
                let (mean, sd) = (report.mean_ms.unwrap(), report.sd_ms.unwrap());
                assert!((mean - expected).abs() < 0.01, "{voice:?} {expected}: {mean}");
                assert!(sd < 0.01, "{voice:?} {expected}: sd {sd}");
            }
        }
        let mouth: Vec<f32> = speak(Voice::Low, 11, 20.0).into_iter().step_by(6).collect();
        let report = measure(&mouth, &delayed(&mouth, 768), 8_000);
        assert!((report.mean_ms.unwrap() - 96.0).abs() < 0.05, "the paper's rate: {report:?}");
    }

    #[test]
    fn a_fraction_of_a_sample_is_found() {
        let mouth = speak(Voice::High, 4, 6.0);
        let ear = delayed_by(&mouth, |_| 1_000.37, mouth.len());
        let mean = measure(&mouth, &ear, 48_000).mean_ms.unwrap();
        assert!((mean - 1_000.37 / 48.0).abs() < 0.003, "{mean}");
    }

    #[test]
    fn a_drifting_delay_shows_as_growth() {
        let mouth = speak(Voice::Low, 5, 24.0);
        // 200 ppm: 12 ms a minute.
        let ear = delayed_by(&mouth, |n| 2_000.0 + n as f64 * 200e-6, mouth.len());
        let report = measure(&mouth, &ear, 48_000);
        let growth = report.growth_ms_per_minute.unwrap();
        assert!((growth - 12.0).abs() < 0.5, "{growth}");
    }

    #[test]
    fn noise_at_the_ear_and_a_low_level_do_not_move_it() {
        let mouth = speak(Voice::High, 6, 10.0);
        let mut ear = delayed(&mouth, 4_000);
        for (sample, noise) in ear.iter_mut().zip(noise(mouth.len() + 4_000, 0.03)) {
            *sample = 0.01 * (*sample + noise);
        }
        let quiet_mouth: Vec<f32> = mouth.iter().map(|s| s * 0.02).collect();
        let report = measure(&quiet_mouth, &ear, 48_000);
        assert!((report.mean_ms.unwrap() - 4_000.0 / 48.0).abs() < 0.05, "{report:?}");
    }

    #[test]
    fn windows_without_speech_are_skipped() {
        let mut mouth = speak(Voice::Low, 7, 4.0);
        mouth.extend(vec![0.0; 96_000]);
        mouth.extend(speak(Voice::Low, 8, 2.0));
        let report = measure(&mouth, &delayed(&mouth, 960), 48_000);
        let counted: Vec<bool> = report.windows.iter().map(|w| w.delay_ms.is_some()).collect();
        assert_eq!(counted, [true, true, false, true]);
    }

    #[test]
    fn a_steady_vowel_gives_no_delay_rather_than_a_wrong_one() {
        // Pulses of one pitch: every period looks like every other.
        let vowel = |from: usize, length: usize| -> Vec<f32> {
            let formant = |t: usize| (-(t as f32) / 60.0).exp() * (t as f32 * 0.09).sin();
            (from..from + length).map(|n| 0.3 * formant(n % 400)).collect()
        };
        let (mouth, ear) = (vowel(0, 288_000), vowel(150, 384_000));
        let report = measure(&mouth, &ear, 48_000);
        assert!(report.windows.iter().all(|window| window.confidence > CONFIDENCE_MIN));
        assert_eq!(report.mean_ms, None, "{report:?}");
        // With a word before and after, the window is sure again.
        let mut spoken = speak(Voice::Low, 9, 0.7);
        spoken.extend(vowel(0, 28_800));
        spoken.extend(speak(Voice::Low, 10, 0.7));
        let report = measure(&spoken, &delayed(&spoken, 2_400), 48_000);
        assert!((report.mean_ms.unwrap() - 50.0).abs() < 0.05, "{report:?}");
    }

    #[test]
    fn another_speaker_at_the_ear_is_not_taken_for_the_first() {
        let report = measure(&speak(Voice::Low, 1, 10.0), &speak(Voice::High, 2, 12.0), 48_000);
        assert_eq!(report.mean_ms, None, "{report:?}");
        let silent = measure(&speak(Voice::Low, 1, 4.0), &[0.0; 300_000], 48_000);
        assert_eq!(silent.mean_ms, None);
        assert_eq!(measure(&[], &[], 48_000).windows, []);
    }
}
