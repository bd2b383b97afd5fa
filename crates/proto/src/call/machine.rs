//! One call: its phases, its legs to the remote devices, and how it ends.
//!
//! ```text
//! out: LookingUp ─devices─▶ Calling ─Ringing─▶ RemoteRinging ─Answer/Confirm▶─▶ Active ─▶ Ended
//! in:  Ringing ─answer/Answer▶─▶ Answering ─◀Confirm─▶ Active ─▶ Ended
//! ```
//!
//! The caller keeps one leg for each device of the callee and confirms the first that answers;
//! the callee has one leg. What each side does lies beside this file: `outgoing`, `incoming`,
//! `transport` (parameters, candidates, ICE restart), `talk` (hold, mute, DTMF, transfer),
//! `timers`. An ended call stays until its last messages have arrived or a bound has passed.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::{
    CallEnd, CallEvent, CallId, CallPhase, CallSummary, CommandError, Direction, EndReason,
    MediaState, Output, Relation, Remote,
    leg::{Leg, Stage},
    talk::TransferState,
};
use crate::{
    clock::{Now, UnixTime},
    identity::{NodeId, UserName},
    wire::v1::{Bye, CallMessage, call_message::Body},
};

/// What a call asks of its parent, which sees the other calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The peer sends us to somebody else.
    PlaceTransfer { to: UserName, token: Vec<u8> },
    /// A call placed for a transfer was answered or failed.
    TransferOutcome { of: CallId, failed: Option<EndReason> },
}

/// One call. Driven by [`super::Calls`].
#[derive(Debug)]
pub struct Call {
    pub(super) id: CallId,
    pub(super) direction: Direction,
    pub(super) user: UserName,
    pub(super) relation: Relation,
    pub(super) phase: CallPhase,
    pub(super) legs: BTreeMap<NodeId, Leg>,
    pub(super) chosen: Option<NodeId>,
    pub(super) own_name: String,
    pub(super) display_name: Option<String>,
    pub(super) held_locally: bool,
    pub(super) held_remotely: bool,
    pub(super) muted_locally: bool,
    pub(super) muted_remotely: bool,
    /// Look-up, ring, confirm: whichever the phase has.
    pub(super) phase_deadline: Option<Instant>,
    pub(super) auto_answer_at: Option<Instant>,
    /// When the call was answered here or by the peer: media is expected from then on.
    pub(super) media_expected_at: Option<Instant>,
    pub(super) media_was_alive: bool,
    pub(super) deaf_since: Option<Instant>,
    /// Most telling reason of the legs that failed.
    pub(super) failure: Option<EndReason>,
    pub(super) transfer: TransferState,
    pub(super) requests: VecDeque<Request>,
    pub(super) outputs: VecDeque<Output>,
    started: UnixTime,
    answered: Option<UnixTime>,
    reason: Option<EndReason>,
}

impl Call {
    pub(super) fn new(
        now: Now,
        id: CallId,
        direction: Direction,
        user: UserName,
        relation: Relation,
    ) -> Self {
        let phase = match direction {
            Direction::Outgoing => CallPhase::LookingUp,
            Direction::Incoming => CallPhase::Ringing,
        };
        Self {
            id,
            direction,
            user,
            relation,
            phase,
            legs: BTreeMap::new(),
            chosen: None,
            own_name: String::new(),
            display_name: None,
            held_locally: false,
            held_remotely: false,
            muted_locally: false,
            muted_remotely: false,
            phase_deadline: None,
            auto_answer_at: None,
            media_expected_at: None,
            media_was_alive: false,
            deaf_since: None,
            failure: None,
            transfer: TransferState::default(),
            requests: VecDeque::new(),
            outputs: VecDeque::new(),
            started: now.unix,
            answered: None,
            reason: None,
        }
    }

    /// Everything a person may want to see.
    pub fn summary(&self) -> CallSummary {
        CallSummary {
            call: self.id,
            direction: self.direction,
            user: self.user.clone(),
            display_name: self.display_name.clone(),
            phase: self.phase,
            held_locally: self.held_locally,
            held_remotely: self.held_remotely,
            muted_locally: self.muted_locally,
            muted_remotely: self.muted_remotely,
            reason: self.reason,
        }
    }

