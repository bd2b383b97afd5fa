//! What two people do with calls beyond talking: send each other on, keep a second call waiting,
//! own several devices, call each other at once, not answer, and look at how the voice fares.

mod support;

use std::collections::BTreeSet;

use cooee_lab::deployment::UserOptions;
use serde_json::Value;
use support::{calls, network, records, run, start, wait_for, wait_for_phase};

fn answering() -> UserOptions {
    UserOptions { answers: true, ..UserOptions::default() }
}

/// Waits until the calls that are not over are with these users, all of them active.
fn wait_for_talks(profile: &std::path::Path, users: &[&str]) -> Vec<Value> {
    wait_for(&format!("talk with {users:?}"), || {
        let calls = calls(profile);
        let with: BTreeSet<&str> = calls.iter().filter_map(|call| call["user"].as_str()).collect();
        let all_active = calls.iter().all(|call| call["phase"] == "active");
        (all_active && with == users.iter().copied().collect()).then_some(calls)
    })
}

fn id_of(calls: &[Value], user: &str) -> String {
    let call = calls.iter().find(|call| call["user"] == user).expect("a call with this user");
    call["call"].as_str().expect("an id").to_owned()
}

#[test]
fn a_call_is_sent_on_and_two_calls_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let _alice = network.user("here", "alice", UserOptions::default()).unwrap();
    let _others = ["bob", "carol"].map(|name| network.user("here", name, answering()).unwrap());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| folder.path().join(name));

    let talk = start(&alice, &["call", "bob"]);
    wait_for_talks(&alice, &["bob"]);
    assert_ne!(run(&alice, &["transfer", "nobody.here"]).code, None);
    wait_for("the failed transfer's end", || (calls(&bob).len() == 1).then_some(()));
    let sent = run(&alice, &["transfer", "carol"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!(talk.join().unwrap().record()["reason"], "transferred");
    let talks = wait_for_talks(&bob, &["carol"]);
    assert_eq!(wait_for_talks(&carol, &["bob"])[0]["call"], talks[0]["call"]);
    assert_eq!(run(&bob, &["hang-up"]).code, Some(0));

    let first = start(&alice, &["call", "bob"]);
    wait_for_talks(&alice, &["bob"]);
    assert_eq!(run(&alice, &["hold"]).code, Some(0));
    let second = start(&alice, &["call", "carol"]);
    let both = wait_for_talks(&alice, &["bob", "carol"]);
    assert!(both.iter().any(|call| call["held_locally"] == true), "{both:?}");
    let joined = run(&alice, &["transfer", "--with", &id_of(&both, "carol")]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    assert_eq!(first.join().unwrap().record()["reason"], "transferred");
    second.join().unwrap();
    wait_for_talks(&bob, &["carol"]);
    wait_for_talks(&carol, &["bob"]);
}

#[test]
fn a_second_call_waits_while_the_first_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let _users = ["alice", "bob", "carol"]
        .map(|name| network.user("here", name, UserOptions::default()).unwrap());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| folder.path().join(name));
    let first = start(&alice, &["call", "bob"]);
    wait_for_phase(&bob, "ringing");
    assert_eq!(run(&bob, &["answer"]).code, Some(0));
    wait_for_talks(&alice, &["bob"]);
    let second = start(&carol, &["call", "bob"]);
    let waiting = wait_for_phase(&bob, "ringing");
    assert_eq!((&waiting["user"], calls(&bob).len()), (&"carol".into(), 2));
    assert_ne!(run(&bob, &["hang-up"]).code, Some(0), "two calls: which?");
    assert_eq!(run(&bob, &["hold"]).code, Some(0), "the one that does not ring");
    assert_eq!(run(&bob, &["answer"]).code, Some(0), "the one that rings");
    wait_for_talks(&carol, &["bob"]);
    let held = wait_for_talks(&bob, &["alice", "carol"]);
    assert!(held.iter().all(|call| (call["user"] == "alice") == (call["held_locally"] == true)));
    assert_eq!(run(&carol, &["hang-up"]).code, Some(0));
    assert_eq!(second.join().unwrap().record()["reason"], "hung_up");
    assert_eq!(run(&bob, &["resume"]).code, Some(0));
    wait_for("resumption", || (calls(&alice)[0]["held_remotely"] == false).then_some(()));
    assert_eq!(run(&bob, &["hang-up"]).code, Some(0));
    assert_eq!(first.join().unwrap().record()["reason"], "hung_up");
}

#[test]
fn all_devices_of_a_user_ring_and_one_answers_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 2);
    let patience = UserOptions {
        more: vec!["--ring-seconds".to_owned(), "2".to_owned()],
        ..UserOptions::default()
    };
    let _alice = network.user("here", "alice", patience).unwrap();
    let _bob = network.user("here", "bob", UserOptions::default()).unwrap();
    let second = UserOptions { device: Some("phone".into()), ..UserOptions::default() };
    let _phone = network.user("here", "bob", second).unwrap();
    let [alice, desk, phone] = ["alice", "bob", "bob-phone"].map(|name| folder.path().join(name));

    let unanswered = run(&alice, &["call", "bob"]);
    assert_eq!(unanswered.code, Some(5), "{unanswered:?}");
    assert!(unanswered.err.contains("no answer"), "{unanswered:?}");
    for device in [&desk, &phone] {
        let record = wait_for("record", || records(device).pop());
        assert_eq!(record["reason"], "no_answer", "{record}");
    }

    let (mut answered, mut declined) = (None, None);
    for (device, other, button, said) in [
        (&phone, &desk, "answer", "answered_elsewhere"),
        (&desk, &phone, "decline", "declined_elsewhere"),
    ] {
        let talk = start(&alice, &["call", "bob"]);
        wait_for_phase(&desk, "ringing");
        wait_for_phase(&phone, "ringing");
        assert_eq!(run(device, &[button]).code, Some(0));
        let silenced = wait_for("end of ringing", || {
            calls(other).is_empty().then(|| records(other).pop()).flatten()
        });
        assert_eq!(silenced["reason"], said, "{silenced}");
        if button == "answer" {
            wait_for_talks(&alice, &["bob"]);
            assert_eq!(run(&alice, &["hang-up"]).code, Some(0));
            answered = Some(talk.join().unwrap());
        } else {
            declined = Some(talk.join().unwrap());
        }
    }
    let status: Value = serde_json::from_str(run(&phone, &["status"]).out.trim()).unwrap();
    assert_eq!(answered.unwrap().record()["node"], status["node"], "the phone answered");
    let declined = declined.unwrap();
    assert!(declined.code == Some(5) && declined.err.contains("declined"), "{declined:?}");
}

