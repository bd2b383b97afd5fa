//! The networks that voice is compared on.

use crate::topology::{LinkConfig, Loss};

/// Seconds of each half of a network that is good and bad by turns.
pub(super) const SPIKE_S: f64 = 10.0;

/// One kind of network: what both directions of Alice's link do.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Its name on the command line and in reports.
    pub name: String,
    /// In words.
    pub about: String,
    /// What the link does.
    pub link: LinkConfig,
    /// It does so only every other [`SPIKE_S`]; otherwise it is perfect.
    pub spiky: bool,
    /// One of those with a target, which `--main` chooses.
    pub main: bool,
}

/// Longest time in the queue of a limited link, as home routers have.
const QUEUE_MS: f64 = 500.0;

/// Every condition, in the order of the report.
pub fn all() -> Vec<Condition> {
    let perfect = LinkConfig::default();
    let mut all = vec![main("quiet", "nothing in the way", perfect)];
    let jitter = LinkConfig { delay_ms: 60.0, jitter_ms: 30.0, ..perfect };
    all.push(main("jitter-30", "60 ms, 30 ms of jitter (standard deviation)", jitter));
    for percent in [5_u8, 10, 20, 30] {
        let link = LinkConfig { loss: Loss::Random(f64::from(percent) / 100.0), ..perfect };
        all.push(main(&format!("loss-{percent}"), &format!("{percent} % random loss"), link));
    }
    let link = LinkConfig { loss: Loss::bursts(0.2, 3.0), ..perfect };
    all.push(main("bursts-20", "20 % loss in bursts of 3 on average", link));
    let link = LinkConfig { rate_bps: Some(12_000), queue_ms: QUEUE_MS, ..perfect };
    all.push(main("limit-12", "1.5 kB/s, headers included", link));
    all.extend(profiles());
    all
}

/// The profiles that RingRTC's call simulator tests with.
fn profiles() -> Vec<Condition> {
    let perfect = LinkConfig::default();
    let moderate =
        LinkConfig { delay_ms: 100.0, jitter_ms: 25.0, loss: Loss::Random(0.05), ..perfect };
    let international = LinkConfig {
        delay_ms: 250.0,
        jitter_ms: 100.0,
        loss: Loss::bursts(0.11, 3.0),
        rate_bps: Some(300_000),
        queue_ms: QUEUE_MS,
        ..perfect
    };
    let spiky = LinkConfig { loss: Loss::Random(0.3), ..perfect };
    let mut profiles = vec![
        other("moderate", "100 ms, 25 ms of jitter, 5 % loss", moderate),
        other(
            "international",
            "250 ms, 100 ms of jitter, 11 % in bursts, 300 kbit/s",
            international,
        ),
        Condition { spiky: true, ..other("spiky", "10 s good, 10 s with 30 % loss", spiky) },
    ];
    for percent in [10_u8, 30, 50] {
        let link = LinkConfig { loss: Loss::bursts(f64::from(percent) / 100.0, 3.0), ..perfect };
        let about = format!("{percent} % loss in bursts of 3");
        profiles.push(other(&format!("bursty-{percent}"), &about, link));
    }
    for kbit in [300_u32, 100, 50, 25] {
        let rate_bps = Some(u64::from(kbit) * 1_000);
        let link = LinkConfig { rate_bps, queue_ms: QUEUE_MS, ..perfect };
        profiles.push(other(&format!("limit-{kbit}"), &format!("{kbit} kbit/s"), link));
    }
    profiles
}

fn main(name: &str, about: &str, link: LinkConfig) -> Condition {
    Condition { main: true, ..other(name, about, link) }
}

fn other(name: &str, about: &str, link: LinkConfig) -> Condition {
    Condition { name: name.to_owned(), about: about.to_owned(), link, spiky: false, main: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_can_be_emulated_and_has_a_name_of_its_own() {
        let all = all();
        for condition in &all {
            condition.link.check().unwrap();
            assert_eq!(all.iter().filter(|other| other.name == condition.name).count(), 1);
        }
    }
}
