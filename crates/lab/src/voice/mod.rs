//! Voice compared: sound quality and mouth-to-ear delay of several telephones on several networks,
//! end to end, with the same devices, the same links and the same measuring.
//!
//! ```text
//!   conversation ─▶ rig (sound server) ─▶ peer ─ emulated link ─ peer ─▶ rig ─▶ recording
//!                                                                                  │
//!       PESQ, ViSQOL, PLCMOS of each sentence, delay of each 2 s, bytes, CPU ◀─────┘
//! ```
//! Each run begins with the rig alone. Where that is worse than [`RIG_PESQ_MIN`] the machine was
//! too busy to say anything of telephones: it is tried again after a pause, and a run whose rig
//! stays bad is left out.
//!
//! A *cell* is one call of one peer on one condition. Cells are independent: every call is new, and
//! the link is made bad only when the call is up.

mod cell;
mod condition;
mod figures;
pub(crate) mod peers;
mod report;
pub(crate) mod rig;
mod score;
pub(crate) mod usage;

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::{Mutex, PoisonError, mpsc::Sender},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

pub use self::{
    cell::Cell,
    condition::{Condition, all as conditions},
    figures::{Figures, Spread, figures},
    peers::Kind,
    report::write as write_report,
    score::{Tools, prepare},
};
use self::{
    peers::{Baresip, Call, Chromium, Cooee, HOSTS, Stage},
    rig::Rig,
    score::Scorer,
};
use crate::{
    deployment::{Deployment, DeploymentPlan},
    network::Network,
    topology::{Family, Host, LinkConfig, Topology},
};

/// What the rig itself scores on a machine that keeps up (measured: 4.64).
const RIG_PESQ_MIN: f64 = 4.6;

/// So often a disturbed rig is tried, with pauses between.
const RIG_ATTEMPTS: usize = 4;
const RIG_PAUSE: Duration = Duration::from_secs(15);

/// What to compare.
#[derive(Debug, Clone)]
pub struct VoicePlan {
    /// The networks.
    pub conditions: Vec<Condition>,
    /// The telephones.
    pub peers: Vec<Kind>,
    /// Calls of each on each.
    pub runs: usize,
    /// Rigs at work at the same time.
    pub rigs: usize,
}

/// One call to make.
#[derive(Debug, Clone)]
struct Job {
    run: usize,
    condition: Condition,
    peer: Kind,
}

/// Makes every call and scores it, inside the sandbox. `tell` hears of each step, `each` of all
/// that is measured so far.
pub fn run(
    plan: &VoicePlan,
    tools: &Tools,
    program: &Path,
    folder: &Path,
    tell: &(impl Fn(&str) + Sync),
    mut each: impl FnMut(&[Cell]) -> Result<()>,
) -> Result<Vec<Cell>> {
    let mut jobs = VecDeque::new();
    for run in 0..plan.runs {
        for condition in &plan.conditions {
            // The rig is measured on the quiet network alone: no packet of its is sent.
            let peers = plan.peers.iter().filter(|p| **p != Kind::Rig || condition.name == "quiet");
            jobs.extend(peers.map(|&peer| Job { run, condition: condition.clone(), peer }));
        }
    }
    let total = jobs.len();
    let jobs = Mutex::new(jobs);
    let scorer = Scorer::start(tools)?;
    let disturbed = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        let (sender, cells) = std::sync::mpsc::channel();
        for index in 0..plan.rigs.clamp(1, total.max(1)) {
            let (jobs, sender) = (&jobs, sender.clone());
            let (scorer, disturbed) = (&scorer, &disturbed);
            let place = folder.join(format!("rig{index}"));
            scope.spawn(move || {
                let name = format!("v{index}");
                let work = Work { tools, program, folder: &place, name: &name, scorer, disturbed };
                if let Err(error) = work.run(jobs, &sender, tell) {
                    tell(&format!("rig {index}: {error:#}"));
                }
            });
        }
        drop(sender);
        let mut done = Vec::new();
        for mut cell in cells {
            if let Some(recording) = cell.recording.clone().filter(|_| cell.scores.is_none()) {
                cell.take_scores(scorer.score(&recording));
            }
            done.push(cell);
            each(&done)?;
            tell(&format!("{} of {total}: {}", done.len(), done[done.len() - 1].summary()));
        }
        Ok(done)
    })
}

/// One rig's share of the work.
struct Work<'a> {
    tools: &'a Tools,
    program: &'a Path,
    folder: &'a Path,
    name: &'a str,
    scorer: &'a Scorer,
    /// Runs that say nothing.
    disturbed: &'a Mutex<BTreeSet<usize>>,
}

