//! One leg of a call: what is known about one remote device, its numbered messages, its media.

use std::time::{Duration, Instant};

use super::{
    MediaState,
    sequencer::{Arrival, Full, Sequencer},
};
use crate::{
    identity::NodeId,
    wire::v1::{
        CallKeepAlive, CallMessage, IceCandidate, MediaOffer, TransportParameters,
        call_message::Body,
    },
};

/// Time between keep-alives of a leg. Chosen: three fit into [`SILENCE_MAX`].
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(4);
/// After this long without a word the peer's signalling counts as lost. Chosen.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(13);
/// How long a device may take to answer the invitation at all. Chosen: a peer connection over two
/// slow hops takes a few seconds, a sleeping device up to twenty.
pub(crate) const CONTACT_MAX: Duration = Duration::from_secs(20);
/// How long the media transport may take to give its parameters. Chosen: it needs no network.
pub(crate) const LOCAL_PARAMETERS_MAX: Duration = Duration::from_secs(5);
/// How long the last messages of a closed leg are repeated. Chosen.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
/// How long a superseded leg waits for the peer's own invitation. Chosen as [`CONTACT_MAX`].
pub(crate) const SUPERSEDED_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for the local media parameters before it can say anything.
    Preparing,
    /// The device has been invited (caller) or told that it rings here (callee).
    Told,
    /// Outgoing: the device rings.
    Ringing,
    /// Outgoing: the device says that the call it is placing to us goes on instead.
    Superseded,
    /// The leg that talks.
    Chosen,
    /// Over; the last messages are repeated until they are acknowledged.
    Closing,
}

/// The ICE and DTLS side of a leg.
#[derive(Debug, Default)]
pub(crate) struct LegMedia {
    /// Latest local parameters.
    pub(crate) local: Option<TransportParameters>,
    pub(crate) offer: Option<MediaOffer>,
    /// Candidates found before the parameters were said.
    pub(crate) held_back: Vec<IceCandidate>,
    pub(crate) local_candidates: usize,
    /// Generation of our restart that the peer has not answered.
    pub(crate) restarting: Option<u32>,
    /// Generation of the peer's restart that we have not answered.
    pub(crate) answering: Option<u32>,
    pub(crate) remote_generation: Option<u32>,
    pub(crate) remote_candidates: usize,
    pub(crate) state: Option<MediaState>,
    pub(crate) restart_at: Option<Instant>,
    pub(crate) is_stopped: bool,
}

#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) node: NodeId,
    pub(crate) stage: Stage,
    pub(crate) media: LegMedia,
    /// When the stage began.
    pub(crate) since: Instant,
    pub(crate) heard_at: Option<Instant>,
    pub(crate) is_silent: bool,
    sequencer: Sequencer,
    keep_alive_at: Instant,
    acknowledgement_due: bool,
}

impl Leg {
    pub(crate) fn new(now: Instant, node: NodeId) -> Self {
        Self {
            node,
            stage: Stage::Preparing,
            media: LegMedia::default(),
            since: now,
            heard_at: None,
            is_silent: false,
            sequencer: Sequencer::default(),
            keep_alive_at: now + KEEP_ALIVE_INTERVAL,
            acknowledgement_due: false,
        }
    }

    pub(crate) fn enter(&mut self, now: Instant, stage: Stage) {
        self.stage = stage;
        self.since = now;
    }

    pub(crate) fn send(&mut self, now: Instant, body: Body) -> Result<CallMessage, Full> {
        let message = self.sequencer.send(now, body)?;
        self.acknowledgement_due = false;
        Ok(message)
    }

    /// The body to act on, if the message is the next one or carries no number.
    pub(crate) fn receive(&mut self, now: Instant, message: CallMessage) -> Option<Body> {
        self.heard_at = Some(now);
        match self.sequencer.receive(now, message) {
            Arrival::Deliver(body) => {
                self.acknowledgement_due = true;
                Some(body)
            }
            Arrival::Unnumbered(body) => body,
            Arrival::Again => {
                self.acknowledgement_due = true;
                None
            }
        }
    }

    /// The bare acknowledgement, if nothing has carried it.
    pub(crate) fn take_acknowledgement(&mut self) -> Option<CallMessage> {
        std::mem::take(&mut self.acknowledgement_due).then(|| self.sequencer.unnumbered(None))
    }

    pub(crate) fn repeat_due(&mut self, now: Instant) -> Vec<CallMessage> {
        self.sequencer.repeat_due(now)
    }

    pub(crate) fn repeat(&mut self, now: Instant) -> Vec<CallMessage> {
        self.sequencer.repeat(now)
    }

    /// A keep-alive, when it is time and the peer knows the call: before it was heard it may not,
    /// and would answer that the call is gone.
    pub(crate) fn keep_alive(&mut self, now: Instant) -> Option<CallMessage> {
        if self.keep_alive_deadline().is_none_or(|at| now < at) {
            return None;
        }
        self.keep_alive_at = now + KEEP_ALIVE_INTERVAL;
        Some(self.sequencer.unnumbered(Some(Body::KeepAlive(CallKeepAlive {}))))
    }

    pub(crate) fn keep_alive_deadline(&self) -> Option<Instant> {
        let peer_has_call = self.heard_at.is_some()
            && matches!(self.stage, Stage::Told | Stage::Ringing | Stage::Chosen);
        (peer_has_call && self.sequencer.is_settled()).then_some(self.keep_alive_at)
    }

    pub(crate) fn repeat_deadline(&self) -> Option<Instant> {
        self.sequencer.repeat_at()
    }

    /// Whether one more message may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.sequencer.has_room()
    }

    /// The peer has ended its side: nothing needs to be repeated.
    pub(crate) fn abandon(&mut self) {
        self.sequencer.abandon();
    }

    /// Whether a closed leg has nothing left to deliver, or has tried for long enough.
    pub(crate) fn is_done(&self, now: Instant) -> bool {
        self.stage == Stage::Closing && (self.sequencer.is_settled() || now >= self.since + LINGER)
    }

    /// When the signalling of this leg counts as lost.
    pub(crate) fn silence_deadline(&self) -> Instant {
        match self.heard_at {
            Some(heard_at) => heard_at + SILENCE_MAX,
            None => self.since + CONTACT_MAX,
        }
    }
}
