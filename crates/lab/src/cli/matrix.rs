//! `cooee lab matrix`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use cooee_sim::place::{Outcome, PLACES, Place};

use super::{Workshop, places_of, say_json};
use crate::matrix::{self, Cell, MatrixPlan, Summary};

/// The paper's set-ups are the first so many places.
const PAPER_PLACES: usize = 3;

/// `cooee lab matrix`.
#[derive(Debug, clap::Args)]
pub struct MatrixArgs {
    /// Kinds of place, with commas between; all by default (`cooee lab places` lists them)
    #[arg(long, value_delimiter = ',', value_name = "PLACE")]
    places: Vec<String>,
    /// Only the paper's three set-ups
    #[arg(long, conflicts_with = "places")]
    short: bool,
    /// Each pair in both directions
    #[arg(long)]
    ordered: bool,
    /// Seconds of talk in each call
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    talk: f64,
    /// Calls at a time
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    parallel: usize,
    /// One-way delay between each user and the core, in ms
    #[arg(long, value_name = "MS")]
    delay_ms: Option<f64>,
    /// Keep logs and profiles in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub(super) fn run(arguments: &MatrixArgs, json: bool) -> Result<()> {
    let plan = MatrixPlan {
        places: places(arguments)?,
        ordered: arguments.ordered,
        talk_s: arguments.talk,
        parallel: arguments.parallel,
        delay_ms: arguments.delay_ms,
        shared: arguments.places.is_empty() && !arguments.short,
    };
    let workshop = Workshop::enter(arguments.keep.as_deref())?;
    let tell = |text: &str| {
        if !json {
            eprintln!("{text}");
        }
    };
    let Workshop { program, folder, .. } = &workshop;
    let cells = matrix::run(&plan, program, folder, tell, |cell| say(cell, json))?;
    let summary = matrix::summarise(&cells);
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print_summary(&summary);
    }
    if !summary.ok {
        bail!("not every pair connected as it must");
    }
    Ok(())
}

fn places(arguments: &MatrixArgs) -> Result<Vec<&'static Place>> {
    if arguments.short {
        return Ok(PLACES[..PAPER_PLACES].iter().collect());
    }
    places_of(&arguments.places)
}

fn say(cell: &Cell, json: bool) {
    if json {
        say_json(cell);
        return;
    }
    let outcome = cell.outcome.map_or("-", word);
    let time = milliseconds(cell.setup_ms);
    let verdict = if cell.is_as_expected() { "" } else { "  NOT AS IT MUST BE" };
    println!(
        "{:<18} {:<18} {outcome:<12} {time:>8} {:>8} {:>8}  oracle: {}{verdict}",
        cell.caller,
        cell.callee,
        milliseconds(cell.first_sound_ms),
        milliseconds(cell.mouth_to_ear_ms),
        word(cell.expected)
    );
    if let Some(problem) = &cell.problem {
        println!("    {problem}");
    }
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |ms| format!("{ms:.0} ms"))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Direct => "direct UDP",
        Outcome::RelayedUdp => "relayed UDP",
        Outcome::Tcp => "TCP",
    }
}

fn print_summary(summary: &Summary) {
    println!("\nconnected   {} of {}", summary.connected, summary.pairs);
    println!("direct      {}, the oracle says {}", summary.direct, summary.direct_expected);
    println!("relayed     {} by UDP, {} with TCP", summary.relayed_udp, summary.tcp);
    let median = milliseconds(summary.setup_ms_median);
    let p95 = milliseconds(summary.setup_ms_p95);
    let agrees = if summary.sim_agrees { "agrees in every cell" } else { "DISAGREES" };
    println!("simulator   {agrees}");
    println!("voice after {median} (median), {p95} (95 %)");
}
