//! Media parameters, candidates and ICE restarts of the legs (RFC 8445, RFC 8838, RFC 8839).
//!
//! An ICE restart is offered in an `Update` with the next generation and answered with the same
//! generation. When both sides offer at once, the caller's offer stands: the callee answers it
//! with the parameters it has just offered.

use std::time::{Duration, Instant};

use super::{
    CallEvent, CallPhase, CommandError, Direction, EndReason, MediaState, Output,
    leg::Stage,
    machine::Call,
    message::{self, CANDIDATES_IN_PARAMETERS_MAX, CANDIDATES_MAX},
};
use crate::{
    clock::Now,
    identity::NodeId,
    wire::v1::{
        CallUpdate, CandidateAdded, IceCandidate, MediaOffer, TransportParameters,
        call_message::Body,
    },
};

/// Time between ICE restarts while a path is looked for. Chosen: a restart over a relay with
/// 300 ms of round trip is through in two seconds.
pub(crate) const RESTART_INTERVAL: Duration = Duration::from_secs(8);

impl Call {
    /// The media transport of a leg is ready to be described to the peer.
    pub(super) fn handle_local_parameters(
        &mut self,
        now: Now,
        node: NodeId,
        mut transport: TransportParameters,
        offer: MediaOffer,
    ) {
        let is_revealed = self.is_revealed(node);
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.stage == Stage::Closing || leg.media.is_stopped {
            return;
        }
        let media = &mut leg.media;
        let is_first = media.local.is_none();
        if !is_first && media.local.as_ref().is_some_and(|l| l.generation >= transport.generation) {
            return;
        }
        transport.candidates.append(&mut media.held_back);
        transport.candidates.retain(|c| is_revealed || message::is_relayed(c));
        transport.candidates.truncate(CANDIDATES_IN_PARAMETERS_MAX);
        media.local_candidates = transport.candidates.len();
        media.local = Some(transport);
        media.offer = Some(offer);
        match (is_first, self.direction) {
            (true, Direction::Outgoing) => self.invite(now, node),
            (true, Direction::Incoming) => self.tell_ringing(now, node),
            (false, _) => self.tell_restart(now, node),
        }
        self.flush(now);
    }

    /// The media transport of a leg found one more candidate.
    pub(super) fn handle_local_candidate(
        &mut self,
        now: Now,
        node: NodeId,
        generation: u32,
        candidate: IceCandidate,
    ) {
        let is_revealed = self.is_revealed(node);
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.media.local_candidates >= CANDIDATES_MAX
            || !(is_revealed || message::is_relayed(&candidate))
            || !message::is_valid_candidate(&candidate)
        {
            return;
        }
        match (&leg.media.local, leg.stage) {
            (_, Stage::Closing | Stage::Superseded) => {}
            (None, _) if leg.media.held_back.len() < CANDIDATES_IN_PARAMETERS_MAX => {
                leg.media.held_back.push(candidate);
            }
            (Some(local), _) if local.generation == generation => {
                leg.media.local_candidates += 1;
                let added = CandidateAdded { generation, candidate: Some(candidate) };
                self.send(now, node, Body::Candidate(added));
            }
            _ => {}
        }
        self.flush(now);
    }

