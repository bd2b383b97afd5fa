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
    match cooee_sim::cli::run(&cli.sim, cli.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}
