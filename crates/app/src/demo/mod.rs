//! `cooee demo`: a whole network on this machine, in real processes through real sockets, and what
//! a call in it sounds like.
//!
//! ```text
//!   login server · three super nodes · alice and bob
//!   register ─▶ log in ─▶ alice calls bob ─▶ speech both ways ─▶ hang up ─▶ measure
//! ```

mod report;
mod stage;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};

use crate::output::Output;

/// Seconds of talk: enough for several windows of two seconds (the paper's method).
const TALK_SECONDS: f64 = 14.0;

/// `cooee demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cooee demo --json | tail -n 1 | jq .mouth_to_ear_ms_mean")]
pub(crate) struct DemoArgs {
    /// Where to leave recordings, picture and logs; cooee-demo below the present folder by default
    #[arg(long, value_name = "PATH")]
    keep: Option<PathBuf>,
    /// Seconds of talk
    #[arg(long, default_value_t = TALK_SECONDS, value_name = "SECONDS")]
    talk: f64,
}

/// Runs the demo and prints what happened.
pub(crate) fn run(arguments: &DemoArgs, output: Output) -> Result<()> {
    let folder = match &arguments.keep {
        Some(folder) => folder.clone(),
        None => std::env::current_dir()?.join("cooee-demo"),
    };
    if folder.join(stage::MARK).exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot clear {} of the last run", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let start = Instant::now();
    let mut step = |what: &str| {
        output.note(format!("{:6.1} s  {what}", start.elapsed().as_secs_f64()));
    };
    let played = stage::play(&folder, arguments.talk, &mut step)?;
    step("measuring");
    let report = report::Report::new(&folder, &played)?;
    report.print(output);
    anyhow::ensure!(
        report.ok,
        "the demo went wrong: see above, and the logs in {}",
        folder.display()
    );
    Ok(())
}
