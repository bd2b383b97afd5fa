//! One call of one peer on one condition: what was measured.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    condition::{Condition, SPIKE_S},
    peers::{Call, HOSTS, Kind, Stage},
    rig::{RATE_HZ, read},
    score::{Scores, Tools},
    usage,
};
use crate::{emulator::LinkHandle, measure::measure, topology::LinkConfig};

/// One measured call.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Who.
    #[serde(skip)]
    pub peer: Kind,
    /// On what.
    pub condition: String,
    /// The how-manieth time, from 0.
    pub run: usize,
    /// Mean and standard deviation of the delay over the windows with speech, both directions.
    pub mouth_to_ear_ms: Option<(f64, f64)>,
    /// Of every sentence.
    pub scores: Option<Scores>,
    /// Bytes a second in one direction, from the IP header on.
    pub bytes_per_s: Option<f64>,
    /// Processor time of one program in percent of a core.
    pub cpu_percent: Option<f64>,
    /// Memory of one program.
    pub rss_mib: Option<f64>,
    /// Runnable processes of the machine while it ran (load average of a minute).
    pub load: Option<f64>,
    /// Why something is missing.
    pub problem: Option<String>,
    /// The recording.
    #[serde(skip)]
    pub recording: Option<PathBuf>,
}

impl Cell {
    pub(super) fn new(peer: Kind, condition: &Condition, run: usize) -> Self {
        Self {
            peer,
            condition: condition.name.clone(),
            run,
            mouth_to_ear_ms: None,
            scores: None,
            bytes_per_s: None,
            cpu_percent: None,
            rss_mib: None,
            load: None,
            problem: None,
            recording: None,
        }
    }

    /// A name for files and logs.
    pub(super) fn title(&self) -> String {
        format!("{}-{}-{}", self.peer.name(), self.condition, self.run + 1)
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!("{}: {problem}", self.title());
        }
        let number = |value: Option<f64>, digits| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        format!(
            "{:<28} {:>6} ms, PESQ {}, {:>6} B/s, {} % of a core",
            self.title(),
            number(self.mouth_to_ear_ms.map(|(mean, _)| mean), 1),
            number(self.scores.as_ref().and_then(Scores::pesq), 2),
            number(self.bytes_per_s, 0),
            number(self.cpu_percent, 1),
        )
    }

    /// Has the conversation over the call and measures.
    pub(super) fn measure(
        &mut self,
        stage: &Stage<'_>,
        call: &dyn Call,
        condition: &Condition,
        tools: &Tools,
        recording: &Path,
    ) -> Result<()> {
        let link = stage.network.link(HOSTS[0]).context("Alice's link is emulated")?;
        link.set(condition.link);
        let (settle, pids) = (tools.settle(), call.pids());
        let over = AtomicBool::new(false);
        let used = thread::scope(|scope| {
            let (over, pids) = (&over, pids.as_slice());
            if condition.spiky {
                scope.spawn(move || spikes(link, condition.link, over));
            }
            let (told, began) = std::sync::mpsc::channel();
            let watch = scope.spawn(move || -> Result<_> {
                began.recv()?;
                thread::sleep(settle);
                let before = Reading::take(link, pids)?;
                thread::sleep(tools.talk());
                Reading::take(link, pids)?.since(&before)
            });
            let played = stage.rig.play(&tools.conversation(), recording, || {
                let _ = told.send(());
            });
            over.store(true, Ordering::Relaxed);
            drop(told);
            played.and(watch.join().expect("does not panic"))
        })?;
        self.bytes_per_s = Some(used.bytes_per_s);
        self.cpu_percent = Some(used.cpu_percent);
        self.rss_mib = Some(used.rss_mib);
        self.take_recording(tools, recording)
    }

    /// Delays of the recording, without the part in which the call settles.
    pub(super) fn take_recording(&mut self, tools: &Tools, recording: &Path) -> Result<()> {
        let channels = read(recording)?;
        let from = tools.settle().as_secs() as usize * RATE_HZ as usize;
        let from = from.min(channels[0].len());
        let mut delays = Vec::new();
        for direction in channels.chunks_exact(2) {
            let report = measure(&direction[0][from..], &direction[1][from..], RATE_HZ);
            delays.extend(report.delays().map(|(_, ms)| ms));
        }
        self.mouth_to_ear_ms = mean_and_deviation(&delays);
        self.recording = Some(recording.to_owned());
        let load = std::fs::read_to_string("/proc/loadavg")?;
        self.load = load.split_whitespace().next().and_then(|first| first.parse().ok());
        Ok(())
    }

    pub(super) fn take_scores(&mut self, scores: Result<Scores>) {
        match scores {
            Ok(scores) => self.scores = Some(scores),
            Err(error) => self.problem = Some(format!("{error:#}")),
        }
    }
}

/// Mean and standard deviation, if there are any values.
#[allow(clippy::cast_precision_loss)]
pub(super) fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (!values.is_empty()).then(|| (mean, variance.sqrt()))
}

/// Makes the link good and bad by turns, good first.
fn spikes(link: &LinkHandle, bad: LinkConfig, over: &AtomicBool) {
    let mut next = Instant::now();
    let mut is_bad = true;
    while !over.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            is_bad = !is_bad;
            link.set(if is_bad { bad } else { LinkConfig::default() });
            next += Duration::from_secs_f64(SPIKE_S);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Counters at one moment.
struct Reading {
    at: Instant,
    bytes: u64,
    usage: Vec<usage::Usage>,
}

/// What was used between two moments.
struct Used {
    bytes_per_s: f64,
    cpu_percent: f64,
    rss_mib: f64,
}

impl Reading {
    fn take(link: &LinkHandle, pids: &[u32]) -> Result<Self> {
        let bytes = link.counts().iter().map(|counts| counts.bytes).sum();
        let usage = pids.iter().map(|pid| usage::of_tree(*pid)).collect::<Result<_>>()?;
        Ok(Self { at: Instant::now(), bytes, usage })
    }

    #[allow(clippy::cast_precision_loss)]
    fn since(&self, before: &Self) -> Result<Used> {
        let seconds = (self.at - before.at).as_secs_f64();
        let programs = self.usage.len().max(1) as f64;
        let pairs = self.usage.iter().zip(&before.usage);
        let cpu_s: f64 = pairs.map(|(now, then)| now.cpu_s - then.cpu_s).sum();
        Ok(Used {
            bytes_per_s: (self.bytes - before.bytes) as f64 / 2.0 / seconds,
            cpu_percent: 100.0 * cpu_s / programs / seconds,
            rss_mib: self.usage.iter().map(|usage| usage.rss_mib).sum::<f64>() / programs,
        })
    }
}
