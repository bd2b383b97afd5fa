//! The caller's side: look-up, one leg for each device of the callee, first answer wins.

use std::time::Duration;

use super::{
    CallId, CallPhase, CallsConfig, Direction, EndReason, LookUpFailure, Output, Relation,
    leg::{Leg, Stage},
    machine::Call,
    message,
    talk::TransferState,
};
use crate::{
    clock::Now,
    identity::{NodeId, UserName},
    wire::v1::{CallAnswer, CallConfirm, Invite, Ringing, call_message::Body},
};

/// Devices of one user that are rung. Chosen: each costs a media leg.
pub(crate) const LEGS_MAX: usize = 8;
/// How long a look-up may take. Chosen: above the search with its fall-back to the login server.
const LOOK_UP_MAX: Duration = Duration::from_secs(15);

impl Call {
    pub(super) fn place(
        now: Now,
        id: CallId,
        user: UserName,
        relation: Relation,
        config: &CallsConfig,
        transfer: TransferState,
    ) -> Self {
        let mut call = Self::new(now, id, Direction::Outgoing, user, relation);
        call.own_name = message::bounded_name(&config.display_name);
        call.phase_deadline = Some(now.instant + LOOK_UP_MAX);
        call.transfer = transfer;
        call.changed();
        call.outputs.push_back(Output::LookUp { call: id, user: call.user.clone() });
        call
    }

    /// Rings all devices that the look-up found.
    pub(super) fn handle_look_up(
        &mut self,
        now: Now,
        found: Result<Vec<NodeId>, LookUpFailure>,
        config: &CallsConfig,
    ) {
        if self.phase != CallPhase::LookingUp {
            return;
        }
        let devices = match found {
            Ok(devices) if !devices.is_empty() => devices,
            Err(LookUpFailure::UnknownUser) => {
                return self.end(now, EndReason::UnknownUser, false, EndReason::Cancelled);
            }
            _ => return self.end(now, EndReason::Unreachable, false, EndReason::Cancelled),
        };
        self.phase_deadline = Some(now.instant + config.ring_time);
        for node in devices.into_iter().take(LEGS_MAX) {
            if self.legs.contains_key(&node) {
                continue;
            }
            self.legs.insert(node, Leg::new(now.instant, node));
            self.outputs.push_back(Output::StartMedia {
                call: self.id,
                peer: node,
                controlling: true,
                relay_only: !self.is_revealed(node),
            });
        }
        self.enter(CallPhase::Calling);
    }

    /// The leg has its parameters: invites the device.
    pub(super) fn invite(&mut self, now: Now, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        leg.enter(now.instant, Stage::Told);
        let invite = Invite {
            transport: leg.media.local.clone(),
            media: leg.media.offer.clone(),
            display_name: self.own_name.clone(),
            referred_by: self.transfer.referred_by.clone(),
            replaces: self.transfer.presented.clone().into(),
        };
        self.send(now, node, Body::Invite(invite));
    }

    pub(super) fn handle_ringing(&mut self, now: Now, node: NodeId, ringing: Ringing) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if self.direction != Direction::Outgoing || leg.stage != Stage::Told {
            return;
        }
        let (Some(transport), Some(media)) = (ringing.transport, ringing.media) else { return };
        if !message::is_valid_transport(&transport) || !message::is_valid_media(&media) {
            return self.refuse_leg(now, node, EndReason::ProtocolError);
        }
        if !message::has_opus(&media) {
            return self.refuse_leg(now, node, EndReason::NoCommonCodec);
        }
        leg.enter(now.instant, Stage::Ringing);
        leg.media.remote_generation = Some(transport.generation);
        leg.media.remote_candidates = transport.candidates.len();
        self.outputs.push_back(Output::RemoteParameters {
            call: self.id,
            peer: node,
            transport,
            media: Some(media),
        });
        if self.phase == CallPhase::Calling {
            self.enter(CallPhase::RemoteRinging);
        }
    }

    pub(super) fn handle_answer(&mut self, now: Now, node: NodeId, answer: CallAnswer) {
        let is_ringing = self.legs.get(&node).is_some_and(|leg| leg.stage == Stage::Ringing);
        if self.direction != Direction::Outgoing || !is_ringing || self.chosen.is_some() {
            return;
        }
        let state = answer.state.unwrap_or_default();
        self.held_remotely = state.held;
        self.muted_remotely = state.muted;
        self.phase_deadline = None;
        let others: Vec<NodeId> = self.legs.keys().copied().filter(|n| *n != node).collect();
        let confirm = CallConfirm { state: Some(self.own_state()) };
        self.send(now, node, Body::Confirm(confirm));
        self.choose(now, node);
        for other in others {
            self.say_bye(now, other, EndReason::AnsweredElsewhere);
        }
        if let Some(of) = self.transfer.placed_for {
            self.requests.push_back(super::machine::Request::TransferOutcome { of, failed: None });
            self.transfer.placed_for = None;
        }
        self.enter(CallPhase::Active);
    }

    /// Ends one leg of several by our will.
    pub(super) fn refuse_leg(&mut self, now: Now, node: NodeId, reason: EndReason) {
        self.say_bye(now, node, reason);
        self.handle_leg_refused(now, node, reason);
    }

    /// A device of the callee dropped out before an answer.
    pub(super) fn handle_leg_refused(&mut self, now: Now, node: NodeId, reason: EndReason) {
        if reason == EndReason::Superseded && !self.is_over() {
            if let Some(leg) = self.legs.get_mut(&node) {
                leg.enter(now.instant, Stage::Superseded);
                if !std::mem::replace(&mut leg.media.is_stopped, true) {
                    self.outputs.push_back(Output::StopMedia { call: self.id, peer: node });
                }
            }
            return;
        }
        self.close_leg(now, node);
        if reason == EndReason::Declined {
            return self.end(now, reason, true, EndReason::DeclinedElsewhere);
        }
        if self.failure.is_none_or(|before| before.telling() < reason.telling()) {
            self.failure = Some(reason);
        }
        let is_open = |leg: &Leg| leg.stage != Stage::Closing;
        if !self.is_over() && self.chosen.is_none() && !self.legs.values().any(is_open) {
            let reason = self.failure.unwrap_or(EndReason::Unreachable);
            self.end(now, reason, true, reason);
        }
    }
}
