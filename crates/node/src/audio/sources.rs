//! What a headless microphone says: silence, a tone, or a WAV file of any rate and channels.

use std::path::{Path, PathBuf};

use rubato::{Fft, FixedSync, Resampler as _, audioadapter_buffers::owned::InterleavedOwned};

use super::{AudioError, clock::SAMPLE_RATE_HZ, spec::MicrophoneSpec};

/// Longest WAV file spoken, in seconds: 10 minutes are 55 MiB of memory (chosen).
const WAV_SECONDS_MAX: u64 = 600;

/// A sound known at every position of the microphone's time line.
pub enum Source {
    /// Zeroes.
    Silence,
    /// A sine.
    Tone {
        /// Radians per sample.
        step: f64,
        /// Peak, full scale 1.
        peak: f32,
    },
    /// Sound in memory at 48 kHz.
    Clip {
        /// Kept as 16 bit to halve the memory.
        samples: Vec<i16>,
        /// Start again at the end.
        repeat: bool,
    },
}

impl Source {
    /// Opens what `spec` names; devices say nothing here.
    pub fn open(spec: &MicrophoneSpec) -> Result<Self, AudioError> {
        Ok(match spec {
            MicrophoneSpec::Tone { hz, level_dbfs } => Self::Tone {
                step: std::f64::consts::TAU * f64::from(*hz) / f64::from(SAMPLE_RATE_HZ),
                peak: 10_f32.powf(level_dbfs / 20.0),
            },
            MicrophoneSpec::Wav { path, repeat } => {
                Self::Clip { samples: read_wav(path)?, repeat: *repeat }
            }
            MicrophoneSpec::Silence | MicrophoneSpec::Default | MicrophoneSpec::Device(_) => {
                Self::Silence
            }
        })
    }

    /// Fills `block` with what is spoken from sample `position` on.
    pub fn fill(&self, position: u64, block: &mut [f32]) {
        match self {
            Self::Silence => block.fill(0.0),
            Self::Tone { step, peak } => {
                for (at, sample) in (position..).zip(block) {
                    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
                    let value = ((at as f64 * step) % std::f64::consts::TAU).sin() as f32;
                    *sample = peak * value;
                }
            }
            Self::Clip { samples, repeat } => fill_clip(samples, *repeat, position, block),
        }
    }
}

fn fill_clip(samples: &[i16], repeat: bool, position: u64, block: &mut [f32]) {
    let length = samples.len() as u64;
    for (at, sample) in (position..).zip(block) {
        let at = if repeat && length > 0 { at % length } else { at };
        let value = usize::try_from(at).ok().and_then(|at| samples.get(at)).copied();
        *sample = f32::from(value.unwrap_or(0)) / 32_768.0;
    }
}

/// Reads a WAV file, mixes its channels and brings it to 48 kHz.
pub fn read_wav(path: &Path) -> Result<Vec<i16>, AudioError> {
    let error = |reason: String| AudioError::Wav { path: PathBuf::from(path), reason };
    let mut reader = hound::WavReader::open(path).map_err(|e| error(e.to_string()))?;
    let spec = reader.spec();
    if spec.channels == 0 || !(4_000..=384_000).contains(&spec.sample_rate) {
        return Err(error(format!("{} channels at {} Hz", spec.channels, spec.sample_rate)));
    }
    if u64::from(reader.duration()) > WAV_SECONDS_MAX * u64::from(spec.sample_rate) {
        return Err(error(format!("longer than {WAV_SECONDS_MAX} s: cut it")));
    }
    let interleaved = decode(&mut reader).map_err(|e| error(e.to_string()))?;
    let channels = usize::from(spec.channels);
    #[allow(clippy::cast_precision_loss)]
    let mono: Vec<f32> = interleaved
        .chunks_exact(channels)
        .map(|f| f.iter().sum::<f32>() / channels as f32)
        .collect();
    let samples = resample(mono, spec.sample_rate).map_err(error)?;
    Ok(samples.into_iter().map(to_i16).collect())
}

fn decode<R: std::io::Read>(reader: &mut hound::WavReader<R>) -> Result<Vec<f32>, hound::Error> {
    let spec = reader.spec();
    match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect(),
        hound::SampleFormat::Int => {
            #[allow(clippy::cast_precision_loss)]
            let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
            #[allow(clippy::cast_precision_loss)]
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 * scale)).collect()
        }
    }
}

