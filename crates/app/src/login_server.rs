//! `cooee login-server`: make a network, run its login server, and look after its users.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use cooee_node::{
    login_server::{
        Directory, DirectoryConfig, LoginServer, NodeId, Policy, RegistrationPolicy, UserName,
        program_version, random_seed, unix_now,
    },
    storage::{DeviceEntry, Storage, TokenEntry, TokenKind},
};
use serde_json::json;

use crate::{output::Output, signals::Interrupts};

/// The port on which the paper saw Skype's bootstrap nodes listen.
const DEFAULT_PORT: u16 = 33033;

/// Make a network, run its login server, and look after its users.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cooee login-server init --name Example --advertise login.example.org:33033
  cooee login-server run
  cooee login-server invite --uses 5
  cooee login-server policy by-code
  cooee login-server users --json")]
pub(crate) enum LoginServerCommand {
    /// Make a new network and print the invitation to it
    Init(Init),
    /// Run the login server until Ctrl-C or SIGTERM
    Run(Run),
    /// Print an invitation; with --uses, one that registers so many users even by code
    Invite(Invite),
    /// Print a token with which a machine becomes a dedicated super node
    EnrolToken(EnrolToken),
    /// List the users
    Users(Users),
    /// List the devices of a user, or the dedicated super nodes
    Devices(Devices),
    /// Remove a user and all devices; the name stays taken
    RemoveUser(RemoveUser),
    /// Take a device back, whosoever it is
    RemoveDevice(RemoveDevice),
    /// Show or set who may register and which versions of the program are let in
    Policy(PolicyArguments),
    /// Count users, devices and super nodes
    Status(Place),
}

/// Where the network is kept.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Directory of the network's key and configuration
    #[arg(long, env = "COOEE_LOGIN_SERVER_DIR", value_name = "PATH")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    place: Place,
    /// What people call the network
    #[arg(long)]
    name: Option<String>,
    /// Address and port to listen on; repeat for several
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Host and port under which others reach this login server; repeat for several
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// postgres://USER@HOST/NAME or sqlite:PATH; a file in the directory if not given
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    place: Place,
    /// Listen here instead of where the configuration says
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Use this database instead of the configured one
    #[arg(long, env = "COOEE_DATABASE", value_name = "URL")]
    database: Option<String>,
    /// Answer /metrics, /healthz and /readyz over HTTP here
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Attempts that one address may make at once
    #[arg(long, value_name = "COUNT")]
    address_burst: Option<u32>,
    /// Life of a certificate, like 12h or 7d; devices renew after half of it
    #[arg(long, value_name = "TIME", value_parser = life, default_value = "7d")]
    certificate_life: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    place: Place,
    /// Add a code that registers so many users
    #[arg(long, value_name = "COUNT")]
    uses: Option<u64>,
    /// Days that the code is good for
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// What you want to remember of this code
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Debug, Args)]
pub(crate) struct EnrolToken {
    #[command(flatten)]
    place: Place,
    /// Days that the token is good for
    #[arg(long, default_value_t = 7)]
    days: u32,
    /// What you want to remember of this token
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Debug, Args)]
pub(crate) struct Users {
    #[command(flatten)]
    place: Place,
    /// Start after this name
    #[arg(long, value_name = "NAME")]
    after: Option<UserName>,
    /// List at most so many
    #[arg(long, default_value_t = 1000)]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Devices {
    #[command(flatten)]
    place: Place,
    /// Whose devices; the dedicated super nodes if not given
    user: Option<UserName>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveUser {
    #[command(flatten)]
    place: Place,
    /// Whom to remove
    user: UserName,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveDevice {
    #[command(flatten)]
    place: Place,
    /// The device's node id, as 'devices' lists it
    node: NodeId,
}

/// Who may register.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Registration {
    /// Everybody
    Open,
    /// Whoever has an invitation code
    ByCode,
    /// Nobody
    Closed,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    #[command(flatten)]
    place: Place,
    /// Who may register from now on
    registration: Option<Registration>,
    /// Version of the program to recommend, for example 0.2.0
    #[arg(long, value_name = "VERSION")]
    newest: Option<String>,
    /// Oldest version of the program that is let in
    #[arg(long, value_name = "VERSION")]
    oldest: Option<String>,
}

/// A time like 90s, 15m, 12h or 7d.
fn life(text: &str) -> Result<Duration, String> {
    let wanted = || "a time is wanted, like 12h or 7d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wanted)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wanted()),
    };
    let number: u32 = number.parse().map_err(|_| wanted())?;
    match u64::from(number) * seconds {
        0 => Err("a certificate must live for a time".to_owned()),
        life => Ok(Duration::from_secs(life)),
    }
}

