//! A whole Cooee network of real processes, driven from outside by the program's own commands.
//!
//! ```text
//!   Deployment::start ── login-server init, run ── super-node --enrol (each) ── invite
//!   Deployment::user  ── register ── up            User::call ── call
//! ```
//!
//! The demo runs it on this machine, the laboratory in places with NATs and firewalls. Nothing is
//! read but the JSON that every command prints, so what works here works for anybody's script.

mod call;
mod daemon;
mod ground;
mod servers;
mod user;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use call::{CallOptions, CallReport, OngoingCall};
pub use daemon::Daemon;
pub use ground::{Ground, ThisMachine};
pub use user::{PASSWORD, User, UserOptions};

/// How long a server may take to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// What to start and where.
#[derive(Debug, Clone)]
pub struct DeploymentPlan {
    /// Host of the login server.
    pub login_server: String,
    /// Hosts of the super nodes.
    pub super_nodes: Vec<String>,
    /// Port of each super node; none: one chosen by the program.
    pub super_node_port: Option<u16>,
    /// Super nodes also listen on 443 and 80.
    pub well_known_ports: bool,
}

/// A running network: its login server, its super nodes and the invitation to it.
pub struct Deployment<'g> {
    ground: &'g dyn Ground,
    program: PathBuf,
    folder: PathBuf,
    plan: DeploymentPlan,
    invitation: String,
    login_server: Option<Daemon>,
    super_nodes: Vec<Daemon>,
    super_node_addresses: Vec<SocketAddr>,
}

impl<'g> Deployment<'g> {
    /// Starts the network; `folder` takes profiles, logs and recordings. `tell` hears of each step.
    pub fn start(
        ground: &'g dyn Ground,
        program: &Path,
        folder: &Path,
        plan: DeploymentPlan,
        mut tell: impl FnMut(&str),
    ) -> Result<Self> {
        let mut deployment = Self {
            ground,
            program: program.to_owned(),
            folder: folder.to_owned(),
            plan,
            invitation: String::new(),
            login_server: None,
            super_nodes: Vec::new(),
            super_node_addresses: Vec::new(),
        };
        deployment.init_login_server()?;
        deployment.start_login_server()?;
        tell("login server is up");
        deployment.invitation = deployment.invite()?;
        for index in 0..deployment.plan.super_nodes.len() {
            deployment.start_super_node(index)?;
            tell(&format!("super node {} is up", index + 1));
        }
        deployment.invitation = deployment.invite()?;
        Ok(deployment)
    }

    /// The invitation to the network, with its super nodes in it.
    pub fn invitation(&self) -> &str {
        &self.invitation
    }

    /// Where the super nodes listen.
    pub fn super_node_addresses(&self) -> &[SocketAddr] {
        &self.super_node_addresses
    }

    /// The running super nodes, in the plan's order.
    pub fn super_nodes(&mut self) -> &mut Vec<Daemon> {
        &mut self.super_nodes
    }

    /// The processes of the running super nodes, in the plan's order.
    pub fn super_node_pids(&self) -> Vec<u32> {
        self.super_nodes.iter().map(Daemon::pid).collect()
    }

    /// The process of the running login server.
    pub fn login_server_pid(&self) -> Option<u32> {
        self.login_server.as_ref().map(Daemon::pid)
    }

    /// The running login server.
    pub fn login_server(&mut self) -> Option<&mut Daemon> {
        self.login_server.as_mut()
    }

    /// Registers a user on a host and starts the node there.
    pub fn user(&self, host: &str, name: &str, options: UserOptions) -> Result<User<'_>> {
        User::start(self, host, name, options)
    }

    /// Profiles, logs and recordings.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs any command of the program to its end, whatever comes of it.
    pub fn attempt(
        &self,
        host: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Output> {
        self.start_command(host, arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Starts a program of the network that runs until it is ended.
    pub fn start_daemon(&self, name: &str, host: &str, arguments: &[&str]) -> Result<Daemon> {
        self.daemon(name, host, arguments)
    }

    /// Runs a command to its end; the last JSON line that it printed.
    fn command(&self, host: &str, arguments: &[&str]) -> Result<Value> {
        self.command_with(host, arguments, &[])
    }

    fn command_with(
        &self,
        host: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Value> {
        let output = self.attempt(host, arguments, environment)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let problem = String::from_utf8_lossy(&output.stderr);
            bail!("cooee {} failed: {}", arguments.join(" "), problem.trim());
        }
        let last = said.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        last.with_context(|| format!("cooee {} printed no JSON", arguments.join(" ")))
    }

    fn start_command(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = self.ground.command(host, &self.program);
        command.arg("--json").args(arguments);
        command
    }

    fn daemon(&self, name: &str, host: &str, arguments: &[&str]) -> Result<Daemon> {
        Daemon::start(name, self.start_command(host, arguments), &self.folder)
    }

    /// A path below the deployment's folder, as text.
    fn path(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        path.to_str().map(str::to_owned).context("the folder's path is not UTF-8")
    }

    fn address(&self, host: &str) -> Result<String> {
        let address = self.ground.address(host);
        address.map(|ip| ip.to_string()).with_context(|| format!("{host} has no address"))
    }
}
