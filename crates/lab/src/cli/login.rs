//! `cooee lab login`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{login, sandbox};

/// `cooee lab login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// One-way delay between users and servers, in ms
    #[arg(long, default_value_t = 50.0, value_name = "MS")]
    delay_ms: f64,
    /// Keep logs and profiles in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub(super) fn run(arguments: &LoginArgs, json: bool) -> Result<()> {
    sandbox::enter()?;
    let program = env::current_exe().context("cannot find the running program")?;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder)?;
    let tell = |text: &str| {
        if !json {
            eprintln!("{text}");
        }
    };
    let reports = login::run(arguments.delay_ms, &program, folder, tell)?;
    if !json {
        println!("{:<18} {:>8} {:>8} {:>8} {:>8}  paper", "", "cold", "warm", "bytes", "warm");
    }
    for report in &reports {
        if json {
            println!("{}", serde_json::to_string(report)?);
            continue;
        }
        let times = format!("{:>5} ms {:>5} ms", report.cold_ms, report.warm_ms);
        let (bytes, warm_bytes) = (report.bytes, report.warm_bytes);
        let verdict = if report.ok { "" } else { "  TARGET MISSED" };
        println!(
            "{:<18} {times} {bytes:>8} {warm_bytes:>8}  {}{verdict}",
            report.setup, report.paper
        );
    }
    if reports.iter().any(|report| !report.ok) {
        bail!("a target is missed");
    }
    Ok(())
}