/// Carries out a subcommand.
pub(crate) fn run(command: LoginServerCommand, output: Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            LoginServerCommand::Init(arguments) => init(arguments, output).await,
            LoginServerCommand::Run(arguments) => serve(arguments, output).await,
            LoginServerCommand::Invite(arguments) => invite(&arguments, output).await,
            LoginServerCommand::EnrolToken(arguments) => enrol_token(&arguments, output).await,
            LoginServerCommand::Users(arguments) => users(&arguments, output).await,
            LoginServerCommand::Devices(arguments) => devices(&arguments, output).await,
            LoginServerCommand::RemoveUser(arguments) => remove_user(&arguments, output).await,
            LoginServerCommand::RemoveDevice(arguments) => remove_device(&arguments, output).await,
            LoginServerCommand::Policy(arguments) => policy(&arguments, output).await,
            LoginServerCommand::Status(place) => status(&place, output).await,
        }
    })
}

impl Place {
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.dir {
            return Ok(path.clone());
        }
        let data = std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty());
        let home = std::env::var_os("HOME");
        let data = data.map(PathBuf::from);
        let data = data.or_else(|| home.map(|home| PathBuf::from(home).join(".local/share")));
        let data = data.context("HOME is not set: say where with --dir")?;
        Ok(data.join("cooee/login-server"))
    }

    fn open(&self) -> anyhow::Result<Directory> {
        Ok(Directory::open(&self.path()?)?)
    }

    async fn storage(&self) -> anyhow::Result<Storage> {
        Ok(self.open()?.storage().await?)
    }
}

async fn init(arguments: Init, output: Output) -> anyhow::Result<()> {
    let path = arguments.place.path()?;
    let everywhere = SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT));
    let listen =
        if arguments.listen.is_empty() { vec![everywhere] } else { arguments.listen.clone() };
    let mut advertise = arguments.advertise.clone();
    if advertise.is_empty() {
        advertise = listen.iter().map(|address| reachable(*address).to_string()).collect();
    }
    let (name, database) = (arguments.name, arguments.database);
    let config = DirectoryConfig { name, listen, advertise, database, metrics_listen: None };
    let directory = Directory::create(&path, config)?;
    directory.storage().await?.close().await;
    let invitation = directory.invitation(Vec::new(), None)?.to_string();
    let network = directory.key().root().network_id().to_string();
    output.result(
        &json!({ "network": network, "directory": path, "invitation": invitation }),
        format!(
            "Made network {network} in {}.\nKeep a copy of network.key in a safe place: it is the \
             network.\n\nInvitation:\n{invitation}",
            path.display()
        ),
    );
    output.line(qr_code(&invitation));
    output.line("Next: cooee login-server run");
    Ok(())
}

