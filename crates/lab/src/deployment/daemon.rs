//! A program of ours that runs until told to end and says what happens as JSON lines.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Lines that may wait to be read; a program that says more than that waits.
const LINES_MAX: usize = 1024;

/// How long a program may take to end after SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How much of a log an error shows.
const LOG_LINES_SHOWN: usize = 12;

/// A running program; ended when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    /// Behind a lock only so that a network of daemons can be shared between threads.
    lines: Mutex<Receiver<Value>>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; what it says on standard error goes to `NAME.log` in `folder`.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let errors =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("standard output was piped")?;
        let (sender, lines) = sync_channel(LINES_MAX);
        thread::Builder::new().name(format!("reads {name}")).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Once a second in a call that may last: not worth a place in the queue.
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && value["event"] != "statistics"
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        })?;
        Ok(Self { name: name.to_owned(), child, lines: Mutex::new(lines), log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says something of which `wanted` makes a value; other lines are passed over.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(left) {
                Ok(line) => {
                    if let Some(value) = wanted(&line) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: no {what} within {patience:?}\n{}", self.name, self.log_end())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} ended before {what} ({status})\n{}", self.name, self.log_end())
                }
            }
        }
    }

    /// Everything that it has said and nobody has read.
    pub fn said(&mut self) -> Vec<Value> {
        self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).try_iter().collect()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} has not ended within {patience:?}\n{}", self.name, self.log_end());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits.
    pub fn end(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(END_PATIENCE)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        format!("{} says:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.end().is_err() {
            let _ = self.kill();
        }
    }
}
