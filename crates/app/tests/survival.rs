//! Processes killed without warning under a call: super node, login server; and a super node that
//! falls silent without a word.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use cooee_lab::deployment::{CallOptions, UserOptions};
use support::{network, run, signal, sound_and_gap_ms, super_node_in_use, wait_for};

/// The limit for sound to be back, and a margin for a loaded machine.
const BACK_MS_MAX: usize = 2_000 + 1_000;

fn recording(answers: bool) -> UserOptions {
    UserOptions { records: true, answers, ..UserOptions::default() }
}

/// A call during which the caller's super node gets a signal; gives the longest silences
/// of both ears, and how long re-attachment took.
fn call_while_super_node_gets(name: &str) -> ([usize; 2], Duration) {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 3);
    let alice = network.user("here", "alice", recording(false)).unwrap();
    let bob = network.user("here", "bob", recording(true)).unwrap();
    let call = alice.start_call("bob", CallOptions { talk_s: 9.0 }).unwrap();
    thread::sleep(Duration::from_secs(2));
    let victim = super_node_in_use(&network, &alice);
    let before = alice.status().unwrap()["super_node"].clone();
    let pid = network.super_node_pids()[victim];
    signal(pid, name);
    let struck = Instant::now();
    wait_for("re-attachment", || {
        let now = alice.status().unwrap()["super_node"].clone();
        (now.is_string() && now != before).then_some(())
    });
    let reattached = struck.elapsed();
    let report = call.finish().unwrap();
    if name == "STOP" {
        signal(pid, "CONT");
    }
    assert_eq!(report.record["reason"], "hung_up", "{}", report.record);
    let ears = [alice.ear(), bob.ear()].map(|ear| {
        let (sound_ms, gap_ms) = sound_and_gap_ms(&ear);
        assert!(sound_ms > 4_000, "{sound_ms} ms heard");
        gap_ms
    });
    println!("{name}: path {}", report.record["media"]["path"]);
    println!("{name}: longest silences {ears:?} ms, re-attached after {reattached:?}");
    (ears, reattached)
}

#[test]
fn a_killed_super_node_costs_a_call_at_most_two_seconds() {
    let (ears, reattached) = call_while_super_node_gets("KILL");
    assert!(ears.iter().all(|gap_ms| *gap_ms < BACK_MS_MAX), "{ears:?} ms of silence");
    assert!(reattached < Duration::from_secs(5), "{reattached:?}");
}

#[test]
fn a_super_node_that_falls_silent_is_noticed() {
    let (ears, _) = call_while_super_node_gets("STOP");
    assert!(ears.iter().all(|gap_ms| *gap_ms < BACK_MS_MAX + 2_000), "{ears:?} ms of silence");
}

#[test]
fn calls_go_on_and_can_be_placed_without_the_login_server() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let options = |answers| UserOptions { records: true, answers, ..UserOptions::default() };
    let alice = network.user("here", "alice", options(false)).unwrap();
    let bob = network.user("here", "bob", options(true)).unwrap();
    let call = alice.start_call("bob", CallOptions { talk_s: 3.0 }).unwrap();
    thread::sleep(Duration::from_millis(500));
    signal(network.login_server_pid().unwrap(), "KILL");
    let report = call.finish().unwrap();
    assert_eq!(report.record["reason"], "hung_up");
    let (sound_ms, gap_ms) = sound_and_gap_ms(&bob.ear());
    println!("login server killed: {sound_ms} ms heard, longest silence {gap_ms} ms");
    assert!(sound_ms > 2_000 && gap_ms < 500, "{sound_ms} ms heard, {gap_ms} ms of silence");
    let again = run(&folder.path().join("alice"), &["call", "bob", "--for", "0.5"]);
    assert_eq!(again.code, Some(0), "{again:?}");
}
