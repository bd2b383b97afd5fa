//! `cooee lab overlay`: real super-node processes and light clients, the simulator's kill
//! scenarios.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cooee_node::trial::{TrialConfig, TrialReport, TrialScenario, run};

use crate::output::Output;

/// `cooee lab overlay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee lab overlay                                              40 super nodes, 1,000 clients
  cooee lab overlay --scenario kill-90-restart --after 300
  cooee lab overlay --super-nodes 12 --light-clients 60 --before 5 --after 20

The last line of --json has the fields of `cooee sim --json`.")]
pub(crate) struct OverlayArgs {
    /// What happens: lookup-delay, kill-30, kill-90-restart, version-crash
    #[arg(long, default_value = "kill-30", value_parser = scenario)]
    scenario: TrialScenario,
    /// Super-node processes
    #[arg(long, default_value_t = 40)]
    super_nodes: usize,
    /// Light clients in this process
    #[arg(long, default_value_t = 1000)]
    light_clients: usize,
    /// Seed of who is killed and who asks for whom
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Look-ups a second
    #[arg(long, default_value_t = 20)]
    look_ups: u32,
    /// Seconds before the fault
    #[arg(long, default_value_t = 30)]
    before: u64,
    /// Seconds after the fault
    #[arg(long, default_value_t = 90)]
    after: u64,
}

fn scenario(name: &str) -> Result<TrialScenario, String> {
    let found = TrialScenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.ok_or_else(|| TrialScenario::ALL.map(TrialScenario::name).join(", "))
}

/// Runs the trial and prints its figures.
pub(crate) fn overlay(arguments: &OverlayArgs, output: Output) -> Result<()> {
    if arguments.super_nodes < 3 || arguments.super_nodes > 250 || arguments.light_clients < 10 {
        bail!("3 to 250 super nodes and at least 10 clients are needed");
    }
    let folder = tempfile::tempdir().context("no folder for profiles and logs")?;
    let config = TrialConfig {
        program: std::env::current_exe().context("cannot find the program itself")?,
        folder: folder.path().to_owned(),
        super_nodes: arguments.super_nodes,
        clients: arguments.light_clients,
        scenario: arguments.scenario,
        seed: arguments.seed,
        look_ups_per_second: arguments.look_ups,
        before: Duration::from_secs(arguments.before),
        after: Duration::from_secs(arguments.after),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let mut tell = |line: String| {
        if !output.json {
            println!("{line}");
        }
    };
    let report = runtime.block_on(run(config, &mut tell))?;
    print(&report, output);
    if !report.ok {
        bail!("missed: {}", report.missed.join("; "));
    }
    Ok(())
}

fn print(report: &TrialReport, output: Output) {
    if output.json {
        println!("{}", serde_json::to_string(report).expect("reports are plain values"));
        return;
    }
    println!(
        "  look-ups      {} asked, {} right, {} out of date, {} not found, {} failed",
        report.lookups, report.found, report.wrong, report.missing, report.failed
    );
    println!(
        "  delay         {:.1} ms median, {:.1} ms 99th percentile",
        report.lookup_ms_median, report.lookup_ms_p99
    );
    println!(
        "  presence      {} of {} changes told, {:.1} % within a second ({:.0} ms median, {:.0} ms \
         99th percentile)",
        report.presence_heard,
        report.presence_changes,
        report.presence_in_a_second_percent,
        report.presence_ms_median,
        report.presence_ms_p99
    );
    println!(
        "  attached      {:.2} % again within 60 s, all after {:.1} s; at most {} at one",
        report.reattached_percent_60s, report.all_reattached_s, report.attached_max
    );
    println!(
        "  offline       {} of {} not found at the end",
        report.offline_lost, report.offline_checked
    );
    println!(
        "  super node    {:.0} bytes/s of UDP, {} KiB resident",
        report.bytes_per_s_per_super_node,
        report.rss_bytes_per_super_node / 1024
    );
    println!("{}", if report.ok { "every target met" } else { "targets missed" });
}
