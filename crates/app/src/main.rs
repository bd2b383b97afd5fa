//! `cooee`: a telephone network with no telephone company, in one program.
//!
//! This file reads the command line and hands over; each family of subcommands has a file of its
//! own.

#![forbid(unsafe_code)]

mod client;
mod commands;
mod demo;
mod failure;
mod login_server;
mod output;
mod profile;
mod signals;

use std::{io, num::NonZero, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use cooee_node::audio::ScratchHeap;
use tracing_subscriber::EnvFilter;

use crate::{
    client::Client,
    commands::{
        account, account_care, call, doctor, measure, people, search, status, talk, trial, up,
    },
    output::Output,
    profile::ProfileArgs,
};

/// The audio thread gets what sound processing asks for from memory set aside for it.
#[global_allocator]
static HEAP: ScratchHeap<std::alloc::System> = ScratchHeap(std::alloc::System);

/// How long background work may take to end after the command is done.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(500);

/// A telephone network with no telephone company.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, subcommand_required = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no node or network, \
4 refused, 5 call not taken, 6 no user of that name.
Logs go to standard error; COOEE_LOG sets what is logged (error, warn, info, debug, or
module=level).")]
struct Cli {
    /// Print JSON, one object a line, instead of sentences
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole network on this machine, two users and a call, and measure it
    Demo(demo::DemoArgs),
    /// Register a new user with this device
    Register(account::AccountArgs),
    /// Use an account on this device too
    Login(account::AccountArgs),
    /// Change the password, list and remove devices, remove the account
    #[command(subcommand)]
    Account(account_care::AccountCommand),
    /// Run the node: be reachable, call and be called
    Up(up::NodeArgs),
    /// Run the echo user, who answers and plays back what it hears
    Echo(up::NodeArgs),
    /// Run a dedicated super node
    SuperNode(up::SuperNodeArgs),
    /// End the running node
    Down(ProfileArgs),
    /// Take a dedicated super node out of service: its nodes go elsewhere, relayed calls end
    Drain(Run<status::DrainArgs>),
    /// Show how the running node is doing
    Status(ProfileArgs),
    /// Print what happens, as it happens
    Events(ProfileArgs),
    /// Find out what this network lets through and whether everything is in order
    Doctor(doctor::DoctorArgs),
    /// List microphones and speakers
    Devices,
    /// Call somebody and stay until the call is over
    Call(Run<call::CallArgs>),
    /// Answer the ringing call
    Answer(Run<talk::WhichArgs>),
    /// Decline the ringing call
    Decline(Run<talk::WhichArgs>),
    /// End a call
    HangUp(Run<talk::WhichArgs>),
    /// Put a call on hold
    Hold(Run<talk::WhichArgs>),
    /// Take a call back from hold
    Resume(Run<talk::WhichArgs>),
    /// Send silence instead of the microphone
    Mute(Run<talk::WhichArgs>),
    /// Send the microphone again
    Unmute(Run<talk::WhichArgs>),
    /// Press keys in a call
    Dtmf(Run<talk::DtmfArgs>),
    /// Send the other side to somebody else, or join two calls
    Transfer(Run<talk::TransferArgs>),
    /// Find users by name, or by a pattern such as 'ali*'
    Search(Run<search::SearchArgs>),
    /// Show or change what others see: online, away, do-not-disturb, invisible
    Presence(Run<search::PresenceArgs>),
    /// Show which super nodes keep a name, as a super node sees it
    Keepers(Run<search::KeepersArgs>),
    /// List the calls that are not over
    Calls(ProfileArgs),
    /// List the records of past calls
    Records(ProfileArgs),
    /// Show and change the buddy list
    #[command(subcommand)]
    Buddies(people::BuddiesCommand),
    /// Write a message; it waits while the other side is offline
    Message(people::MessageArgs),
    /// Show the messages
    Messages(ProfileArgs),
    /// Print the address of the running node's page, to open in a browser
    Page(ProfileArgs),
    /// Rebuild networks with real NATs on this machine and measure what happens in them
    #[command(subcommand)]
    Lab(LabCommand),
    /// Run the protocol machines by the thousand in virtual time
    Sim(cooee_sim::cli::SimCommand),
    /// Measure the mouth-to-ear delay in a recording
    Measure(measure::MeasureArgs),
    /// Make a network, run its login server, and look after its users
    #[command(subcommand)]
    LoginServer(login_server::LoginServerCommand),
}

/// What the laboratory measures.
#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Run real super-node processes with a thousand light clients, kill them, find everybody again
    Overlay(trial::OverlayArgs),
    #[command(flatten)]
    Other(cooee_lab::cli::LabCommand),
}

