//! Why a call ended, and how that is said on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::v1::bye::Reason as WireReason;

/// Why a call (or one leg of it) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// One of the two hung up after the call was answered.
    HungUp,
    /// The callee declined.
    Declined,
    /// The callee is in another call and takes no second one.
    Busy,
    /// The caller gave up before an answer.
    Cancelled,
    /// Nobody answered in time.
    NoAnswer,
    /// Another device of the callee answered.
    AnsweredElsewhere,
    /// Another device of the callee declined.
    DeclinedElsewhere,
    /// Both called at once and the other call is the one that goes on.
    Superseded,
    /// The callee's user name is not known in the network.
    UnknownUser,
    /// No device of the callee can be reached now.
    Unreachable,
    /// Somebody who is not the callee answered in the callee's place: a super node that swaps
    /// keys, or whoever sits on it. Nothing was said to them.
    Impostor,
    /// No media path came up, or it died and could not be rebuilt.
    MediaFailed,
    /// Neither signalling nor media was heard from the peer any more.
    ConnectionLost,
    /// The peer no longer knows the call: its program was restarted.
    PeerRestarted,
    /// The two share no codec.
    NoCommonCodec,
    /// The call went on with somebody else.
    Transferred,
    /// The peer broke the protocol.
    ProtocolError,
}

impl EndReason {
    /// The reason as the wire carries it in a `Bye`.
    pub fn to_wire(self) -> WireReason {
        match self {
            Self::HungUp => WireReason::HungUp,
            Self::Declined => WireReason::Declined,
            Self::Busy => WireReason::Busy,
            Self::Cancelled => WireReason::Cancelled,
            Self::NoAnswer => WireReason::NoAnswer,
            Self::AnsweredElsewhere => WireReason::AnsweredElsewhere,
            Self::DeclinedElsewhere => WireReason::DeclinedElsewhere,
            Self::Superseded => WireReason::Superseded,
            Self::MediaFailed => WireReason::MediaFailed,
            Self::ConnectionLost
            | Self::UnknownUser
            | Self::Unreachable
            | Self::Impostor
            | Self::PeerRestarted => WireReason::ConnectionLost,
            Self::NoCommonCodec => WireReason::NoCommonCodec,
            Self::Transferred => WireReason::Transferred,
            Self::ProtocolError => WireReason::ProtocolError,
        }
    }

    /// The reason that a `Bye` gives; an unknown or missing number is an ordinary hang-up, so that
    /// a later version may add reasons.
    pub fn from_wire(reason: i32) -> Self {
        match WireReason::try_from(reason).unwrap_or(WireReason::HungUp) {
            WireReason::Unspecified | WireReason::HungUp => Self::HungUp,
            WireReason::Declined => Self::Declined,
            WireReason::Busy => Self::Busy,
            WireReason::Cancelled => Self::Cancelled,
            WireReason::NoAnswer => Self::NoAnswer,
            WireReason::AnsweredElsewhere => Self::AnsweredElsewhere,
            WireReason::DeclinedElsewhere => Self::DeclinedElsewhere,
            WireReason::Superseded => Self::Superseded,
            WireReason::MediaFailed => Self::MediaFailed,
            WireReason::ConnectionLost => Self::ConnectionLost,
            WireReason::NoCommonCodec => Self::NoCommonCodec,
            WireReason::Transferred => Self::Transferred,
            WireReason::ProtocolError => Self::ProtocolError,
        }
    }

    /// How much a failed leg says about the user: when every device of the callee failed, the
    /// caller is told the most telling reason.
    pub(crate) fn telling(self) -> u8 {
        match self {
            Self::Impostor => 6,
            Self::Busy => 5,
            Self::NoAnswer => 4,
            Self::NoCommonCodec => 3,
            Self::MediaFailed => 2,
            Self::Unreachable => 0,
            _ => 1,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HungUp => "hung up",
            Self::Declined => "declined",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled by the caller",
            Self::NoAnswer => "no answer",
            Self::AnsweredElsewhere => "answered elsewhere",
            Self::DeclinedElsewhere => "declined elsewhere",
            Self::Superseded => "both called at once, the other call goes on",
            Self::UnknownUser => "no such user in this network",
            Self::Unreachable => "not online",
            Self::Impostor => {
                "somebody on the way answered with a key that is not the other side's and was \
                 refused: the super node in use, or whoever controls it, cannot be trusted"
            }
            Self::MediaFailed => "no path for the voice was found",
            Self::ConnectionLost => "connection to the other side lost",
            Self::PeerRestarted => "the other side's program was restarted",
            Self::NoCommonCodec => "no common codec",
            Self::Transferred => "transferred",
            Self::ProtocolError => "the other side broke the protocol",
        })
    }
}
