//! A call between two users of a deployment, as `cooee call` reports it.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use super::{Daemon, User};

/// How long a call may take to be answered.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// How long a call may take to end after its time.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// What call to place.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    /// Seconds of talk before the caller hangs up.
    pub talk_s: f64,
}

/// A call that goes on.
pub struct OngoingCall {
    process: Daemon,
    talk: Duration,
    ring_ms: Option<f64>,
    setup_ms: Option<f64>,
}

/// A call that is over.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// From dialling until it rang, as the caller's node saw it.
    pub ring_ms: Option<f64>,
    /// From dialling until it was answered.
    pub setup_ms: Option<f64>,
    /// From dialling until the caller's node had a voice path.
    pub voice_ms: Option<f64>,
    /// The call record.
    pub record: Value,
}

impl User<'_> {
    /// Calls somebody and stays until the talk is over.
    pub fn call(&self, to: &str, options: CallOptions) -> Result<CallReport> {
        self.start_call(to, options)?.finish()
    }

    /// Calls somebody and returns when it is answered.
    pub fn start_call(&self, to: &str, options: CallOptions) -> Result<OngoingCall> {
        let mut call = self.dial(to, options)?;
        call.wait_for_answer()?;
        Ok(call)
    }

    /// Calls somebody and returns at once.
    pub fn dial(&self, to: &str, options: CallOptions) -> Result<OngoingCall> {
        let talk = options.talk_s.to_string();
        let arguments = ["call", to, "--profile-dir", &self.profile, "--for", &talk];
        let name = format!("{}-calls-{to}", self.name);
        let process = self.deployment.daemon(&name, &self.host, &arguments)?;
        let talk = Duration::from_secs_f64(options.talk_s);
        Ok(OngoingCall { process, talk, ring_ms: None, setup_ms: None })
    }
}

impl OngoingCall {
    /// Waits until it rings at the other side; milliseconds since dialling, as the node saw it.
    pub fn wait_for_ringing(&mut self) -> Result<f64> {
        let ring_ms = self.process.wait_for("ringing", ANSWER_PATIENCE, |line| {
            (line["phase"] == "remote_ringing").then(|| line["since_dialled_ms"].as_f64()).flatten()
        })?;
        self.ring_ms = Some(ring_ms);
        Ok(ring_ms)
    }

    /// Waits until somebody has answered.
    pub fn wait_for_answer(&mut self) -> Result<()> {
        let ring_ms = &mut self.ring_ms;
        let setup_ms = self.process.wait_for("answer", ANSWER_PATIENCE, |line| {
            let since_dialled = line["since_dialled_ms"].as_f64();
            match line["phase"].as_str() {
                Some("remote_ringing") => *ring_ms = ring_ms.or(since_dialled),
                Some("active") => return since_dialled,
                _ => {}
            }
            None
        })?;
        self.setup_ms = Some(setup_ms);
        Ok(())
    }

    /// Hangs up before the time.
    pub fn hang_up(self) -> Result<CallReport> {
        self.process.signal(Signal::INT);
        self.finish()
    }

    /// Waits until the caller has hung up.
    pub fn finish(mut self) -> Result<CallReport> {
        let patience = self.talk + END_PATIENCE;
        let mut voice_ms = None;
        let record = self.process.wait_for("call record", patience, |line| {
            if line["event"] == "media_established" {
                voice_ms = voice_ms.or(line["since_dialled_ms"].as_f64());
            }
            (line["event"] == "recorded").then(|| line["record"].clone())
        })?;
        let status = self.process.wait(END_PATIENCE).context("cooee call does not end")?;
        anyhow::ensure!(status.success(), "cooee call ended with {status}");
        Ok(CallReport { ring_ms: self.ring_ms, setup_ms: self.setup_ms, voice_ms, record })
    }
}