async fn serve(arguments: Run, output: Output) -> anyhow::Result<()> {
    let directory = arguments.place.open()?;
    let mut options = directory.options();
    if !arguments.listen.is_empty() {
        options.listen = arguments.listen;
    }
    if let Some(database) = arguments.database {
        options.database = database;
    }
    options.metrics_listen = arguments.metrics.or(options.metrics_listen);
    options.certificate_life = arguments.certificate_life;
    options.address_limit.burst = arguments.address_burst.unwrap_or(options.address_limit.burst);
    let mut interrupts = Interrupts::new();
    let server = LoginServer::start(directory.key().clone(), &options).await?;
    let addresses = server.addresses().to_vec();
    let listed = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let network = directory.key().root().network_id().to_string();
    output.result(
        &json!({
            "event": "listening", "network": network, "addresses": addresses,
            "metrics": server.metrics_address(),
        }),
        format!("Login server of network {network} listens on {listed}. Ctrl-C stops it."),
    );
    interrupts.next().await;
    output.note("Finishing what is under way …");
    if !server.shutdown().await {
        bail!("some requests could not be finished in time; their clients will try again");
    }
    output.result(&json!({ "event": "stopped" }), "Stopped.");
    Ok(())
}

async fn invite(arguments: &Invite, output: Output) -> anyhow::Result<()> {
    let directory = arguments.place.open()?;
    let storage = directory.storage().await?;
    let mut code = None;
    if let Some(uses_left) = arguments.uses {
        let secret = secret_word();
        let note = arguments.note.clone();
        let kind = TokenKind::InvitationCode;
        let entry = TokenEntry { kind, note, uses_left, expires_at: in_days(arguments.days) };
        storage.add_token(unix_now(), &secret, &entry).await?;
        code = Some(secret);
    }
    let super_nodes = storage.devices(None).await?;
    let addresses = super_nodes.iter().filter(|node| is_current(node));
    let addresses = addresses.flat_map(|node| node.addresses.split_whitespace());
    let addresses = addresses.filter_map(|address| address.parse().ok()).collect();
    let invitation = directory.invitation(addresses, code.clone())?.to_string();
    output.result(&json!({ "invitation": invitation, "code": code }), &invitation);
    output.line(qr_code(&invitation));
    Ok(())
}

async fn enrol_token(arguments: &EnrolToken, output: Output) -> anyhow::Result<()> {
    let secret = secret_word();
    let (kind, note) = (TokenKind::SuperNode, arguments.note.clone());
    let entry = TokenEntry { kind, note, uses_left: 1, expires_at: in_days(arguments.days) };
    arguments.place.storage().await?.add_token(unix_now(), &secret, &entry).await?;
    output.result(&json!({ "token": secret }), &secret);
    Ok(())
}

async fn users(arguments: &Users, output: Output) -> anyhow::Result<()> {
    let storage = arguments.place.storage().await?;
    let users = storage.users(arguments.after.as_ref(), arguments.limit).await?;
    for user in &users {
        output.result(
            &json!({
                "name": user.name.as_str(), "displayName": user.display_name,
                "createdAtMs": user.created_at.0, "devices": user.devices,
            }),
            format!("{:<32}  {:>3} devices  {}", user.name, user.devices, user.display_name),
        );
    }
    if users.is_empty() {
        output.note("No users.");
    }
    Ok(())
}

async fn devices(arguments: &Devices, output: Output) -> anyhow::Result<()> {
    let devices = arguments.place.storage().await?.devices(arguments.user.as_ref()).await?;
    for device in &devices {
        let state = match (device.removed, is_current(device)) {
            (true, _) => "removed",
            (false, true) => "certified",
            (false, false) => "expired",
        };
        output.result(
            &json!({
                "node": device.node.to_string(), "name": device.name, "state": state,
                "addresses": device.addresses, "certifiedUntilMs": device.certified_until.0,
            }),
            format!("{}  {state:<9}  {}  {}", device.node, device.name, device.addresses),
        );
    }
    if devices.is_empty() {
        output.note("No devices.");
    }
    Ok(())
}

async fn remove_user(arguments: &RemoveUser, output: Output) -> anyhow::Result<()> {
    let user = &arguments.user;
    if !arguments.place.storage().await?.remove_account(unix_now(), user).await? {
        bail!("there is no user {user}");
    }
    output.result(
        &json!({ "removed": user.as_str() }),
        format!(
            "Removed {user}. The devices are cut off as nodes learn of it; the name stays taken."
        ),
    );
    Ok(())
}

