//! Finding a name: cache, eight keepers, sixteen more, the login server (paper, section IV C).
//!
//! ```text
//!   look_up ─▶ cache? ──────────────────────────────────────────────▶ answer
//!      └─▶ 8 keepers ── 5 hold the newest, or 3 once all are heard ─▶ answer
//!              └── they hold nothing, or too few do ─▶ 16 more ─────▶ the newest record
//!                                                       └─ nothing ─▶ login server
//! ```
//!
//! Of several answers the highest sequence wins: records are signed, so a keeper can withhold or
//! give an old one, never invent. What this node itself came to hold counts with theirs. Who has
//! seen several keepers contradicted lately ([`super::voices`]) asks all 24 at once: what hostile
//! keepers cost is then traffic, not a round trip.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;

use super::{
    Found, Keeper, View,
    cache::Cache,
    keeper,
    patience::Patience,
    voices::{Doubts, Reply, summary},
};
use crate::{
    clock::UnixTime,
    identity::{NameKey, NodeId},
    overlay::placement::{ASKED_FIRST, shard_of},
    wire::v1::{self, overlay_message::Kind},
};

/// Keepers with the newest record that settle a look-up before all have answered. Chosen: in a calm
/// network five; once several keepers have been contradicted seven, which with 30 % hostile keepers
/// are all hostile with probability 0.3^7 = 0.0002.
const ALIKE_CALM: usize = 5;
const ALIKE_WARY: usize = 7;

/// Keepers with the newest record that are enough when all are heard or time is up (chosen: who
/// holds an older one may be behind, and the newest wins anyway).
const ALIKE_AT_TIMEOUT: usize = 3;

/// Answers of keepers that know all, whatever they are, that end a look-up at which all 24 were
/// asked (chosen: hostile keepers may be silent; with 30 % of them hostile all of 14 are with
/// probability 5e-8).
const HEARD_OF_ALL: usize = 2 * ALIKE_WARY;

/// Look-ups under way (chosen).
const LOOK_UPS_MAX: usize = 16_384;

/// A record older than this should have reached every keeper (chosen: above one hand-over).
const SETTLED_MS: u64 = 60_000;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This super node's cache.
    Cache,
    /// The first keepers.
    Keepers,
    /// The first and more.
    MoreKeepers,
    /// Nobody: the login server is the last resort.
    Nobody,
}

/// A finished look-up.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The number that [`LookUps::look_up`] gave.
    pub look_up: u64,
    /// What was looked up.
    pub key: NameKey,
    /// Newest record of each device under the name; empty if nobody knows it.
    pub found: Vec<Found>,
    /// Where it came from.
    pub source: Source,
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookUpStatistics {
    /// Look-ups begun.
    pub look_ups: u64,
    /// Answered from the cache.
    pub cache_hits: u64,
    /// Answered by the first keepers.
    pub by_keepers: u64,
    /// Answered after sixteen more were asked.
    pub by_more_keepers: u64,
    /// Answered by nobody.
    pub by_nobody: u64,
}

struct Query {
    key: NameKey,
    replies: BTreeMap<NodeId, Reply>,
    best: BTreeMap<NodeId, Found>,
    /// Those asked first; their answers are compared with the outcome.
    first: Vec<NodeId>,
    /// Those that may be asked yet.
    more: Vec<NodeId>,
    /// When those that are awaited were asked, and until when.
    asked: Instant,
    deadline: Instant,
    /// Whether sixteen more were asked after the first eight: another round trip.
    asked_later: bool,
}

/// Look-ups under way at this super node.
#[derive(Default)]
pub struct LookUps {
    queries: BTreeMap<u64, Query>,
    next_id: u64,
    cache: Cache,
    doubts: Doubts,
    /// How long the first eight, and then the sixteen, may take.
    patience: Patience,
    out: Vec<(NodeId, Kind)>,
    answers: Vec<Answer>,
    silent: Vec<NodeId>,
    /// Held back while this node enters the overlay. Bound: [`LOOK_UPS_MAX`] with those under way.
    held: Vec<(u64, NameKey)>,
    statistics: LookUpStatistics,
}

