//! What a super node's owner decides.

use std::{net::SocketAddr, sync::Arc};

use cooee_proto::{identity::Certificate, wire::v1::TurnCredentials};

/// Mints TURN credentials for a node that reached us at this address of ours; owned by the relay.
pub type TurnCredentialSource =
    Arc<dyn Fn(&Certificate, SocketAddr) -> Option<TurnCredentials> + Send + Sync>;

/// Configuration of a super node. All bounds are chosen; the comments say from what.
#[derive(Clone)]
pub struct SuperNodeConfig {
    /// Port on which this node listens, told to others.
    pub listening_port: Option<u16>,
    /// Super nodes to link with at the start.
    pub seeds: Vec<SocketAddr>,
    /// Login servers that splices may lead to.
    pub login_servers: Vec<SocketAddr>,
    /// Most attached nodes: about 50 KiB of memory each.
    pub attached_max: usize,
    /// Most links to other super nodes. A larger network links on demand.
    pub links_max: usize,
    /// Most splices that one node may have open through here.
    pub splices_per_node_max: usize,
    /// Most splices in all.
    pub splices_max: usize,
    /// Bytes per second that one node may splice, both directions together: signalling and
    /// messages, not media.
    pub bytes_per_second_per_node: u64,
    /// Bytes per second that all splices and relayed media may take together (`--relay-budget`).
    pub relay_budget_bytes_per_second: u64,
    /// Requests per second that one node may make, with a burst of ten times as many.
    pub requests_per_second_per_node: u64,
    /// Most clients without certificate at once.
    pub anonymous_max: usize,
    /// Clients without certificate that one address may open in a burst; one more every 2 s.
    pub anonymous_per_address_burst: u64,
    /// Makes TURN credentials; without it nodes are told that there is no relay here.
    pub turn_credentials: Option<TurnCredentialSource>,
    /// Answers STUN clients of other super nodes; without it they are not answered.
    pub partner_answer: Option<super::PartnerAnswer>,
}

impl Default for SuperNodeConfig {
    fn default() -> Self {
        Self {
            listening_port: None,
            seeds: Vec::new(),
            login_servers: Vec::new(),
            attached_max: 5_000,
            links_max: 256,
            splices_per_node_max: 32,
            splices_max: 20_000,
            bytes_per_second_per_node: 128 * 1024,
            relay_budget_bytes_per_second: 12_500_000,
            requests_per_second_per_node: 20,
            anonymous_max: 256,
            anonymous_per_address_burst: 20,
            turn_credentials: None,
            partner_answer: None,
        }
    }
}
