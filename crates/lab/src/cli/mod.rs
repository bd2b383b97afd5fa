//! `cooee lab …`: the laboratory on the command line.
//!
//! Every experiment prints a table for people, or, with `--json`, JSON lines of which the last is
//! the result.

mod bench;
mod cost;
mod doctor;
mod experiment;
mod matrix;
mod mobility;
mod setup;
mod topology;
mod voice;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cooee_sim::place::{PLACES, Place};

use crate::sandbox;

/// `cooee lab …`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  cooee lab places                             the kinds of place there are
  cooee lab run home.toml --on alice -- ip address
  cooee lab matrix --short                     calls between the paper's three set-ups
  cooee lab voice --quick                      sound and delay beside other telephones
  cooee lab paper --quick                      the paper's experiments, into one report
  cooee lab link --delay-ms 50 --loss 0.05     what the emulator costs and does

The laboratory runs in namespaces of its own, as root or as any user whom the kernel lets make
them; nothing is left behind.")]
pub enum LabCommand {
    /// List the kinds of place (NAT, firewall) that the laboratory can build
    Places,
    /// Build a topology and run a command on one of its hosts
    Run(topology::RunArgs),
    /// Print a topology file to start from
    Example,
    /// Measure the link emulator against what it was told to do
    Link(bench::LinkArgs),
    /// Log in from the paper's three set-ups: time and bytes (Table I)
    Login(experiment::ExperimentArgs),
    /// Watch what a client sends when everything is blocked (Figure 3)
    Blocked(experiment::ExperimentArgs),
    /// List the messages of a login (Figure 4)
    Messages(experiment::ExperimentArgs),
    /// Search for users from the paper's three set-ups (Figures 5 to 7)
    Search(experiment::ExperimentArgs),
    /// Count the messages and bytes of call set-up and tear-down (Figures 8 to 11)
    Call(experiment::ExperimentArgs),
    /// Measure voice: packets, bandwidth, silence, hold, frequencies (section IV.E)
    Media(experiment::ExperimentArgs),
    /// Measure delay and memory beside other telephones (Table III)
    Peers(experiment::ExperimentArgs),
    /// Watch an idle node: refresh messages, traffic a day
    Idle(experiment::ExperimentArgs),
    /// Log in again and again and count super nodes (section VI.B)
    Census(experiment::ExperimentArgs),
    /// Run all of the paper's experiments and write one report with pictures
    Paper(experiment::PaperArgs),
    /// Measure what a node and a super node cost their machine
    Cost(cost::CostArgs),
    /// Call from every kind of place to every other and compare with what must be possible
    Matrix(matrix::MatrixArgs),
    /// Compare sound and delay with other telephones on good and bad networks
    Voice(voice::VoiceArgs),
    /// Break the network under running calls and measure the gap in sound
    Mobility(mobility::MobilityArgs),
    /// Run `cooee doctor` in every kind of place and compare what it says with what is there
    Doctor(doctor::DoctorArgs),
    /// Measure dialling to ringing, and the answer to the first sound
    Setup(setup::SetupArgs),
}

/// What a command works with, inside the sandbox.
struct Workshop {
    /// This program.
    program: PathBuf,
    /// For logs, profiles and recordings.
    folder: PathBuf,
    /// Removes the folder unless it is to be kept.
    _temporary: tempfile::TempDir,
}

impl Workshop {
    /// Enters the sandbox; what is written there is kept in `keep`.
    fn enter(keep: Option<&Path>) -> Result<Self> {
        sandbox::enter()?;
        let program = env::current_exe().context("cannot find the running program")?;
        let temporary = tempfile::tempdir()?;
        let folder = keep.unwrap_or(temporary.path());
        fs::create_dir_all(folder)?;
        let folder = fs::canonicalize(folder)?;
        Ok(Self { program, folder, _temporary: temporary })
    }
}

/// What experiments with two users behind links of one delay have in common.
#[derive(Debug, clap::Args)]
struct UsersArgs {
    /// One-way delay between each user and the core, in ms: a quarter of the users' round trip
    #[arg(long, default_value_t = 25.0, value_name = "MS")]
    delay_ms: f64,
    /// Keep logs, profiles and recordings in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// The kind of place of this name.
fn place(name: &str) -> Result<&'static Place> {
    Place::by_name(name)
        .with_context(|| format!("no place \"{name}\": `cooee lab places` lists them"))
}

/// The kinds of place of these names; all without names.
fn places_of(names: &[String]) -> Result<Vec<&'static Place>> {
    if names.is_empty() {
        return Ok(PLACES.iter().collect());
    }
    names.iter().map(|name| place(name)).collect()
}

/// Prints a result for programs.
fn say_json(report: &impl serde::Serialize) {
    println!("{}", serde_json::to_string(report).expect("own types serialise"));
}

/// Runs a command of the laboratory.
pub fn run(command: LabCommand, json: bool) -> Result<()> {
    match command {
        LabCommand::Places => topology::places(json),
        LabCommand::Run(arguments) => topology::run(&arguments),
        LabCommand::Example => {
            print!("{}", topology::EXAMPLE);
            Ok(())
        }
        LabCommand::Link(arguments) => bench::link(&arguments, json),
        LabCommand::Login(arguments) => experiment::run("login", &arguments, json),
        LabCommand::Blocked(arguments) => experiment::run("blocked", &arguments, json),
        LabCommand::Messages(arguments) => experiment::run("messages", &arguments, json),
        LabCommand::Search(arguments) => experiment::run("search", &arguments, json),
        LabCommand::Call(arguments) => experiment::run("call", &arguments, json),
        LabCommand::Media(arguments) => experiment::run("media", &arguments, json),
        LabCommand::Peers(arguments) => experiment::run("peers", &arguments, json),
        LabCommand::Idle(arguments) => experiment::run("idle", &arguments, json),
        LabCommand::Census(arguments) => experiment::run("census", &arguments, json),
        LabCommand::Paper(arguments) => experiment::paper(&arguments, json),
        LabCommand::Cost(arguments) => cost::cost(&arguments, json),
        LabCommand::Matrix(arguments) => matrix::run(&arguments, json),
        LabCommand::Voice(arguments) => voice::run(&arguments, json),
        LabCommand::Mobility(arguments) => mobility::run(&arguments, json),
        LabCommand::Doctor(arguments) => doctor::run(&arguments, json),
        LabCommand::Setup(arguments) => setup::run(&arguments, json),
    }
}
