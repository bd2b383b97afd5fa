//! What a super node does with each message, and where what its machines want goes.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use super::{
    MemberEvent,
    super_node::{Output, STRANGERS_MAX, SuperNodeOverlay, view},
};
use crate::{
    clock::Now,
    identity::{NameKey, NodeId},
    index::{Keeper, StoreResult},
    wire::v1::{self, overlay_message::Kind},
};

impl SuperNodeOverlay {
    pub(super) fn handle_message(&mut self, now: Now, from: NodeId, kind: Kind) {
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
        // Only members may use the index, and each only so much; one that leaves still hands over.
        let member = self.membership.table().get(&from);
        if !member.is_some_and(|member| member.is_present() || member.super_node.leaving) {
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
            answer.refused = !self.keeper.knows_all(now.instant, &key);
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
        let found: Vec<_> = found.collect();
        self.look_ups.handle_news(&key, &found);
        self.watching.handle_found(&key, found);
    }

    fn handle_wildcard_find(&mut self, now: Now, from: NodeId, find: &v1::WildcardFind) {
        const COST: u32 = 10;
        let answers = if self.super_node_limits.take_many(now.instant, from, COST) {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            self.keeper.match_pattern(&view, find)
        } else {
            let request = find.request;
            vec![v1::WildcardAnswer { request, refused: true, ..Default::default() }]
        };
        for answer in answers {
            self.send(now, from, Kind::WildcardAnswer(answer));
        }
    }

    /// What is filed under these keys changed at this keeper.
    pub(super) fn tell_watchers(&mut self, now: Now, changed: Vec<NameKey>) {
        for key in changed {
            for watcher in self.watchers.of(now.instant, &key) {
                let entries = entries_of(&self.keeper, now, &key);
                let event = v1::WatchEvent { key: Bytes::copy_from_slice(&key.0), entries };
                self.send(now, watcher, Kind::WatchEvent(event));
            }
            let found = self.keeper.found(now.unix, &key);
            self.look_ups.handle_news(&key, &found);
            self.watching.handle_found(&key, found);
        }
    }

    pub(super) fn load_percent(&self) -> u32 {
        (self.publisher.attached() as u32 * 100).checked_div(self.config.capacity).unwrap_or(100)
    }

    pub(super) fn update_load(&mut self) {
        self.membership.load_percent = self.load_percent();
    }

    pub(super) fn remember_stranger(&mut self, node: NodeId, address: SocketAddr) {
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.pop_first();
        }
        self.strangers.insert(node, address);
    }

    /// Moves what the sub-machines want into the outputs, until none of them wants anything.
    pub(super) fn drain(&mut self, now: Now) {
        for node in self.publisher.take_silent().into_iter().chain(self.look_ups.take_silent()) {
            self.membership.check(now.instant, node);
        }
        for event in std::mem::take(&mut self.membership.events) {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            self.keeper.handle_member_event(&view, event);
            self.publisher.handle_members(now.instant, view.table.present());
            if let MemberEvent::Down(node) = event {
                self.watching.handle_member_down(&view, node);
            }
            if let MemberEvent::Up(node) = event {
                self.strangers.remove(&node);
            }
            self.outputs.push_back(Output::Member(event));
        }
        if self.entrance.next_timeout().is_some() {
            self.continue_entering(now);
        }
        if self.look_ups.is_holding() && !self.entrance.is_holding() {
            let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
            self.look_ups.release(&view, &self.keeper);
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
