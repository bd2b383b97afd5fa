//! Devices that the network should no longer know: removed by their owner or the operator, with a
//! certificate that has ended, or of another network.

mod support;

use std::{fs, path::Path, process::Command};

use cooee_lab::deployment::UserOptions;
use serde_json::Value;
use support::{COOEE, network, run, wait_for};

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
