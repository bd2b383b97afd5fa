//! The login server as a process: killed without warning, shut down, misused, looked after.

#[path = "support/flood.rs"]
mod flood;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use cooee_node::login_server::Invitation;
use flood::REGISTRATIONS;
use tokio::net::TcpStream;

fn cooee(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cooee"));
    command.env("COOEE_LOGIN_SERVER_DIR", directory).env_remove("COOEE_DATABASE");
    command
}

fn json(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    serde_json::from_str(text.lines().next().unwrap_or("null")).unwrap()
}

fn init(directory: &Path, database: Option<&str>) -> Invitation {
    let mut command = cooee(directory);
    command.args(["login-server", "init", "--json", "--listen", "127.0.0.1:0"]);
    command.args(["--advertise", "127.0.0.1:33033"]);
    if let Some(database) = database {
        command.args(["--database", database]);
    }
    json(&mut command)["invitation"].as_str().unwrap().parse().unwrap()
}

/// A running login server; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(directory: &Path) -> Self {
        let mut child = cooee(directory)
            .args(["login-server", "run", "--json", "--address-burst", "1000000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = event["addresses"][0].as_str().unwrap().parse().unwrap();
        Self { child, address }
    }

    /// SIGKILL: nothing can be finished.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers a number at one login server.
async fn register(invitation: &Invitation, address: SocketAddr, number: usize) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    flood::register(invitation, stream, number).await
}

fn users(directory: &Path) -> BTreeSet<String> {
    let output =
        cooee(directory).args(["login-server", "users", "--json", "--limit", "100000"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let name = |line: &str| {
        let user: serde_json::Value = serde_json::from_str(line).unwrap();
        user["name"].as_str().unwrap().to_owned()
    };
    text.lines().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_registration_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let invitation = init(directory.path(), None);
    let server = Server::start(directory.path());
    let address = server.address;
    let flooded = {
        let invitation = invitation.clone();
        move |number| {
            let invitation = invitation.clone();
            async move { register(&invitation, address, number).await }
        }
    };
    let (acknowledged, _) = flood::flood(flooded, || server.kill()).await;
    println!("{} of {REGISTRATIONS} acknowledged before the kill", acknowledged.len());
    assert!(acknowledged.len() < REGISTRATIONS, "the kill came too late to test anything");
    let server = Server::start(directory.path());
    let kept = users(directory.path());
    let lost: Vec<_> = acknowledged.difference(&kept).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(register(&invitation, server.address, REGISTRATIONS + 1).await.is_some());
}

#[test]
fn sigterm_ends_the_server_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path(), None);
    let mut server = Server::start(directory.path());
    let status = Command::new("kill").arg(server.child.id().to_string()).status().unwrap();
    assert!(status.success());
    let mut rest = String::new();
    server.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"stopped\""), "{rest}");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn mistakes_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = cooee(directory.path()).arg("login-server").args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&["run"]).contains("cooee login-server init"));
    init(directory.path(), None);
    assert!(run(&["init"]).contains("holds a network already"));
    assert!(run(&["remove-user", "nobody"]).contains("no user nobody"));
    assert!(run(&["policy", "--newest", "two"]).contains("0.2.0"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(run(&["run", "--listen", &address]).contains("is in use"));
    std::fs::write(directory.path().join("database.sqlite"), vec![0x55; 8192]).unwrap();
    assert!(run(&["status"]).contains("damaged"));
}

#[test]
fn an_operator_looks_after_a_network() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path(), None);
    let ask = |arguments: &[&str]| {
        json(cooee(directory.path()).args(["login-server", "--json"]).args(arguments))
    };
    assert_eq!(ask(&["policy", "by-code", "--newest", "0.2.0"])["registration"], "by-code");
    assert_eq!(ask(&["policy"])["newest"], "0.2.0");
    let invited = ask(&["invite", "--uses", "3"]);
    let code = invited["code"].as_str().unwrap();
    assert!(invited["invitation"].as_str().unwrap().contains(&format!("code={code}")));
    assert_eq!(ask(&["enrol-token"])["token"].as_str().unwrap().len(), 19);
    assert_eq!(ask(&["status"])["users"], 0);
}
