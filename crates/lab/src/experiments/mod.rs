//! The paper's experiments, run again with the shipped program behind real NATs.
//!
//! Each is one function from a [`Bench`] to a [`Section`]; [`EXPERIMENTS`] lists them in the order
//! of the paper, and `cooee lab paper` runs them all.

mod blocked;
mod call;
mod census;
mod idle;
mod login;
mod media;
mod messages;
mod peers;
mod search;
mod stage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{report::Section, sandbox};

/// What an experiment has to work with.
#[derive(Debug)]
pub struct Bench {
    /// The program.
    pub program: PathBuf,
    /// Profiles, logs and recordings go below.
    pub folder: PathBuf,
    /// Pictures go here; none: none are drawn.
    pub pictures: Option<PathBuf>,
    /// Fewer and shorter runs.
    pub quick: bool,
    /// How often to repeat what is repeated.
    pub runs: usize,
    /// One-way delay between any two machines, in ms.
    pub delay_ms: f64,
    /// Says what goes on.
    pub is_talkative: bool,
    /// When it began.
    pub start: Instant,
}

impl Bench {
    /// Says what goes on.
    pub fn tell(&self, what: &str) {
        if self.is_talkative {
            eprintln!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
        }
    }

    /// The one or the other, by whether it shall be quick.
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A folder of its own for one network.
    fn folder_for(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// One experiment.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Bench) -> Result<Section>,
}

/// All of them, in the order of the paper.
pub const EXPERIMENTS: &[Experiment] = &[
    Experiment { name: "login", about: "Table I: time and bytes of a login", run: login::run },
    Experiment { name: "blocked", about: "Figure 3: everything blocked", run: blocked::run },
    Experiment { name: "messages", about: "Figure 4: messages of a login", run: messages::run },
    Experiment { name: "search", about: "Figures 5 to 7: search, caching", run: search::run },
    Experiment { name: "call", about: "Figures 8 to 11: call set-up and end", run: call::run },
    Experiment { name: "media", about: "packets, bandwidth, hold, frequencies", run: media::run },
    Experiment { name: "peers", about: "Table III: other telephones", run: peers::run },
    Experiment { name: "idle", about: "refresh messages, idle traffic", run: idle::run },
    Experiment { name: "census", about: "Table IV: the census of super nodes", run: census::run },
];

/// The experiment of this name.
pub fn by_name(name: &str) -> Option<&'static Experiment> {
    EXPERIMENTS.iter().find(|experiment| experiment.name == name)
}

/// Enters the sandbox and prepares a bench; the folder goes with the sandbox unless one is named.
pub fn bench(
    keep: Option<&PathBuf>,
    pictures: Option<&PathBuf>,
) -> Result<(Bench, tempfile::TempDir)> {
    let absolute = |path: &PathBuf| -> Result<PathBuf> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
    };
    let (keep, pictures) = (keep.map(absolute).transpose()?, pictures.map(absolute).transpose()?);
    sandbox::enter()?;
    let program = std::env::current_exe().context("cannot find the running program")?;
    let temporary = sandbox::folder()?;
    let bench = Bench {
        program,
        folder: keep.unwrap_or_else(|| temporary.path().to_owned()),
        pictures,
        quick: false,
        runs: 5,
        delay_ms: 50.0,
        is_talkative: true,
        start: Instant::now(),
    };
    Ok((bench, temporary))
}

/// The middle of some values; NaN of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// "12 (10 to 15)": median and range, without digits behind the point.
fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() < 2 || low.round() == high.round() {
        return number(median(values));
    }
    format!("{} ({} to {})", number(median(values)), number(low), number(high))
}

/// "12,345": rounded, with a comma for thousands; "-" if there is none.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if value <= -0.5 { format!("-{out}") } else { out }
}

/// Milliseconds of a duration.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(-12.0), "-12");
        assert_eq!(number(f64::NAN), "-");
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2 (1 to 3)");
        assert_eq!(spread(&[2.0]), "2");
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
    }
}
