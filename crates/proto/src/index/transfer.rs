//! Handing shards over when the membership changes, and repairing what differs.
//!
//! ```text
//!   keeper that stays ── ShardOffer (digest) ──▶ new keeper        first two of the ranking,
//!                                                                  again until they hear
//!                     ◀─ ShardPull (hashes held) ──                if the digests differ
//!                     ◀─ ShardOffer ──                             if not
//!                     ── ShardPage (entries lacking) … ──▶
//!                     ── ShardPull, last ──▶                       if the other held more
//! ```
//!
//! An offer may come before the new keeper has learnt that there is such a member, and is then
//! dropped: hence again. The same exchange runs now and then between two keepers of a shard chosen
//! at random (anti-entropy), so that whatever was lost, withheld or split comes together again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{Keeper, StoreResult, View};
use crate::{
    identity::{NameKey, NodeId},
    overlay::{
        DATAGRAM_PAYLOAD_BYTES_MAX, MemberEvent,
        placement::{KEEPERS, Placement},
    },
    wire::v1::{self, overlay_message::Kind},
};

/// Time between a change of the membership and the offers that follow (chosen: joins and deaths
/// that come together are handled together).
const OFFER_DELAY: Duration = Duration::from_secs(2);

/// Offers in one go and the time between two goes (chosen: 200 kilobytes a second at most).
const OFFERS_PER_TICK: usize = 64;
const OFFER_TICK: Duration = Duration::from_millis(250);

/// How often a shard is offered until its new keeper is heard of, [`OFFER_DELAY`] after the change
/// and then after twice the time before, 2, 4, 8 and 16 s (chosen: a member of 2,000 learns the
/// others in one to some ten seconds, depending on how far away it is).
const OFFER_TRIES: u32 = 4;

/// Keepers that offer a shard to one that is new, the first of the ranking, and keepers that are
/// offered it by one that is displaced (chosen: one may be dying).
const OFFERERS: usize = 2;

/// Time between two rounds of anti-entropy, and shards compared in each (chosen: each of the 400
/// shards of a super node among 2,000 about once an hour).
const REPAIR_PERIOD: Duration = Duration::from_secs(60);
const REPAIRED_PER_ROUND: usize = 6;

/// How long a shard is kept that belongs elsewhere now (chosen: the new keepers have it by then).
const SURPLUS_TIME: Duration = Duration::from_secs(15 * 60);

/// Pages sent in answer to one pull (chosen: a burst of 5 kilobytes).
const PAGES_PER_PULL: usize = 4;

/// Most hashes in one pull.
const PULL_HASHES_MAX: usize = 120;

const PLACE_BYTES: usize = NameKey::BYTES + NodeId::BYTES;

pub(super) struct Transfer {
    rng: ChaCha12Rng,
    /// Shards owed to new keepers that have not been heard of.
    offers: BTreeMap<(u32, NodeId), Owed>,
    /// Shards of before a restart, to be compared with another keeper's once others are known.
    pub(super) to_compare: BTreeSet<u32>,
    next_offers: Option<Instant>,
    next_repair: Instant,
    repaired: u32,
    /// Pulls under way: a shard is pulled from one keeper at a time.
    pulling: BTreeMap<u32, Pulling>,
    pub(super) out: Vec<(NodeId, Kind)>,
}

/// An offer that is due, perhaps again.
#[derive(Clone, Copy)]
struct Owed {
    tries: u32,
    due: Instant,
}

#[derive(Clone, Copy)]
struct Pulling {
    from: NodeId,
    until: Instant,
    /// Whether that keeper knows all of the shard.
    complete: bool,
}

impl Transfer {
    pub(super) fn new(now: Instant, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let next_repair = now + REPAIR_PERIOD.mul_f64(rng.random::<f64>());
        Self {
            rng,
            offers: BTreeMap::new(),
            to_compare: BTreeSet::new(),
            next_offers: None,
            next_repair,
            repaired: 0,
            pulling: BTreeMap::new(),
            out: Vec::new(),
        }
    }
}

impl Transfer {
    /// Sees to it that what is owed is offered when it is due, not before `earliest`.
    fn plan_offers(&mut self, earliest: Instant) {
        let compare = (!self.to_compare.is_empty()).then_some(earliest);
        let due = self.offers.values().map(|owed| owed.due.max(earliest)).min();
        let planned = [self.next_offers, compare, due];
        self.next_offers = planned.into_iter().flatten().min();
    }
}