    /// The device that talks, once there is one.
    pub fn chosen(&self) -> Option<NodeId> {
        self.chosen
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == CallPhase::Ended
    }

    /// Whether nothing of the call needs to be kept.
    pub(super) fn is_forgettable(&self) -> bool {
        self.is_over() && self.legs.is_empty() && self.outputs.is_empty()
    }

    /// Ends the call by the local user's will.
    pub(super) fn hang_up(&mut self, now: Now) -> Result<(), CommandError> {
        let reason = match (self.phase, self.direction) {
            (CallPhase::Ended, _) => return Err(CommandError::UnknownCall),
            (CallPhase::Active | CallPhase::Answering, _) => EndReason::HungUp,
            (_, Direction::Outgoing) => EndReason::Cancelled,
            (_, Direction::Incoming) => EndReason::Declined,
        };
        self.end(now, reason, false, reason);
        Ok(())
    }

    /// Takes in what a device said about this call.
    pub(super) fn handle_message(&mut self, now: Now, from: &Remote, message: CallMessage) {
        let Some(leg) = self.legs.get_mut(&from.node) else { return };
        let was_silent = std::mem::take(&mut leg.is_silent);
        let body = leg.receive(now.instant, message);
        if was_silent && self.chosen == Some(from.node) && !self.is_over() {
            self.event(CallEvent::SignallingRestored { call: self.id });
        }
        if let Some(body) = body {
            self.dispatch(now, from.node, body);
        }
        self.flush(now);
    }

    fn dispatch(&mut self, now: Now, node: NodeId, body: Body) {
        let stage = self.legs[&node].stage;
        match body {
            // What belongs to the end is understood at any time.
            Body::Bye(bye) => self.handle_bye(now, node, EndReason::from_wire(bye.reason)),
            Body::Gone(_) => self.handle_gone(now, node),
            _ if matches!(stage, Stage::Closing | Stage::Superseded) => {}
            Body::Ringing(ringing) => self.handle_ringing(now, node, ringing),
            Body::Answer(answer) => self.handle_answer(now, node, answer),
            Body::Confirm(confirm) => self.handle_confirm(now, node, confirm),
            Body::Candidate(added) => self.handle_candidate(node, added),
            Body::Update(update) => self.handle_update(now, node, update),
            Body::Dtmf(dtmf) => self.handle_dtmf(node, &dtmf),
            Body::Transfer(transfer) => self.handle_transfer(now, node, &transfer),
            Body::TransferExpected(expected) => self.handle_transfer_expected(now, node, &expected),
            Body::TransferResult(result) => self.handle_transfer_result(node, &result),
            // An invitation is the first message or it is out of place.
            Body::Invite(_) | Body::KeepAlive(_) => {}
        }
    }