impl Work<'_> {
    fn run(
        &self,
        jobs: &Mutex<VecDeque<Job>>,
        cells: &Sender<Cell>,
        tell: &(impl Fn(&str) + Sync),
    ) -> Result<()> {
        // What an earlier run left would be in the way.
        let _ = std::fs::remove_dir_all(self.folder);
        let rig = Rig::start(&self.folder.join("pulse"))?;
        let network = Network::up(&topology(), self.name)?;
        let stage = Stage { rig: &rig, network: &network };
        let plan = DeploymentPlan {
            login_server: "login".to_owned(),
            super_nodes: vec!["sn1".to_owned()],
            super_node_port: None,
            well_known_ports: false,
        };
        let deployment = Deployment::start(&stage, self.program, self.folder, plan, |_| {})?;
        let mut cooee: [Option<Cooee<'_>>; 2] = [None, None];
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(job) = job else { return Ok(()) };
            if self.disturbed.lock().unwrap_or_else(PoisonError::into_inner).contains(&job.run) {
                let mut cell = Cell::new(job.peer, &job.condition, job.run);
                cell.problem = Some("left out: the rig was disturbed in this run".to_owned());
                let _ = cells.send(cell);
                continue;
            }
            let nodes = &mut cooee[usize::from(job.peer == Kind::CooeePlain)];
            if matches!(job.peer, Kind::Cooee | Kind::CooeePlain) && nodes.is_none() {
                *nodes = Some(Cooee::start(&deployment, job.peer == Kind::Cooee)?);
            }
            let cell = match job.peer {
                Kind::Rig => self.rig_cell(&stage, &job, tell),
                _ => self.cell(&stage, &job, nodes.as_mut()),
            };
            if let Some(problem) = &cell.problem {
                tell(&format!("{}: {problem}", cell.title()));
            }
            let _ = cells.send(cell);
        }
    }

    /// Measures the rig alone until it is undisturbed.
    fn rig_cell(&self, stage: &Stage<'_>, job: &Job, tell: &(impl Fn(&str) + Sync)) -> Cell {
        let mut attempt = 1;
        loop {
            let mut cell = self.cell(stage, job, None);
            if let Some(recording) = &cell.recording {
                let scores = self.scorer.score(recording);
                cell.take_scores(scores);
            }
            let pesq = cell.scores.as_ref().and_then(score::Scores::pesq).unwrap_or(0.0);
            if pesq >= RIG_PESQ_MIN {
                return cell;
            }
            let problem = format!("the rig alone has PESQ {pesq:.2}: this machine is too busy");
            tell(&format!("run {}, attempt {attempt}: {problem}", job.run + 1));
            if attempt == RIG_ATTEMPTS {
                self.disturbed.lock().unwrap_or_else(PoisonError::into_inner).insert(job.run);
                let mut nothing = Cell::new(job.peer, &job.condition, job.run);
                nothing.problem = Some(problem);
                return nothing;
            }
            attempt += 1;
            thread::sleep(RIG_PAUSE);
        }
    }

    fn cell(&self, stage: &Stage<'_>, job: &Job, cooee: Option<&mut Cooee<'_>>) -> Cell {
        let mut cell = Cell::new(job.peer, &job.condition, job.run);
        let recording = self.folder.join(format!("{}.raw", cell.title()));
        let link = stage.network.link(HOSTS[0]);
        let reset = || link.inspect(|link| link.set(LinkConfig::default()));
        reset();
        let outcome = if job.peer == Kind::Rig {
            self.loop_back(stage, &mut cell, &recording)
        } else {
            self.start(stage, job, cooee).and_then(|call| {
                stage.wait_for_voice()?;
                cell.measure(stage, call.as_ref(), &job.condition, self.tools, &recording)
            })
        };
        reset();
        if let Err(error) = outcome {
            cell.problem = Some(format!("{error:#}"));
        }
        cell
    }

    fn start(
        &self,
        stage: &Stage<'_>,
        job: &Job,
        cooee: Option<&mut Cooee<'_>>,
    ) -> Result<Box<dyn Call>> {
        match job.peer {
            Kind::Rig | Kind::Cooee | Kind::CooeePlain => {
                cooee.context("nodes have been started")?.call()
            }
            Kind::Baresip => Baresip::call(stage, self.folder, false),
            Kind::BaresipTuned => Baresip::call(stage, self.folder, true),
            Kind::Chromium => Chromium::call(stage, self.folder),
        }
    }

    fn loop_back(&self, stage: &Stage<'_>, cell: &mut Cell, recording: &Path) -> Result<()> {
        let modules = stage.rig.loop_back()?;
        let played = stage.rig.play(&self.tools.conversation(), recording, || {});
        stage.rig.end_loop(&modules)?;
        played?;
        cell.take_recording(self.tools, recording)
    }
}

/// The hosts of a rig, each at a public address.
pub(crate) fn topology() -> Topology {
    let host = |name: &str| Host {
        name: name.to_owned(),
        behind: None,
        family: Family::Ipv4,
        link: (name == HOSTS[0]).then(LinkConfig::default),
    };
    let hosts = HOSTS.iter().map(|name| host(name)).collect();
    Topology { name: "voice".to_owned(), seed: 1, gateways: Vec::new(), hosts }
}