impl LookUps {
    /// Starts a look-up; its answer comes from [`Self::take_answers`]. `fresh` bypasses the cache;
    /// with `hold` it waits for [`Self::release`]. `here` is what devices that are attached here
    /// published under the name. `None` if too many are under way.
    pub fn look_up(
        &mut self,
        view: &View,
        keeper: &Keeper,
        (key, fresh): (NameKey, bool),
        here: Vec<Found>,
        hold: bool,
    ) -> Option<u64> {
        if self.queries.len() + self.held.len() >= LOOK_UPS_MAX {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.statistics.look_ups += 1;
        if fresh {
            self.cache.forget(&key);
        }
        if let Some(found) = self.cache.get(view, &key) {
            let found = found.clone();
            self.statistics.cache_hits += 1;
            self.answers.push(Answer { look_up: id, key, found, source: Source::Cache });
            return Some(id);
        }
        if hold {
            self.held.push((id, key));
        } else {
            self.ask_keepers(view, keeper, id, key, here);
        }
        Some(id)
    }

    /// Whether look-ups wait for [`Self::release`].
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Starts what was held back.
    pub fn release(&mut self, view: &View, keeper: &Keeper) {
        for (id, key) in std::mem::take(&mut self.held) {
            self.ask_keepers(view, keeper, id, key, Vec::new());
        }
    }

    fn ask_keepers(
        &mut self,
        view: &View,
        keeper: &Keeper,
        id: u64,
        key: NameKey,
        here: Vec<Found>,
    ) {
        let placement = keeper.placement(view, shard_of(&key));
        let ranked = placement.ranked();
        let (first, more) = ranked.split_at(ranked.len().min(ASKED_FIRST));
        let asked = view.now.instant;
        let mut query = Query {
            key,
            replies: BTreeMap::new(),
            best: BTreeMap::new(),
            first: first.to_vec(),
            more: more.to_vec(),
            asked,
            deadline: asked + self.patience.time(),
            asked_later: false,
        };
        merge(&mut query.best, here);
        merge(&mut query.best, keeper.found(view.now.unix, &key));
        ask(&mut query, &mut self.out, view, keeper, first, id);
        if self.doubts.is_wary(view.now.instant) {
            let more = std::mem::take(&mut query.more);
            ask(&mut query, &mut self.out, view, keeper, &more, id);
        }
        self.queries.insert(id, query);
        self.settle(view, keeper, id);
    }

    /// Look-ups under way.
    pub fn under_way(&self) -> usize {
        self.queries.len()
    }

    /// Names in the cache.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Counters.
    pub fn statistics(&self) -> LookUpStatistics {
        self.statistics
    }

    /// Keepers whose voice does not count at present.
    pub fn distrusted(&self) -> usize {
        self.doubts.distrusted()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.queries.values().map(|query| query.deadline).min()
    }

    /// Messages to send.
    pub fn take_messages(&mut self) -> Vec<(NodeId, Kind)> {
        std::mem::take(&mut self.out)
    }

    /// Look-ups that are finished.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Keepers that did not answer: worth a ping.
    pub fn take_silent(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.silent)
    }

    /// This node came to know something newer about a name: what is cached is out of date, and who
    /// is looking the name up just now is told.
    pub fn handle_news(&mut self, key: &NameKey, found: &[Found]) {
        self.cache.forget(key);
        for query in self.queries.values_mut().filter(|query| query.key == *key) {
            merge(&mut query.best, found.to_vec());
        }
    }

    /// A keeper answered.
    pub fn handle_answer(
        &mut self,
        view: &View,
        keeper: &Keeper,
        from: NodeId,
        answer: &v1::FindAnswer,
    ) {
        let Some(query) = self.queries.get_mut(&answer.request) else { return };
        let Some(reply) = query.replies.get_mut(&from) else { return };
        if !matches!(reply, Reply::Awaited) {
            return;
        }
        if !query.asked_later || !query.first.contains(&from) {
            self.patience.handle_round_trip(view.now.instant - query.asked);
        }
        let mut found = Vec::new();
        for entry in answer.entries.iter().take(DEVICES_MAX) {
            let Some(one) = check(view, &query.key, entry) else { continue };
            found.push(one);
        }
        // Who does not know all has no voice in the count, but what it holds may be the newest.
        let told = Reply::Found(found.iter().map(summary).collect());
        *reply = if answer.refused { Reply::Refused } else { told };
        merge(&mut query.best, found);
        self.settle(view, keeper, answer.request);
    }

    /// Gives up waiting where time is up.
    pub fn handle_timeout(&mut self, view: &View, keeper: &Keeper) {
        let now = view.now.instant;
        let due = |(id, query): (&u64, &Query)| (query.deadline <= now).then_some(*id);
        let due: Vec<u64> = self.queries.iter().filter_map(due).collect();
        for id in due {
            self.settle(view, keeper, id);
        }
    }

    /// Decides whether the answers so far are enough.
    fn settle(&mut self, view: &View, keeper: &Keeper, id: u64) {
        let now = view.now.instant;
        let wary = self.doubts.is_wary(now);
        let Some(query) = self.queries.get_mut(&id) else { return };
        let voices = self.doubts.count(&query.replies, &query.best, now);
        let all_in = voices.awaited == 0 || query.deadline <= now;
        let known = !query.best.is_empty();
        let all_asked = query.more.is_empty();
        let enough_alike = if wary { ALIKE_WARY } else { ALIKE_CALM };
        let enough = match (known, all_in) {
            (true, true) => {
                all_asked || voices.alike >= ALIKE_AT_TIMEOUT || is_fresh(query, view.now.unix)
            }
            (true, false) => {
                voices.alike >= enough_alike || all_asked && voices.heard >= HEARD_OF_ALL
            }
            (false, _) => all_in && all_asked,
        };
        if enough {
            return self.finish(view, id);
        }
        if all_in {
            query.asked_later = true;
            (query.asked, query.deadline) = (now, now + self.patience.time());
            let more = std::mem::take(&mut query.more);
            ask(query, &mut self.out, view, keeper, &more, id);
            if query.replies.values().all(|reply| !matches!(reply, Reply::Awaited)) {
                self.finish(view, id);
            }
        }
    }

