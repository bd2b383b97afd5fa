//! From reports to the sender's point of operation.

use std::time::Instant;

use super::Feedback;
use crate::voice::{OperatingPoint, SenderStatistics, VoiceConfig};

/// The controller of one direction.
#[derive(Clone, Debug)]
pub struct RateControl {
    overhead_bytes: usize,
    path_loss: f64,
}

impl RateControl {
    /// A controller that knows nothing of the path yet.
    pub fn new(config: &VoiceConfig) -> Self {
        Self { overhead_bytes: config.overhead_bytes, path_loss: 0.0 }
    }

    /// The point to use.
    pub fn point(&self) -> OperatingPoint {
        OperatingPoint::QUIET
    }

    /// Notes a packet sent.
    pub fn sent(&mut self, _now: Instant, _sequence: u16, _payload_bytes: usize) {}

    /// Takes a report.
    pub fn handle_feedback(&mut self, _now: Instant, feedback: &Feedback) {
        let (mut lost, mut all) = (0.0, 0.0);
        for (_, arrived) in feedback.packets() {
            all += 1.0;
            lost += f64::from(u8::from(arrived.is_none()));
        }
        if all > 0.0 {
            self.path_loss += 0.1 * (lost / all - self.path_loss);
        }
    }

    /// Header bytes of each packet on the path.
    pub fn set_overhead_bytes(&mut self, overhead_bytes: usize) {
        self.overhead_bytes = overhead_bytes;
    }

    /// Forgets what was learnt.
    pub fn path_changed(&mut self) {
        self.path_loss = 0.0;
    }

    /// Smoothed loss on the path, 0 to 1.
    pub fn path_loss(&self) -> f64 {
        self.path_loss
    }

    /// Adds what is known to the sender's statistics.
    pub fn report(&self, statistics: &mut SenderStatistics) {
        statistics.path_loss = self.path_loss;
    }
}
