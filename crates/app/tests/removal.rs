//! Devices that the network should no longer know: removed by their owner or the operator, with a
//! certificate that has ended, or of another network.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cooee_lab::deployment::UserOptions;
use serde_json::Value;
use support::{COOEE, command, network, run, signal, wait_for};

/// Super nodes that ask for removed devices every second instead of every minute.
fn ask_often(folder: &Path, super_nodes: usize) {
    for number in 1..=super_nodes {
        let profile = folder.join(format!("super-node-{number}"));
        fs::create_dir_all(&profile).unwrap();
        fs::write(profile.join("config.toml"), "revocations-every-s = 1\n").unwrap();
    }
}

fn status(profile: &Path) -> Value {
    serde_json::from_str(run(profile, &["status"]).out.trim()).unwrap_or_default()
}

#[test]
fn a_removed_device_is_cut_off_everywhere_and_cannot_come_back() {
    let folder = tempfile::tempdir().unwrap();
    ask_often(folder.path(), 2);
    let network = network(folder.path(), 2);
    let at = |name: &str| folder.path().join(name);
    let _desk = network.user("here", "alice", UserOptions::default()).unwrap();
    let more = UserOptions { device: Some("phone".into()), ..UserOptions::default() };
    let mut phone = network.user("here", "alice", more.clone()).unwrap();
    let node = phone.status().unwrap()["node"].as_str().unwrap().to_owned();

    let operator = |arguments: &[&str]| {
        let mut command = Command::new(COOEE);
        command.args(["--json", "login-server"]).args(arguments);
        command.arg("--dir").arg(at("login-server")).output().unwrap()
    };
    assert!(operator(&["remove-device", &node]).status.success());
    // Both super nodes closed its connections, and say why they take no new one.
    let detail = wait_for("the cut", || {
        let status = status(&at("alice-phone"));
        let detail = status["detail"].as_str().unwrap_or_default().to_owned();
        (status["state"] == "waiting" && detail.contains("removed")).then_some(detail)
    });
    assert!(detail.contains("cooee login"), "{detail}");
    assert_eq!(status(&at("alice"))["state"], "attached", "the other device stays");

    // It learns nothing by starting again, and its certificate is not renewed.
    phone.node().end().unwrap();
    let done = run(&at("alice-phone"), &["login", "alice"]);
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(done.err.contains("removed"), "{done:?}");
}

#[test]
fn an_ended_certificate_and_one_of_another_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let here = network(folder.path(), 1);
    let there = network(&at("there"), 1);
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];

    let stranger = at("there/stranger");
    let register = ["register", "stranger", "--invitation", there.invitation()];
    assert_eq!(run(&stranger, &register).code, Some(0));
    fs::write(stranger.join("invitation"), format!("{}\n", here.invitation())).unwrap();
    let done = run(&stranger, &up);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("another network"), "{done:?}");
    drop(there);
}

#[test]
fn an_ended_certificate_is_renewed_or_said_to_be_over() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = listen.to_string();
    let server = |arguments: &[&str]| {
        let mut command = Command::new(COOEE);
        command.args(["--json", "login-server"]).args(arguments).arg("--dir").arg(at("server"));
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let made = server(&["init", "--listen", &listen, "--advertise", &listen]);
    let made = made.wait_with_output().unwrap().stdout;
    let made: Value = serde_json::from_slice(made.split(|b| *b == b'\n').next().unwrap()).unwrap();
    let mut running = server(&["run", "--certificate-life", "3s"]);
    wait_for("login server", || std::net::TcpStream::connect(&listen).ok());
    let alice = at("alice");
    let invitation = made["invitation"].as_str().unwrap();
    let register = ["register", "alice", "--invitation", invitation];
    assert_eq!(run(&alice, &register).code, Some(0));
    std::thread::sleep(std::time::Duration::from_secs(4));

    // With the login server there, the node renews it by itself.
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];
    let mut node = command(&alice, &up).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the node", || (run(&alice, &["status"]).code == Some(0)).then_some(()));
    signal(node.id(), "TERM");
    node.wait().unwrap();

    // Without, it says what is wrong.
    running.kill().unwrap();
    running.wait().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    let done = run(&alice, &up);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("certificate") && done.err.contains("ended"), "{done:?}");
}