fn resample(samples: Vec<f32>, rate_hz: u32) -> Result<Vec<f32>, String> {
    if rate_hz == SAMPLE_RATE_HZ || samples.is_empty() {
        return Ok(samples);
    }
    let frames = samples.len();
    let input = InterleavedOwned::new_from(samples, 1, frames).map_err(|e| e.to_string())?;
    let (from, to) = (rate_hz as usize, SAMPLE_RATE_HZ as usize);
    let mut fft = Fft::<f32>::new(from, to, 1024, 1, FixedSync::Both).map_err(|e| e.to_string())?;
    let output = fft.process_all(&input, frames, None).map_err(|e| e.to_string())?;
    Ok(output.take_data())
}

/// Full scale 1 to 16 bit, clipped.
pub fn to_i16(sample: f32) -> i16 {
    #[allow(clippy::cast_possible_truncation)] // clamped: it fits
    let value = (sample * 32_767.0).round().clamp(-32_768.0, 32_767.0) as i16;
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_tone(path: &Path, spec: hound::WavSpec, hz: f64, seconds: f64) {
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        let frames = (f64::from(spec.sample_rate) * seconds) as u64;
        let full = f64::from(1_u32 << (spec.bits_per_sample.min(24) - 1));
        for frame in 0..frames {
            let t = frame as f64 / f64::from(spec.sample_rate);
            let value = 0.5 * (std::f64::consts::TAU * hz * t).sin();
            for _ in 0..spec.channels {
                match spec.sample_format {
                    hound::SampleFormat::Float => writer.write_sample(value as f32).unwrap(),
                    hound::SampleFormat::Int => {
                        writer.write_sample((value * full) as i32).unwrap();
                    }
                }
            }
        }
        writer.finalize().unwrap();
    }

    #[test]
    fn every_rate_width_and_channel_count_becomes_the_same_tone() {
        let folder = tempfile::tempdir().unwrap();
        let kinds =
            [(8_000, 1, 16), (16_000, 2, 16), (44_100, 2, 24), (48_000, 1, 8), (96_000, 6, 16)];
        let mut specs: Vec<_> = kinds
            .map(|(sample_rate, channels, bits_per_sample)| hound::WavSpec {
                channels,
                sample_rate,
                bits_per_sample,
                sample_format: hound::SampleFormat::Int,
            })
            .to_vec();
        specs.push(hound::WavSpec {
            channels: 2,
            sample_rate: 22_050,
            bits_per_sample: 32,
            sample_format: hound::SampleFormat::Float,
        });
        for spec in specs {
            let path = folder.path().join("tone.wav");
            write_tone(&path, spec, 440.0, 0.5);
            let samples = read_wav(&path).unwrap();
            assert!((24_000..=24_001).contains(&samples.len()), "{spec:?}: {}", samples.len());
            let middle = &samples[4_800..19_200];
            for (index, sample) in (4_800..).zip(middle) {
                let t = f64::from(index) / 48_000.0;
                let expected = 0.5 * (std::f64::consts::TAU * 440.0 * t).sin();
                let error = f64::from(*sample) / 32_768.0 - expected;
                // Off by less than one sample of the file: the resampler trims whole ones.
                assert!(error.abs() < 0.05, "{spec:?} at {index}: {error}");
            }
        }
    }

    #[test]
    fn a_clip_repeats_or_ends_in_silence() {
        let samples = vec![16_384, -16_384, 8_192];
        let mut block = [9.0; 5];
        Source::Clip { samples: samples.clone(), repeat: true }.fill(2, &mut block);
        assert_eq!(block, [0.25, 0.5, -0.5, 0.25, 0.5]);
        Source::Clip { samples, repeat: false }.fill(2, &mut block);
        assert_eq!(block, [0.25, 0.0, 0.0, 0.0, 0.0]);
        Source::Clip { samples: vec![], repeat: true }.fill(7, &mut block);
        assert_eq!(block, [0.0; 5]);
    }

    #[test]
    fn a_file_that_is_no_wav_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.wav");
        std::fs::write(&path, b"RIFF....WAVEjunk").unwrap();
        for path in [path, folder.path().join("absent.wav")] {
            let error = read_wav(&path).unwrap_err().to_string();
            assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        }
    }
}
