//! Ctrl-C and SIGTERM at any moment of registering, logging in, enrolling and calling: the program
//! ends promptly, nothing is lost, and the next try works. What each moment may leave behind is
//! also made on purpose, so that it does not depend on luck.

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use cooee_lab::deployment::{Deployment, UserOptions};
use serde_json::Value;
use support::{COOEE, Done, calls, command, network, records, run, signal, wait_for};

/// From a signal to the end, on however busy a machine.
const END_MAX: Duration = Duration::from_secs(10);

/// Milliseconds after which the commands are cut off: from loading the program to after its end.
const MOMENTS_MS: [u64; 8] = [0, 3, 10, 25, 50, 100, 200, 400];

/// Starts a command and cuts it off; what it did.
fn cut_off(mut command: Command, after: Duration, by: &str) -> Done {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sleep(after);
    end(child, by)
}

fn end(mut child: Child, by: &str) -> Done {
    if child.try_wait().unwrap().is_none() {
        signal(child.id(), by);
    }
    let asked = Instant::now();
    wait_for("end", || child.try_wait().unwrap());
    assert!(asked.elapsed() < END_MAX, "{by}: {:?}", asked.elapsed());
    let done: Done = child.wait_with_output().unwrap().into();
    assert!(!done.err.contains("panicked"), "{done:?}");
    done
}

fn signals() -> impl Iterator<Item = (Duration, &'static str)> {
    let by = ["INT", "TERM"].into_iter().cycle();
    MOMENTS_MS.into_iter().map(Duration::from_millis).zip(by)
}

#[test]
fn registering_and_logging_in() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let at = |name: &str| folder.path().join(name);
    for (what, profile) in [("register", at("first")), ("login", at("second"))] {
        let arguments = [what, "alice", "--invitation", network.invitation()];
        for (after, by) in signals() {
            let done = cut_off(command(&profile, &arguments), after, by);
            // Killed before the program had started, interrupted, or done.
            assert!(matches!(done.code, None | Some(130 | 0)), "{what} {after:?} {by}: {done:?}");
            let told = done.code != Some(130) || done.err.contains("give the same command again");
            assert!(told, "{done:?}");
        }
        let done = run(&profile, &arguments);
        assert_eq!(done.code, Some(0), "{what} at last: {done:?}");
    }

    // Cut off after the login server had made the user, before the answer was kept.
    let register = |name: &str| {
        command(&at("first"), &["register", name, "--invitation", network.invitation()])
    };
    fs::remove_file(at("first").join("certificate.der")).unwrap();
    fs::remove_file(at("first").join("account.key")).unwrap();
    let wrong = register("alice").env("COOEE_PASSWORD", "not her password").output().unwrap();
    assert_eq!(Done::from(wrong).code, Some(4), "the password still counts");
    let done: Done = register("alice").output().unwrap().into();
    assert_eq!(done.code, Some(0), "completed: {done:?}");
    assert!(at("first").join("account.key").exists());
    // On any other device the name is taken, whatever the password.
    let elsewhere = ["register", "alice", "--invitation", network.invitation()];
    assert_eq!(run(&at("third"), &elsewhere).code, Some(4));
}

#[test]
fn enrolling_a_super_node() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let profile = folder.path().join("another");
    let token = Command::new(COOEE)
        .args(["--json", "login-server", "enrol-token", "--dir"])
        .arg(folder.path().join("login-server"))
        .output()
        .unwrap();
    let token: Value = serde_json::from_slice(&token.stdout).unwrap();
    let token = token["token"].as_str().unwrap();
    let enrol = ["super-node", "--enrol", token, "--invitation", network.invitation()];
    let place = ["--advertise", "127.0.0.1", "--bind", "127.0.0.1", "--no-well-known-ports"];
    let enrol = [&enrol[..], &place[..]].concat();
    let until_it_runs = || {
        let child = command(&profile, &enrol).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the super node", || (run(&profile, &["status"]).code == Some(0)).then_some(()));
        end(child, "TERM");
    };
    until_it_runs();
    // Cut off after the login server had spent the token, before the answer was kept.
    fs::remove_file(profile.join("certificate.der")).unwrap();
    until_it_runs();
}

#[test]
fn calling() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let silent = || UserOptions { microphone: Some("silence".into()), ..UserOptions::default() };
    let _alice = network.user("here", "alice", silent()).unwrap();
    let _bob = network.user("here", "bob", UserOptions { answers: true, ..silent() }).unwrap();
    let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
    let nobody_talks = |after: Duration| {
        let over = |profile: &Path| calls(profile).is_empty();
        wait_for(&format!("end of the call cut off after {after:?}"), || {
            (over(&alice) && over(&bob)).then_some(())
        });
    };
    for (after, by) in signals().chain([(Duration::from_millis(1500), "INT")]) {
        let before = records(&alice).len();
        let done = cut_off(command(&alice, &["call", "bob"]), after, by);
        nobody_talks(after);
        // Whoever got as far as a call has its record, with an end that somebody chose.
        let ended = records(&alice);
        if let Some(record) = ended.get(before) {
            let reason = record["reason"].as_str().unwrap_or_default();
            assert!(["hung_up", "cancelled"].contains(&reason), "{after:?}: {record} {done:?}");
        }
        if after >= Duration::from_millis(1500) {
            assert_eq!((ended.len(), done.code), (before + 1, Some(0)), "{done:?}");
        }
    }
    let done = run(&alice, &["call", "bob", "--for", "0.5"]);
    assert_eq!(done.code, Some(0), "a call after all that: {done:?}");
}

/// Not a soul at home: the callee's node is stopped in the middle, Ctrl-C still ends the command.
#[test]
fn calling_somebody_who_does_not_move() {
    let folder = tempfile::tempdir().unwrap();
    let network: Deployment<'_> = network(folder.path(), 1);
    let silent = || UserOptions { microphone: Some("silence".into()), ..UserOptions::default() };
    let _alice = network.user("here", "alice", silent()).unwrap();
    let mut bob = network.user("here", "bob", UserOptions { answers: true, ..silent() }).unwrap();
    let alice = folder.path().join("alice");
    signal(bob.node().pid(), "STOP");
    let done = cut_off(command(&alice, &["call", "bob"]), Duration::from_millis(500), "INT");
    wait_for("the end of the call", || calls(&alice).is_empty().then_some(()));
    signal(bob.node().pid(), "CONT");
    assert!(done.code == Some(5) || done.code == Some(130), "{done:?}");
}
