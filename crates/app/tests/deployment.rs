//! A whole network of real processes on this machine, driven as the demo drives it.

use std::path::Path;

use cooee_lab::deployment::{CallOptions, Deployment, DeploymentPlan, ThisMachine, UserOptions};

#[test]
fn two_users_talk_over_a_network_made_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = DeploymentPlan {
        login_server: "server".to_owned(),
        super_nodes: vec!["one".to_owned(), "two".to_owned()],
        super_node_port: None,
        well_known_ports: false,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_cooee"));
    let network = Deployment::start(&ThisMachine, program, folder.path(), plan, |_| {}).unwrap();
    let alice = network.user("here", "alice", UserOptions::default()).unwrap();
    let answering = UserOptions { answers: true, records: true, ..UserOptions::default() };
    let bob = network.user("here", "bob", answering).unwrap();
    assert_eq!(bob.status().unwrap()["state"], "attached");
    let report = alice.call("bob", CallOptions { talk_s: 2.0 }).unwrap();
    assert!(report.voice_ms.is_some(), "{report:?}");
    assert_eq!(report.record["media"]["path"], "direct UDP");
    assert!(report.record["media"]["packets_received"].as_u64().unwrap() > 50);
    let heard = std::fs::metadata(bob.ear()).unwrap().len();
    assert!(heard > 48_000, "{heard} bytes heard in two seconds");
}
