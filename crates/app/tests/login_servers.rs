//! Two login servers on one PostgreSQL: either may be killed, and the database restarted.

#[path = "support/flood.rs"]
mod flood;
#[path = "../../node/tests/common/postgres.rs"]
mod postgres;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cooee_node::{
    attachment::open_login_path,
    login_server::Invitation,
    transport::{Credentials, Dialer, ProxyConfig, Tls, Trust},
};
use flood::{CLIENTS, REGISTRATIONS};
use postgres::Postgres;
use support::{COOEE, run, wait_for};

/// A running login server; killed when dropped.
struct Server(Child);

impl Server {
    fn start(directory: &Path, address: SocketAddr, log: &Path) -> Self {
        let child = Command::new(COOEE)
            .args(["login-server", "run", "--json", "--address-burst", "1000000"])
            .args(["--listen", &address.to_string(), "--dir"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        wait_for("login server", || std::net::TcpStream::connect(address).ok());
        Self(child)
    }

    /// Processor time used so far in milliseconds, and the most memory ever resident in MiB.
    fn cost(&self) -> (u64, u64) {
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap();
        let stat = of("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        let status = of("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        // User and system time, in hundredths of a second.
        ((ticks(11) + ticks(12)) * 10, peak_kib / 1024)
    }

    /// SIGKILL: nothing can be finished.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn login_server(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(COOEE);
    command.args(["login-server", "--json"]).args(arguments).arg("--dir").arg(directory);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network on a database with login servers at two addresses.
fn init(directory: &Path, database: &str, addresses: [SocketAddr; 2]) -> Invitation {
    let [first, second] = addresses.map(|address| address.to_string());
    let arguments = ["init", "--database", database, "--advertise", &first, "--advertise", &second];
    let made = login_server(directory, &arguments);
    let made: serde_json::Value = serde_json::from_str(made.lines().next().unwrap()).unwrap();
    made["invitation"].as_str().unwrap().parse().unwrap()
}

/// Registers as a node does: at the first login server that answers.
async fn register(
    invitation: &Invitation,
    order: [SocketAddr; 2],
    number: usize,
) -> Option<String> {
    let credentials = Credentials::anonymous(flood::key(number));
    let tls = Tls::new(Trust::new(invitation.root), credentials).ok()?;
    let dialer = Dialer::new(tls, ProxyConfig::default());
    let path = open_login_path(&dialer, &order, &[]).await.ok()?;
    flood::register(invitation, path.stream, number).await
}

fn users(directory: &Path) -> BTreeSet<String> {
    let listed = login_server(directory, &["users", "--limit", "100000"]);
    let name = |line: &str| {
        let user: serde_json::Value = serde_json::from_str(line).unwrap();
        user["name"].as_str().unwrap().to_owned()
    };
    listed.lines().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn either_of_two_login_servers_may_die_and_the_database_be_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut postgres = Postgres::start();
    let database = postgres.create_database("pair");
    let addresses = [free_address(), free_address()];
    let directory = at("login-server");
    let invitation = init(&directory, &database, addresses);
    let first = Server::start(&directory, addresses[0], &at("first.log"));
    let second = Server::start(&directory, addresses[1], &at("second.log"));

    // The price of a password is its owner's: 64 MiB and 3 passes there, next to nothing here.
    let before = first.cost();
    let account = |profile: &str, name: &str| {
        run(&at(profile), &["register", name, "--invitation", &invitation.to_string()])
    };
    let begin = Instant::now();
    assert_eq!(account("dear", "dear.password").code, Some(0));
    let took = begin.elapsed();
    let after = first.cost();
    let cost = Duration::from_millis(after.0 - before.0);
    assert!(cost * 2 < took, "of {took:?} the server computed {before:?} to {after:?}");
    assert!(after.1 < before.1 + 32, "the server hashed the password: {before:?} to {after:?}");

    // Half of the clients ask one server first, half the other.
    let to = invitation.clone();
    let flooded = move |number: usize| {
        let (invitation, [first, second]) = (to.clone(), addresses);
        let order = if number.is_multiple_of(2) { [first, second] } else { [second, first] };
        async move { register(&invitation, order, number).await }
    };
    let (acknowledged, failed) = flood::flood(flooded, || first.kill()).await;
    let (cpu_ms, peak_mib) = second.cost();
    println!("the server that lived: {cpu_ms} ms of processor time, at most {peak_mib} MiB");
    assert!(peak_mib < 256, "{peak_mib} MiB");
    println!("{} of {REGISTRATIONS} acknowledged, {failed} broken off", acknowledged.len());
    // Only what was under way at the dead server is lost to its client; the rest goes on.
    assert!(failed <= CLIENTS, "{failed} registrations failed although one server lived");
    let kept = users(&directory);
    let lost: Vec<_> = acknowledged.difference(&kept).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    assert_eq!(account("alice", "alice").code, Some(0), "with one of the two addresses dead");
    postgres.crash();
    let refused = account("bob", "bob");
    assert!(matches!(refused.code, Some(3 | 4)), "{refused:?}");
    assert!(refused.err.contains("busy: try again"), "{refused:?}");
    postgres.start_again();
    wait_for("the login server's recovery", || {
        (account("bob", "bob").code == Some(0)).then_some(())
    });
    let log = fs::read_to_string(at("second.log")).unwrap();
    assert!(log.contains("the database does not answer"), "{log}");
    assert!(log.contains("the database answers again"), "{log}");
    assert!(users(&directory).is_superset(&acknowledged));
}
