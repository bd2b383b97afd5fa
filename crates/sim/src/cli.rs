//! `cooee sim`: runs a scenario by name and seed, prints its figures, draws its plot.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    overlay::{self, Report, Scenario},
    plot,
};

/// Run the protocol machines by the thousand in virtual time
#[derive(Debug, Args)]
pub struct SimCommand {
    /// Scenario to run; see --list
    scenario: Option<String>,
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// Seed: the same seed gives the same trace, so a failing seed can be replayed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this many seeds, beginning with --seed; the first that fails is shown
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The short form that the tests run
    #[arg(long)]
    short: bool,
    /// Super nodes, instead of the scenario's
    #[arg(long)]
    super_nodes: Option<u32>,
    /// Users, instead of the scenario's
    #[arg(long)]
    users: Option<u32>,
    /// Virtual minutes, instead of the scenario's
    #[arg(long)]
    minutes: Option<u64>,
    /// Look-ups per virtual minute in the whole network, instead of the scenario's
    #[arg(long)]
    look_ups_per_minute: Option<u64>,
    /// Tell on standard error how far the run is
    #[arg(long)]
    progress: bool,
    /// Draw what happened over virtual time into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Why a simulation could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// No such scenario.
    #[error("no scenario is called {0:?}: `cooee sim --list` names them")]
    UnknownScenario(String),
    /// Too few of something to simulate.
    #[error("at least 10 super nodes, 10 users and 6 minutes are needed")]
    TooSmall,
    /// The plot could not be drawn or written.
    #[error("cannot write the plot: {0}")]
    Plot(String),
    /// A run missed a target; its figures have been printed.
    #[error("seed {seed} missed its targets: `cooee sim {scenario} --seed {seed}` replays it")]
    TargetsMissed {
        /// Which scenario.
        scenario: String,
        /// The seed that replays it.
        seed: u64,
    },
}

/// Runs the command. With `json` every line is an object, and the last one holds the figures.
pub fn run(command: &SimCommand, json: bool) -> Result<(), SimError> {
    let Some(name) = command.scenario.as_deref().filter(|_| !command.list) else {
        list(json);
        return Ok(());
    };
    let scenario =
        Scenario::parse(name).ok_or_else(|| SimError::UnknownScenario(name.to_owned()))?;
    let mut size = if command.short { scenario.short() } else { scenario.full() };
    size.super_nodes = command.super_nodes.unwrap_or(size.super_nodes);
    size.users = command.users.unwrap_or(size.users);
    size.minutes = command.minutes.unwrap_or(size.minutes);
    size.look_ups_per_minute = command.look_ups_per_minute.unwrap_or(size.look_ups_per_minute);
    if size.super_nodes < 10 || size.users < 10 || size.minutes < 6 {
        return Err(SimError::TooSmall);
    }
    for seed in command.seed..command.seed + command.seeds.max(1) {
        let report = timed(scenario, size, seed, command.progress);
        if let Some(path) = &command.plot {
            plot::draw(&report, path).map_err(|error| SimError::Plot(error.to_string()))?;
        }
        print(&report, json);
        if !report.ok {
            return Err(SimError::TargetsMissed { scenario: report.scenario, seed });
        }
    }
    Ok(())
}

/// Runs one seed and adds what only a real clock and the operating system know.
#[expect(clippy::disallowed_methods, reason = "measures how long the run takes")]
fn timed(scenario: Scenario, size: overlay::Size, seed: u64, progress: bool) -> Report {
    let begin = Instant::now();
    let mut tell = |sample: &overlay::report::Sample| {
        if progress {
            let line = serde_json::to_string(sample).expect("samples are plain numbers");
            eprintln!("{line} after {:.0} s", begin.elapsed().as_secs_f64());
        }
    };
    let mut report = overlay::run_telling(scenario, size, seed, begin, &mut tell);
    let taken: Duration = begin.elapsed();
    report.virtual_seconds_per_second = (size.minutes * 60) as f64 / taken.as_secs_f64();
    report.rss_bytes_per_super_node = resident_bytes() / u64::from(size.super_nodes);
    report
}

/// Highest resident memory of this process in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn list(json: bool) {
    for scenario in Scenario::ALL {
        if json {
            let full = scenario.full();
            let line = serde_json::json!({
                "scenario": scenario.name(), "about": scenario.about(),
                "super_nodes": full.super_nodes, "users": full.users, "minutes": full.minutes,
            });
            println!("{line}");
        } else {
            println!("{:18} {}", scenario.name(), scenario.about());
        }
    }
}

