//! Buddies, messages, the account and the doctor, over a whole network of real processes.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use cooee_lab::deployment::{Deployment, DeploymentPlan, ThisMachine, User, UserOptions};
use serde_json::Value;

/// Bounds every wait; nothing here is about time.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_cooee");

fn plan() -> DeploymentPlan {
    DeploymentPlan {
        login_server: "here".to_owned(),
        super_nodes: vec!["here".to_owned(), "here".to_owned()],
        super_node_port: None,
        well_known_ports: false,
    }
}

/// Repeats `ask` until it gives something.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(Instant::now() < until, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All lines of a command of a user.
fn lines(folder: &Path, user: &str, arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(PROGRAM)
        .arg("--json")
        .args(arguments)
        .arg("--profile-dir")
        .arg(folder.join(user))
        .output()
        .expect("cooee runs");
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn buddy_state(folder: &Path, user: &str, buddy: &str) -> Option<String> {
    let buddies = lines(folder, user, &["buddies", "list"]);
    let buddy = buddies.into_iter().find(|entry| entry["user"] == buddy)?;
    Some(buddy["state"].as_str()?.to_owned())
}

fn texts(folder: &Path, user: &str, direction: &str) -> Vec<String> {
    lines(folder, user, &["messages"])
        .into_iter()
        .filter(|message| message["direction"] == direction)
        .map(|message| message["text"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn kill_and_restart(user: &mut User<'_>) {
    user.node().kill().expect("it runs");
    user.restart(&UserOptions::default()).expect("it starts again");
}

#[test]
fn buddies_and_messages_survive_absence_and_crashes() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let deployment =
        Deployment::start(&ThisMachine, Path::new(PROGRAM), at, plan(), |_| {}).expect("a network");
    let mut alice = deployment.user("here", "alice", UserOptions::default()).expect("alice");
    let mut bob = deployment.user("here", "bob", UserOptions::default()).expect("bob");

    alice.run(&["buddies", "add", "bob"]).expect("asked");
    eventually("the request", || {
        (buddy_state(at, "bob", "alice").as_deref() == Some("asked")).then_some(())
    });
    bob.run(&["buddies", "accept", "alice"]).expect("accepted");
    eventually("the answer", || {
        (buddy_state(at, "alice", "bob").as_deref() == Some("mutual")).then_some(())
    });
    let numbers = [("alice", "bob"), ("bob", "alice")]
        .map(|(user, buddy)| lines(at, user, &["buddies", "show", buddy])[0].clone());
    assert_eq!(numbers[0]["safety_number"], numbers[1]["safety_number"]);

    alice.run(&["message", "bob", "hello"]).expect("kept");
    eventually("the message", || (texts(at, "bob", "received") == ["hello"]).then_some(()));

    bob.node().kill().expect("it runs");
    for text in ["are you there?", "call me"] {
        alice.run(&["message", "bob", text]).expect("kept");
    }
    // What was taken survives its writer's crash too.
    kill_and_restart(&mut alice);
    assert_eq!(texts(at, "alice", "sent"), ["hello", "are you there?", "call me"]);
    bob.restart(&UserOptions::default()).expect("it starts again");
    let mut received = eventually("the messages", || {
        let received = texts(at, "bob", "received");
        (received.len() >= 3).then_some(received)
    });
    received.sort();
    assert_eq!(received, ["are you there?", "call me", "hello"]);
    eventually("the receipts", || {
        let sent = lines(at, "alice", &["messages"]);
        sent.iter().all(|message| message["state"] == "delivered").then_some(())
    });

    // What was acknowledged survives its reader's crash, and is not shown twice.
    kill_and_restart(&mut bob);
    assert_eq!(texts(at, "bob", "received").len(), 3);
    assert_eq!(buddy_state(at, "bob", "alice").as_deref(), Some("mutual"));

    bob.run(&["buddies", "remove", "alice"]).expect("removed");
    eventually("the removal", || buddy_state(at, "alice", "bob").is_none().then_some(()));
}

#[test]
fn the_doctor_finds_a_network_in_order_and_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let mut deployment =
        Deployment::start(&ThisMachine, Path::new(PROGRAM), at, plan(), |_| {}).expect("a network");
    let verdict = |findings: &[Value], check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.map(|finding| finding["verdict"].as_str().unwrap_or_default().to_owned())
    };
    {
        let _alice = deployment.user("here", "alice", UserOptions::default()).expect("alice");
        let findings = lines(at, "alice", &["doctor", "--microphone", "silence"]);
        for check in ["super_nodes", "tcp", "udp", "nat", "login_server", "clock", "proxy"] {
            assert_eq!(verdict(&findings, check).as_deref(), Some("good"), "{findings:?}");
        }
        assert_eq!(findings.last().map(|last| last["ok"].clone()), Some(Value::Bool(true)));
    }
    for super_node in deployment.super_nodes() {
        super_node.kill().expect("it runs");
    }
    let findings = lines(at, "alice", &["doctor", "--microphone", "silence"]);
    assert_eq!(verdict(&findings, "super_nodes").as_deref(), Some("bad"));
    assert_eq!(verdict(&findings, "nat").as_deref(), Some("unknown"));
    assert_eq!(findings.last().map(|last| last["ok"].clone()), Some(Value::Bool(false)));

    let nobody = lines(at, "nobody", &["doctor", "--microphone", "silence"]);
    assert_eq!(verdict(&nobody, "profile").as_deref(), Some("bad"));
}

/// The bytes of all files of a folder, with those of its folders.
fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            bytes.extend(all_bytes(&path));
        } else {
            bytes.extend(std::fs::read(&path).expect("a file"));
        }
    }
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn all_devices_of_a_user_have_one_buddy_list_that_the_server_cannot_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let one = DeploymentPlan { super_nodes: vec!["here".to_owned()], ..plan() };
    let deployment =
        Deployment::start(&ThisMachine, Path::new(PROGRAM), at, one, |_| {}).expect("a network");
    let device = |name: &str| UserOptions { device: Some(name.into()), ..UserOptions::default() };
    let mut desk = deployment.user("here", "alice", UserOptions::default()).expect("alice");
    // Names that no account has: nobody but the buddy list can tell the server of them.
    desk.run(&["buddies", "block", "mallory.qz77"]).expect("blocked");
    desk.run(&["buddies", "add", "robert.qz77"]).expect("asked");
    let list = at.join("login-server");

    let phone = deployment.user("here", "alice", device("phone")).expect("the second device");
    let states = || {
        let (mallory, robert) = ("mallory.qz77", "robert.qz77");
        Some((buddy_state(at, "alice-phone", mallory)?, buddy_state(at, "alice-phone", robert)?))
    };
    let states = eventually("the list on the second device", states);
    assert_eq!(states, ("blocked".into(), "requested".into()));
    assert!(!contains(&all_bytes(&list), "qz77"), "the server can read the list");

    // Both change it at once: nothing is lost.
    desk.run(&["buddies", "block", "eve.qz77"]).expect("blocked");
    phone.run(&["buddies", "block", "trudy.qz77"]).expect("blocked");
    phone.run(&["buddies", "remove", "robert.qz77"]).expect("removed");
    let _third = deployment.user("here", "alice", device("third")).expect("the third device");
    for of in ["alice", "alice-phone", "alice-third"] {
        eventually("the joined list", || {
            let blocked = |name: &str| buddy_state(at, of, name).as_deref() == Some("blocked");
            let robert = buddy_state(at, of, "robert.qz77");
            (blocked("eve.qz77") && blocked("trudy.qz77") && robert.is_none()).then_some(())
        });
    }
    assert!(!contains(&all_bytes(&list), "qz77"), "the server can read the list");

    // A list that was lost on one device comes back.
    desk.node().end().expect("ended");
    std::fs::remove_file(at.join("alice/buddies.pb")).expect("it was there");
    desk.restart(&UserOptions::default()).expect("it starts again");
    eventually("the list again", || buddy_state(at, "alice", "mallory.qz77"));
}

