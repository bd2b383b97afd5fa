//! The link model: what happens to one packet on its way, in one direction.
//!
//! The simulator asks it in virtual time and the laboratory's emulator in real time, so both mean
//! the same by "100 ms, 25 ms jitter, 5 % loss". A packet first passes the queue (rate, queue
//! bound), then the wire (delay, jitter, loss, duplication).
//!
//! The Gilbert-Elliott model is that of Gilbert (1960) and Elliott (1963): a two-state Markov
//! chain stepped once a packet, with a loss probability for each state.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};

/// How packets are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// No packet is lost.
    #[default]
    None,
    /// Each packet is lost with this probability, independently.
    Random(f64),
    /// Losses come in bursts.
    GilbertElliott {
        /// Probability, each packet, of going from the good state to the bad one.
        to_bad: f64,
        /// Probability, each packet, of going back.
        to_good: f64,
        /// Loss probability in the good state.
        loss_good: f64,
        /// Loss probability in the bad state.
        loss_bad: f64,
    },
}

impl Loss {
    /// Bursts of `mean_burst` lost packets on average and `rate` lost in all, nothing lost in the
    /// good state.
    pub fn bursts(rate: f64, mean_burst: f64) -> Self {
        let to_good = 1.0 / mean_burst;
        let to_bad = to_good * rate / (1.0 - rate);
        Self::GilbertElliott { to_bad, to_good, loss_good: 0.0, loss_bad: 1.0 }
    }
}

/// One direction of a link. All zero and no rate: a perfect wire.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct LinkConfig {
    /// One-way delay in milliseconds.
    pub delay_ms: f64,
    /// Standard deviation of a normally distributed part of the delay, in milliseconds.
    pub jitter_ms: f64,
    /// Packets may overtake each other when jitter says so; otherwise a late one delays the rest.
    pub reorder: bool,
    /// How packets are lost.
    pub loss: Loss,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Bits per second that pass; none: no limit.
    pub rate_bps: Option<u64>,
    /// Longest time a packet may wait for its turn, in milliseconds; above it, it is dropped.
    pub queue_ms: f64,
    /// Whether anything passes at all.
    pub up: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay_ms: 0.0,
            jitter_ms: 0.0,
            reorder: false,
            loss: Loss::None,
            duplicate: 0.0,
            rate_bps: None,
            queue_ms: 200.0,
            up: true,
        }
    }
}

/// Why the values of a link make no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}: {wanted}")]
pub struct LinkConfigError {
    field: &'static str,
    value: f64,
    wanted: &'static str,
}

impl LinkConfig {
    /// Checks that each value is in its range.
    pub fn check(&self) -> Result<(), LinkConfigError> {
        let probability = |field, value: f64| {
            if (0.0..=1.0).contains(&value) {
                return Ok(());
            }
            Err(LinkConfigError { field, value, wanted: "a probability lies between 0 and 1" })
        };
        let duration = |field, value: f64| {
            if (0.0..=60_000.0).contains(&value) {
                return Ok(());
            }
            Err(LinkConfigError { field, value, wanted: "between 0 and 60000 ms" })
        };
        duration("delay-ms", self.delay_ms)?;
        duration("jitter-ms", self.jitter_ms)?;
        duration("queue-ms", self.queue_ms)?;
        probability("duplicate", self.duplicate)?;
        match self.loss {
            Loss::None => {}
            Loss::Random(rate) => probability("loss", rate)?,
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                for value in [to_bad, to_good, loss_good, loss_bad] {
                    probability("loss", value)?;
                }
            }
        }
        if self.rate_bps == Some(0) {
            let wanted = "a rate is above 0; take the link down instead";
            return Err(LinkConfigError { field: "rate-bps", value: 0.0, wanted });
        }
        Ok(())
    }
}

