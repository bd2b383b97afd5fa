//! The conference mixer: everyone hears everyone but themselves, without clipping.
//!
//! For N participants one sum is made, and each output is the sum minus the own voice: 2N
//! additions instead of N². A limiter per output keeps the peak below full scale. The active
//! speaker is the loudest voice, with enough inertia not to flicker.

use crate::level::LevelMeter;

/// Participants at most. Chosen: beyond this a mix is a crowd.
pub const PARTICIPANTS_MAX: usize = 64;

/// Longest block, 20 ms.
pub const BLOCK_SAMPLES_MAX: usize = 960;

/// Peak that the limiter aims at.
const CEILING: f32 = 0.9;

/// How fast a limited output recovers: per sample, 0.5 s to full.
const RECOVERY: f32 = 1.0 / 24_000.0;

/// A new speaker must be this much louder (6 dB), unless the present one is silent.
const TAKE_OVER_DB: f32 = 6.0;

#[derive(Clone, Copy, Debug)]
struct Participant {
    meter: LevelMeter,
    gain: f32,
}

/// The mixer.
pub struct Mixer {
    participants: Vec<Participant>,
    sum: Vec<f32>,
    out: Vec<f32>,
    active: Option<usize>,
}

impl Default for Mixer {
    fn default() -> Self {
        Self {
            participants: Vec::with_capacity(PARTICIPANTS_MAX),
            sum: vec![0.0; BLOCK_SAMPLES_MAX],
            out: vec![0.0; BLOCK_SAMPLES_MAX],
            active: None,
        }
    }
}

impl Mixer {
    /// Mixes one block: `inputs` are equally long blocks, one per participant in a fixed order;
    /// `output` gets each participant's index and what it hears. Participants beyond
    /// [`PARTICIPANTS_MAX`] and samples beyond [`BLOCK_SAMPLES_MAX`] are left out.
    pub fn mix(&mut self, inputs: &[&[f32]], output: &mut dyn FnMut(usize, &[f32])) {
        let inputs = &inputs[..inputs.len().min(PARTICIPANTS_MAX)];
        let length = inputs.iter().map(|i| i.len()).max().unwrap_or(0).min(BLOCK_SAMPLES_MAX);
        let new = Participant { meter: LevelMeter::default(), gain: 1.0 };
        self.participants.resize(inputs.len(), new);
        let sum = &mut self.sum[..length];
        sum.fill(0.0);
        for (input, participant) in inputs.iter().zip(&mut self.participants) {
            participant.meter.add(input);
            sum.iter_mut().zip(*input).for_each(|(sum, own)| *sum += own);
        }
        for (index, (input, participant)) in inputs.iter().zip(&mut self.participants).enumerate() {
            let out = &mut self.out[..length];
            out.copy_from_slice(sum);
            out.iter_mut().zip(*input).for_each(|(out, own)| *out -= own);
            limit(out, &mut participant.gain);
            output(index, out);
        }
        self.choose_active();
    }

    fn choose_active(&mut self) {
        let level = |index: usize| self.participants.get(index).map(|p| p.meter.level_dbov());
        let loudest = (0..self.participants.len())
            .filter(|index| self.participants[*index].meter.is_voice())
            .max_by(|a, b| level(*a).unwrap_or(-127.0).total_cmp(&level(*b).unwrap_or(-127.0)));
        let Some(loudest) = loudest else { return };
        let present = self.active.and_then(|index| self.participants.get(index));
        let keeps = present.is_some_and(|p| {
            p.meter.is_voice()
                && level(loudest).unwrap_or(-127.0) < p.meter.level_dbov() + TAKE_OVER_DB
        });
        if !keeps {
            self.active = Some(loudest);
        }
    }

    /// Who speaks, by index; the last one who did while nobody does.
    pub fn active_speaker(&self) -> Option<usize> {
        self.active.filter(|index| *index < self.participants.len())
    }

    /// A participant's level in dBov.
    pub fn level_dbov(&self, participant: usize) -> Option<f32> {
        self.participants.get(participant).map(|p| p.meter.level_dbov())
    }
}

/// Turns the whole block down as far as its peak needs and recovers slowly; a soft knee above the
/// ceiling catches the first samples while the gain comes down.
fn limit(sound: &mut [f32], gain: &mut f32) {
    let peak = crate::level::peak(sound);
    let wanted = if peak > CEILING { CEILING / peak } else { 1.0 };
    let ramp = sound.len().clamp(1, 48) as f32;
    let down = (*gain - wanted).max(0.0) / ramp;
    for sample in sound {
        *gain = if *gain > wanted { (*gain - down).max(wanted) } else { *gain };
        let value = *sample * *gain;
        let over = value.abs() - CEILING;
        *sample = if over > 0.0 {
            (CEILING + (1.0 - CEILING) * (over / (1.0 - CEILING)).tanh()).copysign(value)
        } else {
            value
        };
        if *gain < wanted {
            *gain = (*gain + RECOVERY).min(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f32, amplitude: f32, from: usize) -> Vec<f32> {
        let step = core::f32::consts::TAU * hz / 48_000.0;
        (from..from + 480).map(|i| (i as f32 * step).sin() * amplitude).collect()
    }

    #[test]
    fn everyone_hears_all_but_themselves() {
        let inputs = [tone(300.0, 0.1, 0), tone(500.0, 0.1, 0), tone(700.0, 0.1, 0)];
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        Mixer::default().mix(&slices, &mut |index, heard| {
            for i in 0..480 {
                let expected: f32 = (0..3).filter(|k| *k != index).map(|k| inputs[k][i]).sum();
                assert!((heard[i] - expected).abs() < 1e-5);
            }
        });
    }

    #[test]
    fn a_shouting_crowd_never_clips() {
        let mut mixer = Mixer::default();
        for block in 0..50 {
            let inputs: Vec<Vec<f32>> =
                (0..20_u8).map(|k| tone(200.0 + 37.0 * f32::from(k), 0.9, block * 480)).collect();
            let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
            mixer.mix(&slices, &mut |_, heard| assert!(heard.iter().all(|s| s.abs() <= 1.0)));
        }
    }

    #[test]
    fn the_active_speaker_is_the_voice_and_does_not_flicker() {
        let mut mixer = Mixer::default();
        let run = |mixer: &mut Mixer, loud: [f32; 3], blocks: usize| {
            for block in 0..blocks {
                let inputs: Vec<Vec<f32>> =
                    loud.iter().map(|amplitude| tone(300.0, *amplitude, block * 480)).collect();
                let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
                mixer.mix(&slices, &mut |_, _| {});
            }
            mixer.active_speaker()
        };
        assert_eq!(run(&mut mixer, [0.0, 0.3, 0.001], 50), Some(1));
        assert_eq!(run(&mut mixer, [0.0, 0.3, 0.35], 50), Some(1));
        assert_eq!(run(&mut mixer, [0.0, 0.0, 0.0], 100), Some(1));
        assert_eq!(run(&mut mixer, [0.3, 0.0, 0.0], 50), Some(0));
    }
}
