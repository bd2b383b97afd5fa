//! What the call machines want done, and what they report.

use std::time::Instant;

use serde::Serialize;

use super::{CallId, CallSummary, EndReason, types::text};
use crate::{
    clock::UnixTime,
    identity::{NodeId, UserName},
    wire::v1::{CallMessage, IceCandidate, MediaOffer, TransportParameters},
};

/// One thing for the shell to do. Drain until [`Output::Timeout`] or [`Output::Idle`].
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Find the devices of `user`; answer with `handle_look_up`.
    LookUp {
        /// The call that wants to know.
        call: CallId,
        /// Whom to look up.
        user: UserName,
    },
    /// Bring the message to a device, over the peer connection that exists or a new one. It may
    /// be dropped: what matters is repeated.
    Send {
        /// Device to reach.
        to: NodeId,
        /// What to say.
        message: CallMessage,
    },
    /// Start the media transport of a leg; answer with `handle_local_parameters`.
    StartMedia {
        /// The call.
        call: CallId,
        /// The remote device of the leg.
        peer: NodeId,
        /// The caller controls ICE (RFC 8445 section 6.1.1) and is the DTLS client.
        controlling: bool,
        /// Use relayed candidates only, and send nothing from any other address.
        relay_only: bool,
    },
    /// What the remote device said about its transport.
    RemoteParameters {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
        /// ICE and DTLS parameters; a higher generation than before is an ICE restart.
        transport: TransportParameters,
        /// Codecs and SSRC; absent in an ICE restart.
        media: Option<MediaOffer>,
    },
    /// One more candidate of the remote device.
    RemoteCandidate {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// The remote user may now learn our addresses: gather and signal all candidates.
    RevealAddresses {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
    },
    /// Restart ICE with new credentials; answer with `handle_local_parameters` that carry this
    /// generation.
    RestartMedia {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
        /// Generation of the new parameters.
        generation: u32,
    },
    /// Connect microphone and speaker to this leg (or change what flows).
    Voice {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
        /// Send the microphone; otherwise only keep the bindings alive (every 3 s, paper
        /// section V.C).
        send: bool,
        /// Play what arrives.
        receive: bool,
        /// Send silence instead of the microphone.
        muted: bool,
    },
    /// End the media transport of a leg.
    StopMedia {
        /// The call.
        call: CallId,
        /// The remote device.
        peer: NodeId,
    },
    /// Something a person may want to know.
    Event(CallEvent),
    /// Nothing to do before this moment.
    Timeout(Instant, TimerReason),
    /// Nothing to do before the next input.
    Idle,
}

/// Which timer comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerReason {
    /// The look-up takes too long.
    LookUp,
    /// The media transport gave no parameters.
    LocalParameters,
    /// A message is not acknowledged.
    Repeat,
    /// The peer should hear that the call is still here.
    KeepAlive,
    /// Nothing was heard from the peer.
    Silence,
    /// It has rung long enough.
    Ring,
    /// Time to answer by itself.
    AutoAnswer,
    /// The caller should have confirmed the answer.
    Confirm,
    /// The media path should be there, or back.
    Media,
    /// The last messages of an ended call should have arrived.
    Linger,
}

/// Something a person may want to know. Serialises for the local API with `event` as the tag.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CallEvent {
    /// A call arrived and rings here.
    Incoming(CallSummary),
    /// The phase, a hold or a mute changed.
    Changed(CallSummary),
    /// The remote user pressed a key.
    DtmfReceived {
        /// The call.
        call: CallId,
        /// One of `0`-`9`, `*`, `#`, `A`-`D`.
        digit: char,
        /// How long, in ms.
        duration_ms: u32,
    },
    /// The voice path died; it is being rebuilt.
    MediaInterrupted {
        /// The call.
        call: CallId,
    },
    /// The voice path is up, or up again.
    MediaEstablished {
        /// The call.
        call: CallId,
    },
    /// Nothing is heard from the peer's signalling; the call goes on while voice flows.
    SignallingLost {
        /// The call.
        call: CallId,
    },
    /// Signalling is back.
    SignallingRestored {
        /// The call.
        call: CallId,
    },
    /// Both called at once: `old` gave way to `new`, which was answered by itself.
    Replaced {
        /// The call that the local user placed.
        old: CallId,
        /// The one that goes on.
        new: CallId,
    },
    /// The remote user asks us to call somebody else; the machine has placed that call.
    Transferring {
        /// The call that asked.
        call: CallId,
        /// The call placed instead, if it could be.
        new: Option<CallId>,
        /// Whom we were sent to.
        #[serde(with = "text")]
        to: UserName,
    },
    /// How a transfer that the local user asked for went.
    TransferFinished {
        /// The call that asked.
        call: CallId,
        /// Whether the other party reached the target.
        succeeded: bool,
    },
    /// The call is over; the last event of each call.
    Ended(CallEnd),
}

/// The facts of a call that has ended, for its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallEnd {
    /// The state it ended in.
    pub summary: CallSummary,
    /// Why.
    pub reason: EndReason,
    /// The remote user or device ended it, not this side.
    pub by_remote: bool,
    /// The remote device it was with, if one was chosen.
    #[serde(serialize_with = "super::record::optional_text::serialize")]
    pub node: Option<NodeId>,
    /// When it was placed or arrived, ms since 1970.
    pub started_unix_ms: u64,
    /// When it was answered, ms since 1970.
    pub answered_unix_ms: Option<u64>,
    /// When it ended, ms since 1970.
    pub ended_unix_ms: u64,
}

impl CallEnd {
    /// When it was placed or arrived.
    pub fn started(&self) -> UnixTime {
        UnixTime(self.started_unix_ms)
    }
}