/// What a link did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkCounts {
    /// Packets offered.
    pub offered: u64,
    /// Packets lost on the wire or while it was down.
    pub lost: u64,
    /// Packets dropped because the queue was full.
    pub dropped: u64,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Bytes offered.
    pub bytes: u64,
}

/// When a packet arrives: not at all, once or twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The packet's own arrival.
    pub first: Option<Instant>,
    /// The arrival of its duplicate.
    pub second: Option<Instant>,
}

/// One direction of a link with its state.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    random: ChaCha12Rng,
    in_bad_state: bool,
    sender_busy_until: Option<Instant>,
    last_arrival: Option<Instant>,
    counts: LinkCounts,
}

impl Link {
    /// A link whose chances all come from `seed`.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            random: ChaCha12Rng::seed_from_u64(seed),
            in_bad_state: false,
            sender_busy_until: None,
            last_arrival: None,
            counts: LinkCounts::default(),
        }
    }

    /// Changes the link while it runs; packets on their way are not touched.
    pub fn set(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// What it is set to.
    pub fn config(&self) -> LinkConfig {
        self.config
    }

    /// What it did so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// Offers a packet of `bytes` (as counted by the rate) at `now`.
    pub fn offer(&mut self, now: Instant, bytes: usize) -> Arrivals {
        self.counts.offered += 1;
        self.counts.bytes += bytes as u64;
        if !self.config.up {
            self.counts.lost += 1;
            return Arrivals::default();
        }
        let Some(sent) = self.pass_queue(now, bytes) else {
            self.counts.dropped += 1;
            return Arrivals::default();
        };
        if self.is_lost() {
            self.counts.lost += 1;
            return Arrivals::default();
        }
        let first = Some(self.arrival(sent));
        let second = (self.config.duplicate > 0.0
            && self.random.random_bool(self.config.duplicate))
        .then(|| self.arrival(sent));
        self.counts.duplicated += u64::from(second.is_some());
        Arrivals { first, second }
    }

    /// When the last bit has left the sender, or `None` when the queue is full.
    fn pass_queue(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate_bps) = self.config.rate_bps else { return Some(now) };
        let start = self.sender_busy_until.map_or(now, |busy| busy.max(now));
        if start - now > milliseconds(self.config.queue_ms) {
            return None;
        }
        let sent = start + Duration::from_secs_f64(bytes as f64 * 8.0 / rate_bps as f64);
        self.sender_busy_until = Some(sent);
        Some(sent)
    }

    fn is_lost(&mut self) -> bool {
        let probability = match self.config.loss {
            Loss::None => return false,
            Loss::Random(rate) => rate,
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let leave = if self.in_bad_state { to_good } else { to_bad };
                self.in_bad_state ^= self.random.random_bool(leave);
                if self.in_bad_state { loss_bad } else { loss_good }
            }
        };
        self.random.random_bool(probability)
    }

    fn arrival(&mut self, sent: Instant) -> Instant {
        let mut delay_ms = self.config.delay_ms;
        if self.config.jitter_ms > 0.0 {
            delay_ms += self.normal() * self.config.jitter_ms;
        }
        let mut arrival = sent + milliseconds(delay_ms.max(0.0));
        if !self.config.reorder {
            arrival = self.last_arrival.map_or(arrival, |last| arrival.max(last));
            self.last_arrival = Some(arrival);
        }
        arrival
    }

    /// One value of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.random.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.random.random::<f64>()).cos()
    }
}

