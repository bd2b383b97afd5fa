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
    membership::{Membership, MembershipConfig},
    sealed::{Opened, Protection},
    statement::{SuperNode, statement_signed_part},
    table::Table,
    trust::Trust,
};
use crate::{
    clock::Now,
    identity::{NameKey, NodeId, NodePublicKey},
    index::{
        Answer, Keeper, KeeperConfig, LookUps, Pattern, PublishRefused, Publisher, View,
        WildcardAnswer, Wildcards,
    },
    presence::{Change, Watchers, Watching},
    wire::v1,
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
    /// What lets this node serve, if its certificate does not.
    pub admission: Option<v1::Admission>,
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
            admission: None,
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
    /// A look-up is finished. With [`crate::index::Source::Nobody`] the shell asks the login
    /// server.
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

/// Strangers whose addresses are remembered until they are members (chosen).
pub(super) const STRANGERS_MAX: usize = 256;

/// A super node's overlay.
pub struct SuperNodeOverlay {
    pub(super) config: OverlayConfig,
    pub(super) trust: Box<dyn Trust>,
    pub(super) protection: Box<dyn Protection>,
    pub(super) membership: Membership,
    pub(super) keeper: Keeper,
    pub(super) publisher: Publisher,
    pub(super) look_ups: LookUps,
    pub(super) wildcards: Wildcards,
    pub(super) watchers: Watchers,
    pub(super) watching: Watching,
    pub(super) super_node_limits: Limits,
    pub(super) device_limits: Limits,
    pub(super) wildcard_limits: Limits,
    pub(super) entrance: super::entrance::Entrance,
    pub(super) strangers: BTreeMap<NodeId, SocketAddr>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) rng: ChaCha12Rng,
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
            keeper: Keeper::new(instant, trust.node(), config.keeper, rng.random()),
            publisher: Publisher::default(),
            look_ups: LookUps::default(),
            wildcards: Wildcards::default(),
            watchers: Watchers::new(instant),
            watching: Watching::default(),
            super_node_limits: Limits::new(config.super_node_rate, 4096),
            device_limits: Limits::new(config.device_rate, 8192),
            wildcard_limits: Limits::new(config.wildcard_rate, 8192),
            entrance: super::entrance::Entrance::default(),
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
                // One that is letting us in is enough; the others are for when it fails.
                if self.entrance.answered(source) && !self.membership.is_joining() {
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
        self.continue_entering(now);
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        if instant >= self.keeper.next_timeout() {
            self.keeper.handle_timeout(&view);
        }
        let changed = self.publisher.handle_timeout(&view, &mut self.keeper);
        if self.look_ups.next_timeout().is_some_and(|at| at <= instant) {
            self.look_ups.handle_timeout(&view, &self.keeper);
        }
        self.wildcards.handle_timeout(instant);
        self.watchers.handle_timeout(instant);
        self.watching.handle_timeout(&view, &self.keeper);
        self.tell_watchers(now, changed);
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
            self.entrance.next_timeout(),
        ];
        let always = always.into_iter().min().expect("three entries");
        sometimes.into_iter().flatten().fold(always, Instant::min)
    }

    /// The next thing to do or to tell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    // ---- Commands of the shell -------------------------------------------------------------

    /// Takes statements that the shell got over a control connection or kept from the last run.
    pub fn learn_members(&mut self, now: Now, statements: &[v1::SuperNodeStatement]) {
        for statement in statements {
            self.membership.learn(now, self.trust.as_ref(), statement);
        }
        self.drain(now);
    }

    /// Takes what this super node kept before a restart, as much of it as still holds. Call it
    /// before
    /// joining: then it is ranked for every shard, and drops what belongs elsewhere once it knows.
    /// Returns how many entries were taken.
    pub fn restore(&mut self, now: Now, entries: impl Iterator<Item = v1::Entry>) -> usize {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let taken = entries.filter(|entry| self.keeper.restore(&view, entry)).count();
        self.drain(now);
        taken
    }

    /// Tells everybody that this super node leaves, and hands its shards over. Let datagrams flow
    /// until [`Self::handing_over`] is 0 before stopping, if there is time.
    pub fn leave(&mut self, now: Now) {
        self.membership.restate(now, self.trust.as_ref(), |own| own.leaving = true);
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        self.keeper.hand_over(&view);
        self.drain(now);
    }

    /// Shards of which a super node that leaves does not know yet that enough others hold them.
    pub fn handing_over(&self) -> usize {
        self.keeper.handing_over()
    }

    /// Tells everybody of this node's renewed certificate, which its [`Trust`] has by now.
    pub fn renew(&mut self, now: Now) {
        self.membership.restate(now, self.trust.as_ref(), |_| {});
        self.drain(now);
    }

    /// Tells everybody of a renewed admission.
    pub fn renew_admission(&mut self, now: Now, admission: v1::Admission) {
        let trust = self.trust.as_ref();
        self.membership.restate(now, trust, |own| own.admission = Some(admission));
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
            let found = self.publisher.found_here(&record.name_key);
            self.look_ups.handle_news(&record.name_key, &found);
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
        let hold = self.is_entering();
        let here = self.publisher.found_here(&key);
        let id = self.look_ups.look_up(&view, &self.keeper, (key, fresh), here, hold);
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

    /// Whether this node is on its way into the overlay and takes no devices yet.
    pub fn is_entering(&self) -> bool {
        self.entrance.is_holding()
    }

    /// Whether another device may attach; if not, super nodes that have room.
    pub fn admit(&mut self) -> Result<(), Vec<SocketAddr>> {
        let has_room = self.publisher.attached() < self.config.capacity as usize;
        if has_room && !self.own().leaving && !self.is_entering() {
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

    /// The keeper, for oracles and status pages.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The keeper, for who writes what it holds to a disk.
    pub fn keeper_mut(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    /// Whether the device is attached here.
    pub fn is_attached(&self, device: &NodeId) -> bool {
        self.publisher.is_attached(device)
    }
}

pub(super) fn view<'a>(
    membership: &'a Membership,
    config: &OverlayConfig,
    trust: &'a dyn Trust,
    now: Now,
) -> View<'a> {
    let block = super::statement::AddressBlock::of(config.address.ip());
    View { now, table: membership.table(), own: (membership.own().node, block), trust }
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
        admission: config.admission.clone(),
    };
    wire.signature = trust.sign(&statement_signed_part(trust.node(), &wire));
    // A node that nobody admitted runs all the same, alone: nobody takes its statement.
    trust.super_node(&wire, now.unix).unwrap_or_else(|| {
        let key =
            trust.certified(&wire.certificate, now.unix).map(|certified| certified.public_key);
        let key = key.unwrap_or(NodePublicKey([0; 32]));
        Arc::new(SuperNode::from_wire(trust.node(), key, &wire).expect("its own statement"))
    })
}
