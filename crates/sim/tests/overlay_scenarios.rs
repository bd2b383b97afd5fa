//! The overlay's scenarios in a size that runs within seconds, each held to its targets.

// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use cooee_sim::overlay::{Report, Scenario, Size, run};

fn small(scenario: Scenario, seed: u64) -> Report {
    let minutes = match scenario {
        Scenario::SplitHeal => 20,
        Scenario::Kill90Restart => 14,
        _ => 10,
    };
    let size =
        Size { super_nodes: 60, users: 900, minutes, look_ups_per_minute: 120, ..scenario.short() };
    run(scenario, size, seed, Instant::now())
}

fn meets_its_targets(scenario: Scenario) -> Report {
    let report = small(scenario, 7);
    assert!(report.lookups > 500, "the oracle judged {} look-ups", report.lookups);
    assert!(report.ok, "{:?}", report.missed);
    report
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, again) = (small(Scenario::Kill30, 3), small(Scenario::Kill30, 3));
    assert_eq!((first.trace, first.events), (again.trace, again.events));
    assert_ne!(again.events, small(Scenario::Kill30, 4).events);
}

#[test]
fn everyone_is_found_while_super_nodes_come_and_go() {
    let report = meets_its_targets(Scenario::SteadyChurn);
    assert_eq!((report.wrong, report.missing), (0, 0));
}

#[test]
fn thirty_percent_killed_at_once_are_replaced_within_a_minute() {
    let report = meets_its_targets(Scenario::Kill30);
    assert!(report.reattached_percent_60s >= 99.9);
}

#[test]
fn a_mass_reboot_ends_with_everyone_attached_and_nobody_overloaded() {
    let report = meets_its_targets(Scenario::Kill90Restart);
    assert!(report.attached_max <= report.capacity as usize);
}

#[test]
fn two_halves_grow_together_within_a_minute() {
    let report = meets_its_targets(Scenario::SplitHeal);
    assert!(report.keepers_consistent_percent >= 100.0);
}

#[test]
fn certificates_outlive_seventy_two_hours_without_a_login_server_only_if_they_are_long_enough() {
    let size = |certificate_days| Size {
        super_nodes: 20,
        users: 60,
        minutes: 72 * 60,
        look_ups_per_minute: 1,
        certificate_days,
    };
    let scenario = Scenario::LoginServerGone;
    let week = run(scenario, size(7), 7, Instant::now());
    assert!(week.ok && week.calls > 500, "{:?} {}", week.missed, week.calls);
    let short = run(scenario, size(4), 7, Instant::now());
    assert!(short.expired > 0, "two days left at the worst cannot last three");
}

#[test]
fn hostile_keepers_are_outvoted() {
    meets_its_targets(Scenario::Hostile30);
}

#[test]
fn survivors_of_a_crashing_version_carry_the_load() {
    meets_its_targets(Scenario::VersionCrash);
}

#[test]
fn scenarios_are_found_by_their_names() {
    for scenario in Scenario::ALL {
        assert_eq!(Scenario::parse(scenario.name()), Some(scenario));
    }
}

#[test]
fn changes_of_presence_reach_watchers_within_a_second() {
    let report = meets_its_targets(Scenario::Presence);
    assert!(report.presence_changes > 300, "{} changes", report.presence_changes);
}

#[test]
fn wildcard_searches_find_all_who_match_and_are_listed() {
    let report = meets_its_targets(Scenario::Wildcard);
    assert!(report.searches > 50 && report.searches_matching > 1000, "{}", report.searches);
}

#[test]
fn users_nodes_serve_as_needed_and_retire() {
    let size = Size { look_ups_per_minute: 30, ..Scenario::Election.short() };
    let report = run(Scenario::Election, size, 7, Instant::now());
    assert!(report.ok, "{:?}", report.missed);
    assert!(report.elected > 30 && report.retired > 30, "{} {}", report.elected, report.retired);
}
