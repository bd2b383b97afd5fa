//! The host cache: what it keeps, in which order it offers it, what it forgets.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000_000);

fn at(a: u8, b: u8, c: u8, d: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 4000)
}

fn randomness() -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(7)
}

fn proven(cache: &mut HostCache, address: SocketAddr, round_trip_ms: u64) {
    cache.handle_success(address, Duration::from_millis(round_trip_ms), NOW);
}

#[test]
fn a_flood_of_hearsay_never_displaces_a_proven_entry() {
    let mut cache = HostCache::new([]);
    for d in 0..200 {
        proven(&mut cache, at(9, d, 1, 1), 20);
    }
    for a in 20..220 {
        cache.handle_report((0..50).map(|b| at(a, b, 1, 1)), NOW);
    }
    assert_eq!(cache.len(), ENTRIES_MAX);
    assert!((0..200).all(|d| cache.entries.contains_key(&at(9, d, 1, 1))));
}

#[test]
fn one_address_block_holds_few_of_the_hearsay() {
    let mut cache = HostCache::new([]);
    for c in 0..40 {
        cache.handle_report((1..50).map(|d| at(9, 9, c, d)), NOW);
    }
    assert_eq!(cache.len(), BLOCK_MAX);
}

#[test]
fn places_stay_free_for_entries_that_proved_themselves() {
    let mut cache = HostCache::new([]);
    for a in 20..220 {
        cache.handle_report((0..9).map(|c| at(a, 1, c, 1)), NOW);
    }
    assert_eq!(cache.len(), HEARSAY_MAX);
    proven(&mut cache, at(8, 8, 8, 8), 10);
    assert!(cache.entries.contains_key(&at(8, 8, 8, 8)));
}

#[test]
fn a_bootstrap_entry_is_among_the_first_three_whatever_the_cache_says() {
    let mut cache = HostCache::new([at(5, 5, 5, 5)]);
    for d in 0..150 {
        proven(&mut cache, at(9, d, 1, 1), 1);
    }
    let order = cache.login_order(6, NOW, &mut randomness());
    assert!(order[..3].contains(&at(5, 5, 5, 5)), "{order:?}");
}

#[test]
fn the_order_starts_with_the_near_and_spreads_over_blocks() {
    let mut cache = HostCache::new([]);
    for d in 1..6 {
        proven(&mut cache, at(9, 9, 9, d), 5);
    }
    proven(&mut cache, at(7, 7, 7, 7), 900);
    let order = cache.login_order(4, NOW, &mut randomness());
    assert_eq!(order[0].ip().to_canonical().to_string().split('.').next(), Some("9"));
    assert_eq!(order[1], at(7, 7, 7, 7));
}

#[test]
fn an_entry_that_keeps_failing_sinks_and_then_leaves() {
    let mut cache = HostCache::new([]);
    proven(&mut cache, at(9, 9, 9, 9), 5);
    proven(&mut cache, at(7, 7, 7, 7), 100);
    for _ in 0..5 {
        cache.handle_failure(at(9, 9, 9, 9), NOW);
    }
    assert_eq!(cache.login_order(1, NOW, &mut randomness()), [at(7, 7, 7, 7)]);
    for _ in 0..20 {
        cache.handle_failure(at(9, 9, 9, 9), NOW);
    }
    assert_eq!(cache.len(), 1);
}

#[test]
fn different_seeds_spread_equal_entries() {
    let mut cache = HostCache::new([]);
    for b in 0..20 {
        proven(&mut cache, at(9, b, 1, 1), 30);
    }
    let firsts: BTreeSet<SocketAddr> = (0..50)
        .map(|seed| cache.login_order(1, NOW, &mut ChaCha12Rng::seed_from_u64(seed))[0])
        .collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[test]
fn back_off_grows_and_stays_below_its_ceiling() {
    let mut randomness = randomness();
    let mean = |rounds, randomness: &mut ChaCha12Rng| {
        let long = PATIENT_AFTER;
        (0..500).map(|_| back_off(rounds, long, randomness).as_millis()).sum::<u128>() / 500
    };
    assert!(mean(0, &mut randomness) * 8 < mean(5, &mut randomness));
    let longest = |failing_for, randomness: &mut ChaCha12Rng| {
        (0..500).map(|n| back_off(n, failing_for, randomness)).max().unwrap_or_default()
    };
    assert!(longest(PATIENT_AFTER, &mut randomness) <= Duration::from_secs(300));
    assert!(longest(PATIENT_AFTER / 2, &mut randomness) <= Duration::from_secs(10));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any::<u32>(), any::<u16>(), any::<(u32, u32, u64)>(), any::<Option<u32>>(), any::<u64>())
        .prop_map(|(ip, port, (successes, failures_in_row, uptime_seconds), round_trip_ms, at)| {
            Entry {
                address: SocketAddr::new(IpAddr::V4(ip.into()), port),
                successes,
                failures_in_row,
                round_trip_ms,
                uptime_seconds,
                last_success: (successes % 2 == 0).then_some(UnixTime(at)),
                last_heard: UnixTime(at),
            }
        })
}

proptest! {
    #[test]
    fn any_stored_entries_give_a_bounded_usable_cache(
        stored in prop::collection::vec(any_entry(), 0..400), seed in any::<u64>(),
    ) {
        let mut cache = HostCache::restore([at(5, 5, 5, 5)], stored, NOW);
        prop_assert!(cache.len() <= ENTRIES_MAX);
        let mut randomness = ChaCha12Rng::seed_from_u64(seed);
        let order = cache.login_order(10, NOW, &mut randomness);
        prop_assert!(order.iter().take(3).any(|a| *a == at(5, 5, 5, 5)));
        let distinct: BTreeSet<_> = order.iter().collect();
        prop_assert_eq!(distinct.len(), order.len());
        cache.handle_report(order, NOW);
        prop_assert!(cache.len() <= ENTRIES_MAX);
    }

    #[test]
    fn no_history_breaks_the_bounds(
        steps in prop::collection::vec((0_u8..4, any::<u8>(), any::<u8>()), 0..600),
    ) {
        let mut cache = HostCache::new([]);
        for (kind, a, b) in steps {
            let address = at(a, b % 4, b, 1);
            match kind {
                0 => { cache.handle_report([address, at(b, a, 1, 1)], NOW); }
                1 => proven(&mut cache, address, u64::from(b)),
                2 => cache.handle_failure(address, NOW),
                _ => cache.handle_uptime(address, Duration::from_secs(u64::from(a) * 1000)),
            }
            let hearsay = cache.entries().filter(|entry| !entry.is_proven(NOW)).count();
            prop_assert!(cache.len() <= ENTRIES_MAX && hearsay <= HEARSAY_MAX);
        }
    }
}
