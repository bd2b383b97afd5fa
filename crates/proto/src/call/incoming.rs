//! The callee's side: ring, answer, decline.

use std::time::Duration;

use super::{
    AutoAnswer, CallEvent, CallId, CallPhase, CallsConfig, CommandError, Direction, Output,
    Relation, Remote,
    leg::{Leg, Stage},
    machine::Call,
    message,
};
use crate::{
    clock::Now,
    identity::NodeId,
    wire::v1::{CallAnswer, CallConfirm, CallMessage, Ringing, call_message::Body},
};

/// Longest ringing at the callee; the caller's own time-out is shorter. Chosen.
const RING_MAX: Duration = Duration::from_secs(120);
/// How long the caller may take to confirm the answer. Chosen: above the loss and return of a
/// connection.
const CONFIRM_MAX: Duration = Duration::from_secs(15);

impl Call {
    /// A call that arrived with a checked invitation.
    pub(super) fn ring(
        now: Now,
        id: CallId,
        from: &Remote,
        message: CallMessage,
        config: &CallsConfig,
    ) -> Self {
        let mut call = Self::new(now, id, Direction::Incoming, from.user.clone(), from.relation);
        let mut leg = Leg::new(now.instant, from.node);
        let body = leg.receive(now.instant, message);
        let Some(Body::Invite(invite)) = body else { return call };
        call.display_name = message::shown_name(&invite.display_name);
        call.phase_deadline = Some(now.instant + RING_MAX);
        call.auto_answer_at = match config.auto_answer {
            AutoAnswer::Everybody(after) => Some(now.instant + after),
            AutoAnswer::Buddies(after) if from.relation == Relation::MutualBuddy => {
                Some(now.instant + after)
            }
            _ => None,
        };
        call.outputs.push_back(Output::StartMedia {
            call: id,
            peer: from.node,
            controlling: false,
            relay_only: from.relation != Relation::MutualBuddy,
        });
        if let Some(transport) = invite.transport {
            leg.media.remote_generation = Some(transport.generation);
            leg.media.remote_candidates = transport.candidates.len();
            call.outputs.push_back(Output::RemoteParameters {
                call: id,
                peer: from.node,
                transport,
                media: invite.media,
            });
        }
        call.legs.insert(from.node, leg);
        let summary = call.summary();
        call.event(CallEvent::Incoming(summary));
        call.flush(now);
        call
    }

    /// The leg has its parameters: tells the caller that it rings, or already answers.
    pub(super) fn tell_ringing(&mut self, now: Now, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        let ringing =
            Ringing { transport: leg.media.local.clone(), media: leg.media.offer.clone() };
        leg.enter(now.instant, Stage::Told);
        self.send(now, node, Body::Ringing(ringing));
        if self.phase == CallPhase::Answering {
            self.tell_answer(now, node);
        }
    }

    /// The local user accepts.
    pub(super) fn answer(&mut self, now: Now) -> Result<(), CommandError> {
        if self.phase != CallPhase::Ringing {
            return Err(CommandError::WrongPhase(self.phase));
        }
        let Some((&node, leg)) = self.legs.first_key_value() else {
            return Err(CommandError::UnknownCall);
        };
        let is_told = leg.stage == Stage::Told;
        self.phase_deadline = Some(now.instant + CONFIRM_MAX);
        self.auto_answer_at = None;
        self.enter(CallPhase::Answering);
        if is_told {
            self.tell_answer(now, node);
        }
        Ok(())
    }

    fn tell_answer(&mut self, now: Now, node: NodeId) {
        let answer = CallAnswer { state: Some(self.own_state()) };
        self.send(now, node, Body::Answer(answer));
        self.choose(now, node);
    }

    pub(super) fn handle_confirm(&mut self, _now: Now, node: NodeId, confirm: CallConfirm) {
        if self.direction != Direction::Incoming
            || self.phase != CallPhase::Answering
            || self.chosen != Some(node)
        {
            return;
        }
        let state = confirm.state.unwrap_or_default();
        self.held_remotely = state.held;
        self.muted_remotely = state.muted;
        self.phase_deadline = None;
        if state.held {
            self.voice();
        }
        self.enter(CallPhase::Active);
    }
}
