//! Files that a disk or a person damaged: each is named, what it held is kept aside or left as it
//! is, and what can be had again comes back by itself.

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use cooee_lab::deployment::UserOptions;
use support::{COOEE, Done, command, network, records, run, signal, wait_for};

const UP: [&str; 8] =
    ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never", "--microphone", "silence"];

/// Starts the node and waits until it is online.
fn up(profile: &Path) -> Child {
    let mut command = command(profile, &UP);
    let node = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("attachment", || run(profile, &["status"]).out.contains("\"attached\"").then_some(()));
    node
}

/// Ends the node; what it said.
fn down(node: Child) -> String {
    signal(node.id(), "TERM");
    let done: Done = node.wait_with_output().unwrap().into();
    assert!(done.code == Some(0) && !done.err.contains("panicked"), "{done:?}");
    done.err
}

#[test]
fn a_profile_with_damaged_files_says_so_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let silent = || UserOptions { microphone: Some("silence".into()), ..UserOptions::default() };
    let mut alice = network.user("here", "alice", silent()).unwrap();
    let _bob = network.user("here", "bob", UserOptions { answers: true, ..silent() }).unwrap();
    let profile = folder.path().join("alice");
    let buddies = || run(&profile, &["buddies", "list"]).out;
    assert_eq!(run(&profile, &["buddies", "block", "mallory"]).code, Some(0));
    assert_eq!(run(&profile, &["message", "bob", "kept for ever"]).code, Some(0));
    for _ in 0..2 {
        assert_eq!(run(&profile, &["call", "bob", "--for", "0.3"]).code, Some(0));
    }
    let list = buddies();
    assert!(list.contains("mallory"), "{list}");
    // The sealed copy at the login server is made some seconds after the last change.
    let database = folder.path().join("login-server/database.sqlite-wal");
    let size = || fs::metadata(&database).map_or(0, |file| file.len());
    let before = size();
    wait_for("the sealed copy", || (size() > before).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(1));
    alice.node().end().unwrap();

    for name in ["buddies.pb", "outbox.json", "host-cache.json"] {
        fs::write(profile.join(name), [0xFF; 300]).unwrap();
    }
    fs::write(profile.join("port"), "not a port").unwrap();
    fs::write(profile.join("revocation-list"), [0xFF; 30]).unwrap();
    for log in ["calls.jsonl", "messages.jsonl"] {
        let text = fs::read_to_string(profile.join(log)).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let half = &first[..first.len() / 2];
        fs::write(profile.join(log), format!("{half}\n{rest}\u{0}\u{0}{{\"torn")).unwrap();
    }
    let node = up(&profile);
    wait_for("the list from the login server", || buddies().contains("mallory").then_some(()));
    assert_eq!(records(&profile).len(), 1, "the whole line is kept");
    assert_eq!(run(&profile, &["call", "bob", "--for", "0.3"]).code, Some(0));
    assert_eq!(records(&profile).len(), 2);
    let said = down(node);
    for name in ["buddies.pb", "outbox.json", "host-cache.json"] {
        assert_eq!(fs::read(profile.join(format!("{name}.damaged"))).unwrap(), [0xFF; 300]);
        assert!(said.contains(name), "{name} in {said}");
    }
    assert!(said.contains("a line is left out") && said.contains("torn by a crash"), "{said}");

    // What cannot be made again is named and left as it is.
    for (name, word) in [("device.key", "64 hexadecimal"), ("invitation", "invitation")] {
        let good = fs::read(profile.join(name)).unwrap();
        fs::write(profile.join(name), "damaged").unwrap();
        let done = run(&profile, &UP);
        assert!(done.code == Some(1) && done.err.contains(word), "{name}: {done:?}");
        assert!(done.err.contains("is damaged") && done.err.contains("restore it"), "{done:?}");
        assert_eq!(fs::read(profile.join(name)).unwrap(), b"damaged");
        fs::write(profile.join(name), good).unwrap();
    }
    down(up(&profile));
}

#[test]
fn a_damaged_database_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut network = network(folder.path(), 0);
    let at = |name: &str| folder.path().join(name);
    let register = |name: &str, invitation: &str| {
        run(&at(name), &["register", name, "--invitation", invitation]).code
    };
    let invitation = network.invitation().to_owned();
    for name in ["alice", "bob", "carol"] {
        assert_eq!(register(name, &invitation), Some(0));
    }
    // Its end writes the log back into the database.
    network.login_server().unwrap().end().unwrap();
    let database = at("login-server").join("database.sqlite");
    let good = fs::read(&database).unwrap();
    let start = || -> Done {
        let mut command = Command::new(COOEE);
        command.args(["login-server", "run", "--dir"]).arg(at("login-server"));
        command.output().unwrap().into()
    };
    // From the second page on: the head of the file still says that it is a database.
    for damaged in [
        [&good[..4096], &vec![0x55; good.len() - 4096]].concat(),
        good[..good.len() / 2].to_vec(),
        vec![0x55; good.len()],
    ] {
        fs::write(&database, &damaged).unwrap();
        let done = start();
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.err.contains("the database is damaged"), "{done:?}");
        assert!(done.err.contains("restore it from a backup"), "{done:?}");
        assert_eq!(fs::read(&database).unwrap(), damaged, "nothing was changed");
    }
    fs::write(&database, &good).unwrap();
    network.restart_login_server().unwrap();
    assert_eq!(register("alice", &invitation), Some(0), "the same device completes it");
    assert_eq!(register("dave", &invitation), Some(0));
}
