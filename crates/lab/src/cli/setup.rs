//! `cooee lab setup`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cooee_sim::place::Place;

use super::Workshop;
use crate::setup::{self, Relation, SetupPlan, SetupReport};

/// `cooee lab setup`.
#[derive(Debug, clap::Args)]
pub struct SetupArgs {
    /// Place of both users (`cooee lab places` lists them)
    #[arg(long, default_value = "port-restricted", value_name = "PLACE")]
    place: String,
    /// Calls of each kind
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    calls: usize,
    /// One-way delay between each user and the core, in ms: a quarter of the users' round trip
    #[arg(long, default_value_t = 25.0, value_name = "MS")]
    delay_ms: f64,
    /// Keep logs, profiles and recordings in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub(super) fn run(arguments: &SetupArgs, json: bool) -> Result<()> {
    let name = &arguments.place;
    let place = Place::by_name(name)
        .with_context(|| format!("no place \"{name}\": `cooee lab places` lists them"))?;
    let workshop = Workshop::enter(arguments.keep.as_deref())?;
    let plan = SetupPlan { place, calls: arguments.calls, delay_ms: arguments.delay_ms };
    if !json {
        let heads = ("ringing", "caller hears", "callee hears");
        println!("{:<10} {:>22} {:>14} {:>14}", "", heads.0, heads.1, heads.2);
    }
    let reports =
        setup::run(&plan, &workshop.program, &workshop.folder, |report| say(report, json))?;
    if reports.iter().any(|report| !report.ok) {
        bail!("a target is missed");
    }
    Ok(())
}

fn say(report: &SetupReport, json: bool) {
    if json {
        println!("{}", serde_json::to_string(report).expect("own types serialise"));
        return;
    }
    let who = match report.relation {
        Relation::Stranger => "stranger",
        Relation::Buddy => "buddy",
    };
    let ring = format!("{:.0} ms = {:.2} RTT", report.ring_ms, report.ring_round_trips);
    let verdict = if report.ok { "" } else { "  TARGET MISSED" };
    println!(
        "{who:<10} {ring:>22} {:>11.0} ms {:>11.0} ms{verdict}",
        report.caller_hears_ms, report.callee_hears_ms
    );
}
