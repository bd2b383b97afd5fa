//! What the two do in a call that stands: hold, mute, DTMF, transfer.
//!
//! Transfer, unattended: the transferor sends `Transfer`, the transferee places a call to the
//! target and reports. Attended: the transferor first tells the target, in their call, a token;
//! the transferee presents it, and the target's device answers by itself and lets the old call go.

use super::{
    CallEvent, CallId, CallPhase, CommandError, EndReason, MediaState,
    machine::{Call, Request},
    message::{self, DTMF_DURATION_MS_MAX},
};
use crate::{
    clock::Now,
    identity::{NodeId, UserName},
    wire::v1::{
        CallState, CallTransfer, CallUpdate, Dtmf, TransferExpected, TransferResult,
        call_message::Body,
    },
};

/// What is known about transfers of this call.
#[derive(Debug, Default)]
pub(crate) struct TransferState {
    /// This call was placed because that one's peer asked for it.
    pub(crate) placed_for: Option<CallId>,
    /// User name of who asked, said in the invitation.
    pub(crate) referred_by: String,
    /// Token said in the invitation; empty for none.
    pub(crate) presented: Vec<u8>,
    /// A call that presents this token replaces this one.
    pub(crate) expected: Option<Vec<u8>>,
    /// We asked the peer to call somebody else and wait for the result.
    pub(crate) is_asked: bool,
    /// The peer asked us, and the result is not said yet.
    pub(crate) is_asking: bool,
}

impl Call {
    /// Puts the call on hold or takes it back; the peer's own hold stays as it is.
    pub(super) fn hold(&mut self, now: Now, held: bool) -> Result<(), CommandError> {
        self.check_answered()?;
        if self.held_locally != held {
            self.check_room()?;
            self.held_locally = held;
            self.tell_state(now);
            self.voice();
            self.changed();
        }
        self.flush(now);
        Ok(())
    }

    /// Mutes or opens the local microphone, before or during the talk.
    pub(super) fn mute(&mut self, now: Now, muted: bool) -> Result<(), CommandError> {
        if self.is_over() {
            return Err(CommandError::UnknownCall);
        }
        if self.muted_locally != muted {
            self.check_room()?;
            self.muted_locally = muted;
            self.tell_state(now);
            self.voice();
            self.changed();
        }
        self.flush(now);
        Ok(())
    }

    /// Sends one keypad digit.
    pub(super) fn dtmf(
        &mut self,
        now: Now,
        digit: char,
        duration_ms: u32,
    ) -> Result<(), CommandError> {
        if !message::is_dtmf(digit) {
            return Err(CommandError::NoDigit(digit));
        }
        let node = self.check_answered()?;
        self.check_room()?;
        let duration_ms = duration_ms.min(DTMF_DURATION_MS_MAX);
        self.send(now, node, Body::Dtmf(Dtmf { digit: digit.to_string(), duration_ms }));
        self.flush(now);
        Ok(())
    }

    /// Asks the peer to call `to` instead.
    pub(super) fn transfer(
        &mut self,
        now: Now,
        to: &UserName,
        token: &[u8],
    ) -> Result<(), CommandError> {
        let node = self.check_answered()?;
        self.check_room()?;
        self.transfer.is_asked = true;
        let transfer = CallTransfer { to: to.to_string(), token: token.to_vec().into() };
        self.send(now, node, Body::Transfer(transfer));
        self.flush(now);
        Ok(())
    }

    /// Tells the target of an attended transfer which token will replace this call.
    pub(super) fn expect_transfer(&mut self, now: Now, token: &[u8]) -> Result<(), CommandError> {
        let node = self.check_answered()?;
        self.check_room()?;
        let expected = TransferExpected { token: token.to_vec().into() };
        self.send(now, node, Body::TransferExpected(expected));
        self.flush(now);
        Ok(())
    }

