//! baresip: a SIP telephone without a server, over ALSA's PulseAudio plug-in.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Call, Stage};
use crate::deployment::Daemon;

/// What `config` says beside devices and addresses. As it comes: the values of the file that
/// baresip 1.0.0 writes on its first start.
const DEFAULT: &str = "audio_buffer 20-160\njitter_buffer_delay 5-10\n";

/// The shortest buffers that it accepts, and 10 ms packets.
const TUNED: &str = "audio_buffer 5-40\njitter_buffer_delay 1-3\n";

/// Two telephones in a call.
pub(crate) struct Baresip;

impl Baresip {
    /// Starts both; nobody calls.
    pub(crate) fn idle(stage: &Stage<'_>, folder: &Path, tuned: bool) -> Result<Box<dyn Call>> {
        let telephones = [
            start(stage, folder, "bob", tuned, None)?,
            start(stage, folder, "alice", tuned, None)?,
        ];
        Ok(Box::new(BaresipCall { telephones }))
    }

    /// Starts both; Alice calls at once.
    pub(crate) fn call(stage: &Stage<'_>, folder: &Path, tuned: bool) -> Result<Box<dyn Call>> {
        let bob = start(stage, folder, "bob", tuned, None)?;
        std::thread::sleep(std::time::Duration::from_millis(700));
        let dial = format!("/dial sip:bob@{}", stage.ipv4("bob")?);
        let alice = start(stage, folder, "alice", tuned, Some(&dial))?;
        Ok(Box::new(BaresipCall { telephones: [alice, bob] }))
    }
}

fn start(
    stage: &Stage<'_>,
    folder: &Path,
    name: &str,
    tuned: bool,
    command: Option<&str>,
) -> Result<Daemon> {
    let home = folder.join(format!("baresip-{name}"));
    fs::create_dir_all(&home)?;
    let address = stage.ipv4(name)?;
    let devices = format!(
        "pcm.telephone {{ type asym\n playback.pcm {{ type pulse device {name}_speaker }}\n \
         capture.pcm {{ type pulse device {name}_mic }} }}\n"
    );
    fs::write(home.join(".asoundrc"), devices)?;
    let config = format!(
        "poll_method epoll\nsip_listen {address}:5060\nmodule_path {}\n\
         audio_player alsa,telephone\naudio_source alsa,telephone\naudio_alert alsa,null\n\
         ausrc_srate 48000\nauplay_srate 48000\nausrc_channels 1\nauplay_channels 1\n\
         call_local_timeout 120\ncall_max_calls 1\nrtp_stats no\n{}\
         module account.so\nmodule opus.so\nmodule alsa.so\nmodule_app menu.so\n",
        module_path(),
        if tuned { TUNED } else { DEFAULT },
    );
    fs::write(home.join("config"), config)?;
    let frame = if tuned { ";ptime=10" } else { "" };
    let account = format!(
        "<sip:{name}@{address}>;regint=0;answermode=auto;audio_codecs=opus/48000/2{frame}\n"
    );
    fs::write(home.join("accounts"), account)?;
    fs::write(home.join("contacts"), "")?;
    let mut process = stage.command(name, "baresip");
    process.arg("-4").arg("-f").arg(&home).env("HOME", &home);
    if let Some(command) = command {
        process.args(["-e", command]);
    }
    Daemon::start(&format!("baresip-{name}"), process, folder)
}

/// Where Debian keeps baresip's modules, whatever the machine.
fn module_path() -> String {
    let multi = format!("/usr/lib/{}-linux-gnu/baresip/modules", std::env::consts::ARCH);
    if Path::new(&multi).exists() { multi } else { "/usr/lib/baresip/modules".to_owned() }
}

struct BaresipCall {
    telephones: [Daemon; 2],
}

impl Call for BaresipCall {
    fn pids(&self) -> Vec<u32> {
        self.telephones.iter().map(Daemon::pid).collect()
    }
}
