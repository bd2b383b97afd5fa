//! What a call does when time passes: repeats, keep-alives, lost peers, lost media, ringing that
//! must stop. Late, early and stale time-outs are harmless: every deadline is compared anew.

use std::time::{Duration, Instant};

use super::{
    CallEvent, CallPhase, Direction, EndReason, TimerReason,
    leg::{LINGER, LOCAL_PARAMETERS_MAX, Leg, SUPERSEDED_MAX, Stage},
    machine::Call,
};
use crate::{clock::Now, identity::NodeId};

/// How long after the answer the first path may take. Chosen: all candidate pairs of two hosts
/// with relays have been tried by then.
const MEDIA_CONNECT_MAX: Duration = Duration::from_secs(20);
/// How long a path that was there may be looked for while signalling is there. Chosen: longer
/// than a change of network takes.
const MEDIA_DEAF_MAX: Duration = Duration::from_secs(30);

impl Call {
    /// The next moment at which [`Call::handle_timeout`] has something to do, and why.
    pub(super) fn next_timeout(&self) -> Option<(Instant, TimerReason)> {
        let legs = self.legs.values().flat_map(|leg| self.leg_deadlines(leg));
        legs.chain(self.call_deadlines()).min()
    }

    fn leg_deadlines(&self, leg: &Leg) -> impl Iterator<Item = (Instant, TimerReason)> {
        let is_chosen = self.chosen == Some(leg.node);
        let own = match leg.stage {
            Stage::Preparing => {
                Some((leg.since + LOCAL_PARAMETERS_MAX, TimerReason::LocalParameters))
            }
            Stage::Told | Stage::Ringing => Some((leg.silence_deadline(), TimerReason::Silence)),
            Stage::Superseded => Some((leg.since + SUPERSEDED_MAX, TimerReason::Silence)),
            Stage::Chosen if !leg.is_silent => Some((leg.silence_deadline(), TimerReason::Silence)),
            Stage::Chosen => None,
            Stage::Closing => Some((leg.since + LINGER, TimerReason::Linger)),
        };
        let restart = leg.media.restart_at.filter(|_| is_chosen && !self.is_over());
        [
            own,
            leg.repeat_deadline().map(|at| (at, TimerReason::Repeat)),
            leg.keep_alive_deadline().map(|at| (at, TimerReason::KeepAlive)),
            restart.map(|at| (at, TimerReason::Media)),
        ]
        .into_iter()
        .flatten()
    }

    fn call_deadlines(&self) -> impl Iterator<Item = (Instant, TimerReason)> {
        let phase = match self.phase {
            CallPhase::LookingUp => TimerReason::LookUp,
            CallPhase::Answering => TimerReason::Confirm,
            _ => TimerReason::Ring,
        };
        [
            self.phase_deadline.map(|at| (at, phase)),
            self.auto_answer_at.map(|at| (at, TimerReason::AutoAnswer)),
            self.media_deadline().map(|at| (at, TimerReason::Media)),
        ]
        .into_iter()
        .flatten()
    }

    /// When a talk without voice ends.
    fn media_deadline(&self) -> Option<Instant> {
        if !self.is_talking() || self.is_media_alive() {
            return None;
        }
        let bound = match self.deaf_since {
            Some(since) => since + MEDIA_DEAF_MAX,
            None => self.media_expected_at? + MEDIA_CONNECT_MAX,
        };
        // Deaf and without signalling: the peer is gone, there is nothing to wait for.
        let leg = self.chosen.and_then(|node| self.legs.get(&node))?;
        Some(if self.deaf_since.is_some() { bound.min(self.gone_at(leg)) } else { bound })
    }

    /// When a deaf call's peer counts as gone.
    fn gone_at(&self, leg: &Leg) -> Instant {
        let silent = leg.silence_deadline();
        self.deaf_since.map_or(silent, |deaf| silent.max(deaf))
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        let nodes: Vec<NodeId> = self.legs.keys().copied().collect();
        for node in nodes {
            self.handle_leg_timeout(now, node);
        }
        let at = now.instant;
        if self.auto_answer_at.is_some_and(|due| at >= due) {
            self.auto_answer_at = None;
            // Refused only if the phase has moved on, and then there is nothing to answer.
            let _ = self.answer(now);
        }
        if self.phase_deadline.is_some_and(|due| at >= due) {
            self.phase_deadline = None;
            let reason = match self.phase {
                CallPhase::LookingUp => EndReason::Unreachable,
                CallPhase::Answering => EndReason::ConnectionLost,
                _ => EndReason::NoAnswer,
            };
            self.end(now, reason, false, reason);
        }
        if self.media_deadline().is_some_and(|due| at >= due) {
            let leg = self.chosen.and_then(|node| self.legs.get(&node));
            let is_silent = leg.is_none_or(|leg| at >= leg.silence_deadline());
            let reason = if is_silent { EndReason::ConnectionLost } else { EndReason::MediaFailed };
            self.end(now, reason, false, reason);
        }
        self.flush(now);
    }

    fn handle_leg_timeout(&mut self, now: Now, node: NodeId) {
        let at = now.instant;
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.repeat_deadline().is_some_and(|due| at >= due) {
            for message in leg.repeat_due(at) {
                self.push_message(node, message);
            }
        }
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if let Some(message) = leg.keep_alive(at) {
            self.push_message(node, message);
        }
        let Some(leg) = self.legs.get_mut(&node) else { return };
        match leg.stage {
            Stage::Preparing if at >= leg.since + LOCAL_PARAMETERS_MAX => {
                self.fail_local_media(now, node);
            }
            Stage::Superseded if at >= leg.since + SUPERSEDED_MAX => {
                self.handle_leg_refused(now, node, EndReason::ConnectionLost);
            }
            Stage::Told | Stage::Ringing if at >= leg.silence_deadline() => match self.direction {
                Direction::Outgoing => self.refuse_leg(now, node, EndReason::Unreachable),
                Direction::Incoming => {
                    let reason = EndReason::ConnectionLost;
                    self.end(now, reason, false, reason);
                }
            },
            Stage::Chosen if at >= leg.silence_deadline() && !leg.is_silent => {
                leg.is_silent = true;
                self.event(CallEvent::SignallingLost { call: self.id });
            }
            Stage::Chosen if leg.media.restart_at.is_some_and(|due| at >= due) => {
                leg.media.restart_at = None;
                if !self.is_media_alive() {
                    self.restart_media(at, node);
                }
            }
            _ => {}
        }
    }

    /// The peer connection to a device is there again: says at once what may have been lost.
    pub(super) fn handle_connected(&mut self, now: Now, node: NodeId) {
        self.repeat(now, node);
    }

    fn repeat(&mut self, now: Now, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        for message in leg.repeat(now.instant) {
            self.push_message(node, message);
        }
    }

    /// No peer connection to a device can be had now. A leg that has not been heard is given up
    /// at once; any other has its own bounds.
    pub(super) fn handle_unreachable(&mut self, now: Now, node: NodeId, reason: EndReason) {
        let Some(leg) = self.legs.get(&node) else { return };
        if leg.heard_at.is_none() && leg.stage == Stage::Told {
            self.refuse_leg(now, node, reason);
        }
        self.flush(now);
    }
}
