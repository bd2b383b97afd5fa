//! `cooee up`, `cooee echo`, `cooee super-node`: the running node, in the foreground or as a
//! service.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result};
use cooee_node::{
    account::Account,
    api,
    login_server::{HostPort, Invitation},
    node::{Node, own_addresses},
    profile::Profile,
    settings::{AnswerMode, Settings, SoundProcessing, SuperNodeRole},
};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::account::explain;
use crate::{output::Output, profile::ProfileArgs, signals::Interrupts};

/// Delay of the echo user: long enough to hear that it is one.
const ECHO_DELAY_MS: u64 = 500;

/// How long readers of the local API may take to go away at the end.
const API_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Options of every running node. Each has a key of the same name in the profile's config.toml.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// TCP and UDP port; the one drawn at installation by default
    #[arg(long, env = "COOEE_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Address to bind
    #[arg(long, env = "COOEE_BIND", value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Do not listen on 443 and 80
    #[arg(long)]
    no_well_known_ports: bool,
    /// Serve others: auto (when able), always, never
    #[arg(long, value_name = "WHEN", value_parser = super_node_role)]
    super_node: Option<SuperNodeRole>,
    /// Nodes to take as a super node at most
    #[arg(long, env = "COOEE_CAPACITY", value_name = "NODES")]
    capacity: Option<u32>,
    /// Seconds up before offering to serve others (an hour by default)
    #[arg(long, value_name = "SECONDS")]
    super_node_after: Option<u64>,
    /// Bytes per second to relay for others at most; 0 relays nothing
    #[arg(long, env = "COOEE_RELAY_BUDGET", value_name = "BYTES")]
    relay_budget: Option<u64>,
    /// Address block that the relay may forward to although it is not public; repeat for several
    #[arg(long, value_name = "BLOCK")]
    relay_to: Vec<String>,
    /// Offer loopback addresses for voice too: for networks of one machine
    #[arg(long)]
    loopback: bool,
    /// Microphone: default, device:NAME, wav:PATH[,loop], tone:HZ[,dBFS], silence
    #[arg(long, env = "COOEE_MICROPHONE", value_name = "SPEC")]
    microphone: Option<String>,
    /// Speaker: default, device:NAME, wav:PATH, null
    #[arg(long, env = "COOEE_SPEAKER", value_name = "SPEC")]
    speaker: Option<String>,
    /// Cancel echo, suppress noise, control the gain: auto (for real microphones), on, off
    #[arg(long, value_name = "WHEN", value_parser = sound_processing)]
    processing: Option<SoundProcessing>,
    /// Keep what a headless microphone says in this WAV file, to measure against
    #[arg(long, value_name = "PATH")]
    mouth_recording: Option<PathBuf>,
    /// When called: ring, auto
    #[arg(long, value_name = "HOW", value_parser = answer_mode)]
    answer: Option<AnswerMode>,
    /// While a call goes on, tell other callers that we are busy instead of ringing
    #[arg(long)]
    no_call_waiting: bool,
    /// How long a call placed here rings before it counts as not answered
    #[arg(long, value_name = "SECONDS")]
    ring_seconds: Option<u64>,
    /// HTTP CONNECT proxy, http://host:port; the environment's by default
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Port of the local API on 127.0.0.1; any free one by default
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    #[command(flatten)]
    pub(crate) profile: ProfileArgs,
}

/// `cooee super-node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee super-node --enrol TOKEN --invitation 'cooee:…' --advertise 192.0.2.7    the first time
  cooee super-node                                                             from then on

The operator of the network gets a token with `cooee login-server enrol-token`.")]
pub(crate) struct SuperNodeArgs {
    /// Token of the network's operator; needed the first time only
    #[arg(long, env = "COOEE_ENROL_TOKEN", value_name = "TOKEN")]
    enrol: Option<String>,
    /// The invitation to the network; needed the first time only
    #[arg(long, env = "COOEE_INVITATION", value_name = "LINK")]
    invitation: Option<String>,
    /// IP address under which others reach this machine, where it cannot tell by itself; repeat for
    /// several
    #[arg(long, value_name = "ADDRESS")]
    advertise: Vec<IpAddr>,
    #[command(flatten)]
    node: NodeArgs,
}

fn super_node_role(text: &str) -> Result<SuperNodeRole, String> {
    match text {
        "auto" => Ok(SuperNodeRole::Auto),
        "always" => Ok(SuperNodeRole::Always),
        "never" => Ok(SuperNodeRole::Never),
        _ => Err("auto, always or never".to_owned()),
    }
}

fn answer_mode(text: &str) -> Result<AnswerMode, String> {
    match text {
        "ring" => Ok(AnswerMode::Ring),
        "auto" => Ok(AnswerMode::Auto),
        _ => Err("ring or auto".to_owned()),
    }
}

fn sound_processing(text: &str) -> Result<SoundProcessing, String> {
    match text {
        "auto" => Ok(SoundProcessing::Auto),
        "on" => Ok(SoundProcessing::On),
        "off" => Ok(SoundProcessing::Off),
        _ => Err("auto, on or off".to_owned()),
    }
}

