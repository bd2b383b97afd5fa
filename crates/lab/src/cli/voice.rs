//! `cooee lab voice`.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    sandbox,
    voice::{self, Condition, Kind, Tools, VoicePlan},
};

/// `cooee lab voice`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee lab voice --quick                                  two minutes: is everything in place?
  cooee lab voice --main --runs 5                          what has targets; about four hours
  cooee lab voice --main --runs 5 --sentences 2 --rigs 2 --peers rig,cooee,baresip,chromium
                                                           the same in short; about 35 minutes
  cooee lab voice --peers cooee,chromium --conditions quiet,loss-10

Needs PulseAudio, speech and the other telephones: scripts/install-dependencies voice. The first
time it makes a Python environment with PESQ, ViSQOL and PLCMOS. Run it on a machine that does
nothing else: a run in which the rig itself is disturbed is tried again, and left out in the end.")]
pub struct VoiceArgs {
    /// Networks, with commas between; all by default
    #[arg(long, value_delimiter = ',', value_name = "CONDITION")]
    conditions: Vec<String>,
    /// Only the networks that have targets
    #[arg(long, conflicts_with = "conditions")]
    main: bool,
    /// Telephones, with commas between; all by default
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<String>,
    /// Calls of each on each
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    runs: usize,
    /// One sentence each way, three conditions
    #[arg(long)]
    quick: bool,
    /// Sentences in each call, Alice's and Bob's by turns
    #[arg(long, default_value_t = 6, value_name = "COUNT")]
    sentences: usize,
    /// Calls at the same time, each with a sound server and a network of its own
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    rigs: usize,
    /// Write the report, its pictures, logs and recordings to this folder
    #[arg(long, default_value = "voice-report", value_name = "FOLDER")]
    out: PathBuf,
}

/// Programs that the rig needs, and the packages that have them.
const TOOLS: [(&str, &str); 3] =
    [("pulseaudio", "pulseaudio"), ("parec", "pulseaudio-utils"), ("python3", "python3-venv")];

pub(super) fn run(arguments: &VoiceArgs, json: bool) -> Result<()> {
    let mut plan = plan(arguments)?;
    let tell = |text: &str| eprintln!("{text}");
    if let Some((tool, package)) = TOOLS.into_iter().find(|(tool, _)| !is_installed(tool)) {
        bail!("{tool} is missing: scripts/install-dependencies voice (package {package})");
    }
    leave_out_missing(&mut plan, |text| {
        if !sandbox::is_inside() {
            tell(text);
        }
    });
    std::fs::create_dir_all(&arguments.out)?;
    let out = arguments.out.canonicalize()?;
    let cache = cache()?;
    let conversation = out.join("conversation");
    if !sandbox::is_inside() {
        let sentences = if arguments.quick { 2 } else { arguments.sentences.clamp(2, 6) };
        voice::prepare(&cache, &conversation, sentences, &tell)?;
    }
    sandbox::enter()?;
    let tools = Tools::open(&cache, &conversation)?;
    let program = env::current_exe().context("cannot find the running program")?;
    // Written after each call: whoever breaks it off keeps what there is.
    let write = |cells: &[voice::Cell]| voice::write_report(&plan, cells, &out);
    let cells = voice::run(&plan, &tools, &program, &out, &tell, write)?;
    let figures = voice::figures(&cells, &plan.conditions);
    if json {
        figures.iter().for_each(|figures| println!("{}", figures.json()));
    } else {
        print!("{}", std::fs::read_to_string(out.join("voice.md"))?);
    }
    tell(&format!("report and pictures: {}", out.join("voice.md").display()));
    if figures.iter().any(|figures| figures.runs.0 == 0) {
        bail!("not every call could be measured");
    }
    Ok(())
}

fn plan(arguments: &VoiceArgs) -> Result<VoicePlan> {
    let all = voice::conditions();
    let wanted = |condition: &Condition| {
        let quick = ["quiet", "jitter-30", "loss-10"].contains(&condition.name.as_str());
        match (arguments.conditions.is_empty(), arguments.main, arguments.quick) {
            (false, ..) => arguments.conditions.contains(&condition.name),
            (true, true, _) => condition.main,
            (true, false, quickly) => quick || !quickly,
        }
    };
    let names: Vec<_> = all.iter().map(|condition| condition.name.as_str()).collect();
    if let Some(name) = arguments.conditions.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("no condition \"{name}\"; there are {}", names.join(", "));
    }
    let peers = if arguments.peers.is_empty() {
        Kind::ALL.to_vec()
    } else {
        let find = |name: &String| Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let known = Kind::ALL.map(Kind::name).join(", ");
        let peer =
            |name| find(name).with_context(|| format!("no peer \"{name}\"; there are {known}"));
        arguments.peers.iter().map(peer).collect::<Result<_>>()?
    };
    let conditions = all.iter().filter(|condition| wanted(condition)).cloned().collect();
    Ok(VoicePlan { conditions, peers, runs: arguments.runs.max(1), rigs: arguments.rigs })
}

fn leave_out_missing(plan: &mut VoicePlan, tell: impl Fn(&str)) {
    plan.peers.retain(|peer| match peer.needs() {
        Some((program, package)) if !is_installed(program) => {
            tell(&format!("without {}: apt-get install {package}", peer.name()));
            false
        }
        _ => true,
    });
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// Where the Python environment is kept.
fn cache() -> Result<PathBuf> {
    let home = || Some(Path::new(&env::var_os("HOME")?).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("cooee/quality"))
}
