//! The shipped program: two nodes in a network of its own.

use anyhow::Result;

use super::Call;
use crate::deployment::{CallOptions, Deployment, OngoingCall, User, UserOptions};

/// Longest call, in seconds.
const TALK_S: f64 = 600.0;

/// Two nodes, ready to call each other.
pub(crate) struct Cooee<'d> {
    alice: User<'d>,
    bob: User<'d>,
}

impl<'d> Cooee<'d> {
    /// Registers two users, called after their places, and starts their nodes on the rig's devices.
    pub(crate) fn start(deployment: &'d Deployment<'d>, processed: bool) -> Result<Self> {
        let (processing, suffix) = if processed { ("auto", "") } else { ("off", "-plain") };
        let user = |name: &str, answers| {
            let options = UserOptions {
                answers,
                microphone: Some(format!("device:{name}_mic")),
                speaker: Some(format!("device:{name}_speaker")),
                more: vec!["--processing".to_owned(), processing.to_owned()],
                ..UserOptions::default()
            };
            deployment.user(name, &format!("{name}{suffix}"), options)
        };
        Ok(Self { alice: user("alice", false)?, bob: user("bob", true)? })
    }

    /// The two programs.
    pub(crate) fn pids(&mut self) -> Vec<u32> {
        vec![self.alice.node().pid(), self.bob.node().pid()]
    }

    /// Calls.
    pub(crate) fn call(&mut self) -> Result<Box<dyn Call>> {
        let pids = self.pids();
        let call = self.alice.start_call(self.bob.name(), CallOptions { talk_s: TALK_S })?;
        Ok(Box::new(CooeeCall { call: Some(call), pids }))
    }
}

struct CooeeCall {
    call: Option<OngoingCall>,
    pids: Vec<u32>,
}

impl Call for CooeeCall {
    fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }
}

impl Drop for CooeeCall {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && let Err(error) = call.hang_up()
        {
            tracing::warn!("hanging up: {error:#}");
        }
    }
}
