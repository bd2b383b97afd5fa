//! Conversation and scores: the Python programs of `scripts/quality`, in an environment of their
//! own that is made when it is not there.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::rig::RATE_HZ;

const CONVERSATION: &str = include_str!("../../../../scripts/quality/conversation.py");
const SCORE: &str = include_str!("../../../../scripts/quality/score.py");
const REQUIREMENTS: &str = include_str!("../../../../scripts/quality/requirements.txt");

/// What scoring needs, ready to use.
#[derive(Debug, Clone)]
pub struct Tools {
    folder: PathBuf,
    python: PathBuf,
    conversation: Conversation,
}

/// `conversation.json`.
#[derive(Debug, Clone, Deserialize)]
struct Conversation {
    settle: u64,
    samples: u64,
}

/// Scores of one recording.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scores {
    /// Of each sentence.
    pub sentences: Vec<SentenceScores>,
}

/// Scores of one sentence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentenceScores {
    /// Who spoke.
    pub voice: String,
    /// PESQ, wideband.
    pub pesq: f64,
    /// ViSQOL, speech mode.
    pub visqol: f64,
    /// PLCMOS.
    pub plcmos: f64,
}

impl Scores {
    fn mean(&self, of: impl Fn(&SentenceScores) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.sentences.iter().map(of).collect();
        super::cell::mean_and_deviation(&values).map(|(mean, _)| mean)
    }

    /// Mean over the sentences.
    pub fn pesq(&self) -> Option<f64> {
        self.mean(|sentence| sentence.pesq)
    }

    /// Mean over the sentences.
    pub fn visqol(&self) -> Option<f64> {
        self.mean(|sentence| sentence.visqol)
    }

    /// Mean over the sentences.
    pub fn plcmos(&self) -> Option<f64> {
        self.mean(|sentence| sentence.plcmos)
    }
}

/// Makes the Python environment (once, in `cache`) and the conversation (in `folder`). Needs the
/// network the first time, so it comes before the sandbox.
pub fn prepare(
    cache: &Path,
    folder: &Path,
    sentences: usize,
    tell: &impl Fn(&str),
) -> Result<Tools> {
    let python = environment(cache, tell)?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("score.py"), SCORE)?;
    fs::write(folder.join("conversation.py"), CONVERSATION)?;
    let mut command = Command::new(&python);
    command.arg(folder.join("conversation.py")).arg(folder);
    command.args(["--sentences", &sentences.to_string()]);
    finish(command)?;
    Tools::open(cache, folder)
}

impl Tools {
    /// What [`prepare`] made.
    pub fn open(cache: &Path, folder: &Path) -> Result<Self> {
        let text = fs::read_to_string(folder.join("conversation.json"))?;
        let conversation = serde_json::from_str(&text)?;
        let python = cache.join("venv/bin/python");
        Ok(Self { folder: folder.to_owned(), python, conversation })
    }

    /// The sound to play.
    pub(super) fn conversation(&self) -> PathBuf {
        self.folder.join("conversation.raw")
    }

    /// How long both speak before anything counts.
    pub(super) fn settle(&self) -> Duration {
        Duration::from_secs(self.conversation.settle / u64::from(RATE_HZ))
    }

    /// How long they speak after that.
    pub(super) fn talk(&self) -> Duration {
        let samples = self.conversation.samples - self.conversation.settle;
        Duration::from_secs(samples / u64::from(RATE_HZ))
    }
}

/// The environment's Python.
fn environment(cache: &Path, tell: &impl Fn(&str)) -> Result<PathBuf> {
    let venv = cache.join("venv");
    let python = venv.join("bin/python");
    let done = venv.join("cooee-requirements.txt");
    if fs::read_to_string(&done).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(python);
    }
    tell(&format!("making {} with what measures quality; takes minutes, once", venv.display()));
    fs::create_dir_all(cache)?;
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    finish(make).context("python3 -m venv (scripts/install-dependencies voice)")?;
    let list = cache.join("requirements.txt");
    fs::write(&list, REQUIREMENTS)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    install.arg(&list);
    finish(install)?;
    fs::write(done, REQUIREMENTS)?;
    Ok(python)
}

fn finish(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The scoring program at work; ends when dropped.
pub(super) struct Scorer {
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    child: Child,
}

impl Scorer {
    pub(super) fn start(tools: &Tools) -> Result<Self> {
        let log = fs::File::create(tools.folder.join("score.log"))?;
        // It must not disturb the calls that go on meanwhile.
        let mut child = Command::new("chrt")
            .args(["--other", "0", "nice", "-n", "15"])
            .arg(&tools.python)
            .arg(tools.folder.join("score.py"))
            .arg(&tools.folder)
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the scoring program")?;
        let input = child.stdin.take().context("standard input was piped")?;
        let output = BufReader::new(child.stdout.take().context("standard output was piped")?);
        Ok(Self { pipes: Mutex::new((input, output)), child })
    }

    pub(super) fn score(&self, recording: &Path) -> Result<Scores> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{}", recording.display())?;
        let mut line = String::new();
        pipes.1.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the scoring program ended; see score.log");
        let answer: serde_json::Value = serde_json::from_str(&line)?;
        if let Some(problem) = answer["error"].as_str() {
            bail!("scoring: {problem}");
        }
        Ok(serde_json::from_value(answer)?)
    }
}

impl Drop for Scorer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
