//! Two login servers on one PostgreSQL: either may be killed, and the database restarted.

#[path = "../../node/tests/common/postgres.rs"]
mod postgres;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cooee_node::{
    attachment::open_login_path,
    login_server::{
        ClientConfig, Invitation, NodeKey, Password, Stretching, UserName,
        client::{Device, LoginClient},
    },
    transport::{Credentials, Dialer, ProxyConfig, Tls, Trust},
};
use postgres::Postgres;
use support::{COOEE, run, wait_for};

/// Small on purpose and only here: the cost of the password hash is not what these tests are about.
const CHEAP: Stretching = Stretching { memory_kib: 64, passes: 1, lanes: 1 };
const REGISTRATIONS: usize = 1000;
const CLIENTS: usize = 16;

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
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    let credentials = Credentials::anonymous(NodeKey::from_seed(seed));
    let tls = Tls::new(Trust::new(invitation.root), credentials).ok()?;
    let dialer = Dialer::new(tls, ProxyConfig::default());
    let path = open_login_path(&dialer, &order, &[]).await.ok()?;
    let config = ClientConfig { root: invitation.root, stretching: CHEAP };
    let mut client = LoginClient::connect(path.stream, config, 0).await.ok()?;
    let user: UserName = user_name(number).parse().unwrap();
    let device = Device { key: NodeKey::from_seed(seed), name: "test".into() };
    let password = Password::new("correct horse").unwrap();
    let registered = client.register(&user, &password, "", "", &device).await;
    registered.ok().map(|_| user.to_string())
}

/// Numbers in letters whose skeletons differ.
fn user_name(number: usize) -> String {
    const LETTERS: &[u8; 10] = b"aefghjkptx";
    let digits = format!("{number:05}");
    let letters = digits.bytes().map(|digit| char::from(LETTERS[usize::from(digit - b'0')]));
    std::iter::once('u').chain(letters).collect()
}

fn users(directory: &Path) -> BTreeSet<String> {
    let listed = login_server(directory, &["users", "--limit", "100000"]);
    let name = |line: &str| {
        let user: serde_json::Value = serde_json::from_str(line).unwrap();
        user["name"].as_str().unwrap().to_owned()
    };
    listed.lines().map(name).collect()
}

/// The flood; half of the clients ask one server first. `at_half` is called in the middle. Gives
/// those that were acknowledged, and how many were not.
async fn flood(
    invitation: &Invitation,
    addresses: [SocketAddr; 2],
    at_half: impl FnOnce(),
) -> (BTreeSet<String>, usize) {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let failed = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (acknowledged, failed) = (acknowledged.clone(), failed.clone());
            let invitation = invitation.clone();
            tokio::spawn(async move {
                let [first, second] = addresses;
                let order = if client % 2 == 0 { [first, second] } else { [second, first] };
                for number in (client..REGISTRATIONS).step_by(CLIENTS) {
                    match register(&invitation, order, number).await {
                        Some(user) => _ = acknowledged.lock().unwrap().insert(user),
                        None => _ = failed.fetch_add(1, Ordering::Relaxed),
                    }
                }
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < REGISTRATIONS / 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(clients.iter().any(|client| !client.is_finished()), "too few were acknowledged");
    }
    at_half();
    for client in clients {
        client.await.unwrap();
    }
    let acknowledged = Arc::into_inner(acknowledged).unwrap().into_inner().unwrap();
    (acknowledged, failed.load(Ordering::Relaxed))
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
    assert_eq!(account("dear", "dear.password").code, Some(0));
    let after = first.cost();
    assert!(after.0 - before.0 <= 50, "a registration cost the server {before:?} to {after:?}");
    assert!(after.1 < before.1 + 32, "the server hashed the password: {before:?} to {after:?}");

    let (acknowledged, failed) = flood(&invitation, addresses, || first.kill()).await;
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