/// Runs `cooee account …` for alice; whether it worked, and what it printed.
fn account(at: &Path, profile: &str, password: &str, more: &[&str]) -> (bool, Vec<Value>) {
    let output = Command::new(PROGRAM)
        .args(["--json"])
        .args(more)
        .arg("--profile-dir")
        .arg(at.join(profile))
        .env("COOEE_PASSWORD", password)
        .env("COOEE_NEW_PASSWORD", "another good password")
        .output()
        .expect("cooee runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (output.status.success(), lines)
}

#[test]
fn an_account_changes_its_password_loses_a_device_and_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let one = DeploymentPlan { super_nodes: Vec::new(), ..plan() };
    let deployment = Deployment::start(&ThisMachine, Path::new(PROGRAM), at, one, |_| {})
        .expect("a login server");
    let (old, new) = ("a good password", "another good password");
    let invitation = deployment.invitation();
    let register = ["register", "alice", "--invitation", invitation];
    assert!(account(at, "first", old, &register).0);
    assert!(account(at, "second", old, &["login", "alice", "--invitation", invitation]).0);
    assert!(!account(at, "first", "wrong", &["account", "devices"]).0);

    assert!(account(at, "first", old, &["account", "password"]).0);
    assert!(!account(at, "first", old, &["account", "devices"]).0, "the old one is void");
    let (_, devices) = account(at, "first", new, &["account", "devices"]);
    assert_eq!(devices.len(), 2, "{devices:?}");
    let other = devices.iter().find(|device| device["this"] == false).expect("the second");
    let other = other["node"].as_str().expect("a node").to_owned();
    assert!(account(at, "first", new, &["account", "remove-device", &other]).0);
    assert_eq!(account(at, "first", new, &["account", "devices"]).1.len(), 1);

    assert!(!account(at, "first", new, &["account", "remove"]).0, "--yes is missing");
    assert!(account(at, "first", new, &["account", "remove", "--yes"]).0);
    assert!(!account(at, "first", new, &["account", "devices"]).0, "nobody is there any more");
}
