//! Whether there is noise worth suppressing, and the change between doing so and not.
//!
//! ```text
//!          noise for a while              in a pause
//!   Unused ─────────────────▶ Learning ───────────────▶ Used
//!     ▲  ◀──── quiet again ──────┘                        │
//!     └──────────────────── quiet again, in a pause ◀─────┘
//! ```
//! The suppressor delays sound by 10 ms and changes clean speech; a microphone in a quiet room
//! needs none. The noise is the least power of the last [`FLOOR_MS`]; it is worth suppressing when
//! it is near enough to the loudest of late to be heard beside it. Changes fade over one block, in
//! pauses, so that the change of delay repeats or skips a little noise and nothing else.

use super::{BLOCK_SAMPLES, Block, stage::Stage};
use crate::jitter::delay::WindowedMinimum;

/// The noise is the least power in so long: speech leaves gaps at least as often. Chosen.
const FLOOR_MS: f64 = 5_000.0;

/// Noise below this level, in dB below full scale, is left alone: 16 bits have no room for more
/// gain than would make it heard.
const INAUDIBLE_DBFS: f32 = -72.0;

/// Noise is worth suppressing when it is within this many dB of the loudest, and no more when it
/// is so much farther. Chosen: clean recordings of speech have 45 to 60 dB.
const NEAR_DB: f32 = 38.0;
const HYSTERESIS_DB: f32 = 4.0;

/// Smoothing of the power in blocks, and the fall of the loudest in dB a block: 1 dB a second.
const SMOOTHING: f32 = 0.3;
const LOUDEST_FALL_DB: f32 = 0.01;

/// Blocks that the suppressor hears before it is used: 2 s, its long start.
const LEARNING_BLOCKS: u32 = 200;

/// Blocks after which the noise is known well enough to let the suppressor listen: 2 s.
const KNOWN_BLOCKS: u64 = 200;

/// A block at most this much above the noise is a pause.
const PAUSE_DB: f32 = 6.0;

/// How the suppressor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Unused,
    Learning { blocks: u32 },
    Used,
}

/// Measures noise and suppresses it if need be.
pub(super) struct Suppressor {
    stage: Stage,
    state: Use,
    power: f32,
    floor: WindowedMinimum,
    loudest_db: f32,
    blocks: u64,
}

impl Suppressor {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::noise_suppressor(),
            state: Use::Unused,
            power: 0.0,
            floor: WindowedMinimum::new(FLOOR_MS),
            loudest_db: INAUDIBLE_DBFS,
            blocks: 0,
        }
    }

    /// Whether what comes out is suppressed.
    pub(super) fn is_used(&self) -> bool {
        self.state == Use::Used
    }

    /// Processes a block in place.
    pub(super) fn process(&mut self, block: &mut Block) {
        let (noise_db, now_db) = self.measure(block);
        let is_pause = now_db < noise_db + PAUSE_DB;
        let before = self.state;
        self.state = match before {
            Use::Unused if self.is_noisy(noise_db, 0.0) => Use::Learning { blocks: 0 },
            Use::Learning { .. } if !self.is_noisy(noise_db, HYSTERESIS_DB) => Use::Unused,
            Use::Learning { blocks } if blocks >= LEARNING_BLOCKS && is_pause => Use::Used,
            Use::Learning { blocks } => Use::Learning { blocks: blocks.saturating_add(1) },
            Use::Used if is_pause && !self.is_noisy(noise_db, HYSTERESIS_DB) => Use::Unused,
            other => other,
        };
        if before == Use::Unused {
            return;
        }
        let mut suppressed = *block;
        self.stage.capture(&mut suppressed);
        match (before == Use::Used, self.state == Use::Used) {
            (true, true) => *block = suppressed,
            (false, true) => fade(block, &suppressed),
            (true, false) => {
                fade(&mut suppressed, block);
                *block = suppressed;
            }
            (false, false) => {}
        }
    }

    /// Noise and present level in dB below full scale.
    fn measure(&mut self, block: &Block) -> (f32, f32) {
        let power = block.iter().map(|s| s * s).sum::<f32>() / BLOCK_SAMPLES as f32;
        self.power += SMOOTHING * (power - self.power);
        self.blocks += 1;
        let now_db = decibels(self.power);
        let now_ms = self.blocks as f64 * 10.0;
        // The smoothed power starts at nothing, which is not how quiet the room is.
        if self.blocks > 20 {
            self.floor.add(now_ms, f64::from(now_db));
        }
        self.loudest_db = (self.loudest_db - LOUDEST_FALL_DB).max(now_db);
        (self.floor.get() as f32, decibels(power))
    }

    fn is_noisy(&self, noise_db: f32, hysteresis_db: f32) -> bool {
        let known = self.blocks > KNOWN_BLOCKS;
        let near_db = NEAR_DB + hysteresis_db;
        let audible = noise_db > INAUDIBLE_DBFS - hysteresis_db;
        known && audible && noise_db > self.loudest_db - near_db
    }
}

fn decibels(power: f32) -> f32 {
    10.0 * (power + 1e-10).log10()
}

/// From `block` to `to`, within one block.
fn fade(block: &mut Block, to: &Block) {
    for (index, (sample, to)) in block.iter_mut().zip(to).enumerate() {
        let share = (index as f32 + 0.5) / BLOCK_SAMPLES as f32;
        *sample += share * (to - *sample);
    }
}