    pub(super) fn handle_candidate(&mut self, node: NodeId, added: CandidateAdded) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        let Some(candidate) = added.candidate else { return };
        if leg.media.remote_generation != Some(added.generation)
            || leg.media.remote_candidates >= CANDIDATES_MAX
            || !message::is_valid_candidate(&candidate)
        {
            return;
        }
        leg.media.remote_candidates += 1;
        self.outputs.push_back(Output::RemoteCandidate { call: self.id, peer: node, candidate });
    }

    /// The transport of a leg came up, went deaf or failed.
    pub(super) fn handle_media_state(&mut self, now: Now, node: NodeId, state: MediaState) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.stage == Stage::Closing || leg.media.state == Some(state) {
            return;
        }
        leg.media.state = Some(state);
        if state == MediaState::Alive {
            leg.media.restart_at = None;
        }
        if self.chosen != Some(node) || self.is_over() {
            return;
        }
        if state == MediaState::Alive {
            self.media_was_alive = true;
            self.deaf_since = None;
            self.event(CallEvent::MediaEstablished { call: self.id });
        } else {
            if self.media_was_alive && self.deaf_since.is_none() {
                self.deaf_since = Some(now.instant);
                self.event(CallEvent::MediaInterrupted { call: self.id });
            }
            self.restart_media(now.instant, node);
        }
        self.flush(now);
    }

    /// Looks for a new path, for instance after the network changed.
    pub(super) fn restart(&mut self, now: Now) -> Result<(), CommandError> {
        match self.chosen {
            Some(node) if self.phase == CallPhase::Active => {
                self.restart_media(now.instant, node);
                Ok(())
            }
            _ => Err(CommandError::WrongPhase(self.phase)),
        }
    }

    pub(super) fn restart_media(&mut self, now: Instant, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        let media = &mut leg.media;
        // A restart needs parameters of both sides to replace.
        let (Some(local), Some(remote)) = (&media.local, media.remote_generation) else { return };
        let before = local.generation.max(remote).max(media.restarting.unwrap_or(0));
        let Some(generation) = before.checked_add(1) else { return };
        media.restarting = Some(generation);
        media.restart_at = Some(now + RESTART_INTERVAL);
        self.outputs.push_back(Output::RestartMedia { call: self.id, peer: node, generation });
    }

    fn tell_restart(&mut self, now: Now, node: NodeId) {
        let state = self.own_state();
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.stage == Stage::Superseded {
            return;
        }
        let Some(local) = leg.media.local.clone() else { return };
        let is_answer = leg.media.answering == Some(local.generation);
        if is_answer {
            leg.media.answering = None;
        } else {
            // Asked for by us, or begun by the media transport itself.
            leg.media.restarting = Some(local.generation);
        }
        let update =
            CallUpdate { state: Some(state), transport: Some(local), restart_answer: is_answer };
        self.send(now, node, Body::Update(update));
    }

    /// The peer restarts ICE, or answers our restart.
    pub(super) fn handle_restart(
        &mut self,
        now: Now,
        node: NodeId,
        transport: TransportParameters,
        is_answer: bool,
    ) {
        let is_caller = self.direction == Direction::Outgoing;
        let Some(leg) = self.legs.get_mut(&node) else { return };
        let media = &mut leg.media;
        let is_stale = media.remote_generation.is_none_or(|have| transport.generation <= have);
        if is_stale || !message::is_valid_transport(&transport) {
            return;
        }
        let generation = transport.generation;
        let mut answer_now = false;
        if is_answer {
            if media.restarting != Some(generation) {
                return;
            }
            media.restarting = None;
        } else {
            if media.restarting.is_some() && is_caller {
                return;
            }
            media.restarting = None;
            media.answering = Some(generation);
            answer_now = media.local.as_ref().is_some_and(|l| l.generation == generation);
        }
        media.remote_generation = Some(generation);
        media.remote_candidates = transport.candidates.len();
        self.outputs.push_back(Output::RemoteParameters {
            call: self.id,
            peer: node,
            transport,
            media: None,
        });
        if answer_now {
            self.tell_restart(now, node);
        } else if !is_answer {
            self.outputs.push_back(Output::RestartMedia { call: self.id, peer: node, generation });
        }
    }

    /// The media transport gave no parameters in time.
    pub(super) fn fail_local_media(&mut self, now: Now, node: NodeId) {
        match self.direction {
            Direction::Outgoing => self.refuse_leg(now, node, EndReason::MediaFailed),
            Direction::Incoming => {
                self.end(now, EndReason::MediaFailed, false, EndReason::MediaFailed);
            }
        }
    }
}
