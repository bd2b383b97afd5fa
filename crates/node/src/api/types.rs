//! What the local API says and takes, as JSON. The program's own commands read the same types.
//!
//! Times are Unix milliseconds, durations milliseconds, sizes bytes, unless a name says otherwise.

use serde::{Deserialize, Serialize};

/// Where a running node's API listens and the token it wants; kept in the profile, mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Loopback address and port, `127.0.0.1:40123`.
    pub address: String,
    /// Bearer token, drawn anew at each start.
    pub token: String,
    /// Process that serves it.
    pub pid: u32,
}

/// An error as the API reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Machine-readable kind: `not_found`, `refused`, `unreachable`, `busy`, `bad_request`, …
    pub kind: String,
    /// What happened and what to do, for a person.
    pub message: String,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// User name; absent on a dedicated super node.
    pub user: Option<String>,
    /// Node id, hexadecimal.
    pub node: String,
    /// Network id, hexadecimal.
    pub network: String,
    /// One word: `attached`, `attaching`, `offline`, …
    pub state: String,
    /// The state in a sentence, with what to do when something is wrong.
    pub detail: String,
    /// Address of the super node in use.
    pub super_node: Option<String>,
    /// Address of the warm spare.
    pub spare: Option<String>,
    /// Milliseconds from start to attached, for the last attachment.
    pub login_ms: Option<u64>,
    /// Bytes sent and received for it, all connections.
    pub login_bytes: Option<u64>,
    /// TCP and UDP port.
    pub port: u16,
    /// This node serves others.
    pub is_super_node: bool,
    /// Why it is or is no super node, in a sentence; empty for a dedicated one.
    #[serde(default)]
    pub election: String,
    /// What the user shows: `online`, `away`, `do-not-disturb`, `invisible`.
    #[serde(default)]
    pub presence: String,
    /// The overlay as a super node sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayFacts>,
    /// Bytes of voice that this node has relayed for others since its start.
    pub relayed_bytes: u64,
    /// When the certificate must have been renewed.
    pub certificate_expires_unix_ms: u64,
    /// Calls that are not over.
    pub calls: usize,
    /// The same as `GET /v1/calls` shows them, with how their voice fares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub talks: Vec<serde_json::Value>,
    /// Resident memory in MiB.
    pub rss_mib: f64,
    /// Seconds since start.
    pub uptime_s: u64,
}

/// The overlay of super nodes, as one of them sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayFacts {
    /// Where this super node tells others that it is.
    pub address: String,
    /// Super nodes alive or suspect, this one among them.
    pub members: usize,
    /// Super nodes remembered as dead.
    pub dead: usize,
    /// The membership has been learnt.
    pub joined: bool,
    /// Nodes attached here.
    pub attached: usize,
    /// The same in percent of what this super node takes.
    pub load_percent: u32,
    /// Shards of the Global Index kept here.
    pub shards: usize,
    /// Entries of the Global Index kept here.
    pub entries: usize,
    /// Names in the cache.
    pub cached: usize,
    /// Names watched for attached nodes.
    pub watched: usize,
    /// Keepers whose voice does not count at present.
    pub distrusted: usize,
    /// Look-ups begun for attached nodes.
    pub look_ups: u64,
    /// Of these, answered from the cache.
    pub cache_hits: u64,
    /// Answered by the first keepers asked.
    pub by_keepers: u64,
    /// Answered after more keepers were asked.
    pub by_more_keepers: u64,
    /// Answered by nobody.
    pub by_nobody: u64,
    /// Suspicions of this node that it refuted.
    pub refutations: u64,
}

/// `POST /v1/calls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceCall {
    /// User name to call.
    pub to: String,
    /// Microphone for this call instead of the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microphone: Option<String>,
    /// Speaker for this call instead of the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
}

/// `POST /v1/calls/{id}/transfer`: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// User to whom the other side is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Call with whose other side it is joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
}

/// `POST /v1/calls/{id}/dtmf`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Digits {
    /// Any of `0123456789*#ABCD`.
    pub digits: String,
}

/// What `POST /v1/drain` takes.
#[derive(Debug, Clone, Deserialize)]
pub struct Drain {
    /// Longest time for attached nodes, splices and relayed calls to come to their end.
    pub patience_s: u64,
}
