//! `cooee sim` alone, for developing without building the whole program.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Cli {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sim: cooee_sim::cli::SimCommand,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cooee_sim::cli::run(&cli.sim, cli.json).unwrap_or_else(|error| {
        eprintln!("sim: {error}");
        ExitCode::FAILURE
    })
}
