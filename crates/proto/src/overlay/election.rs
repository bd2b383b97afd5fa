//! Who becomes a super node, who stops being one, and what one at its limit says.
//!
//! ```text
//!            reachable, able, and the network needs it          load, loss of reachability,
//! battery,
//!   ordinary ─────────────────────────────────────▶ super node ─────────── owner's wish ─▶ drains
//! ─▶ ordinary
//! ```
//!
//! Nobody appoints anybody: each node decides for itself by the same rule from what it sees of the
//! membership, with a delay drawn at random so that a thousand willing nodes do not all step in at
//! once.
//! Reachability counts only if others verified it by dialling back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::{
    statement::AddressBlock,
    table::{State, Table},
};
use crate::identity::NodeId;

/// What the owner of a node allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Never a super node.
    Refused,
    /// A super node if the network needs one, with at most so many attached devices.
    Budget {
        /// Attached devices at most.
        devices_max: u32,
    },
    /// A super node always: an operator's dedicated one.
    Dedicated {
        /// Attached devices at most.
        devices_max: u32,
    },
}

/// What is known of this node.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Other super nodes that reached it by dialling back, over TCP and UDP.
    pub verified_by: u32,
    /// How long it has been up and reachable.
    pub uptime: Duration,
    /// Free memory in mebibytes.
    pub free_memory_mib: u32,
    /// Share of the processor that is free, in percent.
    pub free_processor_percent: u32,
    /// Measured upstream in kilobits a second.
    pub upstream_kbps: u32,
    /// On battery.
    pub on_battery: bool,
    /// On a metered link.
    pub metered: bool,
    /// Where it would listen.
    pub block: AddressBlock,
    /// What it runs.
    pub program_version: u32,
}

/// Dial-backs by different super nodes that a candidate needs (chosen: one may be hostile).
pub const VERIFICATIONS_MIN: u32 = 3;

/// Uptime that a candidate needs (chosen: Skype's super nodes lived 5.5 hours in the median, and
/// who has been up for an hour tends to stay).
pub const UPTIME_MIN: Duration = Duration::from_secs(3600);

/// What a super node needs at least (chosen; measured use is below a tenth of it).
pub const FREE_MEMORY_MIB_MIN: u32 = 256;
/// Free processor share that a candidate needs, in percent (chosen).
pub const FREE_PROCESSOR_PERCENT_MIN: u32 = 30;
/// Upstream that a candidate needs, in kilobits a second (chosen).
pub const UPSTREAM_KBPS_MIN: u32 = 2000;

/// Mean load above which the network wants more super nodes, and below which it has too many, in
/// percent of capacity (chosen: a third of all may die and the rest still carry everything).
pub const LOAD_WANTED_PERCENT: u32 = 50;
/// Below this mean load super nodes that are not dedicated retire, in percent.
pub const LOAD_RETIRE_PERCENT: u32 = 10;

/// Share of the super nodes that may leave within a minute, in percent; beyond it those that are
/// not needed stay a little longer (chosen: hand-over takes seconds, and a shard with sixteen
/// keepers so never loses two of them before others have taken over).
pub const LEAVING_PER_MINUTE_PERCENT_MAX: usize = 5;
const LEFT_LATELY: Duration = Duration::from_secs(60);

/// Super nodes below which no one retires for lack of load (chosen).
pub const SUPER_NODES_MIN: usize = 24;

/// Largest share of the super nodes in one address block, and with one program version, in percent,
/// once the network has [`SUPER_NODES_MIN`] (chosen; December 2010 was one version crashing).
pub const BLOCK_SHARE_PERCENT_MAX: usize = 5;
/// See [`BLOCK_SHARE_PERCENT_MAX`].
pub const VERSION_SHARE_PERCENT_MAX: usize = 70;