#[test]
fn two_who_call_each_other_at_once_end_in_one_call() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let _users =
        ["alice", "bob"].map(|name| network.user("here", name, UserOptions::default()).unwrap());
    let [alice, bob] = ["alice", "bob"].map(|name| folder.path().join(name));
    let mut crossed = 0;
    for round in 0..4 {
        let calling = [start(&alice, &["call", "bob"]), start(&bob, &["call", "alice"])];
        let one = wait_for("one call", || {
            let (at_alice, at_bob) = (calls(&alice), calls(&bob));
            let [here, there] = [at_alice.as_slice(), at_bob.as_slice()];
            let ([here], [there]) = (here, there) else { return None };
            // Where the invitations did not cross, the one that came first rings.
            for (profile, call) in [(&alice, here), (&bob, there)] {
                if call["phase"] == "ringing" {
                    run(profile, &["answer"]);
                }
            }
            let is_one = here["call"] == there["call"];
            (is_one && here["phase"] == "active" && there["phase"] == "active")
                .then(|| here["call"].clone())
        });
        assert_eq!(run(&alice, &["hang-up"]).code, Some(0));
        let done = calling.map(|calling| calling.join().unwrap());
        crossed += usize::from(done.iter().all(|done| done.code == Some(0)));
        assert!(done.iter().any(|done| done.code == Some(0)), "round {round}, {one}: {done:?}");
        wait_for("quiet", || (calls(&alice).len() + calls(&bob).len() == 0).then_some(()));
    }
    println!("{crossed} of 4 pairs of invitations crossed");
}

#[test]
fn how_the_voice_fares_is_told_every_second_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let _users = [("alice", UserOptions::default()), ("bob", answering())]
        .map(|(name, options)| network.user("here", name, options).unwrap());
    let [alice, bob] = ["alice", "bob"].map(|name| folder.path().join(name));
    let talk = start(&alice, &["call", "bob", "--for", "5"]);
    let shown = wait_for("figures", || {
        let shown = calls(&bob).first()?["statistics"].clone();
        (shown["path"] == "direct UDP" && shown["mouth_to_ear_ms"].is_number()).then_some(shown)
    });
    let status: Value = serde_json::from_str(run(&bob, &["status"]).out.trim()).unwrap();
    assert_eq!(status["talks"][0]["statistics"]["path"], "direct UDP", "{status}");
    let talk = talk.join().unwrap();
    let told: Vec<Value> = talk
        .out
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["event"] == "statistics")
        .collect();
    assert!(told.len() >= 3, "{talk:?}");
    for figures in [&shown, &told[told.len() - 1]] {
        for share in ["loss", "concealed"] {
            let share = figures[share].as_f64().expect("a share");
            assert!((0.0..=1.0).contains(&share), "{figures}");
        }
        for positive in ["mouth_to_ear_ms", "playout_delay_ms", "received_bytes_per_s"] {
            assert!(figures[positive].as_f64().is_some_and(|value| value > 0.0), "{figures}");
        }
    }
    let record = talk.record();
    let media = &record["media"];
    for figure in ["mouth_to_ear_ms", "jitter_ms", "concealed", "speaker_underruns", "loss"] {
        assert!(media[figure].is_number(), "{figure}: {record}");
    }
    assert!(record["safety_number"].is_string(), "{record}");
}

#[test]
fn buddies_reach_each_other_when_every_super_node_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 2);
    let _users = [("alice", UserOptions::default()), ("bob", answering())]
        .map(|(name, options)| network.user("here", name, options).unwrap());
    let [alice, bob] = ["alice", "bob"].map(|name| folder.path().join(name));
    assert_eq!(run(&alice, &["buddies", "add", "bob"]).code, Some(0));
    wait_for("request", || run(&bob, &["buddies", "list"]).out.contains("asked").then_some(()));
    assert_eq!(run(&bob, &["buddies", "accept", "alice"]).code, Some(0));
    wait_for("buddies", || run(&alice, &["buddies", "list"]).out.contains("mutual").then_some(()));
    // The addresses follow the answer on the same connection.
    std::thread::sleep(std::time::Duration::from_secs(1));
    for pid in network.super_node_pids() {
        support::signal(pid, "KILL");
    }
    wait_for("loneliness", || {
        run(&alice, &["status"]).out.contains("\"state\":\"waiting\"").then_some(())
    });
    assert_eq!(run(&alice, &["message", "bob", "still there?"]).code, Some(0));
    wait_for("message", || run(&bob, &["messages"]).out.contains("still there?").then_some(()));
    let talk = run(&alice, &["call", "bob", "--for", "1"]);
    assert_eq!(talk.code, Some(0), "{talk:?}");
    assert_eq!(talk.record()["media"]["path"], "direct UDP");
}