/// How long a pull may take before another keeper is asked (chosen).
const PULL_TIME: Duration = Duration::from_secs(5);

impl Keeper {
    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Instant {
        let sometimes = [self.transfer.next_offers, self.hand_over.next_timeout()];
        sometimes.into_iter().flatten().fold(self.transfer.next_repair, Instant::min)
    }

    /// Messages to send.
    pub fn take_messages(&mut self) -> Vec<(NodeId, Kind)> {
        std::mem::take(&mut self.transfer.out)
    }

    /// The membership changed: some shards have other keepers now.
    pub fn handle_member_event(&mut self, view: &View, event: MemberEvent) {
        let (MemberEvent::Up(node) | MemberEvent::Down(node)) = event;
        for shard in self.lowest.concerned(node) {
            self.rank_again(view, event, shard);
        }
        self.transfer.plan_offers(view.now.instant + OFFER_DELAY);
    }

    fn rank_again(&mut self, view: &View, event: MemberEvent, shard: u32) {
        let Some(state) = self.shards.get_mut(&shard) else { return };
        // Who comes is new itself; who goes makes room for others.
        let before = match event {
            MemberEvent::Up(_) => Vec::new(),
            MemberEvent::Down(_) => state.placement.keepers().to_vec(),
        };
        let changed = match event {
            MemberEvent::Up(node) => state.placement.add(view.table, shard, node),
            MemberEvent::Down(node) => state.placement.remove(view.table, view.own, shard, node),
        };
        if !changed {
            return;
        }
        self.lowest.set(shard, state.placement.lowest());
        let own_place = state.placement.place(view.own.0);
        let is_keeper = own_place.is_some_and(|place| place < KEEPERS);
        let displaced = !is_keeper && state.surplus_since.is_none();
        match (is_keeper, state.surplus_since) {
            (true, _) => state.surplus_since = None,
            (false, None) => state.surplus_since = Some(view.now.instant),
            (false, Some(_)) => {}
        }
        let keepers = state.placement.keepers();
        let new: Vec<NodeId> = match event {
            MemberEvent::Up(node) => keepers.iter().copied().filter(|k| *k == node).collect(),
            MemberEvent::Down(_) => {
                keepers.iter().copied().filter(|node| !before.contains(node)).collect()
            }
        };
        let owed = Owed { tries: 0, due: view.now.instant + OFFER_DELAY };
        let offers = offer_of(shard, keepers, view.own.0, &new);
        self.transfer.offers.extend(offers.map(|offer| (offer, owed)));
        if displaced {
            // Where many came back at once with what they had on their disks, nobody else may know
            // what is newest.
            let first = keepers.iter().take(OFFERERS);
            self.transfer.offers.extend(first.map(|keeper| ((shard, *keeper), owed)));
        }
    }

    /// Runs whatever is due.
    pub fn handle_timeout(&mut self, view: &View) {
        let now = view.now.instant;
        self.continue_hand_over(now);
        if self.transfer.next_offers.is_some_and(|at| at <= now) {
            self.offer_what_is_owed(now);
            self.compare_restored(view);
            self.transfer.next_offers = None;
            self.transfer.plan_offers(now + OFFER_TICK);
        }
        if now >= self.transfer.next_repair {
            self.transfer.next_repair = now + REPAIR_PERIOD;
            self.transfer.pulling.retain(|_, pulling| pulling.until > now);
            self.repair_some(view);
        }
    }

    fn offer_what_is_owed(&mut self, now: Instant) {
        let due = self.transfer.offers.iter().filter(|(_, owed)| owed.due <= now);
        let due: Vec<_> = due.map(|(offer, owed)| (*offer, *owed)).take(OFFERS_PER_TICK).collect();
        for ((shard, node), owed) in due {
            // While the table is being learnt, keepers of a moment ago are overtaken by better
            // ones; one that leaves hands over to those that follow, who are ranked too.
            let state = self.shards.get(&shard);
            let place = state.and_then(|state| state.placement.place(node));
            let wanted = place.is_some_and(|place| place <= KEEPERS);
            let tries = owed.tries + 1;
            if wanted && tries < OFFER_TRIES && state.is_some_and(|s| !s.entries.is_empty()) {
                let again = Owed { tries, due: now + OFFER_DELAY * (1 << tries) };
                self.transfer.offers.insert((shard, node), again);
            } else {
                self.transfer.offers.remove(&(shard, node));
            }
            if wanted {
                self.offer_asking(now, shard, node, true);
            }
        }
    }

