//! What people and machines do wrong: each gives a sentence that says what is wrong, and an exit
//! code that a script can go by (1 failed, 2 usage, 3 unreachable, 4 refused).

mod support;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use cooee_lab::deployment::UserOptions;
use support::{Done, command, network, run, signal, wait_for};

fn says(done: &Done, code: i32, words: &[&str]) {
    let said = done.err.to_lowercase();
    assert_eq!(done.code, Some(code), "{done:?}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {done:?}");
    assert!(!said.contains("panicked"), "{done:?}");
}

#[test]
fn accounts() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let at = |name: &str| folder.path().join(name);
    let account = |profile: &Path, what: &str, name: &str| {
        run(profile, &[what, name, "--invitation", network.invitation()])
    };
    assert_eq!(account(&at("alice"), "register", "alice").code, Some(0));
    says(&account(&at("other"), "register", "alice"), 4, &["taken"]);
    says(&account(&at("other"), "register", "Al Ice"), 1, &["al ice"]);
    says(&account(&at("other"), "register", "x"), 1, &["\"x\""]);
    says(&account(&at("other"), "login", "nobody.here"), 4, &["password"]);
    let wrong = command(&at("other"), &["login", "alice", "--invitation", network.invitation()])
        .env("COOEE_PASSWORD", "not her password")
        .output()
        .unwrap();
    says(&wrong.into(), 4, &["password"]);
    says(&run(&at("other"), &["register", "bob", "--invitation", "cooee:x"]), 1, &["invitation"]);
    assert_eq!(run(&at("other"), &["register", "bob", "--no-such"]).code, Some(2));
    signal(network.login_server_pid().unwrap(), "KILL");
    signal(network.super_node_pids()[0], "KILL");
    says(&account(&at("late"), "register", "late"), 3, &[]);
    says(&run(&at("alice"), &["status"]), 3, &["cooee up"]);
}

#[test]
fn profiles() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let mut alice = network.user("here", "alice", UserOptions::default()).unwrap();
    let profile = folder.path().join("alice");
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];
    says(&run(&profile, &up), 1, &["profile"]);
    alice.node().end().unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    says(&run(&profile, &[&up[..], &["--port", &port]].concat()), 1, &["in use"]);
    says(&run(&profile, &[&up[..], &["--microphone", "kazoo"]].concat()), 1, &["kazoo", "tone:hz"]);
    says(&run(&folder.path().join("nobody"), &up), 1, &["register"]);

    fs::write(profile.join("host-cache.json"), "{ not a host cache").unwrap();
    alice.restart(&UserOptions::default()).unwrap();
    alice.node().end().unwrap();
    fs::write(profile.join("config.toml"), "answr = \"auto\"\n").unwrap();
    says(&run(&profile, &up), 1, &["answr", "config.toml"]);
    fs::remove_file(profile.join("config.toml")).unwrap();

    // A certificate that is none, then none of this device's.
    let certificate = fs::read(profile.join("certificate.der")).unwrap();
    fs::write(profile.join("certificate.der"), &certificate[..certificate.len() / 2]).unwrap();
    says(&run(&profile, &up), 1, &["certificate"]);
    fs::write(profile.join("certificate.der"), &certificate).unwrap();
    alice.restart(&UserOptions::default()).unwrap();
}

#[test]
fn nobody_of_that_name_and_nobody_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut network = network(folder.path(), 1);
    let at = |name: &str| folder.path().join(name);
    let register =
        |name: &str| run(&at(name), &["register", name, "--invitation", network.invitation()]);
    // Bob has an account and was never online: no super node has heard of him.
    assert_eq!(register("bob").code, Some(0));
    let invitation = network.invitation().to_owned();
    let _alice = network.user("here", "alice", UserOptions::default()).unwrap();
    says(&run(&at("alice"), &["call", "nobody.here"]), 6, &["no user of the name nobody.here"]);
    says(&run(&at("alice"), &["call", "bob"]), 5, &["bob cannot be reached now", "message bob"]);
    says(&run(&at("alice"), &["call", "b b"]), 1, &["b b"]);
    drop(_alice);
    // Without the login server nobody knows whether there is such a user: no certain answer.
    network.login_server().unwrap().kill().unwrap();
    let _ = invitation;
    let mut node = up_again(&at("alice"));
    says(&run(&at("alice"), &["call", "nobody.here"]), 5, &["cannot be reached now"]);
    signal(node.id(), "TERM");
    node.wait().unwrap();
}

#[test]
fn interrupted_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let alice = network.user("here", "alice", UserOptions::default()).unwrap();
    let profile = folder.path().join("alice");
    drop(alice);
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never", "--microphone"];
    for after_ms in [0, 5, 20, 60, 150, 400] {
        let mut node = command(&profile, &[&up[..], &["silence"]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        signal(node.id(), "INT");
        let asked = Instant::now();
        wait_for("end after Ctrl-C", || node.try_wait().unwrap());
        assert!(asked.elapsed() < Duration::from_secs(10), "{after_ms} ms: {:?}", asked.elapsed());
    }
    let mut alice = up_again(&profile);
    assert!(alice.try_wait().unwrap().is_none(), "the profile survived every interruption");
    signal(alice.id(), "TERM");
    assert!(alice.wait().unwrap().success(), "SIGTERM ends it cleanly");
}

/// Starts the node again and waits until it is attached.
fn up_again(profile: &Path) -> Child {
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];
    let child = command(profile, &up).stdout(Stdio::null()).spawn().unwrap();
    wait_for("attachment", || run(profile, &["status"]).out.contains("\"attached\"").then_some(()));
    child
}
