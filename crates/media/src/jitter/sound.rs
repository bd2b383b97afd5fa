//! Decoded sound on its way to the loudspeaker, with the two ways to change its length.
//!
//! *Stretch*: cut out or repeat one pitch period at the head of the queue, cross-faded where the
//! wave resembles itself most (WSOLA). Up to 12.5 ms at once. *Slip*: move by exactly one sample
//! over many, by band-limited interpolation; between slips the sound passes bit for bit. Slips
//! follow clock drift and fine-tune the phase; stretches follow the network.

/// Played sound kept for repeating a period and for the interpolator, in samples.
const HISTORY: usize = 1_024;

/// Decoded sound held at most: a packet of 120 ms, the largest device block and a stretch.
pub const QUEUE_SAMPLES_MAX: usize = 48_000;

/// Shortest and longest period removed or repeated: 2.5 to 12.5 ms (400 to 80 Hz).
const PERIOD_MIN: usize = 120;
const PERIOD_MAX: usize = 600;

/// Cross-fade and comparison length, 5 ms.
const OVERLAP: usize = 240;

/// Every how many samples the coarse search looks; speech periodicity lies below 6 kHz.
const COARSE: usize = 4;

/// Correlation from which a cut is not heard. Chosen.
const CORRELATION_MIN: f32 = 0.6;

/// Mean square below which any cut is silent (−60 dBFS), or relative to speech of late (−26 dB).
const SILENCE_POWER: f32 = 1e-6;
const PAUSE_SHARE: f32 = 0.0025;

/// Half the interpolator's taps.
const HALF_TAPS: usize = 8;

/// Which way time is bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Less sound than was sent: delay falls.
    Shorter,
    /// More sound than was sent: delay grows.
    Longer,
}

impl Direction {
    /// Samples that must be queued for a stretch to be possible.
    pub fn samples_needed(self) -> usize {
        match self {
            Self::Shorter => PERIOD_MAX + OVERLAP,
            Self::Longer => OVERLAP,
        }
    }
}

/// Where a period may be cut or repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Only in a pause.
    InPause,
    /// In a pause, or where the wave resembles itself.
    WhereAlike,
    /// Wherever the wave resembles itself most, heard or not.
    Anywhere,
}

#[derive(Clone, Copy, Debug)]
struct Slip {
    direction: Direction,
    step: f32,
    moved: f32,
}

/// The queue.
pub struct SoundQueue {
    data: Vec<f32>,
    head: usize,
    slip: Option<Slip>,
    /// Peak of the mean square of late; forgets by half in about 7 s.
    loud_power: f32,
    kernel: Box<[[f32; 2 * HALF_TAPS]; KERNELS + 1]>,
}

/// Fractional positions of the interpolator; between them it is linear.
const KERNELS: usize = 64;

impl Default for SoundQueue {
    fn default() -> Self {
        let mut data = Vec::with_capacity(2 * (HISTORY + QUEUE_SAMPLES_MAX));
        data.resize(HISTORY, 0.0);
        Self { data, head: HISTORY, slip: None, loud_power: 0.0, kernel: kernels() }
    }
}

/// Windowed sinc at each fraction, normalised to unity gain at 0 Hz.
fn kernels() -> Box<[[f32; 2 * HALF_TAPS]; KERNELS + 1]> {
    let mut all = Box::new([[0.0; 2 * HALF_TAPS]; KERNELS + 1]);
    for (index, kernel) in all.iter_mut().enumerate() {
        let fraction = index as f64 / KERNELS as f64;
        for (tap, weight) in kernel.iter_mut().enumerate() {
            let x = tap as f64 - (HALF_TAPS as f64 - 1.0) - fraction;
            let angle = core::f64::consts::PI * x;
            let sinc = if x.abs() < 1e-9 { 1.0 } else { angle.sin() / angle };
            let window = (angle / (2.0 * HALF_TAPS as f64)).cos().max(0.0).powi(2);
            *weight = (sinc * window) as f32;
        }
        let sum: f32 = kernel.iter().sum();
        kernel.iter_mut().for_each(|weight| *weight /= sum);
    }
    all
}

