//! Names and plain values that the call machines share with their users.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::EndReason;
use crate::identity::{NodeId, UserName};

/// One call, the same at both ends: 16 random bytes chosen by the caller. Displayed in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub [u8; 16]);

impl CallId {
    /// From the wire; `None` unless it is 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallId({})", hex::encode(&self.0[..4]))
    }
}

impl FromStr for CallId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Lets serde write and read a type as its text.
pub mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As its `Display`.
    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    /// By its `FromStr`.
    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(Error::custom)
    }
}

impl Serialize for CallId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for CallId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text::deserialize(from)
    }
}

/// What the local user is to a remote user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Not, or not yet, in each other's buddy list.
    #[default]
    Stranger,
    /// Each has the other in the buddy list: addresses may be revealed at once.
    MutualBuddy,
    /// The local user wants to hear nothing from this user.
    Blocked,
}

/// A remote device, as the end-to-end connection authenticated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The device.
    pub node: NodeId,
    /// The user in its certificate.
    pub user: UserName,
    /// What the buddy list says about the user.
    pub relation: Relation,
}

/// Who placed the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The local user.
    Outgoing,
    /// The remote user.
    Incoming,
}

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPhase {
    /// Outgoing: the devices of the callee are being looked up.
    LookingUp,
    /// Outgoing: invited, no device rings yet.
    Calling,
    /// Outgoing: at least one device of the callee rings.
    RemoteRinging,
    /// Incoming: rings here.
    Ringing,
    /// Incoming: accepted here, the caller has not confirmed yet. Media flows already.
    Answering,
    /// Both talk.
    Active,
    /// Over.
    Ended,
}

/// Everything about a call that a person may want to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallSummary {
    /// The call.
    pub call: CallId,
    /// Who placed it.
    pub direction: Direction,
    /// The other user.
    #[serde(with = "text")]
    pub user: UserName,
    /// What the other side calls itself; not verified.
    pub display_name: Option<String>,
    /// Where it stands.
    pub phase: CallPhase,
    /// Put on hold by the local user.
    pub held_locally: bool,
    /// Put on hold by the remote user.
    pub held_remotely: bool,
    /// The local microphone is muted.
    pub muted_locally: bool,
    /// The remote microphone is muted.
    pub muted_remotely: bool,
    /// Why it ended, if it has.
    pub reason: Option<EndReason>,
}

/// What state the transport of a leg's voice is in, as the media leg reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaState {
    /// A path is up, keys agreed, and packets of the peer arrive.
    Alive,
    /// Nothing has arrived from the peer for a while (2 s in a call, longer on hold).
    Deaf,
    /// No path came up, or the keys do not match the signalled fingerprint.
    Failed,
}

/// Why a look-up gave no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUpFailure {
    /// The network has no such user.
    UnknownUser,
    /// The user exists, but no device of theirs is online, or the search failed.
    Unreachable,
}

/// Whether calls are answered without a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoAnswer {
    /// Never.
    #[default]
    Never,
    /// Calls of mutual buddies, after this time of ringing.
    Buddies(Duration),
    /// Every call, after this time of ringing.
    Everybody(Duration),
}

/// How a device treats calls.
#[derive(Clone, Debug)]
pub struct CallsConfig {
    /// Whether a second call rings while one is going on; otherwise its caller hears "busy".
    pub call_waiting: bool,
    /// Every call is refused as busy.
    pub do_not_disturb: bool,
    /// Whether calls are answered without a person.
    pub auto_answer: AutoAnswer,
    /// How long an outgoing call rings before it ends with "no answer". Chosen: as telephones do.
    pub ring_time: Duration,
    /// What the local user calls themself; at most 128 bytes are sent.
    pub display_name: String,
    /// Calls at once, ringing ones included; one more is busy. Chosen.
    pub calls_max: usize,
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            call_waiting: true,
            do_not_disturb: false,
            auto_answer: AutoAnswer::Never,
            ring_time: Duration::from_secs(45),
            display_name: String::new(),
            calls_max: 8,
        }
    }
}

/// Why a command was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such call, or it has ended.
    #[error("there is no such call")]
    UnknownCall,
    /// The call is not in a phase that allows this.
    #[error("the call is {0:?}: this cannot be done now")]
    WrongPhase(CallPhase),
    /// The bound on calls at once is reached.
    #[error("too many calls at once")]
    TooManyCalls,
    /// A call with this user exists.
    #[error("there is a call with this user: {0}")]
    AlreadyInCall(CallId),
    /// The user is blocked in the buddy list.
    #[error("this user is blocked: unblock them first")]
    Blocked,
    /// Not one of `0`-`9`, `*`, `#`, `A`-`D`.
    #[error("{0:?} is no DTMF digit")]
    NoDigit(char),
    /// The peer has not taken what was sent before.
    #[error("the other side does not answer now")]
    Congested,
}