    fn handle_bye(&mut self, now: Now, node: NodeId, reason: EndReason) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if matches!(leg.stage, Stage::Closing | Stage::Superseded) {
            leg.abandon();
            return;
        }
        leg.abandon();
        let is_only = self.direction == Direction::Incoming || self.chosen == Some(node);
        if is_only {
            self.close_leg(now, node);
            self.end(now, reason, true, reason);
        } else {
            self.handle_leg_refused(now, node, reason);
        }
    }

    fn handle_gone(&mut self, now: Now, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        leg.abandon();
        match leg.stage {
            Stage::Closing | Stage::Superseded => {}
            _ if self.direction == Direction::Incoming || self.chosen == Some(node) => {
                self.close_leg(now, node);
                self.end(now, EndReason::PeerRestarted, true, EndReason::PeerRestarted);
            }
            _ => self.handle_leg_refused(now, node, EndReason::Unreachable),
        }
    }

    /// Ends the call for `reason`; legs that are still open are told `said`.
    pub(super) fn end(&mut self, now: Now, reason: EndReason, by_remote: bool, said: EndReason) {
        if self.is_over() {
            return;
        }
        self.phase = CallPhase::Ended;
        self.reason = Some(reason);
        let open: Vec<NodeId> = self.legs.keys().copied().collect();
        for node in open {
            self.say_bye(now, node, said);
        }
        self.phase_deadline = None;
        self.auto_answer_at = None;
        let end = CallEnd {
            summary: self.summary(),
            reason,
            by_remote,
            node: self.chosen,
            started_unix_ms: self.started.0,
            answered_unix_ms: self.answered.map(|at| at.0),
            ended_unix_ms: now.unix.0,
        };
        if let Some(of) = self.transfer.placed_for {
            let failed = self.answered.is_none().then_some(reason);
            self.requests.push_back(Request::TransferOutcome { of, failed });
        }
        self.event(CallEvent::Ended(end));
    }

    /// Closes one leg and tells its device why, if it knows of the call.
    pub(super) fn say_bye(&mut self, now: Now, node: NodeId, reason: EndReason) {
        match self.legs.get(&node).map(|leg| leg.stage) {
            None | Some(Stage::Closing) => return,
            Some(Stage::Preparing | Stage::Superseded) if self.direction == Direction::Outgoing => {
            }
            Some(_) => {
                let bye = Bye { reason: reason.to_wire() as i32 };
                self.send(now, node, Body::Bye(bye));
            }
        }
        self.close_leg(now, node);
    }

    /// Stops the leg's media; only its last messages are left to deliver.
    pub(super) fn close_leg(&mut self, now: Now, node: NodeId) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if leg.stage == Stage::Closing {
            return;
        }
        leg.enter(now.instant, Stage::Closing);
        if !std::mem::replace(&mut leg.media.is_stopped, true) {
            self.outputs.push_back(Output::StopMedia { call: self.id, peer: node });
        }
    }

    /// Both sides agreed to talk over this leg.
    pub(super) fn choose(&mut self, now: Now, node: NodeId) {
        self.chosen = Some(node);
        self.answered.get_or_insert(now.unix);
        self.media_expected_at = Some(now.instant);
        if let Some(leg) = self.legs.get_mut(&node) {
            leg.enter(now.instant, Stage::Chosen);
            if leg.media.state == Some(MediaState::Alive) {
                self.media_was_alive = true;
                self.event(CallEvent::MediaEstablished { call: self.id });
            }
        }
        if self.relation != Relation::MutualBuddy {
            self.outputs.push_back(Output::RevealAddresses { call: self.id, peer: node });
        }
        self.voice();
    }

    /// Tells the shell what flows between sound devices and the chosen leg.
    pub(super) fn voice(&mut self) {
        let Some(peer) = self.chosen else { return };
        let flows = !self.held_locally && !self.held_remotely;
        self.outputs.push_back(Output::Voice {
            call: self.id,
            peer,
            send: flows,
            receive: flows,
            muted: self.muted_locally,
        });
    }

    /// Whether the remote user may learn our addresses now.
    pub(super) fn is_revealed(&self, node: NodeId) -> bool {
        self.relation == Relation::MutualBuddy || self.chosen == Some(node)
    }

    pub(super) fn enter(&mut self, phase: CallPhase) {
        self.phase = phase;
        self.changed();
    }

    pub(super) fn changed(&mut self) {
        let summary = self.summary();
        self.event(CallEvent::Changed(summary));
    }

    pub(super) fn event(&mut self, event: CallEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Queues a numbered message for a device. A peer that takes nothing any more is caught by
    /// [`Call::flush`].
    pub(super) fn send(&mut self, now: Now, node: NodeId, body: Body) {
        let Some(leg) = self.legs.get_mut(&node) else { return };
        if let Ok(message) = leg.send(now.instant, body) {
            self.push_message(node, message);
        }
    }

    pub(super) fn push_message(&mut self, to: NodeId, mut message: CallMessage) {
        message.call_id = bytes::Bytes::copy_from_slice(&self.id.0);
        self.outputs.push_back(Output::Send { to, message });
    }

    /// Ends an input: sends acknowledgements that nothing carried, drops legs that are done.
    pub(super) fn flush(&mut self, now: Now) {
        let nodes: Vec<NodeId> = self.legs.keys().copied().collect();
        for node in nodes {
            let Some(leg) = self.legs.get_mut(&node) else { continue };
            if let Some(message) = leg.take_acknowledgement() {
                self.push_message(node, message);
            }
        }
        self.legs.retain(|_, leg| !leg.is_done(now.instant));
    }
}
