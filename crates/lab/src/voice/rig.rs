//! Microphones and speakers of two people, as a sound server of its own with one clock.
//!
//! ```text
//!   [0: Alice says] ─▶ alice_mic ─▶ peer ~~~▶ peer ─▶ bob_speaker   ─▶ [1: Bob hears]
//!   [2: Bob says]   ─▶ bob_mic   ─▶ peer ~~~▶ peer ─▶ alice_speaker ─▶ [3: Alice hears]
//! ```
//! All four are channels of one null sink, which keeps time like a card; its monitor is what gets
//! recorded. So mouths and ears are on one time line, to the sample, whatever buffers lie between.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Samples per second of everything in the rig.
pub(crate) const RATE_HZ: u32 = 48_000;

/// Channels of the rig.
pub(crate) const CHANNELS: usize = 4;

/// How long the sound server may take to be there.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// How much longer than the conversation its playing may take.
const PLAY_PATIENCE: Duration = Duration::from_secs(20);

/// Recorded after the last word.
const TAIL: Duration = Duration::from_millis(2_800);

/// The loop that shows what the rig itself delays.
const LOOP: [(&str, &str); 2] = [("alice_mic", "bob_speaker"), ("bob_mic", "alice_speaker")];

/// A running sound server; ended when dropped.
pub(crate) struct Rig {
    daemon: Child,
    folder: PathBuf,
}

impl Rig {
    /// Starts the sound server; its socket and its log go to `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let socket = folder.join("native");
        let mut modules = vec![format!(
            "module-native-protocol-unix socket={} auth-anonymous=1",
            socket.display()
        )];
        modules.push(format!(
            "module-null-sink sink_name=rig rate={RATE_HZ} channels=4 \
             channel_map=aux0,aux1,aux2,aux3"
        ));
        for (channel, name) in [(0, "alice_mic"), (2, "bob_mic")] {
            modules.push(format!(
                "module-remap-source source_name={name} \
                 source_properties=device.description={name} \
                 master=rig.monitor channels=1 channel_map=mono master_channel_map=aux{channel} \
                 remix=no"
            ));
        }
        for (channel, name) in [(1, "bob_speaker"), (3, "alice_speaker")] {
            modules.push(format!(
                "module-remap-sink sink_name={name} sink_properties=device.description={name} \
                 master=rig channels=1 channel_map=mono master_channel_map=aux{channel} remix=no"
            ));
        }
        let mut command = Command::new("pulseaudio");
        command
            .args(["--system=false", "-n", "--daemonize=no", "--exit-idle-time=-1"])
            .args(["--use-pid-file=no", "--disable-shm=yes", "--realtime=yes"])
            .args(["--log-target=stderr"])
            .args(modules.iter().flat_map(|module| ["-L", module]))
            .envs([("HOME", folder), ("XDG_RUNTIME_DIR", folder), ("PULSE_RUNTIME_PATH", folder)])
            .env_remove("PULSE_SERVER")
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("pulseaudio.log"))?);
        let daemon = command.spawn().context("cannot start pulseaudio")?;
        let rig = Self { daemon, folder: folder.to_owned() };
        let deadline = Instant::now() + READY_PATIENCE;
        while rig.pactl(&["info"]).is_err() {
            ensure!(Instant::now() < deadline, "pulseaudio does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(rig)
    }

    /// What programs need in their environment to use the rig.
    pub(crate) fn environment(&self) -> (&'static str, String) {
        ("PULSE_SERVER", format!("unix:{}", self.folder.join("native").display()))
    }

    fn tool(&self, name: &str) -> Command {
        let (key, value) = self.environment();
        let mut command = Command::new(name);
        command.env(key, value).env("HOME", &self.folder).stdin(Stdio::null());
        command
    }

    fn pactl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.tool("pactl");
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run pactl")?;
        // What it says is short and fits into the pipes.
        ended(&mut child, "pactl", READY_PATIENCE)?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("pactl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Connects both microphones with both speakers inside the server, at the least latency it
    /// can do: what is measured then is the rig's own delay.
    pub(crate) fn loop_back(&self) -> Result<Vec<String>> {
        let connect = |(source, sink): &(&str, &str)| {
            let (source, sink) = (format!("source={source}"), format!("sink={sink}"));
            let more = ["latency_msec=1", "adjust_time=0", "rate=48000", "channels=1"];
            let module = ["load-module", "module-loopback", &source, &sink];
            self.pactl(&[&module[..], &more, &["channel_map=mono", "remix=no"]].concat())
        };
        LOOP.iter().map(connect).collect()
    }

    /// Takes the loop away again.
    pub(crate) fn end_loop(&self, modules: &[String]) -> Result<()> {
        modules.iter().try_for_each(|module| self.pactl(&["unload-module", module]).map(drop))
    }

    /// Plays `conversation` (raw, four channels) and records the rig to `to` meanwhile. `began` is
    /// called when the first word is said.
    pub(crate) fn play(&self, conversation: &Path, to: &Path, began: impl FnOnce()) -> Result<()> {
        let format = ["--raw", "--rate=48000", "--format=s16le", "--channels=4"];
        let map = "--channel-map=aux0,aux1,aux2,aux3";
        // Ample buffers: neither may lose a sample, and neither is part of what is measured.
        let mut recorder = self
            .tool("parec")
            .args(["--device=rig.monitor", "--latency-msec=50", map])
            .args(format)
            .stdout(File::create(to)?)
            .spawn()
            .context("cannot start parec")?;
        let deadline = Instant::now() + READY_PATIENCE;
        while std::fs::metadata(to)?.len() == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let mut player = self.tool("pacat");
        player.args(["--device=rig", "--no-remix", "--latency-msec=200", map]).args(format);
        player.arg(conversation);
        let spawned = player.spawn().context("cannot start pacat");
        began();
        let played = spawned.and_then(|mut player| {
            let bytes_per_s = u64::from(RATE_HZ) * 2 * CHANNELS as u64;
            let length = Duration::from_secs(std::fs::metadata(conversation)?.len() / bytes_per_s);
            ended(&mut player, "pacat", length + PLAY_PATIENCE)
        });
        thread::sleep(TAIL);
        recorder.kill()?;
        recorder.wait()?;
        ensure!(played?.success(), "pacat failed");
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Waits for a tool of the sound server's, which itself waits without end when the server hangs.
fn ended(child: &mut Child, name: &str, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{name} has not ended within {patience:?}: the sound server takes no more sound");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The four channels of a recording, full scale 1.
pub(crate) fn read(path: &Path) -> Result<[Vec<f32>; CHANNELS]> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut channels: [Vec<f32>; CHANNELS] = Default::default();
    for frame in bytes.chunks_exact(2 * CHANNELS) {
        for (channel, sample) in channels.iter_mut().zip(frame.chunks_exact(2)) {
            channel.push(f32::from(i16::from_le_bytes([sample[0], sample[1]])) / 32_768.0);
        }
    }
    Ok(channels)
}
