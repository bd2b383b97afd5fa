//! Delays between hosts all over the world.
//!
//! A host lies in one of six regions, at a place within it, behind an access link. The round trip
//! of a pair is the distance of their places, plus both access links, times a factor of the
//! pair's own (routes are not straight). Delays so keep the property that a near host is near from
//! next door as well, which choosing a super node by round trip depends on.
//!
//! The scale is fitted to the King measurements between 1,740 hosts all over the Internet, the
//! usual stand-in for a peer-to-peer network: median round trip 159 ms (Dabek, Cox, Kaashoek,
//! Morris, "Vivaldi", SIGCOMM 2004, section 4.1), mean about 180 ms (Li, Stribling, Morris,
//! Kaashoek, Gil, "A performance vs. cost framework for evaluating DHT design tradeoffs under
//! churn", INFOCOM 2005). A test holds the model to both within 10 %.

use cooee_proto::overlay::mix::mix64;

/// Where a host is, in milliseconds of round trip on a plane, and how long its access link takes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    x: f32,
    y: f32,
    access: f32,
    id: u64,
}

/// Centre on the plane in milliseconds of round trip, spread, share of hosts in percent.
const REGIONS: [(f32, f32, f32, u64); 6] = [
    (0.0, 0.0, 22.0, 34),    // North America, east
    (62.0, 8.0, 18.0, 16),   // North America, west
    (-88.0, 10.0, 20.0, 28), // Europe
    (150.0, 92.0, 34.0, 13), // East Asia
    (22.0, -120.0, 26.0, 5), // South America
    (196.0, -40.0, 20.0, 4), // Australia
];

/// Factor that brings the median to King's.
const SCALE: f32 = 1.2;

/// Share of packets that are lost on a path across the Internet (chosen: half of it on either
/// access link).
pub const LOSS: f64 = 0.005;

impl Place {
    /// The place of the host with this number.
    pub fn of(id: u64) -> Self {
        let id = mix64(id ^ 0x5eed_1a7e_ac1e_5000);
        let mut region = REGIONS[0];
        let mut left = id % 100;
        for candidate in REGIONS {
            if left < candidate.3 {
                region = candidate;
                break;
            }
            left -= candidate.3;
        }
        let x = region.0 + region.2 * gaussian(mix64(id ^ 1));
        let y = region.1 + region.2 * gaussian(mix64(id ^ 2));
        // Access links: most some milliseconds, a tail of slow ones (log-normal).
        let access = 9.0 * (0.8 * gaussian(mix64(id ^ 3))).exp();
        Self { x, y, access, id }
    }

    /// The round trip to another host in milliseconds, without jitter.
    pub fn round_trip_ms(&self, other: &Self) -> f32 {
        let distance = ((self.x - other.x).powi(2) + (self.y - other.y).powi(2)).sqrt();
        let pair = mix64(self.id ^ other.id);
        let detour = (0.35 * gaussian(pair)).exp();
        SCALE * (distance * detour + self.access + other.access) + 1.0
    }

    /// How long one packet takes, in microseconds; `random` makes the jitter.
    pub fn one_way_us(&self, other: &Self, random: u64) -> u64 {
        let base = self.round_trip_ms(other) * 500.0;
        // Queues: an exponential tail of 4 % of the delay.
        let tail = -(unit(random)).ln() * 0.04;
        (base * (1.0 + tail)) as u64
    }
}

/// A number in (0, 1].
fn unit(random: u64) -> f32 {
    ((random >> 40) as f32 + 1.0) / 16_777_216.0
}

/// Box and Muller's normal variable from one random number.
fn gaussian(random: u64) -> f32 {
    let radius = (-2.0 * unit(random).ln()).sqrt();
    radius * (std::f32::consts::TAU * unit(mix64(random ^ 7))).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_distributed_as_king_measured_them() {
        let places: Vec<Place> = (0..600).map(Place::of).collect();
        let mut trips: Vec<f32> = (0..600)
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| places[a].round_trip_ms(&places[b]))
            .collect();
        trips.sort_unstable_by(f32::total_cmp);
        let quantile = |q: f32| trips[(q * (trips.len() - 1) as f32) as usize];
        let mean = trips.iter().sum::<f32>() / trips.len() as f32;
        println!(
            "median {} mean {mean} p10 {} p90 {} p99 {}",
            quantile(0.5),
            quantile(0.1),
            quantile(0.9),
            quantile(0.99)
        );
        assert!((quantile(0.5) - 159.0).abs() < 15.9, "median {}", quantile(0.5));
        assert!((mean - 180.0).abs() < 18.0, "mean {mean}");
    }
}
