//! `cooee lab doctor`.

use std::env;

use anyhow::{Context, Result, bail};
use cooee_sim::place::{PLACES, Place};

use crate::{doctor, sandbox};

/// `cooee lab doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Kinds of place, with commas between; all by default
    #[arg(long, value_delimiter = ',', value_name = "PLACE")]
    places: Vec<String>,
}

pub(super) fn run(arguments: &DoctorArgs, json: bool) -> Result<()> {
    let find = |name: &String| {
        Place::by_name(name)
            .with_context(|| format!("no place \"{name}\": `cooee lab places` lists them"))
    };
    let places: Vec<&'static Place> = if arguments.places.is_empty() {
        PLACES.iter().collect()
    } else {
        arguments.places.iter().map(find).collect::<Result<_>>()?
    };
    sandbox::enter()?;
    let program = env::current_exe().context("cannot find the running program")?;
    let folder = tempfile::tempdir()?;
    let reports = doctor::run(&places, &program, folder.path(), |report| {
        if json {
            println!("{}", serde_json::to_string(report).expect("own types serialise"));
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
