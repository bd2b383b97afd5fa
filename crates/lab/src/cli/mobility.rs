//! `cooee lab mobility`.

use anyhow::{Context, Result, bail};

use super::{UsersArgs, Workshop, say_json};
use crate::mobility::{self, FAULTS, Fault, FaultReport, MobilityPlan};

/// `cooee lab mobility`.
#[derive(Debug, clap::Args)]
pub struct MobilityArgs {
    /// Faults, with commas between; all by default
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    faults: Vec<String>,
    /// List the faults
    #[arg(long)]
    list: bool,
    /// Networks at a time
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    parallel: usize,
    #[command(flatten)]
    users: UsersArgs,
}

pub(super) fn run(arguments: &MobilityArgs, json: bool) -> Result<()> {
    if arguments.list {
        FAULTS.iter().for_each(|fault| println!("{:<24} {}", fault.name, fault.about));
        return Ok(());
    }
    let faults = faults(&arguments.faults)?;
    let workshop = Workshop::enter(arguments.users.keep.as_deref())?;
    let delay_ms = arguments.users.delay_ms;
    let plan = MobilityPlan { faults, parallel: arguments.parallel, delay_ms };
    if !json {
        println!("{:<24} {:>9} {:>9}  path before → after", "fault", "gap", "limit");
    }
    let reports =
        mobility::run(&plan, &workshop.program, &workshop.folder, |report| say(report, json));
    if reports.iter().any(|report| !report.ok) {
        bail!("a gap is longer than its limit, or the voice went on by the wrong path");
    }
    Ok(())
}

fn faults(names: &[String]) -> Result<Vec<&'static Fault>> {
    if names.is_empty() {
        return Ok(FAULTS.iter().collect());
    }
    let find = |name: &String| {
        Fault::by_name(name)
            .with_context(|| format!("no fault \"{name}\": `cooee lab mobility --list`"))
    };
    names.iter().map(find).collect()
}

fn say(report: &FaultReport, json: bool) {
    if json {
        say_json(report);
        return;
    }
    let verdict = if report.ok { "" } else { "  MISSED" };
    println!(
        "{:<24} {:>6} ms {:>6} ms  {} → {}{verdict}",
        report.fault, report.gap_ms, report.limit_ms, report.path_before, report.path_after
    );
    if let Some(problem) = &report.problem {
        println!("    {problem}");
    }
}
