//! One user of a deployment: an account, and a node that runs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Daemon, Deployment};

/// How long registration or login may take.
const LOGIN_PATIENCE: Duration = Duration::from_secs(60);

/// A password for accounts that live as long as a test.
pub const PASSWORD: &str = "correct horse battery staple";

/// How a user's node is run.
#[derive(Debug, Clone, Default)]
pub struct UserOptions {
    /// Microphone, as on the command line.
    pub microphone: Option<String>,
    /// Speaker, as on the command line; none: nobody hears it.
    pub speaker: Option<String>,
    /// Answers every call.
    pub answers: bool,
    /// Plays back what it hears.
    pub echoes: bool,
    /// Keeps what the microphone said, and what the speaker played, for measuring.
    pub records: bool,
    /// Not the first device of a new user, but one more of a user that is there, of this name.
    pub device: Option<String>,
    /// Name to show to others.
    pub display_name: Option<String>,
    /// HTTP CONNECT proxy to use.
    pub proxy: Option<String>,
    /// Further arguments of `cooee up`.
    pub more: Vec<String>,
}

/// A user with a running node.
pub struct User<'d> {
    pub(super) deployment: &'d Deployment<'d>,
    pub(super) host: String,
    pub(super) name: String,
    pub(super) profile: String,
    node: Daemon,
    registered: Value,
    attached: Value,
}

impl<'d> User<'d> {
    pub(super) fn start(
        deployment: &'d Deployment<'d>,
        host: &str,
        name: &str,
        options: UserOptions,
    ) -> Result<Self> {
        let profile = deployment.path(&folder_name(name, &options))?;
        let environment = [("COOEE_PASSWORD", PASSWORD)];
        let mut arguments = vec![
            if options.device.is_some() { "login" } else { "register" },
            name,
            "--profile-dir",
            &profile,
        ];
        arguments.extend(["--invitation", deployment.invitation()]);
        if let Some(display_name) = &options.display_name {
            arguments.extend(["--display-name", display_name]);
        }
        if let Some(proxy) = &options.proxy {
            arguments.extend(["--proxy", proxy]);
        }
        let registered = deployment.command_with(host, &arguments, &environment)?;
        let (node, attached) = start_node(deployment, host, name, &options)?;
        Ok(Self {
            deployment,
            host: host.to_owned(),
            name: name.to_owned(),
            profile,
            node,
            registered,
            attached,
        })
    }

    /// User name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `cooee register` printed.
    pub fn registered(&self) -> &Value {
        &self.registered
    }

    /// What the node said when it was attached: `login_ms`, `login_bytes`.
    pub fn attached(&self) -> &Value {
        &self.attached
    }

    /// Directory of the profile.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The node's process.
    pub fn node(&mut self) -> &mut Daemon {
        &mut self.node
    }

    /// What `cooee status` says now.
    pub fn status(&self) -> Result<Value> {
        self.run(&["status"])
    }

    /// Runs a command on the user's host and profile.
    pub fn run(&self, arguments: &[&str]) -> Result<Value> {
        let profile = ["--profile-dir", &self.profile];
        self.deployment.command(&self.host, &[arguments, &profile[..]].concat())
    }

    /// The same for a command that says much: every JSON line of it.
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let profile = ["--profile-dir", &self.profile];
        let arguments = [arguments, &profile[..]].concat();
        let output = self.deployment.start_command(&self.host, &arguments).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Ends the node and starts it again, as the next day.
    pub fn restart(&mut self, options: &UserOptions) -> Result<()> {
        self.node.end()?;
        self.start_again(options)
    }

    /// The same after its host cache was lost: it knows the super nodes of its invitation.
    pub fn restart_without_host_cache(&mut self, options: &UserOptions) -> Result<()> {
        self.node.end()?;
        let _ = std::fs::remove_file(format!("{}/host-cache.json", self.profile));
        self.start_again(options)
    }

    fn start_again(&mut self, options: &UserOptions) -> Result<()> {
        (self.node, self.attached) = start_node(self.deployment, &self.host, &self.name, options)?;
        Ok(())
    }

    /// Recording of what the user's microphone said.
    pub fn mouth(&self) -> PathBuf {
        self.deployment.folder.join(format!("{}-mouth.wav", self.name))
    }

    /// Recording of what the user's speaker played.
    pub fn ear(&self) -> PathBuf {
        self.deployment.folder.join(format!("{}-ear.wav", self.name))
    }
}

/// Name of the device's profile and log.
fn folder_name(user: &str, options: &UserOptions) -> String {
    options.device.as_ref().map_or(user.to_owned(), |device| format!("{user}-{device}"))
}

/// Starts the node and waits until it is attached.
fn start_node(
    deployment: &Deployment<'_>,
    host: &str,
    name: &str,
    options: &UserOptions,
) -> Result<(Daemon, Value)> {
    let folder = folder_name(name, options);
    let profile = deployment.path(&folder)?;
    let mut arguments = vec![if options.echoes { "echo" } else { "up" }];
    arguments.extend(["--profile-dir", &profile, "--no-well-known-ports"]);
    arguments.extend(["--super-node", "never"]);
    if options.answers {
        arguments.extend(["--answer", "auto"]);
    }
    if let Some(microphone) = &options.microphone {
        arguments.extend(["--microphone", microphone]);
    }
    let (mouth, ear) = (deployment.path(&format!("{name}-mouth.wav"))?, format!("{name}-ear.wav"));
    let speaker = if options.records && !options.echoes {
        arguments.extend(["--mouth-recording", &mouth]);
        format!("wav:{}", deployment.path(&ear)?)
    } else {
        options.speaker.clone().unwrap_or_else(|| "null".to_owned())
    };
    // Without a device named, tests and laboratories must not open the machine's own.
    if options.microphone.is_none() {
        arguments.extend(["--microphone", "tone:440"]);
    }
    arguments.extend(["--speaker", &speaker]);
    if let Some(proxy) = &options.proxy {
        arguments.extend(["--proxy", proxy]);
    }
    if deployment.ground.is_this_machine() {
        arguments.extend(["--bind", "127.0.0.1", "--loopback"]);
    }
    arguments.extend(options.more.iter().map(String::as_str));
    let mut node = deployment.daemon(&folder, host, &arguments)?;
    let attached = node
        .wait_for("attachment", LOGIN_PATIENCE, |line| {
            (line["event"] == "attached").then(|| line.clone())
        })
        .with_context(|| format!("{name} did not get attached"))?;
    Ok((node, attached))
}
