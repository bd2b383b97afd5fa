//! A real PostgreSQL server for the time of a test, in a directory and on a port of its own.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A running server; stops when dropped.
pub(crate) struct Postgres {
    child: Child,
    programs: PathBuf,
    port: u16,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// Starts a server. Fails loudly if PostgreSQL is not installed.
    pub(crate) fn start() -> Self {
        let programs = programs();
        let directory = tempfile::tempdir().expect("temporary directory");
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("nobody").arg(directory.path()));
        }
        let data = directory.path().join("data");
        run(unprivileged(&programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=cooee", "--encoding=UTF8", "-D"])
            .arg(&data));
        let port = free_port();
        let child = run_server(&programs, &directory.path().join("data"), port);
        let server = Self { child, programs, port, directory };
        server.wait_until_ready();
        server
    }

    /// Ends the server at once, as a crash would.
    #[allow(dead_code, reason = "every test program uses its own part")]
    pub(crate) fn crash(&mut self) {
        // SIGQUIT: PostgreSQL ends without tidying up, its log is replayed at the next start.
        self.signal(rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }

    /// Starts it again where it was.
    #[allow(dead_code, reason = "every test program uses its own part")]
    pub(crate) fn start_again(&mut self) {
        self.child = run_server(&self.programs, &self.directory.path().join("data"), self.port);
        self.wait_until_ready();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Creates an empty database and says where it is.
    pub(crate) fn create_database(&self, name: &str) -> String {
        run(Command::new(self.programs.join("createdb")).args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "cooee",
            name,
        ]));
        format!("postgres://cooee@127.0.0.1:{}/{name}", self.port)
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        loop {
            let ready = Command::new(self.programs.join("pg_isready"))
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q"])
                .status()
                .expect("pg_isready runs");
            if ready.success() {
                return;
            }
            let patience = Duration::from_secs(60);
            assert!(
                started.elapsed() < patience,
                "PostgreSQL in {:?} is not ready",
                self.directory
            );
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: PostgreSQL's fast shutdown.
        self.signal(rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

fn run_server(programs: &Path, data: &Path, port: u16) -> Child {
    unprivileged(&programs.join("postgres"))
        // The machine does not lose power during the test: no need to wait for the disk.
        .args(["-c", "fsync=off", "-h", "127.0.0.1", "-p", &port.to_string(), "-k"])
        .arg(data.parent().expect("a directory of its own"))
        .arg("-D")
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("postgres starts")
}

fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().expect(
        "this test needs a real PostgreSQL in /usr/lib/postgresql: apt-get install postgresql",
    )
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `program`, not as root, and ended when the test ends however it ends.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if is_root() {
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {text}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}
