//! A PulseAudio server of the laboratory's own, with null sinks for devices: each keeps time like
//! a sound card, and its monitor is a microphone at the other end of the wire.
//!
//! Needs the programs `pulseaudio` and `pactl` (Debian: pulseaudio, pulseaudio-utils).

use std::{
    fs::File,
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::deployment::{Ground, ThisMachine};

/// How long the server may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct PulseServer {
    daemon: Child,
    folder: TempDir,
}

impl PulseServer {
    /// Starts a server that nobody else uses.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("native");
        let protocol =
            format!("module-native-protocol-unix socket={} auth-anonymous=1", socket.display());
        let daemon = Command::new("pulseaudio")
            .args(["--system=false", "-n", "--daemonize=no", "--exit-idle-time=-1"])
            .args(["--use-pid-file=no", "--disable-shm=yes", "--realtime=yes"])
            .args(["--log-target=stderr", "-L", &protocol])
            .env("HOME", folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("PULSE_RUNTIME_PATH", folder.path())
            .env_remove("PULSE_SERVER")
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?)
            .spawn()
            .context("cannot run pulseaudio: apt-get install pulseaudio pulseaudio-utils")?;
        let server = Self { daemon, folder };
        let until = Instant::now() + START_PATIENCE;
        while server.pactl(&["info"]).is_err() {
            anyhow::ensure!(Instant::now() < until, "pulseaudio does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// What `PULSE_SERVER` must be for a program to use this server.
    pub fn address(&self) -> String {
        format!("unix:{}", self.folder.path().join("native").display())
    }

    /// Plugs in a speaker called `name`, whose microphone is `name.monitor`; its module.
    pub fn plug(&self, name: &str) -> Result<String> {
        let sink = format!("sink_name={name}");
        self.pactl(&["load-module", "module-null-sink", &sink, "rate=48000"])
    }

    /// Unplugs a module.
    pub fn unplug(&self, module: &str) -> Result<()> {
        self.pactl(&["unload-module", module]).map(drop)
    }

    /// Makes a speaker the default one.
    pub fn make_default(&self, speaker: &str) -> Result<()> {
        self.pactl(&["set-default-sink", speaker]).map(drop)
    }

    /// Plays a file into a speaker, over and over, until the player is dropped.
    pub fn play(&self, file: &Path, speaker: &str) -> Result<Player> {
        let repeat = "while :; do paplay --server=\"$0\" --device=\"$1\" \"$2\"; done";
        let mut player = Command::new("sh");
        player.args(["-c", repeat, &self.address(), speaker]).arg(file);
        std::os::unix::process::CommandExt::process_group(&mut player, 0);
        let child = player.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("sh")?;
        Ok(Player(child))
    }

    fn pactl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("pactl")
            .arg(format!("--server={}", self.address()))
            .args(arguments)
            .env("HOME", self.folder.path())
            .output()
            .context("cannot run pactl: apt-get install pulseaudio-utils")?;
        if !output.status.success() {
            bail!("pactl {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for PulseServer {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A file that is being played.
#[derive(Debug)]
pub struct Player(Child);

impl Drop for Player {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// This machine, with a sound server of the laboratory's.
#[derive(Debug, Clone)]
pub struct WithSound {
    /// As [`PulseServer::address`] gives it.
    pub server: String,
}

impl Ground for WithSound {
    fn command(&self, host: &str, program: &Path) -> Command {
        let mut command = ThisMachine.command(host, program);
        command.env("PULSE_SERVER", &self.server);
        command
    }

    fn address(&self, host: &str) -> Option<IpAddr> {
        ThisMachine.address(host)
    }

    fn addresses(&self) -> &'static str {
        ThisMachine.addresses()
    }

    fn is_this_machine(&self) -> bool {
        true
    }
}