/// Why a node is not a super node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotElected {
    /// The owner refused.
    #[error("the owner does not want it")]
    Refused,
    /// Battery or metered link.
    #[error("on battery or on a metered link")]
    Battery,
    /// Not enough others reached it.
    #[error("fewer than {VERIFICATIONS_MIN} super nodes have reached it")]
    Unreachable,
    /// Too young.
    #[error("up for less than an hour")]
    Young,
    /// Memory, processor or upstream.
    #[error("too little memory, processor or upstream to spare")]
    Weak,
    /// The network has enough.
    #[error("the network needs no more super nodes")]
    NotNeeded,
    /// Too many in this address block already.
    #[error("too many super nodes in this address block")]
    CrowdedBlock,
    /// Too many run this version already.
    #[error("too many super nodes run this program version")]
    CrowdedVersion,
}

/// Whether a node may offer itself now.
pub fn may_serve(
    consent: Consent,
    standing: &Standing,
    table: &Table,
    own_load_percent: Option<u32>,
) -> Result<(), NotElected> {
    let dedicated = matches!(consent, Consent::Dedicated { .. });
    if consent == Consent::Refused {
        return Err(NotElected::Refused);
    }
    if dedicated {
        return Ok(());
    }
    if standing.on_battery || standing.metered {
        return Err(NotElected::Battery);
    }
    if standing.verified_by < VERIFICATIONS_MIN {
        return Err(NotElected::Unreachable);
    }
    if standing.uptime < UPTIME_MIN {
        return Err(NotElected::Young);
    }
    if standing.free_memory_mib < FREE_MEMORY_MIB_MIN
        || standing.free_processor_percent < FREE_PROCESSOR_PERCENT_MIN
        || standing.upstream_kbps < UPSTREAM_KBPS_MIN
    {
        return Err(NotElected::Weak);
    }
    let wish = Wanted {
        block: standing.block,
        program_version: standing.program_version,
        serving: own_load_percent.is_some(),
        own_load_percent: own_load_percent.unwrap_or(0),
    };
    wanted(table, wish)
}

/// What the network looks at in a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where it listens.
    pub block: AddressBlock,
    /// What it runs.
    pub program_version: u32,
    /// Whether it serves already.
    pub serving: bool,
    /// Load of the super node that looks, which is not in its own table.
    pub own_load_percent: u32,
}

/// Whether the network needs one more super node, and this one: the mean load, the address block,
/// the program version.
pub fn wanted(table: &Table, standing: Wanted) -> Result<(), NotElected> {
    let members = table.present();
    if members < SUPER_NODES_MIN && standing.serving {
        return Ok(());
    }
    let load = match members {
        0 => standing.own_load_percent,
        _ => mean_load_percent(table),
    };
    let serving = standing.serving;
    let threshold = if serving { LOAD_RETIRE_PERCENT } else { LOAD_WANTED_PERCENT };
    let crowd = left_lately(table) * 100 >= members.max(1) * LEAVING_PER_MINUTE_PERCENT_MAX;
    if serving && crowd {
        return Ok(());
    }
    if load < threshold {
        return Err(NotElected::NotNeeded);
    }
    if serving || members < SUPER_NODES_MIN {
        return Ok(());
    }
    let same_block = table.iter().filter(|m| m.super_node.block() == standing.block).count();
    if (same_block + 1) * 100 > members * BLOCK_SHARE_PERCENT_MAX {
        return Err(NotElected::CrowdedBlock);
    }
    let version = standing.program_version;
    let same = table.iter().filter(|m| m.super_node.program_version == version).count();
    let versions_differ = same < members;
    // In an emergency (everybody near the limit) any version is better than none.
    if versions_differ && (same + 1) * 100 > members * VERSION_SHARE_PERCENT_MAX && load < 80 {
        return Err(NotElected::CrowdedVersion);
    }
    Ok(())
}

/// What members told of their load counts for so long, if enough did so lately (chosen: each member
/// hears from two in ten seconds, so of a hundred in this time, however many there are).
const LOAD_FRESH: Duration = Duration::from_secs(600);
const LOAD_FRESH_MIN: u64 = 16;

