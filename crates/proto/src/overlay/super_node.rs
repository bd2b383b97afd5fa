//! The parent machine of a super node: feeds membership, Global Index and presence, and translates
//! what they want into datagrams and notices. It has no protocol rule of its own.
//!
//! Inputs: [`SuperNodeOverlay::handle_datagram`], [`SuperNodeOverlay::handle_timeout`] and the
//! commands. After every input drain [`SuperNodeOverlay::poll_output`], then sleep until
//! [`SuperNodeOverlay::next_timeout`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{
    MemberEvent,
    limits::{Limits, Rate},
    membership::{Membership, MembershipConfig, MembershipStatistics},
    sealed::{Opened, Protection},
    statement::{SuperNode, statement_signed_part},
    table::Table,
    trust::Trust,
};
use crate::{
    clock::Now,
    identity::{NameKey, NodeId},
    index::{
        Answer, Keeper, KeeperConfig, KeeperStatistics, LookUpStatistics, LookUps, Pattern,
        PublishRefused, Publisher, StoreResult, View, WildcardAnswer, Wildcards,
    },
    presence::{Change, Watchers, Watching},
    wire::v1::{self, overlay_message::Kind},
};

/// What a super node is made with.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// Where others reach it, TCP and UDP.
    pub address: SocketAddr,
    /// Program version: major << 16 | minor << 8 | patch.
    pub program_version: u32,
    /// Attached devices that it can carry.
    pub capacity: u32,
    /// Timers of the membership.
    pub membership: MembershipConfig,
    /// Bounds of the keeper.
    pub keeper: KeeperConfig,
    /// What another super node may ask of the keeper.
    pub super_node_rate: Rate,
    /// What an attached device may look up.
    pub device_rate: Rate,
    /// What an attached device may search for by wildcard.
    pub wildcard_rate: Rate,
}

impl OverlayConfig {
    /// A super node at `address` with the usual bounds.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            program_version: 0x00_01_00,
            capacity: 2000,
            membership: MembershipConfig::default(),
            keeper: KeeperConfig::default(),
            super_node_rate: Rate { burst: 2000, per_second: 500.0 },
            device_rate: Rate { burst: 100, per_second: 5.0 },
            wildcard_rate: Rate { burst: 10, per_second: 0.5 },
        }
    }
}

/// What the super node wants done, or tells.
#[derive(Debug)]
pub enum Output {
    /// Send this over UDP.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// A look-up is finished. With [`crate::index::Source::Nobody`] the shell asks the login server.
    LookedUp(Answer),
    /// A wildcard search is finished.
    Searched(WildcardAnswer),
    /// Tell an attached device what a name that it watches looks like.
    Notify(Change),
    /// A member joined, came back, died or left.
    Member(MemberEvent),
}

/// Why a command of an attached device was refused. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The device asks too much.
    #[error("too many requests: wait a little")]
    TooMany,
    /// This super node has too much under way.
    #[error("the super node is busy: try another")]
    Busy,
}

/// The overlay's own view, for status pages and metrics.
#[derive(Clone, Debug)]
pub struct OverlayStatus {
    /// Members alive or suspect, this node among them.
    pub members: usize,
    /// Members remembered as dead.
    pub dead: usize,
    /// Whether the table has been learnt.
    pub joined: bool,
    /// Shards held.
    pub shards: usize,
    /// Entries held.
    pub entries: usize,
    /// Devices attached.
    pub attached: usize,
    /// Devices attached, in percent of capacity.
    pub load_percent: u32,
    /// Names cached.
    pub cached: usize,
    /// Names watched for attached devices.
    pub watched: usize,
    /// Keepers whose voice does not count at present.
    pub distrusted: usize,
    /// Counters of look-ups.
    pub look_ups: LookUpStatistics,
    /// Counters of the keeper.
    pub keeper: KeeperStatistics,
    /// Counters of the membership.
    pub membership: MembershipStatistics,
}