    fn compare_restored(&mut self, view: &View) {
        for _ in 0..OFFERS_PER_TICK {
            let Some(shard) = self.transfer.to_compare.pop_first() else { return };
            self.offer_to_any(view, shard);
        }
    }

    /// Offers a shard to a random other keeper.
    fn offer_to_any(&mut self, view: &View, shard: u32) {
        let Some(state) = self.shards.get(&shard) else { return };
        let keepers = state.placement.keepers().iter().copied();
        let others: Vec<NodeId> = keepers.filter(|node| *node != view.own.0).collect();
        if !others.is_empty() {
            let other = others[self.transfer.rng.random_range(0..others.len())];
            self.offer(view.now.instant, shard, other);
        }
    }

    fn repair_some(&mut self, view: &View) {
        for _ in 0..REPAIRED_PER_ROUND {
            let next = self.shards.range(self.transfer.repaired..).next();
            let Some((&shard, state)) = next.or_else(|| self.shards.iter().next()) else { return };
            self.transfer.repaired = shard + 1;
            let surplus = state.surplus_since;
            self.expire_shard(view.now.unix, shard);
            self.offer_to_any(view, shard);
            if surplus.is_some_and(|since| view.now.instant >= since + SURPLUS_TIME) {
                self.drop_shard(shard);
            }
        }
    }

    pub(super) fn offer(&mut self, now: Instant, shard: u32, to: NodeId) {
        self.offer_asking(now, shard, to, false);
    }

    fn offer_asking(&mut self, now: Instant, shard: u32, to: NodeId, ask: bool) {
        let Some(state) = self.shards.get(&shard) else { return };
        let (digest, entries) = (state.digest, state.entries.len() as u32);
        let complete = state.is_complete(now);
        let offer = v1::ShardOffer { shard, digest, entries, leaving: false, complete, ask };
        self.transfer.out.push((to, Kind::ShardOffer(offer)));
    }

    /// Another keeper tells what it holds.
    pub fn handle_offer(&mut self, view: &View, from: NodeId, offer: &v1::ShardOffer) {
        if offer.shard >= crate::overlay::placement::SHARDS {
            return;
        }
        let now = view.now.instant;
        self.note_holder(from, offer);
        self.transfer.offers.remove(&(offer.shard, from));
        if offer.entries == 0 && !self.shards.contains_key(&offer.shard) {
            return;
        }
        if !self.take_up(view, offer.shard) {
            return;
        }
        let same = self.shards.get(&offer.shard).is_some_and(|s| s.digest == offer.digest);
        let busy = self.transfer.pulling.get(&offer.shard);
        let busy = busy.is_some_and(|pulling| pulling.until > now);
        if offer.leaving {
            self.hand_over.owed.insert(offer.shard, from);
        }
        if same && let Some(state) = self.shards.get_mut(&offer.shard) {
            // Two that are back from their disks, alike, prove nothing.
            if offer.complete {
                state.complete_at = None;
            }
            self.confirm(now, offer.shard);
        }
        if same && offer.ask {
            self.offer(now, offer.shard, from);
        }
        if same || busy {
            return;
        }
        let pulling = Pulling { from, until: now + PULL_TIME, complete: offer.complete };
        self.transfer.pulling.insert(offer.shard, pulling);
        self.pull(offer.shard, from, &[], false);
    }

    fn pull(&mut self, shard: u32, from: NodeId, after: &[u8], last: bool) {
        let Some(state) = self.shards.get(&shard) else { return };
        let start = parse_place(after).map_or(0, |place| match state.search(&place) {
            Ok(at) | Err(at) => at,
        });
        let mut held = Vec::new();
        let listed = state.entries[start..].iter().take(PULL_HASHES_MAX);
        listed.for_each(|entry| held.extend_from_slice(&entry.hash().to_be_bytes()));
        let to = state.entries.get(start + PULL_HASHES_MAX).map(|e| place_bytes(&e.place()));
        let pull = v1::ShardPull {
            shard,
            from: Bytes::copy_from_slice(after),
            to: to.unwrap_or_default(),
            held: held.into(),
            last,
        };
        self.transfer.out.push((from, Kind::ShardPull(pull)));
    }

