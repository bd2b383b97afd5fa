//! How much a path loses, and in what bursts, before repair.

/// Packets over which loss is smoothed.
const SMOOTHING_PACKETS: f64 = 150.0;

/// The same of bursts, which are rarer.
const BURSTS_SMOOTHING_PACKETS: f64 = 1_000.0;

/// Counts with exponential forgetting.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    loss: f64,
    known: f64,
    bursts: f64,
    lost: f64,
    in_burst: bool,
}

impl Losses {
    /// One packet was lost, or arrived.
    pub(super) fn count(&mut self, lost: bool) {
        let keep = 1.0 - 1.0 / SMOOTHING_PACKETS;
        self.known = self.known * keep + 1.0;
        self.loss = self.loss * keep + f64::from(u8::from(lost));
        if lost {
            let slow = 1.0 - 1.0 / BURSTS_SMOOTHING_PACKETS;
            self.lost = self.lost * slow + 1.0;
            if !self.in_burst {
                self.bursts = self.bursts * slow + 1.0;
            }
        }
        self.in_burst = lost;
    }

    /// Share lost, 0 to 1, as if 50 packets had come through before: no panic on the first.
    pub(super) fn share(&self) -> f64 {
        self.loss / (self.known + 50.0 * (1.0 - self.known / SMOOTHING_PACKETS))
    }

    /// Mean length of a burst in packets, at least 1.
    pub(super) fn burst(&self) -> f64 {
        if self.bursts > 0.0 { (self.lost / self.bursts).max(1.0) } else { 1.0 }
    }
}