impl SoundQueue {
    /// Samples queued.
    pub fn len(&self) -> usize {
        self.data.len() - self.head
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples that must be queued before `count` can be pulled.
    pub fn needed(&self, count: usize) -> usize {
        if self.slip.is_some() { count + HALF_TAPS + 2 } else { count }
    }

    /// Appends sound. At the bound the oldest gives way.
    pub fn push(&mut self, sound: &[f32]) {
        let sound = &sound[sound.len().saturating_sub(QUEUE_SAMPLES_MAX)..];
        if self.data.len() + sound.len() > self.data.capacity() {
            let keep_from = self.head - HISTORY;
            self.data.drain(..keep_from);
            self.head = HISTORY;
        }
        let over = (self.len() + sound.len()).saturating_sub(QUEUE_SAMPLES_MAX);
        self.head += over.min(self.len());
        self.data.extend_from_slice(sound);
        if !sound.is_empty() {
            let power = sound.iter().map(|s| s * s).sum::<f32>() / sound.len() as f32;
            let keep = 1.0 - sound.len() as f32 / 480_000.0;
            self.loud_power = power.max(self.loud_power * keep);
        }
    }

    /// Starts to slip by one sample spread over `samples`, unless a slip is under way.
    pub fn start_slip(&mut self, direction: Direction, samples: usize) {
        if self.slip.is_none() && samples > 0 {
            self.slip = Some(Slip { direction, step: 1.0 / samples as f32, moved: 0.0 });
        }
    }

    /// Fills `to` from the queue; what is missing is silence. Returns the samples missing.
    pub fn pull(&mut self, to: &mut [f32]) -> usize {
        let mut missing = 0;
        let mut at = 0;
        while at < to.len() {
            if self.slip.is_some() {
                missing += usize::from(!self.pull_slipping(&mut to[at]));
                at += 1;
                continue;
            }
            let count = (to.len() - at).min(self.len());
            to[at..at + count].copy_from_slice(&self.data[self.head..self.head + count]);
            self.head += count;
            to[at + count..].fill(0.0);
            missing += to.len() - at - count;
            break;
        }
        missing
    }

    /// One sample while slipping; `false` (and silence) when the queue is too short.
    fn pull_slipping(&mut self, to: &mut f32) -> bool {
        let Some(mut slip) = self.slip else { return true };
        *to = 0.0;
        if self.len() < HALF_TAPS + 2 {
            return false;
        }
        slip.moved += slip.step;
        let (at, fraction) = match slip.direction {
            Direction::Shorter => (self.head, slip.moved.min(1.0)),
            Direction::Longer => (self.head - 1, (1.0 - slip.moved).max(0.0)),
        };
        *to = self.interpolate(at, fraction);
        self.head += 1;
        self.slip = Some(slip);
        if slip.moved >= 1.0 - slip.step / 2.0 {
            self.slip = None;
            match slip.direction {
                Direction::Shorter => self.head += 1,
                Direction::Longer => self.head -= 1,
            }
        }
        true
    }

    fn interpolate(&self, at: usize, fraction: f32) -> f32 {
        let position = fraction * KERNELS as f32;
        let index = (position as usize).min(KERNELS - 1);
        let between = position - index as f32;
        let sound = &self.data[at + 1 - HALF_TAPS..at + 1 + HALF_TAPS];
        let (low, high) = (&self.kernel[index], &self.kernel[index + 1]);
        sound.iter().zip(low).zip(high).map(|((s, l), h)| s * (l + (h - l) * between)).sum()
    }

    /// Cuts out or repeats one period at the head, if this is the place.
    /// Returns the samples by which the queue became shorter or longer; 0 when nothing was done.
    pub fn stretch(&mut self, direction: Direction, place: Place) -> usize {
        if self.len() < direction.samples_needed() || self.slip.is_some() {
            return 0;
        }
        let sign = match direction {
            Direction::Shorter => 1,
            Direction::Longer => -1,
        };
        let (period, correlation, power) = self.best_period(sign);
        let pause = power <= SILENCE_POWER.max(self.loud_power * PAUSE_SHARE);
        let allowed = match place {
            Place::InPause => pause,
            Place::WhereAlike => pause || correlation >= CORRELATION_MIN,
            Place::Anywhere => true,
        };
        if !allowed {
            return 0;
        }
        match direction {
            Direction::Shorter => self.remove(period),
            Direction::Longer => self.repeat(period),
        }
        period
    }

    /// The lag (ahead for +1, back for −1) at which the wave resembles the head most.
    fn best_period(&self, sign: isize) -> (usize, f32, f32) {
        let head = self.head as isize;
        let at = |lag: usize| (head + sign * lag as isize) as usize;
        let template = &self.data[self.head..self.head + OVERLAP];
        let score = |lag: usize, step: usize| {
            let other = &self.data[at(lag)..at(lag) + OVERLAP];
            let (mut cross, mut energy, mut own) = (0.0, 1e-9, 1e-9);
            for (a, b) in template.iter().step_by(step).zip(other.iter().step_by(step)) {
                cross += a * b;
                energy += b * b;
                own += a * a;
            }
            (cross / f32::sqrt(energy * own), own * step as f32 / OVERLAP as f32)
        };
        let mut best = (PERIOD_MIN, f32::NEG_INFINITY);
        for lag in (PERIOD_MIN..=PERIOD_MAX).step_by(COARSE) {
            let (correlation, _) = score(lag, COARSE);
            if correlation > best.1 {
                best = (lag, correlation);
            }
        }
        let around = best.0.saturating_sub(COARSE - 1).max(PERIOD_MIN)
            ..=(best.0 + COARSE - 1).min(PERIOD_MAX);
        best.1 = f32::NEG_INFINITY;
        let mut power = 0.0;
        for lag in around {
            let (correlation, own) = score(lag, 1);
            power = own;
            if correlation > best.1 {
                best = (lag, correlation);
            }
        }
        (best.0, best.1, power)
    }

    /// Fades from the head into the sound one period later and drops the period.
    fn remove(&mut self, period: usize) {
        for i in 0..OVERLAP {
            let fade = (i as f32 + 0.5) / OVERLAP as f32;
            let (old, new) = (self.data[self.head + i], self.data[self.head + period + i]);
            self.data[self.head + period + i] = old + (new - old) * fade;
        }
        // History stays contiguous in time with what is played next only by the fade; the period
        // itself is cut out of the middle.
        self.data.copy_within(self.head - HISTORY..self.head, self.head + period - HISTORY);
        self.head += period;
    }

    /// Plays on for the overlap while fading into the sound one period back, then repeats it.
    fn repeat(&mut self, period: usize) {
        let length = self.data.len();
        if length + period > self.data.capacity() {
            let keep_from = self.head - HISTORY;
            self.data.drain(..keep_from);
            self.head = HISTORY;
        }
        let length = self.data.len();
        self.data.resize(length + period, 0.0);
        // Everything from one period back moves up by a period; the gap keeps the old head's
        // sound, faded into the repeated one.
        self.data.copy_within(self.head..length, self.head + period);
        for i in 0..period {
            let repeated = self.data[self.head - period + i];
            let fade = (i as f32 + 0.5) / OVERLAP as f32;
            let onward = if i < OVERLAP { self.data[self.head + period + i] } else { repeated };
            self.data[self.head + i] = onward + (repeated - onward) * fade.min(1.0);
        }
        for i in period..OVERLAP {
            // A period shorter than the overlap: the fade ends inside the moved part.
            let fade = (i as f32 + 0.5) / OVERLAP as f32;
            let repeated = self.data[self.head + i];
            let onward = self.data[self.head + period + i];
            self.data[self.head + i] = onward + (repeated - onward) * fade;
        }
    }

    /// Drops up to `count` samples without a fade; for jumps that cannot be hidden.
    pub fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.len());
        self.head += count;
        count
    }

    /// Empties the queue and forgets what was played.
    pub fn clear(&mut self) {
        self.data.clear();
        self.data.resize(HISTORY, 0.0);
        self.head = HISTORY;
        self.slip = None;
        self.loud_power = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f32, samples: usize) -> Vec<f32> {
        let step = core::f32::consts::TAU * hz / 48_000.0;
        (0..samples).map(|i| (i as f32 * step).sin() * 0.5).collect()
    }

    fn largest_step(sound: &[f32]) -> f32 {
        sound.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn without_change_sound_passes_bit_for_bit() {
        let sound = tone(300.0, 4_800);
        let mut queue = SoundQueue::default();
        queue.push(&sound);
        let mut heard = vec![0.0; 4_800];
        assert_eq!(queue.pull(&mut heard), 0);
        assert_eq!(heard, sound);
        assert_eq!(queue.pull(&mut heard[..10]), 10);
    }

    #[test]
    fn stretching_a_voice_either_way_makes_no_click() {
        for direction in [Direction::Shorter, Direction::Longer] {
            for hz in [110.0, 187.0, 330.0] {
                let sound = tone(hz, 9_600);
                let mut queue = SoundQueue::default();
                queue.push(&sound);
                let mut heard = vec![0.0; 2_000];
                queue.pull(&mut heard);
                let before = queue.len();
                let moved = queue.stretch(direction, Place::WhereAlike);
                assert!(moved > 0);
                let expected = match direction {
                    Direction::Shorter => before - moved,
                    Direction::Longer => before + moved,
                };
                assert_eq!(queue.len(), expected);
                let mut rest = vec![0.0; expected];
                queue.pull(&mut rest);
                heard.extend(rest);
                let (was, is) = (largest_step(&sound), largest_step(&heard));
                assert!(is < was * 1.3, "{hz} Hz {direction:?}: step {is} instead of {was}");
                let power = heard.iter().map(|s| s * s).sum::<f32>() / heard.len() as f32;
                assert!((0.11..0.14).contains(&power), "{power}");
            }
        }
    }

    #[test]
    fn noise_is_not_stretched_unless_it_is_urgent() {
        let mut state = 1_u32;
        let noise: Vec<f32> = (0..4_800)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect();
        let mut queue = SoundQueue::default();
        queue.push(&noise);
        assert_eq!(queue.stretch(Direction::Shorter, Place::WhereAlike), 0);
        assert!(queue.stretch(Direction::Shorter, Place::Anywhere) > 0);
    }

    #[test]
    fn a_slip_moves_by_exactly_one_sample_and_keeps_the_tone_clean() {
        for (direction, consumed) in [(Direction::Shorter, 2_001), (Direction::Longer, 1_999)] {
            let sound = tone(1_000.0, 4_800);
            let mut queue = SoundQueue::default();
            queue.push(&sound);
            let mut heard = vec![0.0; 500];
            queue.pull(&mut heard);
            queue.start_slip(direction, 1_000);
            let mut slipped = vec![0.0; 1_500];
            assert_eq!(queue.pull(&mut slipped), 0);
            assert_eq!(4_800 - queue.len(), consumed);
            let step = largest_step(&slipped);
            assert!(step < largest_step(&sound) * 1.01, "{step}");
            let error = slipped[1_200..]
                .iter()
                .zip(&sound[consumed - 300..])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert_eq!(error, 0.0);
        }
    }
}