    /// Another keeper asks for what it lacks.
    pub fn handle_pull(&mut self, from: NodeId, pull: &v1::ShardPull) {
        if pull.held.len() > PULL_HASHES_MAX * 8 || !pull.held.len().is_multiple_of(8) {
            return;
        }
        self.transfer.offers.remove(&(pull.shard, from));
        let Some(state) = self.shards.get(&pull.shard) else { return };
        let theirs: BTreeSet<u64> =
            pull.held.chunks_exact(8).map(crate::overlay::mix::prefix64).collect();
        let start = parse_place(&pull.from).map_or(0, |place| match state.search(&place) {
            Ok(at) | Err(at) => at,
        });
        let end = parse_place(&pull.to);
        let mut ours = 0;
        let mut pages = Vec::new();
        let mut page = v1::ShardPage { shard: pull.shard, ..Default::default() };
        let mut bytes = 0;
        let mut more_from = pull.to.clone();
        for held in &state.entries[start..] {
            if end.is_some_and(|end| held.place() >= end) {
                break;
            }
            if theirs.contains(&held.hash()) {
                ours += 1;
                continue;
            }
            let entry = held.to_wire();
            let length = entry.encoded_len() + 4;
            if bytes + length > DATAGRAM_PAYLOAD_BYTES_MAX && !page.entries.is_empty() {
                let next = v1::ShardPage { shard: pull.shard, ..Default::default() };
                pages.push(std::mem::replace(&mut page, next));
                bytes = 0;
                if pages.len() >= PAGES_PER_PULL {
                    more_from = place_bytes(&held.place());
                    break;
                }
            }
            bytes += length;
            page.entries.push(entry);
        }
        if !page.entries.is_empty() {
            pages.push(page);
        }
        if pages.is_empty() && !more_from.is_empty() {
            pages.push(v1::ShardPage { shard: pull.shard, ..Default::default() });
        }
        if let Some(last) = pages.last_mut() {
            last.more_from = more_from;
        }
        self.statistics.pages_sent += pages.len() as u64;
        self.transfer.out.extend(pages.into_iter().map(|page| (from, Kind::ShardPage(page))));
        if !pull.last && ours < theirs.len() {
            self.pull(pull.shard, from, &pull.from.clone(), true);
        }
    }

    /// Takes entries that this node lacked. Returns the keys that changed.
    pub fn handle_page(&mut self, view: &View, from: NodeId, page: &v1::ShardPage) -> Vec<NameKey> {
        let mut changed = Vec::new();
        for entry in &page.entries {
            if let StoreResult::Changed(key) = self.store(view, entry) {
                changed.push(key);
            }
        }
        if page.more_from.is_empty()
            && let Some(state) = self.shards.get_mut(&page.shard)
        {
            let pulling = self.transfer.pulling.get(&page.shard);
            if pulling.is_some_and(|pulling| pulling.from == from && pulling.complete) {
                state.complete_at = None;
            }
            self.confirm(view.now.instant, page.shard);
        }
        if !page.more_from.is_empty() {
            let complete = self.transfer.pulling.get(&page.shard).is_some_and(|p| p.complete);
            let until = view.now.instant + PULL_TIME;
            self.transfer.pulling.insert(page.shard, Pulling { from, until, complete });
            self.pull(page.shard, from, &page.more_from.clone(), true);
        }
        changed
    }

    /// The ranking of a shard: kept for the shards held, computed for others.
    pub fn placement(&self, view: &View, shard: u32) -> Cow<'_, Placement> {
        match self.shards.get(&shard) {
            Some(state) => Cow::Borrowed(&state.placement),
            None => Cow::Owned(Placement::rank(view.table, view.own, shard)),
        }
    }
}

/// The offers that this node owes to `new` keepers: the first two that stay make them.
fn offer_of<'a>(
    shard: u32,
    keepers: &'a [NodeId],
    own: NodeId,
    new: &'a [NodeId],
) -> impl Iterator<Item = (u32, NodeId)> + use<'a> {
    let mut staying = keepers.iter().filter(|node| !new.contains(node)).take(OFFERERS);
    let offers = staying.any(|node| *node == own);
    new.iter().filter(move |node| offers && **node != own).map(move |node| (shard, *node))
}

fn place_bytes(place: &(NameKey, NodeId)) -> Bytes {
    let mut bytes = Vec::with_capacity(PLACE_BYTES);
    bytes.extend_from_slice(&place.0.0);
    bytes.extend_from_slice(&place.1.0);
    bytes.into()
}

fn parse_place(bytes: &[u8]) -> Option<(NameKey, NodeId)> {
    let (key, device) = bytes.split_at_checked(NameKey::BYTES)?;
    Some((NameKey::from_slice(key)?, NodeId::from_slice(device)?))
}