    fn finish(&mut self, view: &View, id: u64) {
        let Some(query) = self.queries.remove(&id) else { return };
        self.judge(view, &query);
        // What few hold, or only those who do not know all, is not remembered unless it is new: it
        // may be out of date.
        let voices = self.doubts.count(&query.replies, &query.best, view.now.instant);
        let is_sure = voices.alike >= ALIKE_AT_TIMEOUT
            || voices.alike * 2 > query.replies.len()
            || is_fresh(&query, view.now.unix);
        let mut found: Vec<Found> = query.best.into_values().collect();
        if !found.is_empty() && is_sure {
            self.cache.put(view.now.instant, query.key, found.clone());
        }
        for one in &mut found {
            // The super node in use is dead: the device will attach elsewhere and say so.
            if one.lost_home(view) {
                one.departed = Some(view.now.unix);
            }
        }
        let source = match (found.is_empty(), query.asked_later) {
            (true, _) => Source::Nobody,
            (false, false) => Source::Keepers,
            (false, true) => Source::MoreKeepers,
        };
        match source {
            Source::Nobody => self.statistics.by_nobody += 1,
            Source::MoreKeepers => self.statistics.by_more_keepers += 1,
            _ => self.statistics.by_keepers += 1,
        }
        self.answers.push(Answer { look_up: id, key: query.key, found, source });
    }

    /// Remembers which keepers the outcome contradicts, and which were silent.
    fn judge(&mut self, view: &View, query: &Query) {
        let settled_before = UnixTime(view.now.unix.0.saturating_sub(SETTLED_MS));
        let settled: Vec<_> = query
            .best
            .values()
            .filter(|found| found.record.sequence < settled_before.0)
            .map(|found| (found.record.device, found.record.sequence))
            .collect();
        for node in &query.first {
            let Some(reply) = query.replies.get(node) else { continue };
            let Reply::Found(told) = reply else {
                if matches!(reply, Reply::Awaited) && query.deadline <= view.now.instant {
                    self.silent.push(*node);
                }
                continue;
            };
            let lacks = |(device, sequence): &(NodeId, u64)| {
                !told.iter().any(|(other, told)| other == device && told >= sequence)
            };
            if settled.iter().any(lacks) {
                self.doubts.contradict(view.now.instant, *node);
            } else {
                self.doubts.absolve(node);
            }
        }
    }
}

/// Most devices of one name that an answer may hold.
const DEVICES_MAX: usize = 16;

fn ask(
    query: &mut Query,
    out: &mut Vec<(NodeId, Kind)>,
    view: &View,
    keeper: &Keeper,
    nodes: &[NodeId],
    id: u64,
) {
    for node in nodes {
        if *node == view.own.0 {
            let held = keeper.found(view.now.unix, &query.key);
            let knows = keeper.knows_all(view.now.instant, &query.key);
            let told = Reply::Found(held.iter().map(summary).collect());
            query.replies.insert(*node, if knows { told } else { Reply::Refused });
            continue;
        }
        query.replies.insert(*node, Reply::Awaited);
        let key = Bytes::copy_from_slice(&query.key.0);
        out.push((*node, Kind::Find(v1::Find { request: id, key })));
    }
}

fn merge(best: &mut BTreeMap<NodeId, Found>, found: Vec<Found>) {
    for one in found {
        let device = one.record.device;
        if best.get(&device).is_none_or(|known| known.rank() < one.rank()) {
            best.insert(device, one);
        }
    }
}

/// Whether the newest record is so new that few keepers need have it.
fn is_fresh(query: &Query, now: UnixTime) -> bool {
    let newest = query.best.values().map(|found| found.record.sequence).max();
    newest.is_some_and(|sequence| sequence + SETTLED_MS >= now.0)
}

/// Checks an entry that a keeper gave: the right name, signed, alive; and its departure, if any.
pub fn check(view: &View, key: &NameKey, entry: &v1::Entry) -> Option<Found> {
    let record = view.trust.record(entry.record.as_ref()?, view.now.unix)?;
    let fits = |departure: &&v1::Departure| keeper::departure_fits(view, &record, departure);
    let departed = entry.departure.as_ref().filter(fits);
    if record.name_key != *key || !keeper::is_live(&record, departed, view.now.unix) {
        return None;
    }
    Some(Found { departed: departed.map(|d| UnixTime(d.at_unix_ms)), record })
}
