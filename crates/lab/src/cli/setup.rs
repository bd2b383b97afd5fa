//! `cooee lab setup`.

use anyhow::{Result, bail};

use super::{UsersArgs, Workshop, place, say_json};
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
    #[command(flatten)]
    users: UsersArgs,
}

pub(super) fn run(arguments: &SetupArgs, json: bool) -> Result<()> {
    let place = place(&arguments.place)?;
    let workshop = Workshop::enter(arguments.users.keep.as_deref())?;
    let plan = SetupPlan { place, calls: arguments.calls, delay_ms: arguments.users.delay_ms };
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
        say_json(report);
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