fn print(report: &Report, json: bool) {
    if json {
        for sample in &report.samples {
            println!("{}", serde_json::to_string(sample).expect("samples are plain numbers"));
        }
        println!("{}", serde_json::to_string(report).expect("reports are plain numbers"));
        return;
    }
    let Report { scenario, seed, super_nodes, users, minutes, .. } = report;
    println!(
        "{scenario}, seed {seed}: {super_nodes} super nodes, {users} users, {minutes} minutes"
    );
    println!(
        "  look-ups      {} asked, {} right, {} out of date, {} at the login server, {} not \
         found ({} of them later than a minute after the fault)",
        report.lookups,
        report.found,
        report.wrong,
        report.by_login_server,
        report.missing,
        report.missing_late
    );
    println!(
        "  strictly      {} gave the newest record, {:.3} % of all; the others one of the \
         last 65 s, the login server's word, or nothing",
        report.found_newest,
        report.found_newest as f64 * 100.0 / report.lookups.max(1) as f64
    );
    println!("  calls         {} of {} reached the callee", report.calls_connected, report.calls);
    println!(
        "  delay         {:.0} ms median, {:.0} ms 99th percentile ({:.0} ms median uncached)",
        report.lookup_ms_median, report.lookup_ms_p99, report.lookup_ms_uncached_median
    );
    let [one, two, three] = report.lookups_by_round_trips;
    println!("  round trips   {one} with one, {two} with two, {three} with three");
    println!(
        "  attached      {:.2} % again after 60 s, {:.2} % after 300 s; at most {} of {} at one",
        report.reattached_percent_60s,
        report.reattached_percent_300s,
        report.attached_max,
        report.capacity
    );
    println!(
        "  records       {} lost of {} checked; {:.3} % of keepers hold the newest",
        report.records_lost, report.records_checked, report.keepers_consistent_percent
    );
    print_special(report);
    println!(
        "  super node    {:.0} bytes/s, {} KiB resident",
        report.bytes_per_s_per_super_node,
        report.rss_bytes_per_super_node / 1024
    );
    let kinds = report.bytes_per_s_by_message.iter().take(6);
    let kinds: Vec<String> = kinds.map(|(kind, rate)| format!("{kind} {rate:.0}")).collect();
    println!("                {}", kinds.join(", "));
    println!(
        "  simulator     {} events, {:.0} virtual seconds per second, trace {}",
        report.events, report.virtual_seconds_per_second, report.trace
    );
    for answer in &report.failed_answers {
        println!("  failed        {answer}");
    }
    for target in &report.missed {
        println!("  missed        {target}");
    }
    println!("{}", if report.ok { "every target met" } else { "targets missed" });
}

/// The figures that only one scenario has.
fn print_special(report: &Report) {
    if report.presence_changes > 0 {
        println!(
            "  presence      {} changes to watchers, {:.2} % within a second ({:.0} ms median, \
             {:.0} ms 99th percentile); who vanished is offline within {:.0} s",
            report.presence_changes,
            report.presence_in_a_second_percent,
            report.presence_ms_median,
            report.presence_ms_p99,
            report.presence_vanished_s_max
        );
    }
    if report.searches > 0 {
        println!(
            "  wildcard      {} searches, {} right; {} of {} users found, {} not listed; {} pages \
             ({:.0} ms median, {:.0} ms 99th percentile); {} of 30 at once refused",
            report.searches,
            report.searches_right,
            report.searches_found,
            report.searches_matching,
            report.searches_unlisted,
            report.search_pages,
            report.search_page_ms_median,
            report.search_page_ms_p99,
            report.searches_hurried_refused
        );
    }
    if report.elected > 0 {
        let [unplugged, retired] = report.unplugged_retired;
        println!(
            "  election      {} elected, {} retired; {} super nodes when all had come (load {} %, \
             {} users waiting), {} at the end; {:.1} % in the crowded block, {:.1} % of one \
             version; {retired} of {unplugged} on battery retired; at most {:.1} % sent home in a \
             minute, {} shards unconfirmed",
            report.elected,
            report.retired,
            report.super_nodes_grown,
            report.grown_load_percent,
            report.grown_waiting,
            report.super_nodes_at_end,
            report.block_percent,
            report.version_percent,
            report.retired_in_a_minute_percent_max,
            report.shards_unconfirmed
        );
    }
}
