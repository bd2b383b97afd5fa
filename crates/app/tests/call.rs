//! Calls between real processes on loopback: what each button does, and how a call can fail to
//! come about or to last. Exit codes are part of what is promised.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use cooee_lab::deployment::UserOptions;
use support::{network, run, signal, sound_and_gap_ms, start, wait_for, wait_for_phase};

fn records() -> UserOptions {
    UserOptions { records: true, ..UserOptions::default() }
}

#[test]
fn buttons_and_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 2);
    let options = UserOptions { more: vec!["--no-call-waiting".to_owned()], ..records() };
    let _users =
        ["alice", "bob", "carol"].map(|name| network.user("here", name, options.clone()).unwrap());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| folder.path().join(name));

    let nobody = run(&alice, &["call", "nobody.here"]);
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert!(nobody.err.contains("no user of the name nobody.here"), "{nobody:?}");

    let declined = start(&alice, &["call", "bob"]);
    wait_for_phase(&bob, "ringing");
    assert_eq!(run(&bob, &["decline"]).code, Some(0));
    let declined = declined.join().unwrap();
    assert_eq!(declined.code, Some(5), "{declined:?}");
    assert!(declined.err.contains("declined"), "{declined:?}");

    let cancelled = start(&alice, &["call", "bob"]);
    wait_for_phase(&bob, "ringing");
    assert_eq!(run(&alice, &["hang-up"]).code, Some(0));
    let cancelled = cancelled.join().unwrap();
    assert_eq!(cancelled.code, Some(5), "{cancelled:?}");
    assert!(cancelled.err.contains("cancelled"), "{cancelled:?}");
    wait_for("end of ringing", || run(&bob, &["calls"]).out.is_empty().then_some(()));

    let talk = start(&alice, &["call", "bob"]);
    wait_for_phase(&bob, "ringing");
    assert_eq!(run(&bob, &["answer"]).code, Some(0));
    wait_for_phase(&alice, "active");
    let busy = run(&carol, &["call", "bob"]);
    assert_eq!(busy.code, Some(5), "{busy:?}");
    assert!(busy.err.contains("busy"), "{busy:?}");
    for (who, button, key, value) in [
        (&alice, "hold", "held_remotely", true),
        (&alice, "resume", "held_remotely", false),
        (&bob, "hold", "held_locally", true),
        (&bob, "resume", "held_locally", false),
        (&bob, "mute", "muted_locally", true),
        (&bob, "unmute", "muted_locally", false),
    ] {
        let done = run(who, &[button]);
        assert_eq!(done.code, Some(0), "{button}: {done:?}");
        wait_for(button, || (wait_for_phase(&bob, "active")[key] == value).then_some(()));
    }
    assert_eq!(run(&alice, &["dtmf", "12#"]).code, Some(0));
    assert_ne!(run(&alice, &["dtmf", "12x"]).code, Some(0), "x is no key");
    thread::sleep(Duration::from_millis(600));
    assert_eq!(run(&bob, &["hang-up"]).code, Some(0));
    let talk = talk.join().unwrap();
    assert_eq!(talk.code, Some(0), "{talk:?}");
    let record = talk.record();
    assert_eq!((&record["reason"], &record["by_remote"]), (&"hung_up".into(), &true.into()));
    assert!(record["safety_number"].is_string() && record["media"]["path"].is_string(), "{record}");
    let (sound_ms, _) = sound_and_gap_ms(&folder.path().join("bob-ear.wav"));
    assert!(sound_ms > 500, "Bob heard {sound_ms} ms of Alice");
    let none = run(&alice, &["hang-up"]);
    assert!(none.code == Some(1) && none.err.contains("no such call"), "{none:?}");
}

#[test]
fn a_crash_ends_the_call_at_the_other_side() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let answers = || UserOptions { answers: true, ..UserOptions::default() };
    let _alice = network.user("here", "alice", UserOptions::default()).unwrap();
    let mut bob = network.user("here", "bob", answers()).unwrap();
    let alice = folder.path().join("alice");
    let talk = start(&alice, &["call", "bob"]);
    wait_for_phase(&alice, "active");
    thread::sleep(Duration::from_millis(500));
    signal(bob.node().pid(), "KILL");
    let killed = Instant::now();
    let talk = talk.join().unwrap();
    println!("the call ended {:.1} s after the crash", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < Duration::from_secs(60), "a crash must end the call");
    let reason = talk.record()["reason"].clone();
    assert!(reason == "connection_lost" || reason == "media_failed", "{reason}");
    // The crashed one comes back on the same profile, and can be called.
    bob.restart(&answers()).unwrap();
    let again = wait_for("call after the crash", || {
        let again = run(&alice, &["call", "bob", "--for", "0.3"]);
        (again.code == Some(0)).then_some(again)
    });
    assert_eq!(again.record()["reason"], "hung_up");
}
