//! `cooee lab doctor`.

use anyhow::{Result, bail};

use super::{Workshop, places_of, say_json};
use crate::doctor;

/// `cooee lab doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Kinds of place, with commas between; all by default
    #[arg(long, value_delimiter = ',', value_name = "PLACE")]
    places: Vec<String>,
}

pub(super) fn run(arguments: &DoctorArgs, json: bool) -> Result<()> {
    let places = places_of(&arguments.places)?;
    let workshop = Workshop::enter(None)?;
    let reports = doctor::run(&places, &workshop.program, &workshop.folder, |report| {
        if json {
            say_json(report);
            return;
        }
        let verdict = if report.ok { "" } else { "  WRONG" };
        println!("{:<18} {}{verdict}", report.place, report.says);
        if let Some(problem) = &report.problem {
            println!("    {problem}");
        }
    })?;
    if reports.iter().any(|report| !report.ok) {
        bail!("the doctor is wrong somewhere");
    }
    Ok(())
}
