//! Twelve super nodes as real processes: everybody is found, a third of the super nodes is killed
//! without warning, and everybody is attached, found and called again.
//!
//! Nothing is asserted of how long that took; the figures are printed (`--nocapture`).

use std::{
    collections::BTreeSet,
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

const SUPER_NODES: usize = 12;
const KILLED: usize = 4;
const USERS: [&str; 6] = ["alina", "alison", "bertram", "casper", "dorothea", "friederike"];

/// Waits are bounded by this: far above what a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// A whole network on loopback; its processes are killed with it.
struct World {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    super_nodes: Vec<SuperNode>,
}

struct SuperNode {
    profile: PathBuf,
    process: Option<Child>,
    address: String,
}

impl Drop for World {
    fn drop(&mut self) {
        let super_nodes = self.super_nodes.iter_mut().filter_map(|node| node.process.as_mut());
        for process in self.processes.iter_mut().chain(super_nodes) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self { folder, processes: Vec::new(), super_nodes: Vec::new() };
        let address = format!("127.0.0.1:{}", free_port());
        let login = world.path("login-server");
        let at = ["--listen", &address, "--advertise", &address];
        json(cooee(["login-server", "init", "--dir"]).arg(&login).args(at));
        let mut run = cooee(["login-server", "run", "--address-burst", "10000", "--dir"]);
        let process = world.spawn("login-server", run.arg(&login));
        world.processes.push(process);
        world.wait_for_line("login-server", "listening");
        for number in 0..SUPER_NODES {
            world.start_super_node(number);
        }
        for user in USERS {
            world.start_user(user);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn invitation(&self) -> String {
        let login = self.path("login-server");
        let answer = json(cooee(["login-server", "invite", "--dir"]).arg(login));
        answer["invitation"].as_str().unwrap().to_owned()
    }

    fn start_super_node(&mut self, number: usize) {
        let login = self.path("login-server");
        let token = json(cooee(["login-server", "enrol-token", "--dir"]).arg(login));
        let (name, invitation) = (format!("super-node-{number}"), self.invitation());
        let profile = self.path(&name);
        let mut command = cooee(["super-node", "--enrol", token["token"].as_str().unwrap()]);
        command.args(["--invitation", &invitation, "--bind", "127.0.0.1", "--loopback"]);
        command.args(["--advertise", "127.0.0.1", "--no-well-known-ports", "--profile-dir"]);
        let process = self.spawn(&name, command.arg(&profile));
        let node = SuperNode { profile, process: Some(process), address: String::new() };
        self.super_nodes.push(node);
        let port = self.wait_for_line(&name, "listening")["port"].as_u64().unwrap();
        self.super_nodes[number].address = format!("127.0.0.1:{port}");
    }

    fn start_user(&mut self, user: &str) {
        let (profile, invitation) = (self.path(user), self.invitation());
        let mut register = cooee(["register", user, "--invitation", &invitation, "--profile-dir"]);
        json(register.arg(&profile).env("COOEE_PASSWORD", "correct horse battery"));
        let mut up = cooee(["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"]);
        up.args(["--answer", "auto", "--microphone", "silence", "--speaker", "null"]);
        let process = self.spawn(user, up.arg("--profile-dir").arg(&profile));
        self.processes.push(process);
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Child {
        let log = |kind: &str| File::create(self.path(&format!("{name}.{kind}"))).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log("out")).stderr(log("err"));
        command.spawn().unwrap()
    }

    fn wait_for_line(&self, name: &str, event: &str) -> Value {
        eventually(&format!("{name}: {event}"), || {
            let text = std::fs::read_to_string(self.path(&format!("{name}.out"))).ok()?;
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line: &Value| line["event"] == event)
        })
    }

    fn status(&self, profile: &Path) -> Option<Value> {
        try_json(cooee(["status", "--profile-dir"]).arg(profile))
    }

    fn search(&self, from: &str, query: &str) -> Option<Vec<Value>> {
        let output =
            cooee(["search", query, "--profile-dir"]).arg(self.path(from)).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| text.lines().map(|l| serde_json::from_str(l).unwrap()))
            .map(Iterator::collect)
    }

    /// Super nodes that live agree on how many there are.
    fn wait_for_members(&self, members: usize) -> Duration {
        let start = Instant::now();
        for node in self.super_nodes.iter().filter(|node| node.process.is_some()) {
            eventually(&format!("{members} members at {}", node.address), || {
                let status = self.status(&node.profile)?;
                (status["overlay"]["members"] == members).then_some(())
            });
        }
        start.elapsed()
    }

    /// Super nodes in use, one for each user, none of them killed.
    fn wait_for_attached(&self) -> (Vec<String>, Duration) {
        let start = Instant::now();
        let killed: Vec<&str> = self
            .super_nodes
            .iter()
            .filter(|node| node.process.is_none())
            .map(|node| node.address.as_str())
            .collect();
        let attached = USERS.map(|user| {
            eventually(&format!("{user} is attached"), || {
                let status = self.status(&self.path(user))?;
                let super_node = status["super_node"].as_str()?.to_owned();
                let lives = !killed.contains(&super_node.as_str());
                (status["state"] == "attached" && lives).then_some(super_node)
            })
        });
        (attached.to_vec(), start.elapsed())
    }

    /// Everybody finds everybody else, online, and nobody wrong.
    fn wait_for_found(&self) -> Duration {
        let start = Instant::now();
        for (place, user) in USERS.iter().enumerate() {
            let from = USERS[(place + 1) % USERS.len()];
            eventually(&format!("{from} finds {user} online"), || {
                let found = self.search(from, user)?;
                for one in &found {
                    assert_eq!(one["user"], *user, "a wrong answer");
                }
                found.iter().any(|one| one["presence"] == "online").then_some(())
            });
        }
        start.elapsed()
    }

    fn call(&self, from: &str, to: &str) {
        let mut call = cooee(["call", to, "--for", "1", "--profile-dir"]);
        let output = call.arg(self.path(from)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{from} calls {to}: {said}\n{errors}");
    }

    /// SIGKILL to the super nodes in use first: the hardest third.
    fn kill_third(&mut self, in_use: &BTreeSet<String>) {
        let mut order: Vec<usize> = (0..SUPER_NODES).collect();
        order.sort_by_key(|number| !in_use.contains(&self.super_nodes[*number].address));
        for number in order.into_iter().take(KILLED) {
            let mut process = self.super_nodes[number].process.take().unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

#[test]
fn everybody_is_found_again_after_a_third_of_the_super_nodes_was_killed() {
    let mut world = World::start();
    let joined = world.wait_for_members(SUPER_NODES);
    let (in_use, attached) = world.wait_for_attached();
    let found = world.wait_for_found();
    println!("{SUPER_NODES} super nodes, {} users: joined after {joined:?},", USERS.len());
    println!("  attached after {attached:?}, all found after {found:?}");
    let listed = eventually("both who begin with ali are listed", || {
        let found = world.search("casper", "ali*")?;
        let names = found.iter().map(|one| one["user"].as_str().unwrap().to_owned());
        let names: BTreeSet<String> = names.collect();
        (names.len() >= 2).then_some(names)
    });
    assert_eq!(listed, BTreeSet::from(["alina".to_owned(), "alison".to_owned()]));
    world.call("alina", "bertram");

    world.kill_third(&in_use.into_iter().collect());
    let (_, attached) = world.wait_for_attached();
    let found = world.wait_for_found();
    println!("after {KILLED} were killed: attached after {attached:?}, all found {found:?} later");
    world.call("alison", "casper");
    world.call("friederike", "dorothea");
    let known = world.wait_for_members(SUPER_NODES - KILLED);
    println!("  the dead are known as such {known:?} later");
}

fn cooee<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cooee"));
    command.arg("--json").args(arguments).env_remove("COOEE_DATABASE");
    command
}

fn try_json(command: &mut Command) -> Option<Value> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().filter(|_| output.status.success())?;
    serde_json::from_str(line).ok()
}

fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {errors}");
    serde_json::from_str(text.lines().next().unwrap_or("null")).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(result) = attempt() {
            return result;
        }
        sleep(PAUSE);
    }
    panic!("not within {PATIENCE:?}: {what}");
}