impl NodeArgs {
    /// The profile's settings with what the command line says.
    fn over(&self, settings: Settings) -> Settings {
        let mut settings = settings;
        let bind = self.bind.map(|ip| ip.to_string());
        settings.port = self.port.or(settings.port);
        settings.bind = bind.unwrap_or(settings.bind);
        settings.well_known_ports &= !self.no_well_known_ports;
        settings.super_node = self.super_node.unwrap_or(settings.super_node);
        settings.capacity = self.capacity.or(settings.capacity);
        settings.super_node_after_s = self.super_node_after.unwrap_or(settings.super_node_after_s);
        settings.relay_budget = self.relay_budget.unwrap_or(settings.relay_budget);
        settings.relay_to.extend(self.relay_to.iter().cloned());
        settings.loopback |= self.loopback;
        settings.microphone = self.microphone.clone().unwrap_or(settings.microphone);
        settings.speaker = self.speaker.clone().unwrap_or(settings.speaker);
        settings.processing = self.processing.unwrap_or(settings.processing);
        settings.mouth_recording = self.mouth_recording.clone().or(settings.mouth_recording);
        settings.answer = self.answer.unwrap_or(settings.answer);
        settings.call_waiting &= !self.no_call_waiting;
        settings.ring_seconds = self.ring_seconds.unwrap_or(settings.ring_seconds);
        settings.proxy = self.proxy.clone().or(settings.proxy);
        settings.api_port = self.api_port.unwrap_or(settings.api_port);
        settings
    }
}

/// Runs a user's node until Ctrl-C, SIGTERM or `cooee down`.
pub(crate) async fn up(arguments: NodeArgs, output: Output) -> Result<()> {
    let profile = arguments.profile.open()?;
    let settings = arguments.over(Settings::load(profile.directory())?);
    run(profile, settings, output).await
}

/// Runs the echo user: answers every call and plays back what it hears.
pub(crate) async fn echo(arguments: NodeArgs, output: Output) -> Result<()> {
    let profile = arguments.profile.open()?;
    let mut settings = arguments.over(Settings::load(profile.directory())?);
    settings.answer = AnswerMode::Auto;
    settings.echo_delay_ms = Some(ECHO_DELAY_MS);
    settings.microphone = "silence".to_owned();
    settings.speaker = "null".to_owned();
    run(profile, settings, output).await
}

/// Runs a dedicated super node, after enrolling it if a token is given.
pub(crate) async fn super_node(arguments: SuperNodeArgs, output: Output) -> Result<()> {
    let profile = arguments.node.profile.or_named("super-node").open()?;
    let mut settings = arguments.node.over(Settings::load(profile.directory())?);
    settings.super_node = SuperNodeRole::Always;
    settings.advertise.extend(arguments.advertise.iter().map(ToString::to_string));
    let port = match settings.port {
        Some(port) => port,
        None => profile.port()?,
    };
    settings.port = Some(port);
    if let Some(token) = &arguments.enrol {
        let invitation: Option<Invitation> =
            arguments.invitation.as_deref().map(str::parse).transpose()?;
        let account = Account::new(&profile, invitation, settings.proxy()?)?;
        let own = own_addresses(&settings)?;
        let addresses: Vec<HostPort> =
            own.iter().map(|ip| SocketAddr::new(*ip, port).into()).collect();
        account.enrol(token, &addresses).await.map_err(explain)?;
        output.note("enrolled as a super node of the network");
    }
    run(profile, settings, output).await
}

async fn run(profile: Profile, settings: Settings, output: Output) -> Result<()> {
    let mut interrupts = Interrupts::new();
    let directory = profile.directory().to_owned();
    let api_port = settings.api_port;
    let node = tokio::select! {
        node = Node::start(profile, settings) => node?,
        () = interrupts.next() => return Ok(()),
    };
    let mut events = node.events();
    let serving = api::serve(node.clone(), &directory, api_port).await?;
    let api = tokio::spawn(serving);
    greet(&node, &directory, output)?;
    let ended = node.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => tell(&event, output),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            () = interrupts.next() => break,
            () = &mut ended => break,
        }
    }
    output.note("ending …");
    node.stop().await;
    node.shut_down();
    // A reader of the API that does not go away must not keep us.
    let _ = tokio::time::timeout(API_PATIENCE, api).await;
    output.json_line(&json!({ "event": "stopped" }));
    Ok(())
}

fn greet(node: &Arc<Node>, directory: &std::path::Path, output: Output) -> Result<()> {
    let status = node.status();
    let access = std::fs::read(directory.join(api::ACCESS_FILE)).context("the API's address")?;
    let access: api::types::Access = serde_json::from_slice(&access)?;
    output.json_line(&json!({
        "event": "listening", "node": status.node, "user": status.user, "port": status.port,
        "api": access.address, "pid": access.pid,
    }));
    let who = status.user.unwrap_or_else(|| "super node".to_owned());
    output.line(format!(
        "{} listens on port {} (TCP and UDP). Ctrl-C ends it.\nPage: http://{}/#token={}",
        output.bold(who),
        status.port,
        access.address,
        access.token
    ));
    Ok(())
}

fn tell(event: &Value, output: Output) {
    // Once a second in every call: for those who ask, by `cooee events`, `call` or `calls`.
    if event["event"] != "statistics" {
        output.json_line(event);
    }
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    match event["event"].as_str().unwrap_or_default() {
        "attached" => {
            output.line(format!(
                "online after {} ms, {} bytes",
                event["login_ms"], event["login_bytes"]
            ));
        }
        "state_changed" if event["state"] == "waiting" => {
            output.line(output.bad(text("detail")));
        }
        "incoming" => output.line(format!(
            "{} calls: `cooee answer` or `cooee decline`",
            output.bold(text("user"))
        )),
        "no_sound" | "recording_failed" => output.line(output.bad(text("message"))),
        "ended" => output.line(format!("the call with {} is over", event["summary"]["user"])),
        _ => {}
    }
}