fn milliseconds(value: f64) -> Duration {
    Duration::from_secs_f64(value / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(config: LinkConfig, packets: u32, every_ms: f64) -> (Link, Vec<f64>) {
        let start = Instant::now();
        let mut link = Link::new(config, 7);
        let mut delays = Vec::new();
        for number in 0..packets {
            let sent = start + milliseconds(f64::from(number) * every_ms);
            let arrivals = link.offer(sent, 125);
            delays.extend(
                [arrivals.first, arrivals.second]
                    .into_iter()
                    .flatten()
                    .map(|at| (at - sent).as_secs_f64() * 1000.0),
            );
        }
        (link, delays)
    }

    #[test]
    fn a_perfect_wire_delivers_at_once() {
        let (link, delays) = offered(LinkConfig::default(), 100, 1.0);
        assert_eq!(delays, vec![0.0; 100]);
        assert_eq!(link.counts().lost, 0);
    }

    #[test]
    fn jitter_has_the_stated_mean_and_deviation() {
        let config =
            LinkConfig { delay_ms: 100.0, jitter_ms: 10.0, reorder: true, ..LinkConfig::default() };
        let (_, delays) = offered(config, 20_000, 20.0);
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / delays.len() as f64;
        assert!((mean - 100.0).abs() < 0.5, "{mean}");
        assert!((variance.sqrt() - 10.0).abs() < 0.5, "{}", variance.sqrt());
    }

    #[test]
    fn packets_keep_their_order_unless_told_otherwise() {
        let start = Instant::now();
        let config = LinkConfig { delay_ms: 50.0, jitter_ms: 25.0, ..LinkConfig::default() };
        let mut link = Link::new(config, 1);
        let arrivals: Vec<_> = (0..1000)
            .filter_map(|n| link.offer(start + Duration::from_millis(n), 100).first)
            .collect();
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn bursts_have_the_stated_rate_and_length() {
        let config = LinkConfig { loss: Loss::bursts(0.2, 3.0), ..LinkConfig::default() };
        let mut link = Link::new(config, 3);
        let now = Instant::now();
        let lost: Vec<bool> = (0..200_000).map(|_| link.offer(now, 1).first.is_none()).collect();
        let count = lost.iter().filter(|lost| **lost).count() as f64;
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        assert!((count / 200_000.0 - 0.2).abs() < 0.01, "{}", count / 200_000.0);
        assert!((count / bursts - 3.0).abs() < 0.15, "{}", count / bursts);
    }

    #[test]
    fn a_full_queue_drops_and_its_delay_is_bounded() {
        let config =
            LinkConfig { rate_bps: Some(100_000), queue_ms: 60.0, ..LinkConfig::default() };
        // 125 bytes each millisecond is 1 Mbit/s on a link of 100 kbit/s.
        let (link, delays) = offered(config, 1000, 1.0);
        assert!(delays.iter().all(|delay| *delay <= 60.0 + 10.0 + 0.001));
        assert!((delays.len() as f64 - 105.0).abs() <= 3.0, "{}", delays.len());
        assert_eq!(link.counts().dropped + delays.len() as u64, 1000);
    }

    #[test]
    fn the_same_seed_gives_the_same_fate() {
        let config = LinkConfig {
            delay_ms: 20.0,
            jitter_ms: 5.0,
            loss: Loss::Random(0.1),
            duplicate: 0.05,
            ..LinkConfig::default()
        };
        assert_eq!(offered(config, 500, 2.0).1, offered(config, 500, 2.0).1);
    }

    #[test]
    fn some_packets_arrive_twice_and_none_while_the_link_is_down() {
        let config = LinkConfig { delay_ms: 5.0, duplicate: 0.25, ..LinkConfig::default() };
        let (mut link, delays) = offered(config, 10_000, 1.0);
        let twice = link.counts().duplicated;
        assert_eq!(delays.len() as u64, 10_000 + twice);
        assert!((2_300..2_700).contains(&twice), "{twice} of 10000 arrived twice");
        link.set(LinkConfig { up: false, ..config });
        assert_eq!(link.offer(Instant::now(), 125), Arrivals::default());
        assert_eq!(link.counts().lost, 1);
    }

    #[test]
    fn a_probability_above_one_is_named() {
        let config = LinkConfig { loss: Loss::Random(1.5), ..LinkConfig::default() };
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "loss is 1.5: a probability lies between 0 and 1");
    }
}
