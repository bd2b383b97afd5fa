//! What the audio thread ([`super::engine`]) and its handle ([`super::leg`]) share.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use super::{priority::ThreadRank, statistics::DeviceStatistics};

/// What handle and audio thread share: atomics, and one lock that only the handle waits for.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) devices: Mutex<DeviceStatistics>,
    pub(super) microphone_level: Level,
    pub(super) speaker_level: Level,
    pub(super) speaker_gaps: AtomicU64,
    pub(super) paced_buffer_ns: AtomicU64,
    pub(super) microphone_lost_ns: AtomicU64,
    pub(super) recording_failed: AtomicBool,
    pub(super) cpu_ns: AtomicU64,
    pub(super) running_ns: AtomicU64,
    pub(super) rank: Mutex<Option<ThreadRank>>,
}

impl Shared {
    pub(super) fn set_rank(&self, rank: ThreadRank) {
        *self.rank.lock().unwrap_or_else(PoisonError::into_inner) = Some(rank);
    }
}

/// Peak meter that decays, readable from another thread.
#[derive(Default)]
pub(super) struct Level(AtomicU32);

impl Level {
    /// Falls by 20 dB in 0.4 s (chosen: readable).
    const DECAY: f32 = 0.986;

    pub(super) fn measure(&self, block: &[f32]) {
        let peak = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let decayed = f32::from_bits(self.0.load(Ordering::Relaxed)) * Self::DECAY;
        self.0.store(peak.max(decayed).to_bits(), Ordering::Relaxed);
    }

    pub(super) fn dbfs(&self) -> f32 {
        20.0 * f32::from_bits(self.0.load(Ordering::Relaxed)).max(1e-6).log10()
    }
}
