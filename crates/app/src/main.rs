//! `cooee`: a telephone network with no telephone company, in one program.
//!
//! This file reads the command line and hands over; each family of subcommands has a file of its
//! own.

#![forbid(unsafe_code)]

mod failure;
mod login_server;
mod output;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Output;

/// A telephone network with no telephone company.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, subcommand_required = true, max_term_width = 100)]
struct Cli {
    /// Print JSON, one object a line, instead of sentences
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Rebuild networks with real NATs on this machine and measure what happens in them
    #[command(subcommand)]
    Lab(cooee_lab::cli::LabCommand),
    /// Run the protocol machines by the thousand in virtual time
    Sim(cooee_sim::cli::SimCommand),
    /// Make a network, run its login server, and look after its users
    #[command(subcommand)]
    LoginServer(login_server::LoginServerCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match run(cli.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cooee: {error:#}");
            failure::exit_code(&error)
        }
    }
}

fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Lab(command) => cooee_lab::cli::run(command, output.json),
        Command::Sim(command) => Ok(cooee_sim::cli::run(&command, output.json)?),
        Command::LoginServer(command) => login_server::run(command, output),
    }
}