/// Addresses at which this node introduced itself to join (chosen).
const CONTACTS_MAX: usize = 32;

/// Strangers whose addresses are remembered until they are members (chosen).
const STRANGERS_MAX: usize = 256;

/// A super node's overlay.
pub struct SuperNodeOverlay {
    config: OverlayConfig,
    trust: Box<dyn Trust>,
    protection: Box<dyn Protection>,
    membership: Membership,
    keeper: Keeper,
    publisher: Publisher,
    look_ups: LookUps,
    wildcards: Wildcards,
    watchers: Watchers,
    watching: Watching,
    super_node_limits: Limits,
    device_limits: Limits,
    wildcard_limits: Limits,
    contacts: Vec<SocketAddr>,
    strangers: BTreeMap<NodeId, SocketAddr>,
    outputs: VecDeque<Output>,
    rng: ChaCha12Rng,
}

impl SuperNodeOverlay {
    /// A super node that knows nobody yet. `seed` must differ at every start.
    pub fn new(
        now: Now,
        config: OverlayConfig,
        trust: Box<dyn Trust>,
        protection: Box<dyn Protection>,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let own = own_statement(now, &config, trust.as_ref());
        let instant = now.instant;
        Self {
            membership: Membership::new(now, config.membership.clone(), own, rng.random()),
            keeper: Keeper::new(instant, config.keeper, rng.random()),
            publisher: Publisher::default(),
            look_ups: LookUps::default(),
            wildcards: Wildcards::default(),
            watchers: Watchers::new(instant),
            watching: Watching::default(),
            super_node_limits: Limits::new(config.super_node_rate, 4096),
            device_limits: Limits::new(config.device_rate, 8192),
            wildcard_limits: Limits::new(config.wildcard_rate, 8192),
            contacts: Vec::new(),
            strangers: BTreeMap::new(),
            outputs: VecDeque::new(),
            rng,
            config,
            trust,
            protection,
        }
    }

    // ---- Inputs ----------------------------------------------------------------------------

    /// A datagram whose first byte is [`super::sealed::FIRST_BYTE`] came from `source`.
    pub fn handle_datagram(&mut self, now: Now, source: SocketAddr, datagram: &Bytes) {
        let table = self.membership.table();
        let known = |node: &NodeId| table.get(node).map(|m| m.super_node.public_key);
        let trust = self.trust.as_ref();
        match self.protection.open(now, source, datagram, &known, trust) {
            Opened::Message { from, payload } => {
                if let Ok(v1::OverlayMessage { kind: Some(kind) }) =
                    v1::OverlayMessage::decode(payload)
                {
                    if self.membership.table().get(&from).is_none() {
                        self.remember_stranger(from, source);
                    }
                    self.handle_message(now, from, kind);
                }
            }
            Opened::Reply(bytes) => {
                self.outputs.push_back(Output::Datagram { to: source, bytes });
            }
            Opened::Met { node, reply } => {
                self.remember_stranger(node, source);
                if let Some(bytes) = reply {
                    self.outputs.push_back(Output::Datagram { to: source, bytes });
                }
                if self.contacts.contains(&source) {
                    self.contacts.retain(|contact| *contact != source);
                    self.membership.join(now, node);
                }
            }
            Opened::Nothing => {}
        }
        self.drain(now);
    }

