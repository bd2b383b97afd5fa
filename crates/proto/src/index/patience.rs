//! How long keepers may take to answer, by what they took of late (RFC 6298, section 2, over all
//! keepers together): a super node at the end of a long way is no nearer to them for asking more.

use std::time::Duration;

/// The least, and what holds before anything was measured (chosen: the 99th percentile of round
/// trips in the wild).
const LEAST: Duration = Duration::from_millis(600);

/// The most (chosen: who asks waits for it if most of the first keepers are dead).
const MOST: Duration = Duration::from_millis(1500);

/// Smoothed round trip and its mean deviation.
#[derive(Debug, Default)]
pub(super) struct Patience {
    smoothed: Option<(f64, f64)>,
}

impl Patience {
    /// A keeper took this long.
    pub(super) fn handle_round_trip(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.smoothed = Some(match self.smoothed {
            None => (took, took / 2.0),
            Some((mean, deviation)) => {
                let deviation = 0.75 * deviation + 0.25 * (mean - took).abs();
                (0.875 * mean + 0.125 * took, deviation)
            }
        });
    }

    /// How long to wait for answers.
    pub(super) fn time(&self) -> Duration {
        let Some((mean, deviation)) = self.smoothed else { return LEAST };
        Duration::from_secs_f64(mean + 4.0 * deviation).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_away_waits_longer_and_nobody_waits_for_ever() {
        let mut patience = Patience::default();
        assert_eq!(patience.time(), LEAST);
        (0..50).for_each(|_| patience.handle_round_trip(Duration::from_millis(80)));
        assert_eq!(patience.time(), LEAST);
        for n in 0..50 {
            patience.handle_round_trip(Duration::from_millis(750 + 10 * (n % 5)));
        }
        let far = patience.time();
        assert!(far > Duration::from_millis(790) && far < MOST, "{far:?}");
        (0..50).for_each(|_| patience.handle_round_trip(Duration::from_secs(9)));
        assert_eq!(patience.time(), MOST);
    }
}
