//! The call detail record: what a person, an operator or a script learns about a call that is
//! over. Plain values; the shell fills the media part and stores it.

use serde::{Deserialize, Serialize};

use super::{CallEnd, CallId, Direction, EndReason, types::text};
use crate::identity::{NodeId, UserName};

/// One finished call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The call.
    pub call: CallId,
    /// Who placed it.
    pub direction: Direction,
    /// The other user.
    #[serde(with = "text")]
    pub user: UserName,
    /// The other device, if one was reached and chosen.
    #[serde(default, with = "optional_text")]
    pub node: Option<NodeId>,
    /// When it was placed or arrived, ms since 1970.
    pub started_unix_ms: u64,
    /// When it was answered, ms since 1970.
    pub answered_unix_ms: Option<u64>,
    /// When it ended, ms since 1970.
    pub ended_unix_ms: u64,
    /// Why it ended.
    pub reason: EndReason,
    /// The other side ended it.
    pub by_remote: bool,
    /// Safety number of the two device keys, as both sides display it.
    pub safety_number: Option<String>,
    /// What the voice went through; absent if none flowed.
    pub media: Option<MediaSummary>,
}

/// What the voice of a call went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaSummary {
    /// How packets travelled at the end: `host`, `reflexive`, `relayed udp`, `relayed tcp` ….
    pub path: String,
    /// Local and remote address of the last path, for the local user only.
    pub local_address: Option<String>,
    /// See `local_address`.
    pub remote_address: Option<String>,
    /// Codec, such as `opus`.
    pub codec: String,
    /// SRTP profile.
    pub cipher: String,
    /// Voice packets sent.
    pub packets_sent: u64,
    /// Voice packets received.
    pub packets_received: u64,
    /// RTP payload bytes sent.
    pub bytes_sent: u64,
    /// RTP payload bytes received.
    pub bytes_received: u64,
    /// Share of the remote side's packets that never came, 0 to 1.
    pub loss: f32,
    /// Last round trip of the path, in ms.
    pub round_trip_ms: Option<f32>,
    /// Interarrival jitter (RFC 3550 section 6.4.1), in ms.
    pub jitter_ms: Option<f32>,
    /// Delay from network to speaker at the end, in ms.
    pub playout_delay_ms: Option<f32>,
    /// Estimate of the delay from the remote mouth to the local ear at the end, in ms: coding, half
    /// a round trip, playout, the local speaker. The remote microphone's own comes on top.
    pub mouth_to_ear_ms: Option<f32>,
    /// Share of what was played that had to be made up, 0 to 1.
    pub concealed: f32,
    /// Frames repaired by redundancy before they were due.
    pub frames_repaired: u64,
    /// Frames that came too late to be played.
    pub frames_late: u64,
    /// Times the local speaker had nothing to play.
    pub speaker_underruns: u64,
    /// Times captured sound was lost because this side was late.
    pub microphone_overruns: u64,
    /// Processor time of the audio thread, voice engine included, in percent of one core.
    pub audio_cpu_percent: f32,
    /// ICE restarts and other changes of path.
    pub path_changes: u32,
    /// Voice that a TCP or TLS stream had not taken in time and that was dropped before it.
    pub stale_messages: u64,
}

impl CallRecord {
    /// Joins what the machine and the media leg know.
    pub fn new(end: &CallEnd, media: Option<MediaSummary>, safety_number: Option<String>) -> Self {
        Self {
            call: end.summary.call,
            direction: end.summary.direction,
            user: end.summary.user.clone(),
            node: end.node,
            started_unix_ms: end.started_unix_ms,
            answered_unix_ms: end.answered_unix_ms,
            ended_unix_ms: end.ended_unix_ms,
            reason: end.reason,
            by_remote: end.by_remote,
            safety_number,
            media,
        }
    }
}

/// Lets serde write and read an optional value as its text.
pub mod optional_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As its `Display`, or nothing.
    pub fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    /// By its `FromStr`, or nothing.
    pub fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(from)?.map(|t| t.parse().map_err(Error::custom)).transpose()
    }
}