    /// Runs whatever is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let instant = now.instant;
        if instant >= self.membership.next_timeout() {
            self.membership.handle_timeout(now);
        }
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        if instant >= self.keeper.next_timeout() {
            self.keeper.handle_timeout(&view);
        }
        self.publisher.handle_timeout(instant);
        if self.look_ups.next_timeout().is_some_and(|at| at <= instant) {
            self.look_ups.handle_timeout(&view, &self.keeper);
        }
        self.wildcards.handle_timeout(instant);
        self.watchers.handle_timeout(instant);
        self.watching.handle_timeout(&view, &self.keeper);
        self.drain(now);
    }

    /// When [`Self::handle_timeout`] has something to do. Late, early and needless calls are fine.
    pub fn next_timeout(&self) -> Instant {
        let always = [
            self.membership.next_timeout(),
            self.keeper.next_timeout(),
            self.watchers.next_timeout(),
        ];
        let sometimes = [
            self.publisher.next_timeout(),
            self.look_ups.next_timeout(),
            self.wildcards.next_timeout(),
            self.watching.next_timeout(),
        ];
        let always = always.into_iter().min().expect("three entries");
        sometimes.into_iter().flatten().fold(always, Instant::min)
    }

    /// The next thing to do or to tell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    // ---- Commands of the shell -------------------------------------------------------------

    /// Joins the overlay through super nodes at these addresses (from invitation or host cache).
    pub fn join(&mut self, now: Now, contacts: &[SocketAddr]) {
        for contact in contacts.iter().take(CONTACTS_MAX) {
            if *contact == self.config.address {
                continue;
            }
            self.contacts.push(*contact);
            let bytes = self.protection.introduce(now, *contact);
            self.outputs.push_back(Output::Datagram { to: *contact, bytes });
        }
        let excess = self.contacts.len().saturating_sub(CONTACTS_MAX);
        self.contacts.drain(..excess);
    }

    /// Takes statements that the shell got over a control connection or kept from the last run.
    pub fn learn_members(&mut self, now: Now, statements: &[v1::SuperNodeStatement]) {
        for statement in statements {
            self.membership.learn(now, self.trust.as_ref(), statement);
        }
        self.drain(now);
    }

    /// Tells everybody that this super node leaves, and hands its shards over. Give it some seconds,
    /// with datagrams flowing, before stopping.
    pub fn leave(&mut self, now: Now) {
        self.membership.restate(now, self.trust.as_ref(), |own| own.leaving = true);
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        self.keeper.hand_over(&view);
        self.drain(now);
    }

    /// A device has a control connection to this super node.
    pub fn attach(&mut self, now: Now, device: NodeId) {
        self.publisher.attach(device);
        self.update_load();
        self.drain(now);
    }

    /// The device's control connection ended: it is offline from now.
    pub fn detach(&mut self, now: Now, device: NodeId) {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let changed = self.publisher.detach(&view, &mut self.keeper, device);
        self.watching.forget_device(device);
        self.tell_watchers(now, changed);
        self.update_load();
        self.drain(now);
    }

    /// An attached device publishes its record (an encoded [`v1::UserRecord`]).
    pub fn publish(
        &mut self,
        now: Now,
        device: NodeId,
        record: &[u8],
    ) -> Result<(), PublishRefused> {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let changed = self.publisher.publish(&view, &mut self.keeper, device, record)?;
        if let Some(record) = self.publisher.record(&device) {
            self.look_ups.forget(&record.name_key);
        }
        self.tell_watchers(now, changed);
        self.drain(now);
        Ok(())
    }

    /// Looks a name up for an attached device or for this node; the answer is an output with this
    /// number. `fresh` bypasses the cache, after a call to a cached answer failed.
    pub fn look_up(
        &mut self,
        now: Now,
        asker: NodeId,
        key: NameKey,
        fresh: bool,
    ) -> Result<u64, Refused> {
        if !self.device_limits.take(now.instant, asker) {
            return Err(Refused::TooMany);
        }
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let id = self.look_ups.look_up(&view, &self.keeper, key, fresh);
        self.drain(now);
        id.ok_or(Refused::Busy)
    }

    /// Searches by wildcard for an attached device or for this node; one page per call.
    pub fn search(
        &mut self,
        now: Now,
        asker: NodeId,
        pattern: Pattern,
        after: Bytes,
    ) -> Result<u64, Refused> {
        if !self.wildcard_limits.take(now.instant, asker) {
            return Err(Refused::TooMany);
        }
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let id = self.wildcards.search(&view, &self.keeper, pattern, after);
        self.drain(now);
        id.ok_or(Refused::Busy)
    }

    /// Replaces what an attached device watches.
    pub fn watch(&mut self, now: Now, device: NodeId, keys: &[NameKey]) {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        self.watching.watch(&view, &self.keeper, device, keys);
        self.drain(now);
    }

    // ---- Questions -------------------------------------------------------------------------

    /// The membership table.
    pub fn table(&self) -> &Table {
        self.membership.table()
    }

    /// This node's own statement.
    pub fn own(&self) -> &Arc<SuperNode> {
        self.membership.own()
    }

    /// Address of a member.
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.membership.table().get(node).map(|m| m.super_node.address)
    }

    /// Whether another device may attach; if not, super nodes that have room.
    pub fn admit(&mut self) -> Result<(), Vec<SocketAddr>> {
        if self.publisher.attached() < self.config.capacity as usize && !self.own().leaving {
            return Ok(());
        }
        Err(self.try_these())
    }

    /// Super nodes with room, for one that is turned away or told to go.
    pub fn try_these(&mut self) -> Vec<SocketAddr> {
        const TRY_THESE: usize = 8;
        let table = self.membership.table();
        let nodes = super::election::try_these(table, &mut self.rng, TRY_THESE);
        nodes.iter().filter_map(|node| self.address_of(node)).collect()
    }

    /// The keepers of a name as this node ranks them.
    pub fn keepers_of(&self, now: Now, key: &NameKey) -> Vec<NodeId> {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let placement = self.keeper.placement(&view, super::placement::shard_of(key));
        placement.keepers().to_vec()
    }

    /// The keeper, for oracles and status pages.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Whether the device is attached here.
    pub fn is_attached(&self, device: &NodeId) -> bool {
        self.publisher.is_attached(device)
    }

    /// The overlay's own view.
    pub fn status(&self) -> OverlayStatus {
        OverlayStatus {
            members: self.membership.table().present() + 1,
            dead: self.membership.table().dead(),
            joined: self.membership.is_joined(),
            shards: self.keeper.shards(),
            entries: self.keeper.entries(),
            attached: self.publisher.attached(),
            load_percent: self.load_percent(),
            cached: self.look_ups.cached(),
            watched: self.watching.keys(),
            distrusted: self.look_ups.distrusted(),
            look_ups: self.look_ups.statistics(),
            keeper: self.keeper.statistics(),
            membership: self.membership.statistics,
        }
    }

    // ---- Inside ----------------------------------------------------------------------------

    fn handle_message(&mut self, now: Now, from: NodeId, kind: Kind) {
        let trust = self.trust.as_ref();
        match kind {
            Kind::Ping(ping) => self.membership.handle_ping(now, trust, from, &ping),
            Kind::Pong(pong) => self.membership.handle_pong(now, trust, from, &pong),
            Kind::PingRequest(request) => self.membership.handle_ping_request(from, &request),
            Kind::Spread(spread) => self.membership.handle_spread(now, trust, from, spread),
            Kind::Join(join) => self.membership.handle_join(now, trust, from, &join),
            Kind::MembersRequest(request) => {
                self.membership.handle_members_request(from, &request);
            }
            Kind::MembersPage(page) => self.membership.handle_members_page(now, trust, &page),
            Kind::Reconcile(reconcile) => self.membership.handle_reconcile(from, &reconcile),
            Kind::BucketListing(listing) => self.membership.handle_listing(from, &listing),
            other => self.handle_index_message(now, from, other),
        }
    }

    fn handle_index_message(&mut self, now: Now, from: NodeId, kind: Kind) {
        // Only members may use the index, and each only so much.
        if !self.membership.table().is_present(&from) {
            return;
        }
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        match kind {
            Kind::Store(store) => self.handle_store(now, from, &store),
            Kind::Stored(stored) => self.publisher.handle_stored(from, &stored),
            Kind::Find(find) => self.handle_find(now, from, &find),
            Kind::FindAnswer(answer) => {
                self.look_ups.handle_answer(&view, &self.keeper, from, &answer);
            }
            Kind::ShardOffer(offer) => self.keeper.handle_offer(&view, from, &offer),
            Kind::ShardPull(pull) => self.keeper.handle_pull(from, &pull),
            Kind::ShardPage(page) => {
                let changed = self.keeper.handle_page(&view, from, &page);
                self.tell_watchers(now, changed);
            }
            Kind::WatchKeys(watch) => self.handle_watch_keys(now, from, &watch),
            Kind::WatchEvent(event) => self.handle_watch_event(now, &event),
            Kind::WildcardFind(find) => self.handle_wildcard_find(now, from, &find),
            Kind::WildcardAnswer(answer) => {
                self.wildcards.handle_answer(&view, from, &answer);
            }
            _ => {}
        }
    }

    fn handle_store(&mut self, now: Now, from: NodeId, store: &v1::Store) {
        let count = store.entries.len() as u32;
        let allowed = self.super_node_limits.take_many(now.instant, from, count);
        let mut refused = if allowed { 0 } else { count };
        let mut changed = Vec::new();
        if allowed {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            for entry in &store.entries {
                match self.keeper.store(&view, entry) {
                    StoreResult::Changed(key) => changed.push(key),
                    StoreResult::Unchanged => {}
                    StoreResult::Refused => refused += 1,
                }
            }
        }
        self.send(now, from, Kind::Stored(v1::Stored { request: store.request, refused }));
        self.tell_watchers(now, changed);
    }

    fn handle_find(&mut self, now: Now, from: NodeId, find: &v1::Find) {
        let mut answer = v1::FindAnswer { request: find.request, ..Default::default() };
        answer.refused = !self.super_node_limits.take(now.instant, from);
        if let (Some(key), false) = (NameKey::from_slice(&find.key), answer.refused) {
            answer.entries = entries_of(&self.keeper, now, &key);
        }
        self.send(now, from, Kind::FindAnswer(answer));
    }

    fn handle_watch_keys(&mut self, now: Now, from: NodeId, watch: &v1::WatchKeys) {
        let count = watch.keys.len() as u32;
        if !self.super_node_limits.take_many(now.instant, from, count) {
            return;
        }
        for key in watch.keys.iter().filter_map(|bytes| NameKey::from_slice(bytes)) {
            if self.watchers.watch(now.instant, from, key, watch.lease_seconds) {
                let entries = entries_of(&self.keeper, now, &key);
                if !entries.is_empty() {
                    let key = Bytes::copy_from_slice(&key.0);
                    self.send(now, from, Kind::WatchEvent(v1::WatchEvent { key, entries }));
                }
            }
        }
    }

    fn handle_watch_event(&mut self, now: Now, event: &v1::WatchEvent) {
        let Some(key) = NameKey::from_slice(&event.key) else { return };
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let found = event.entries.iter().filter_map(|e| crate::index::check_entry(&view, &key, e));
        self.watching.handle_found(&key, found.collect());
        self.look_ups.forget(&key);
    }

    fn handle_wildcard_find(&mut self, now: Now, from: NodeId, find: &v1::WildcardFind) {
        const COST: u32 = 10;
        let answer = if self.super_node_limits.take_many(now.instant, from, COST) {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            self.keeper.match_pattern(&view, find)
        } else {
            v1::WildcardAnswer { request: find.request, refused: true, ..Default::default() }
        };
        self.send(now, from, Kind::WildcardAnswer(answer));
    }

    /// What is filed under these keys changed at this keeper.
    fn tell_watchers(&mut self, now: Now, changed: Vec<NameKey>) {
        for key in changed {
            for watcher in self.watchers.of(now.instant, &key) {
                let entries = entries_of(&self.keeper, now, &key);
                let event = v1::WatchEvent { key: Bytes::copy_from_slice(&key.0), entries };
                self.send(now, watcher, Kind::WatchEvent(event));
            }
            let found = self.keeper.find(now.unix, &key).iter().map(|h| h.found()).collect();
            self.watching.handle_found(&key, found);
        }
    }

    fn load_percent(&self) -> u32 {
        (self.publisher.attached() as u32 * 100).checked_div(self.config.capacity).unwrap_or(100)
    }

    fn update_load(&mut self) {
        self.membership.load_percent = self.load_percent();
    }

    fn remember_stranger(&mut self, node: NodeId, address: SocketAddr) {
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.pop_first();
        }
        self.strangers.insert(node, address);
    }

    /// Moves what the sub-machines want into the outputs, until none of them wants anything.
    fn drain(&mut self, now: Now) {
        for node in self.publisher.take_silent().into_iter().chain(self.look_ups.take_silent()) {
            self.membership.check(now.instant, node);
        }
        for event in std::mem::take(&mut self.membership.events) {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            self.keeper.handle_member_event(&view, event);
            if let MemberEvent::Down(node) = event {
                self.watching.handle_member_down(&view, node);
            }
            if let MemberEvent::Up(node) = event {
                self.strangers.remove(&node);
            }
            self.outputs.push_back(Output::Member(event));
        }
        let mut messages = std::mem::take(&mut self.membership.out);
        messages.extend(self.keeper.take_messages());
        messages.extend(self.publisher.take_messages());
        messages.extend(self.look_ups.take_messages());
        messages.extend(self.wildcards.take_messages());
        messages.extend(self.watching.take_messages());
        for (to, kind) in messages {
            self.send(now, to, kind);
        }
        let answers = self.look_ups.take_answers();
        self.outputs.extend(answers.into_iter().map(Output::LookedUp));
        let answers = self.wildcards.take_answers();
        self.outputs.extend(answers.into_iter().map(Output::Searched));
        let changes = self.watching.take_changes();
        self.outputs.extend(changes.into_iter().map(Output::Notify));
    }

    fn send(&mut self, now: Now, to: NodeId, kind: Kind) {
        let member = self.membership.table().get(&to);
        let key = member.map(|m| m.super_node.public_key);
        let address = member.map(|m| m.super_node.address);
        let Some(address) = address.or_else(|| self.strangers.get(&to).copied()) else { return };
        let message = v1::OverlayMessage { kind: Some(kind) }.encode_to_vec();
        if let Some(bytes) = self.protection.seal(now, (to, key), &message) {
            self.outputs.push_back(Output::Datagram { to: address, bytes });
        }
    }
}

