//! `cooee lab login` and the paper's other experiments, and `cooee lab paper`, which runs them all.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    experiments::{self, Bench, EXPERIMENTS, Experiment},
    report::{Section, document},
};

/// Options of every experiment.
#[derive(Debug, clap::Args)]
pub struct ExperimentArgs {
    /// Fewer and shorter runs
    #[arg(long)]
    quick: bool,
    /// How often to repeat what is repeated; 5 by default, 1 with --quick
    #[arg(long, value_name = "COUNT")]
    runs: Option<usize>,
    /// One-way delay between any two machines, in ms
    #[arg(long, default_value_t = 50.0, value_name = "MS")]
    delay_ms: f64,
    /// Write the report (report.md and pictures) to this folder
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
    /// Keep logs, profiles and recordings in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// `cooee lab paper`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee lab paper                               everything, into the folder cooee-paper
  cooee lab paper --quick                       fewer and shorter runs
  cooee lab paper --only login --only search")]
pub struct PaperArgs {
    /// Only this experiment; repeat for several
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Where `cooee lab paper` writes unless told otherwise.
const REPORT_FOLDER: &str = "cooee-paper";

impl ExperimentArgs {
    fn bench(&self, report: Option<&PathBuf>, json: bool) -> Result<(Bench, tempfile::TempDir)> {
        if !(0.0..=10_000.0).contains(&self.delay_ms) {
            bail!("--delay-ms {}: 0 to 10,000 can be emulated", self.delay_ms);
        }
        if self.runs == Some(0) {
            bail!("--runs 0: nothing would be measured");
        }
        let (mut bench, temporary) = experiments::bench(self.keep.as_ref(), report)?;
        bench.quick = self.quick;
        bench.runs = self.runs.unwrap_or(if self.quick { 1 } else { 5 });
        bench.delay_ms = self.delay_ms;
        bench.is_talkative = !json;
        Ok((bench, temporary))
    }
}

/// Runs one experiment.
pub(super) fn run(name: &str, arguments: &ExperimentArgs, json: bool) -> Result<()> {
    let experiment = experiments::by_name(name).context("the command line names experiments")?;
    let (bench, _temporary) = arguments.bench(arguments.report.as_ref(), json)?;
    let section = (experiment.run)(&bench)?;
    say(&section, json);
    if let Some(folder) = &bench.pictures {
        let head = head(&bench);
        fs::write(folder.join("report.md"), document(&head, &[section], &[]))?;
    }
    Ok(())
}

/// Runs all of them, or those named, and writes one report.
pub(super) fn paper(arguments: &PaperArgs, json: bool) -> Result<()> {
    let chosen = chosen(&arguments.only)?;
    let folder = arguments.experiment.report.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(REPORT_FOLDER));
    let (bench, _temporary) = arguments.experiment.bench(Some(&folder), json)?;
    let folder = bench.pictures.clone().context("a folder was named")?;
    let (mut sections, mut failures) = (Vec::new(), Vec::new());
    for (index, experiment) in chosen.iter().enumerate() {
        let (number, of) = (index + 1, chosen.len());
        bench.tell(&format!("[{number}/{of}] {}: {}", experiment.name, experiment.about));
        match (experiment.run)(&bench) {
            Ok(section) => {
                say(&section, json);
                sections.push(section);
            }
            Err(error) => {
                bench.tell(&format!("{} could not be measured: {error:#}", experiment.name));
                failures.push((experiment.name, format!("{error:#}")));
            }
        }
        // What was measured stays readable if a later experiment is interrupted.
        let report = document(&head(&bench), &sections, &failures);
        fs::write(folder.join("report.md"), report)
            .with_context(|| format!("cannot write below {}", folder.display()))?;
    }
    let met = sections.iter().flat_map(|section| &section.targets).filter(|t| t.met).count();
    let all = sections.iter().map(|section| section.targets.len()).sum::<usize>();
    let report = folder.join("report.md");
    if json {
        let names: Vec<_> = failures.iter().map(|(name, _)| *name).collect();
        let line = serde_json::json!({
            "ok": failures.is_empty() && met == all, "experiments": sections.len(),
            "failed": names, "targets": all, "met": met, "report": report,
        });
        println!("{line}");
    } else {
        println!("\n{met} of {all} targets met. Report: {}", report.display());
    }
    if !failures.is_empty() {
        bail!("{} of {} experiments could not be measured", failures.len(), chosen.len());
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Experiment>> {
    if names.is_empty() {
        return Ok(EXPERIMENTS.iter().collect());
    }
    let find = |name: &String| {
        let known: Vec<_> = EXPERIMENTS.iter().map(|experiment| experiment.name).collect();
        experiments::by_name(name)
            .with_context(|| format!("no experiment \"{name}\": there are {}", known.join(", ")))
    };
    names.iter().map(find).collect()
}

fn say(section: &Section, json: bool) {
    if json {
        for line in section.json_lines() {
            println!("{line}");
        }
    } else {
        println!("\n{}", section.text());
    }
}

/// How it was measured, for the top of the report.
fn head(bench: &Bench) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "development" } else { "release" };
    let took = Duration::from_secs(bench.start.elapsed().as_secs());
    format!(
        "The experiments of *An Analysis of the Skype Peer-to-Peer Internet Telephony Protocol* \
         (Baset and Schulzrinne, 2006), with the built program behind real kernels' NATs in \
         network namespaces. `cooee lab paper{}`; {:.0} ms round trip between any two machines, \
         {} runs of what is repeated; {profile} build, {cores} cores, Linux {}, load {load} at \
         the end, {took:?} in all.",
        if bench.quick { " --quick" } else { "" },
        2.0 * bench.delay_ms,
        bench.runs,
        kernel.trim(),
    )
}