async fn remove_device(arguments: &RemoveDevice, output: Output) -> anyhow::Result<()> {
    let node = arguments.node;
    if !arguments.place.storage().await?.take_back(unix_now(), node).await? {
        bail!("there is no device {node}, or it was removed before");
    }
    let removed = json!({ "removed": node.to_string() });
    output.result(&removed, format!("Removed {node}. It is cut off as nodes learn of it."));
    Ok(())
}

async fn policy(arguments: &PolicyArguments, output: Output) -> anyhow::Result<()> {
    let storage = arguments.place.storage().await?;
    let before = storage.policy().await?;
    let version = |text: &Option<String>, before| match text {
        Some(text) => parse_version(text),
        None => Ok(before),
    };
    let policy = Policy {
        registration: match arguments.registration {
            Some(Registration::Open) => RegistrationPolicy::RegistrationOpen,
            Some(Registration::ByCode) => RegistrationPolicy::RegistrationByCode,
            Some(Registration::Closed) => RegistrationPolicy::RegistrationClosed,
            None => before.registration,
        },
        newest_program_version: version(&arguments.newest, before.newest_program_version)?,
        oldest_program_version: version(&arguments.oldest, before.oldest_program_version)?,
    };
    if policy != before {
        storage.set_policy(&policy).await?;
    }
    let registration = match policy.registration {
        RegistrationPolicy::RegistrationOpen => "open",
        RegistrationPolicy::RegistrationByCode => "by-code",
        RegistrationPolicy::RegistrationClosed => "closed",
    };
    let newest = version_text(policy.newest_program_version);
    let oldest = version_text(policy.oldest_program_version);
    output.result(
        &json!({ "registration": registration, "newest": newest, "oldest": oldest }),
        format!("registration {registration}\nnewest version {newest}\noldest version {oldest}"),
    );
    Ok(())
}

async fn status(place: &Place, output: Output) -> anyhow::Result<()> {
    let counts = place.storage().await?.statistics(unix_now()).await?;
    let (users, devices, super_nodes) = (counts.users, counts.devices, counts.super_nodes);
    output.result(
        &json!({ "users": users, "devices": devices, "superNodes": super_nodes }),
        format!("{users} users, {devices} certified devices, {super_nodes} dedicated super nodes"),
    );
    Ok(())
}

fn is_current(device: &DeviceEntry) -> bool {
    !device.removed && device.certified_until > unix_now()
}

fn in_days(days: u32) -> cooee_node::login_server::UnixTime {
    unix_now().plus(Duration::from_secs(u64::from(days) * 86_400))
}

/// 80 random bits in letters that are not mistaken for each other, in groups to read aloud.
fn secret_word() -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let letters = random_seed().map(|byte| char::from(LETTERS[usize::from(byte & 31)]));
    letters[..16].chunks(4).map(|group| group.iter().collect()).collect::<Vec<String>>().join("-")
}

/// The address that this machine has towards others, where it listens on all. Sends nothing.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // 192.0.2.1 is reserved for documentation (RFC 5737): connecting a UDP socket only looks up
    // the route.
    let routed = std::net::UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    let ip = routed.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |address| address.ip());
    SocketAddr::new(ip, listen.port())
}

fn parse_version(text: &str) -> anyhow::Result<u64> {
    let numbers: Option<Vec<u16>> = text.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([major, minor, patch]) => Ok(program_version(*major, *minor, *patch)),
        _ => bail!("{text:?} is no version: write it like 0.2.0"),
    }
}

fn version_text(version: u64) -> String {
    format!("{}.{}.{}", version >> 32, version >> 16 & 0xffff, version & 0xffff)
}

fn qr_code(text: &str) -> String {
    let code = qrcode::QrCode::new(text);
    code.map_or(String::new(), |code| code.render::<qrcode::render::unicode::Dense1x2>().build())
}