/// Members that left of their own will within the minute before the newest thing heard.
fn left_lately(table: &Table) -> usize {
    let newest = table.iter().filter_map(|member| member.load_told).max();
    let Some(since) = newest.and_then(|newest| newest.checked_sub(LEFT_LATELY)) else { return 0 };
    let all = (0..table.places()).filter_map(|place| table.at(place));
    all.filter(|m| m.state == State::Dead && m.super_node.leaving && m.since >= since).count()
}

/// Mean load that the members told lately, in percent of their capacity; with few who did, of all.
pub fn mean_load_percent(table: &Table) -> u32 {
    let newest = table.iter().filter_map(|member| member.load_told).max();
    let mean = |since: Option<Instant>| {
        let (mut load, mut capacity, mut count) = (0_u64, 0_u64, 0_u64);
        for member in table.iter().filter(|m| since.is_none() || m.load_told >= since) {
            let carries = u64::from(member.super_node.capacity);
            load += carries * u64::from(member.load_percent);
            capacity += carries;
            count += 1;
        }
        (load.checked_div(capacity).unwrap_or(0) as u32, count)
    };
    match newest.and_then(|newest| newest.checked_sub(LOAD_FRESH)).map(|since| mean(Some(since))) {
        Some((lately, count)) if count >= LOAD_FRESH_MIN => lately,
        _ => mean(None).0,
    }
}

/// Super nodes to try instead of one that is full: lightly loaded, spread over address blocks, in
/// random order so that a crowd turned away spreads.
pub fn try_these(table: &Table, rng: &mut ChaCha12Rng, count: usize) -> Vec<NodeId> {
    let mut chosen: BTreeMap<AddressBlock, NodeId> = BTreeMap::new();
    const LIGHT_PERCENT: u8 = 80;
    for _ in 0..count * 4 {
        let light = |m: &super::table::Member| {
            m.state == State::Alive && m.load_percent < LIGHT_PERCENT && !m.super_node.leaving
        };
        let Some(member) = table.random(rng, light) else { break };
        chosen.entry(member.super_node.block()).or_insert(member.super_node.node);
        if chosen.len() >= count {
            break;
        }
    }
    let mut nodes: Vec<NodeId> = chosen.into_values().collect();
    rand::seq::SliceRandom::shuffle(nodes.as_mut_slice(), rng);
    nodes
}

/// What the election machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Become a super node now.
    Serve,
    /// Drain and become an ordinary node again.
    Retire(NotElected),
}

/// Decides now and then whether this node should serve.
pub struct Election {
    consent: Consent,
    serving: bool,
    next_look: Instant,
    rng: ChaCha12Rng,
}

/// Mean time between two looks (chosen; drawn anew each time, so that not all step in at once).
const LOOK_PERIOD: Duration = Duration::from_secs(120);

impl Election {
    /// A node that does not serve yet.
    pub fn new(now: Instant, consent: Consent, mut rng: ChaCha12Rng) -> Self {
        let dedicated = matches!(consent, Consent::Dedicated { .. });
        let wait = if dedicated { Duration::ZERO } else { LOOK_PERIOD };
        let next_look = now + wait.mul_f64(rng.random::<f64>() * 2.0);
        Self { consent, serving: false, next_look, rng }
    }

    /// Whether it serves.
    pub fn is_serving(&self) -> bool {
        self.serving
    }

    /// The owner changed their mind; takes effect at once.
    pub fn set_consent(&mut self, now: Instant, consent: Consent) {
        self.consent = consent;
        self.next_look = now;
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Instant {
        self.next_look
    }

    /// Looks whether to change.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        standing: &Standing,
        table: &Table,
        own_load_percent: u32,
    ) -> Option<Decision> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK_PERIOD.mul_f64(0.5 + self.rng.random::<f64>());
        let own_load = self.serving.then_some(own_load_percent);
        let verdict = may_serve(self.consent, standing, table, own_load);
        match (self.serving, verdict) {
            (false, Ok(())) => {
                self.serving = true;
                Some(Decision::Serve)
            }
            (true, Err(reason)) => {
                self.serving = false;
                Some(Decision::Retire(reason))
            }
            _ => None,
        }
    }
}
