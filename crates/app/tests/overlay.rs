//! Super nodes as real processes: everybody is found, a third of the super nodes is killed without
//! warning, and everybody is attached, found and called again; presence; a mass restart with light
//! clients.
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
    fn start(super_nodes: usize, users: &[&str]) -> Self {
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
        for number in 0..super_nodes {
            world.start_super_node(number, &[]);
        }
        for user in users {
            world.start_user(user, &["--super-node", "never"]);
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

    fn start_super_node(&mut self, number: usize, more: &[&str]) {
        let login = self.path("login-server");
        let token = json(cooee(["login-server", "enrol-token", "--dir"]).arg(login));
        let (name, invitation) = (format!("super-node-{number}"), self.invitation());
        let profile = self.path(&name);
        let mut command = cooee(["super-node", "--enrol", token["token"].as_str().unwrap()]);
        command.args(["--invitation", &invitation, "--bind", "127.0.0.1", "--loopback"]);
        command.args(["--advertise", "127.0.0.1", "--no-well-known-ports", "--profile-dir"]);
        let process = self.spawn(&name, command.arg(&profile).args(more));
        let node = SuperNode { profile, process: Some(process), address: String::new() };
        self.super_nodes.push(node);
        let port = self.wait_for_line(&name, "listening")["port"].as_u64().unwrap();
        self.super_nodes[number].address = format!("127.0.0.1:{port}");
    }

    fn start_user(&mut self, user: &str, more: &[&str]) {
        let (profile, invitation) = (self.path(user), self.invitation());
        let mut register = cooee(["register", user, "--invitation", &invitation, "--profile-dir"]);
        json(register.arg(&profile).env("COOEE_PASSWORD", "correct horse battery"));
        let mut up = cooee(["up", "--bind", "127.0.0.1", "--loopback"]);
        up.args(["--answer", "auto", "--microphone", "silence", "--speaker", "null"]);
        let process = self.spawn(user, up.arg("--profile-dir").arg(&profile).args(more));
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

    fn buddies(&self, user: &str) -> Option<Vec<Value>> {
        let mut list = cooee(["buddies", "list", "--profile-dir"]);
        let output = list.arg(self.path(user)).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
        lines.ok().filter(|_| output.status.success())
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
    let mut world = World::start(SUPER_NODES, &USERS);
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

#[test]
fn presence_reaches_a_buddy_and_do_not_disturb_declines() {
    let world = World::start(1, &["alina", "bertram"]);
    for user in ["alina", "bertram"] {
        eventually(&format!("{user} is attached"), || {
            let status = world.status(&world.path(user))?;
            (status["state"] == "attached").then_some(())
        });
    }
    let run = |user: &str, arguments: &[&str]| {
        json(cooee([]).args(arguments).arg("--profile-dir").arg(world.path(user)))
    };
    run("alina", &["buddies", "add", "bertram"]);
    eventually("alina asks bertram", || {
        let list = world.buddies("bertram")?;
        list.iter().any(|one| one["state"] == "asked").then_some(())
    });
    run("bertram", &["buddies", "accept", "alina"]);
    let shown = |presence: &str| {
        eventually(&format!("alina sees bertram {presence}"), || {
            let list = world.buddies("alina")?;
            list.into_iter().find(|one| one["presence"] == presence)
        })
    };
    shown("online");
    for (chosen, seen) in [("away", "away"), ("do-not-disturb", "do_not_disturb")] {
        assert_eq!(run("bertram", &["presence", chosen])["presence"], chosen);
        shown(seen);
    }
    let mut call = cooee(["call", "bertram", "--for", "1", "--profile-dir"]);
    let output = call.arg(world.path("alina")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("busy"), "{said}");
    run("bertram", &["presence", "invisible"]);
    shown("offline");
    run("bertram", &["presence", "online"]);
    shown("online");
    world.call("alina", "bertram");
    run("bertram", &["down"]);
    let gone = shown("offline");
    assert!(gone["last_seen_unix_ms"].as_u64() > Some(0), "{gone}");
}

/// An operator's super node with room for four, three users: the load is above the half, so the one
/// of them that wants to serve is reached, admitted and used by the fifth, and missed by nobody.
#[test]
fn under_load_a_user_is_elected_serves_and_leaves() {
    let mut world = World::start(0, &[]);
    world.start_super_node(0, &["--capacity", "4"]);
    let operators = world.super_nodes[0].profile.clone();
    let members = |world: &World, count: usize| {
        eventually(&format!("{count} members"), || {
            let status = world.status(&operators)?;
            (status["overlay"]["members"] == count).then_some(())
        });
    };
    let attached = |world: &World, user: &str| {
        eventually(&format!("{user} is attached"), || {
            let status = world.status(&world.path(user))?;
            (status["state"] == "attached")
                .then(|| status["super_node"].as_str().unwrap().to_owned())
        })
    };
    let serving = ["--super-node", "always", "--super-node-after", "4"];
    let never = ["--super-node", "never"];
    world.start_user("alina", &[&serving[..], &["--no-well-known-ports"]].concat());
    attached(&world, "alina");
    sleep(Duration::from_secs(8));
    let status = world.status(&world.path("alina")).unwrap();
    assert_eq!(status["is_super_node"], false, "nobody needs it yet: {status}");
    for user in ["bertram", "casper"] {
        world.start_user(user, &never);
        attached(&world, user);
    }
    let elected = eventually("alina is elected", || {
        let status = world.status(&world.path("alina"))?;
        (status["is_super_node"] == true).then_some(status)
    });
    members(&world, 2);
    for user in ["dorothea", "friederike", "gustav"] {
        world.start_user(user, &never);
        attached(&world, user);
    }
    let status = world.status(&operators).unwrap();
    assert!(status["overlay"]["attached"].as_u64() <= Some(4), "never above its limit: {status}");
    let used = eventually("somebody uses alina as a super node", || {
        let status = world.status(&world.path("alina"))?;
        (status["overlay"]["attached"].as_u64() > Some(0)).then_some(status)
    });
    println!("elected: {}; then {}", elected["election"], used["overlay"]["attached"]);
    json(cooee(["down", "--profile-dir"]).arg(world.path("alina")));
    members(&world, 1);
    world.call("bertram", "casper");
}

/// An operator takes the super node out of service that two users use, in the middle of a call:
/// they go to the other one, the call goes on to its end, and then the super node ends.
#[test]
fn a_drained_super_node_ends_when_its_nodes_and_calls_have_gone() {
    let mut world = World::start(2, &["alina", "bertram"]);
    world.wait_for_members(2);
    let super_node_of = |world: &World, user: &str, but: &str| {
        eventually(&format!("{user} is attached, not to {but:?}"), || {
            let status = world.status(&world.path(user))?;
            let super_node = status["super_node"].as_str()?.to_owned();
            (status["state"] == "attached" && super_node != but).then_some(super_node)
        })
    };
    let in_use = super_node_of(&world, "alina", "");
    super_node_of(&world, "bertram", "");
    let number = world.super_nodes.iter().position(|it| it.address == in_use).unwrap();
    let mut call = cooee(["call", "bertram", "--for", "8", "--profile-dir"]);
    let call = call.arg(world.path("alina")).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the call has voice", || {
        let mut calls = cooee(["calls", "--profile-dir"]);
        let calls = calls.arg(world.path("alina")).output().ok()?;
        String::from_utf8_lossy(&calls.stdout).contains("statistics").then_some(())
    });
    let started = Instant::now();
    let mut drain = cooee(["drain", "--patience", "20", "--profile-dir"]);
    let drained = json(drain.arg(&world.super_nodes[number].profile));
    let took = started.elapsed();
    let output = call.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    println!("drained after {took:?}: {drained}");
    // A signalling stream without a call may stand until the patience is over.
    assert_eq!(drained["allocations_left"], 0, "{drained}");
    assert!(drained["attached"].as_u64() >= Some(1), "{drained}");
    let ended = world.super_nodes[number].process.take().unwrap().wait().unwrap();
    assert!(ended.success(), "{ended}");
    for user in ["alina", "bertram"] {
        super_node_of(&world, user, &in_use);
    }
    world.call("bertram", "alina");
}

#[test]
fn real_processes_and_light_clients_survive_a_mass_restart() {
    let mut trial = cooee(["lab", "overlay", "--scenario", "kill-90-restart"]);
    trial.args(["--super-nodes", "8", "--light-clients", "40", "--before", "3", "--after", "20"]);
    let output = trial.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&report["wrong"], &report["offline_lost"]), (&Value::from(0), &Value::from(0)));
    println!("{report}");
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
