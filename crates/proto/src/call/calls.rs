//! All calls of one device: which call a message belongs to, what happens when a second one
//! arrives, when both sides call at once, and when one call replaces another.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{
    CallEvent, CallId, CallPhase, CallSummary, CallsConfig, CommandError, Direction, EndReason,
    LookUpFailure, MediaState, Output, Relation, Remote, TimerReason,
    glare::{Glare, decide},
    leg::Stage,
    machine::{Call, Request},
    message,
    talk::TransferState,
};
use crate::{
    clock::Now,
    identity::{NodeId, UserName},
    wire::v1::{
        CallGone, CallMessage, IceCandidate, Invite, MediaOffer, TransportParameters,
        call_message::Body,
    },
};

/// Ended calls that still deliver their last messages, beside those that go on. Chosen.
const ENDED_MAX: usize = 64;
/// Ids of calls that were here, so that a replayed invitation rings nobody. Chosen.
const RECENT_MAX: usize = 256;

/// All calls of one device.
#[derive(Debug)]
pub struct Calls {
    config: CallsConfig,
    calls: BTreeMap<CallId, Call>,
    recent: VecDeque<CallId>,
    rng: ChaCha12Rng,
    outputs: VecDeque<Output>,
}

impl Calls {
    /// No calls yet. The seed makes call ids and tokens: it must be unpredictable outside tests.
    pub fn new(config: CallsConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            calls: BTreeMap::new(),
            recent: VecDeque::new(),
            rng: ChaCha12Rng::from_seed(seed),
            outputs: VecDeque::new(),
        }
    }

    /// Changes how calls are treated from now on.
    pub fn set_config(&mut self, config: CallsConfig) {
        self.config = config;
    }

    /// How calls are treated.
    pub fn config(&self) -> &CallsConfig {
        &self.config
    }

    /// The calls that are not over.
    pub fn list(&self) -> impl Iterator<Item = CallSummary> {
        self.calls.values().filter(|call| !call.is_over()).map(Call::summary)
    }

    /// The device that the call talks to, once one is chosen.
    pub fn chosen(&self, call: CallId) -> Option<NodeId> {
        self.calls.get(&call).and_then(Call::chosen)
    }

    /// Calls `user`. When that user's call is ringing here, this answers it instead.
    pub fn place_call(
        &mut self,
        now: Now,
        user: &UserName,
        relation: Relation,
    ) -> Result<CallId, CommandError> {
        if relation == Relation::Blocked {
            return Err(CommandError::Blocked);
        }
        let existing = self.calls.values().find(|call| !call.is_over() && call.user == *user);
        match existing.map(|call| (call.id, call.phase)) {
            Some((id, CallPhase::Ringing)) => {
                self.answer(now, id)?;
                return Ok(id);
            }
            Some((id, _)) => return Err(CommandError::AlreadyInCall(id)),
            None => {}
        }
        self.place(now, user, relation, TransferState::default())
    }

    fn place(
        &mut self,
        now: Now,
        user: &UserName,
        relation: Relation,
        transfer: TransferState,
    ) -> Result<CallId, CommandError> {
        if self.going_on() >= self.config.calls_max {
            return Err(CommandError::TooManyCalls);
        }
        let id = CallId(self.random());
        let call = Call::place(now, id, user.clone(), relation, &self.config, transfer);
        self.calls.insert(id, call);
        self.drain(now);
        Ok(id)
    }

    /// Accepts a ringing call; calls that are going on are put on hold.
    pub fn answer(&mut self, now: Now, call: CallId) -> Result<(), CommandError> {
        self.command(now, call, |c| c.answer(now))?;
        let others: Vec<CallId> =
            self.calls.values().filter(|c| c.id != call && c.is_talking()).map(|c| c.id).collect();
        for other in others {
            // A call whose peer takes no more messages now stays as it is.
            let _ = self.hold(now, other);
        }
        Ok(())
    }

    /// Declines, cancels or ends a call, whichever its phase asks for.
    pub fn hang_up(&mut self, now: Now, call: CallId) -> Result<(), CommandError> {
        self.command(now, call, |c| c.hang_up(now))
    }

    /// Puts a call on hold.
    pub fn hold(&mut self, now: Now, call: CallId) -> Result<(), CommandError> {
        self.command(now, call, |c| c.hold(now, true))
    }

    /// Takes a call back from hold.
    pub fn resume(&mut self, now: Now, call: CallId) -> Result<(), CommandError> {
        self.command(now, call, |c| c.hold(now, false))
    }

    /// Mutes or opens the microphone of a call.
    pub fn mute(&mut self, now: Now, call: CallId, muted: bool) -> Result<(), CommandError> {
        self.command(now, call, |c| c.mute(now, muted))
    }

    /// Presses a key of the telephone's keypad.
    pub fn dtmf(&mut self, now: Now, call: CallId, digit: char) -> Result<(), CommandError> {
        /// RFC 4733 senders use 40 ms and more; people hear 100.
        const DURATION_MS: u32 = 100;
        self.command(now, call, |c| c.dtmf(now, digit, DURATION_MS))
    }

    /// Sends the peer of `call` to `to` (unattended).
    pub fn transfer(&mut self, now: Now, call: CallId, to: &UserName) -> Result<(), CommandError> {
        self.command(now, call, |c| c.transfer(now, to, &[]))
    }

    /// Joins the peers of two calls of ours (attended): the peer of `call` replaces us in `with`.
    pub fn transfer_to_call(
        &mut self,
        now: Now,
        call: CallId,
        with: CallId,
    ) -> Result<(), CommandError> {
        let token = self.random::<16>();
        let target = self.calls.get(&with).ok_or(CommandError::UnknownCall)?.user.clone();
        self.command(now, with, |c| c.expect_transfer(now, &token))?;
        self.command(now, call, |c| c.transfer(now, &target, &token))
    }

    /// Looks for a new path for the voice of a call.
    pub fn restart_media(&mut self, now: Now, call: CallId) -> Result<(), CommandError> {
        self.command(now, call, |c| c.restart(now))
    }

    /// The device's own network changed: every call looks for a new path.
    pub fn handle_network_changed(&mut self, now: Now) {
        for id in self.ids() {
            // Refused by calls without a path to replace.
            let _ = self.restart_media(now, id);
        }
    }

    /// The look-up of a call is done.
    pub fn handle_look_up(
        &mut self,
        now: Now,
        call: CallId,
        found: Result<Vec<NodeId>, LookUpFailure>,
    ) {
        if let Some(c) = self.calls.get_mut(&call) {
            c.handle_look_up(now, found, &self.config);
        }
        self.drain(now);
    }

    /// The media transport of a leg has (new) parameters.
    pub fn handle_local_parameters(
        &mut self,
        now: Now,
        call: CallId,
        peer: NodeId,
        transport: TransportParameters,
        media: MediaOffer,
    ) {
        self.input(now, call, |c| c.handle_local_parameters(now, peer, transport, media));
    }

    /// The media transport of a leg found a candidate for its `generation`.
    pub fn handle_local_candidate(
        &mut self,
        now: Now,
        call: CallId,
        peer: NodeId,
        generation: u32,
        candidate: IceCandidate,
    ) {
        self.input(now, call, |c| c.handle_local_candidate(now, peer, generation, candidate));
    }

    /// The media transport of a leg changed its state.
    pub fn handle_media_state(&mut self, now: Now, call: CallId, peer: NodeId, state: MediaState) {
        self.input(now, call, |c| c.handle_media_state(now, peer, state));
    }

    /// A peer connection to a device is up.
    pub fn handle_connected(&mut self, now: Now, node: NodeId) {
        for id in self.ids() {
            self.input(now, id, |c| c.handle_connected(now, node));
        }
    }

    /// No peer connection to a device can be had now.
    pub fn handle_unreachable(&mut self, now: Now, node: NodeId, reason: EndReason) {
        for id in self.ids() {
            self.input(now, id, |c| c.handle_unreachable(now, node, reason));
        }
    }

    /// Takes in what an authenticated device said.
    pub fn handle_message(&mut self, now: Now, from: &Remote, message: CallMessage) {
        let Some(id) = CallId::from_slice(&message.call_id) else { return };
        match self.calls.get_mut(&id) {
            Some(call) if call.legs.contains_key(&from.node) => {
                call.handle_message(now, from, message);
            }
            known => {
                let is_known = known.is_some() || self.recent.contains(&id);
                self.handle_foreign(now, from, id, message, is_known);
            }
        }
        self.drain(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        for id in self.ids() {
            self.input(now, id, |c| c.handle_timeout(now));
        }
    }

    /// The next thing to do; drain until [`Output::Timeout`] or [`Output::Idle`].
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        match self.next_timeout() {
            Some((at, reason)) => Output::Timeout(at, reason),
            None => Output::Idle,
        }
    }

    fn next_timeout(&self) -> Option<(Instant, TimerReason)> {
        self.calls.values().filter_map(Call::next_timeout).min()
    }

    /// A message for no call of this device: a new call, or what is left of an old one.
    fn handle_foreign(
        &mut self,
        now: Now,
        from: &Remote,
        id: CallId,
        message: CallMessage,
        is_known: bool,
    ) {
        let reply = match &message.body {
            _ if from.relation == Relation::Blocked => None,
            Some(Body::Invite(invite)) if message.sequence == 1 && !is_known => {
                let invite = invite.clone();
                return self.handle_invite(now, from, id, &invite, message);
            }
            Some(Body::Bye(_)) => {
                Some(CallMessage { acknowledged: message.sequence, ..CallMessage::default() })
            }
            // A peer that has heard us before must learn that the call is no more.
            Some(body) if message.acknowledged > 0 && !matches!(body, Body::Gone(_)) => {
                Some(CallMessage { body: Some(Body::Gone(CallGone {})), ..CallMessage::default() })
            }
            Some(Body::Invite(_)) => {
                Some(CallMessage { body: Some(Body::Gone(CallGone {})), ..CallMessage::default() })
            }
            _ => None,
        };
        if let Some(mut reply) = reply {
            reply.call_id = message.call_id;
            self.outputs.push_back(Output::Send { to: from.node, message: reply });
        }
    }

    fn handle_invite(
        &mut self,
        now: Now,
        from: &Remote,
        id: CallId,
        invite: &Invite,
        message: CallMessage,
    ) {
        let refuse = |this: &mut Self, reason| {
            let refusal = message::refusal(&message.call_id, reason);
            this.outputs.push_back(Output::Send { to: from.node, message: refusal });
        };
        if let Err(reason) = message::check_invite(invite) {
            return refuse(self, reason);
        }
        let replaced = self.find_replaced(invite);
        let own = self.calls.values().find(|call| is_glare(call, from)).map(|call| {
            let leg = call.legs.get(&from.node);
            (call.id, leg.is_some_and(|leg| leg.stage != Stage::Preparing))
        });
        let glare = own.map(|(own, is_invited)| (own, decide(own, is_invited, id)));
        if let Some((_, Glare::KeepOwn)) = glare {
            return refuse(self, EndReason::Superseded);
        }
        if glare.is_none() && replaced.is_none() && self.is_busy() {
            return refuse(self, EndReason::Busy);
        }
        self.calls.insert(id, Call::ring(now, id, from, message, &self.config));
        if let Some((own, Glare::TakeTheirs)) = glare {
            self.outputs.push_back(Output::Event(CallEvent::Replaced { old: own, new: id }));
            self.input(now, own, |c| {
                c.end(now, EndReason::Superseded, true, EndReason::Superseded);
            });
        }
        if glare.is_some() || replaced.is_some() {
            // A call that has just begun to ring can be answered.
            let _ = self.answer(now, id);
        }
        if let Some(old) = replaced {
            self.input(now, old, |c| {
                c.end(now, EndReason::Transferred, true, EndReason::Transferred);
            });
        }
    }

    fn find_replaced(&self, invite: &Invite) -> Option<CallId> {
        let token = (!invite.replaces.is_empty()).then_some(invite.replaces.as_ref());
        let is_replaced = |call: &&Call| {
            call.is_talking() && token.is_some() && call.transfer.expected.as_deref() == token
        };
        self.calls.values().find(is_replaced).map(|call| call.id)
    }

    /// Whether one more call is too much.
    fn is_busy(&self) -> bool {
        let going_on = self.going_on();
        self.config.do_not_disturb
            || going_on >= self.config.calls_max
            || self.calls.len() >= self.config.calls_max + ENDED_MAX
            || (going_on > 0 && !self.config.call_waiting)
    }

    fn going_on(&self) -> usize {
        self.calls.values().filter(|call| !call.is_over()).count()
    }

    fn handle_request(&mut self, now: Now, from: CallId, request: Request) {
        match request {
            Request::PlaceTransfer { to, token } => {
                let Some(call) = self.calls.get(&from) else { return };
                let transfer = TransferState {
                    placed_for: Some(from),
                    referred_by: call.user.to_string(),
                    presented: token,
                    ..TransferState::default()
                };
                // Whether the target is a buddy is not known here: addresses stay hidden until
                // the answer, which is the safe side.
                let placed = self.place(now, &to, Relation::Stranger, transfer);
                let new = placed.ok();
                let event = CallEvent::Transferring { call: from, new, to };
                self.outputs.push_back(Output::Event(event));
                let failed = new.is_none();
                self.input(now, from, |c| {
                    if failed {
                        c.report_transfer(now, Some(EndReason::Busy));
                    } else {
                        // A call whose peer takes no more messages now stays as it is.
                        let _ = c.hold(now, true);
                    }
                });
            }
            Request::TransferOutcome { of, failed } => {
                self.input(now, of, |c| c.report_transfer(now, failed));
            }
        }
    }

    fn command(
        &mut self,
        now: Now,
        call: CallId,
        act: impl FnOnce(&mut Call) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let result = act(self.calls.get_mut(&call).ok_or(CommandError::UnknownCall)?);
        self.drain(now);
        result
    }

    fn input(&mut self, now: Now, call: CallId, act: impl FnOnce(&mut Call)) {
        if let Some(call) = self.calls.get_mut(&call) {
            act(call);
        }
        self.drain(now);
    }

    /// Collects what the calls want, and forgets those that are done.
    fn drain(&mut self, now: Now) {
        let mut requests = Vec::new();
        for call in self.calls.values_mut() {
            call.flush(now);
            self.outputs.append(&mut call.outputs);
            requests.extend(call.requests.drain(..).map(|request| (call.id, request)));
        }
        let recent = &mut self.recent;
        self.calls.retain(|id, call| {
            let is_kept = !call.is_forgettable();
            if !is_kept {
                recent.push_back(*id);
            }
            is_kept
        });
        while self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        for (from, request) in requests {
            self.handle_request(now, from, request);
        }
    }

    fn ids(&self) -> Vec<CallId> {
        self.calls.keys().copied().collect()
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

/// Whether `call` is our own attempt to reach the user who is calling us.
fn is_glare(call: &Call, from: &Remote) -> bool {
    call.direction == Direction::Outgoing
        && call.user == from.user
        && matches!(
            call.phase,
            CallPhase::LookingUp | CallPhase::Calling | CallPhase::RemoteRinging
        )
}