    pub(super) fn handle_update(&mut self, now: Now, node: NodeId, update: CallUpdate) {
        if let Some(state) = update.state.filter(|_| self.chosen == Some(node)) {
            let before = (self.held_remotely, self.muted_remotely);
            if before != (state.held, state.muted) {
                (self.held_remotely, self.muted_remotely) = (state.held, state.muted);
                self.voice();
                self.changed();
            }
        }
        if let Some(transport) = update.transport {
            self.handle_restart(now, node, transport, update.restart_answer);
        }
    }

    pub(super) fn handle_dtmf(&mut self, node: NodeId, dtmf: &Dtmf) {
        let Some(digit) = message::dtmf_digit(&dtmf.digit) else { return };
        if self.chosen == Some(node) {
            let duration_ms = dtmf.duration_ms.min(DTMF_DURATION_MS_MAX);
            self.event(CallEvent::DtmfReceived { call: self.id, digit, duration_ms });
        }
    }

    pub(super) fn handle_transfer(&mut self, now: Now, node: NodeId, transfer: &CallTransfer) {
        if self.chosen != Some(node) || self.transfer.is_asking {
            return;
        }
        let to = transfer.to.parse::<UserName>();
        let (Ok(to), 0 | 16) = (to, transfer.token.len()) else {
            return self.report_transfer(now, Some(EndReason::ProtocolError));
        };
        self.transfer.is_asking = true;
        self.requests.push_back(Request::PlaceTransfer { to, token: transfer.token.to_vec() });
    }

    pub(super) fn handle_transfer_expected(
        &mut self,
        _now: Now,
        node: NodeId,
        expected: &TransferExpected,
    ) {
        if self.chosen == Some(node) && expected.token.len() == 16 {
            self.transfer.expected = Some(expected.token.to_vec());
        }
    }

    pub(super) fn handle_transfer_result(&mut self, node: NodeId, result: &TransferResult) {
        if self.chosen == Some(node) && std::mem::take(&mut self.transfer.is_asked) {
            let succeeded = result.succeeded;
            self.event(CallEvent::TransferFinished { call: self.id, succeeded });
        }
    }

    /// The call that the peer sent us to was answered, or failed for a reason.
    pub(super) fn report_transfer(&mut self, now: Now, failed: Option<EndReason>) {
        self.transfer.is_asking = false;
        let Some(node) = self.chosen.filter(|_| !self.is_over()) else { return };
        let result = TransferResult {
            succeeded: failed.is_none(),
            reason: failed.map_or(0, |reason| reason.to_wire() as i32),
        };
        self.send(now, node, Body::TransferResult(result));
        if failed.is_none() {
            self.end(now, EndReason::Transferred, false, EndReason::Transferred);
        }
        self.flush(now);
    }

    pub(super) fn own_state(&self) -> CallState {
        CallState { held: self.held_locally, muted: self.muted_locally }
    }

    fn tell_state(&mut self, now: Now) {
        if let Some(node) = self.chosen {
            let state = Some(self.own_state());
            self.send(now, node, Body::Update(CallUpdate { state, ..CallUpdate::default() }));
        }
    }

    fn check_answered(&self) -> Result<NodeId, CommandError> {
        match self.chosen {
            Some(node) if !self.is_over() => Ok(node),
            _ if self.is_over() => Err(CommandError::UnknownCall),
            _ => Err(CommandError::WrongPhase(self.phase)),
        }
    }

    /// Whether one more message may wait for a peer that does not acknowledge.
    fn check_room(&self) -> Result<(), CommandError> {
        let leg = self.chosen.and_then(|node| self.legs.get(&node));
        if leg.is_some_and(|leg| !leg.has_room()) { Err(CommandError::Congested) } else { Ok(()) }
    }

    /// Whether voice reaches us now.
    pub(super) fn is_media_alive(&self) -> bool {
        let leg = self.chosen.and_then(|node| self.legs.get(&node));
        leg.is_some_and(|leg| leg.media.state == Some(MediaState::Alive))
    }

    /// Whether the call is past ringing and not over.
    pub(super) fn is_talking(&self) -> bool {
        matches!(self.phase, CallPhase::Answering | CallPhase::Active)
    }
}