fn view<'a>(
    membership: &'a Membership,
    config: &OverlayConfig,
    trust: &'a dyn Trust,
    now: Now,
) -> View<'a> {
    let block = super::statement::AddressBlock::of(config.address.ip());
    View { now, table: membership.table(), own: (membership.own().node, block), trust }
}

fn entries_of(keeper: &Keeper, now: Now, key: &NameKey) -> Vec<v1::Entry> {
    let mut bytes = 0;
    let entries = keeper.find(now.unix, key).into_iter().map(|held| held.to_wire());
    entries
        .take_while(|entry| {
            bytes += entry.encoded_len() + 4;
            bytes <= super::DATAGRAM_PAYLOAD_BYTES_MAX
        })
        .collect()
}

fn own_statement(now: Now, config: &OverlayConfig, trust: &dyn Trust) -> Arc<SuperNode> {
    let mut wire = v1::SuperNodeStatement {
        certificate: trust.certificate(),
        ip: super::statement::ip_bytes(config.address.ip()),
        port: u32::from(config.address.port()),
        incarnation: now.unix.0,
        program_version: config.program_version,
        capacity: config.capacity,
        leaving: false,
        signature: Bytes::new(),
        node: Bytes::copy_from_slice(&trust.node().0),
    };
    wire.signature = trust.sign(&statement_signed_part(trust.node(), &wire));
    trust.super_node(&wire, now.unix).expect("a node trusts its own valid certificate")
}
