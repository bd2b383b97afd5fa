//! Between the sampling rates of devices, files and telephone codecs and our 48 kHz.
//!
//! Fixed ratios only, by `rubato`'s FFT resampler; clock drift is [`crate::jitter`]'s matter. Works
//! in blocks of 10 ms in memory allocated at construction.

use rubato::{
    Fft, FixedSync, Resampler as _, ResamplerConstructionError,
    audioadapter_buffers::direct::SequentialSlice,
};

/// Blocks in a second: 10 ms each.
const BLOCKS_PER_S: usize = 100;

/// Lowest and highest rate taken, in Hz.
const RATES_HZ: core::ops::RangeInclusive<u32> = 8_000..=192_000;

/// What cannot be resampled.
#[derive(Debug, thiserror::Error)]
pub enum ResampleError {
    /// A rate outside 8 to 192 kHz or not a whole number of samples in 10 ms.
    #[error("cannot resample from {0} to {1} Hz")]
    Rate(u32, u32),
    /// The resampler could not be made.
    #[error(transparent)]
    Construction(#[from] ResamplerConstructionError),
}

/// Turns a mono stream of one rate into another.
pub struct Resampler {
    inside: Option<Fft<f32>>,
    collected: Vec<f32>,
    block: usize,
    out: Vec<f32>,
}

impl Resampler {
    /// A resampler. Allocates all it will need.
    ///
    /// # Errors
    /// [`ResampleError::Rate`] for rates that are not supported.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, ResampleError> {
        let whole = |hz: u32| RATES_HZ.contains(&hz) && hz.is_multiple_of(BLOCKS_PER_S as u32);
        if !whole(from_hz) || !whole(to_hz) {
            return Err(ResampleError::Rate(from_hz, to_hz));
        }
        let block = from_hz as usize / BLOCKS_PER_S;
        let inside = (from_hz != to_hz)
            .then(|| Fft::new(from_hz as usize, to_hz as usize, block, 1, FixedSync::Both))
            .transpose()?;
        let block = inside.as_ref().map_or(block, |inside| inside.input_frames_next());
        let out = vec![0.0; inside.as_ref().map_or(0, |inside| inside.output_frames_max())];
        Ok(Self { inside, collected: Vec::with_capacity(block), block, out })
    }

    /// Samples of delay added, at the output rate.
    pub fn delay_samples(&self) -> usize {
        self.inside.as_ref().map_or(0, |inside| inside.output_delay())
    }

    /// Takes sound of any length; gives out resampled blocks as they are complete.
    pub fn process(&mut self, mut sound: &[f32], emit: &mut dyn FnMut(&[f32])) {
        let Some(inside) = &mut self.inside else {
            emit(sound);
            return;
        };
        while !sound.is_empty() {
            let (taken, rest) = sound.split_at(sound.len().min(self.block - self.collected.len()));
            self.collected.extend_from_slice(taken);
            sound = rest;
            if self.collected.len() < self.block {
                continue;
            }
            let room = self.out.len();
            let (Ok(input), Ok(mut output)) = (
                SequentialSlice::new(&self.collected, 1, self.block),
                SequentialSlice::new_mut(&mut self.out, 1, room),
            ) else {
                return;
            };
            let made = inside.process_into_buffer(&input, &mut output, None);
            self.collected.clear();
            if let Ok((_, made)) = made {
                emit(&self.out[..made]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_pitch_and_power_at_every_usual_rate() {
        for (from, to) in [(8_000, 48_000), (16_000, 48_000), (44_100, 48_000), (48_000, 16_000)] {
            let mut resampler = Resampler::new(from, to).unwrap();
            let step = core::f32::consts::TAU * 440.0 / from as f32;
            let sound: Vec<f32> = (0..from).map(|i| (i as f32 * step).sin() * 0.5).collect();
            let mut out = Vec::new();
            for block in sound.chunks(77) {
                resampler.process(block, &mut |made| out.extend_from_slice(made));
            }
            assert!(out.len() + 2 * to as usize / 50 > to as usize, "{} of {to}", out.len());
            let settled = &out[to as usize / 10..to as usize / 2];
            let power = settled.iter().map(|s| s * s).sum::<f32>() / settled.len() as f32;
            assert!((0.12..0.13).contains(&power), "{from} to {to}: {power}");
            let crossings = settled.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
            assert!((175..=177).contains(&crossings), "{from} to {to}: {crossings}");
        }
    }

    #[test]
    fn odd_rates_are_refused() {
        assert!(matches!(Resampler::new(11_025, 48_000), Err(ResampleError::Rate(..))));
        assert!(matches!(Resampler::new(4_000, 48_000), Err(ResampleError::Rate(..))));
    }
}