/// A command to the running node of a profile.
#[derive(Debug, Args)]
struct Run<T: Args> {
    #[command(flatten)]
    arguments: T,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// What is logged unless `COOEE_LOG` says otherwise. The TURN client calls it an error that a
/// permission exists already, which is the usual case; its failures come as results.
const LOG: &str = "warn,turn_client_proto=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let filter = EnvFilter::try_from_env("COOEE_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(output::wants_colour(&io::stderr())).init();
    match run(cli.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cooee: {error:#}");
            failure::exit_code(&error)
        }
    }
}

fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments, output),
        Command::Measure(arguments) => measure::run(&arguments, output),
        Command::Lab(LabCommand::Overlay(arguments)) => trial::overlay(&arguments, output),
        Command::Lab(LabCommand::Other(command)) => cooee_lab::cli::run(command, output.json),
        Command::Sim(command) => Ok(cooee_sim::cli::run(&command, output.json)?),
        Command::LoginServer(command) => login_server::run(command, output),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers(&command))
                .enable_all()
                .build()
                .context("cannot start")?;
            let done = runtime.block_on(run_async(command, output));
            // What still blocks (a name server that does not answer) must not keep us.
            runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
            done
        }
    }
}

/// Threads that run tasks. A user's node has little to do at once, and each further thread is woken
/// for every packet of a call to look for work.
fn workers(command: &Command) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if matches!(command, Command::SuperNode(_)) { cores } else { 1 }
}

async fn run_async(command: Command, output: Output) -> Result<()> {
    let act = async |run: Run<talk::WhichArgs>, action: &str, done: &str| {
        talk::act(&run.arguments, action, done, &client(&run.profile)?, output).await
    };
    match command {
        Command::Register(arguments) => account::register(arguments, output).await,
        Command::Login(arguments) => account::login(arguments, output).await,
        Command::Up(arguments) => up::up(arguments, output).await,
        Command::Echo(arguments) => up::echo(arguments, output).await,
        Command::SuperNode(arguments) => up::super_node(arguments, output).await,
        Command::Down(profile) => status::down(&client(&profile)?, output).await,
        Command::Drain(run) => {
            let profile = run.profile.or_named("super-node");
            status::drain(run.arguments, &client(&profile)?, output).await
        }
        Command::Status(profile) => status::status(&client(&profile)?, output).await,
        Command::Events(profile) => status::events(&client(&profile)?).await,
        Command::Devices => status::devices(output).await,
        Command::Call(run) => call::run(run.arguments, &client(&run.profile)?, output).await,
        Command::Answer(run) => act(run, "answer", "answered").await,
        Command::Decline(run) => act(run, "decline", "declined").await,
        Command::HangUp(run) => act(run, "hang-up", "hung up").await,
        Command::Hold(run) => act(run, "hold", "on hold").await,
        Command::Resume(run) => act(run, "resume", "resumed").await,
        Command::Mute(run) => act(run, "mute", "muted").await,
        Command::Unmute(run) => act(run, "unmute", "unmuted").await,
        Command::Dtmf(run) => talk::dtmf(run.arguments, &client(&run.profile)?, output).await,
        Command::Transfer(run) => {
            talk::transfer(run.arguments, &client(&run.profile)?, output).await
        }
        Command::Search(run) => search::search(run.arguments, &client(&run.profile)?, output).await,
        Command::Presence(run) => {
            search::presence(run.arguments, &client(&run.profile)?, output).await
        }
        Command::Keepers(run) => {
            search::keepers(run.arguments, &client(&run.profile)?, output).await
        }
        Command::Calls(profile) => talk::list(&client(&profile)?, output).await,
        Command::Records(profile) => talk::records(&client(&profile)?, output).await,
        Command::Account(command) => account_care::run(command, output).await,
        Command::Doctor(arguments) => doctor::doctor(arguments, output).await,
        Command::Buddies(command) => people::buddies(command, output).await,
        Command::Message(arguments) => people::message(arguments, output).await,
        Command::Messages(profile) => people::messages(&profile, output).await,
        Command::Page(profile) => people::page(&profile, output),
        Command::Demo(_)
        | Command::Measure(_)
        | Command::Lab(_)
        | Command::Sim(_)
        | Command::LoginServer(_) => {
            unreachable!("handled without a runtime")
        }
    }
}

fn client(profile: &ProfileArgs) -> Result<Client> {
    Client::of_profile(&profile.directory()?)
}
