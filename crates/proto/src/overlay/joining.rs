//! Joining: a new super node learns the whole table from members, page by page, while the contact
//! tells of it.
//!
//! ```text
//!   joiner ── Join (own statement) ─────────▶ contact     (sealed: the contact knows the
//! certificate)
//!          ◀─ MembersPage, range 0 ─────────           the contact's answer is the first page
//!          ── MembersRequest (range i) ──▶ any member learnt so far   up to 16 at a time
//!          ◀─ MembersPage (range i) ─────
//!   contact ── Spread (joiner's statement, to all slices) ──▶
//! ```
//!
//! Pages are asked for by the joiner and each is one datagram, so that nobody can be made to
//! send a flood; a page that does not come is asked for again from another member.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;

use super::{DATAGRAM_PAYLOAD_BYTES_MAX, membership::Membership, table::State, trust::Trust};
use crate::{
    clock::Now,
    identity::NodeId,
    wire::v1::{self, member_update, overlay_message::Kind},
};

/// Ranges of ids asked for separately (chosen: one per first hexadecimal digit and a half).
const RANGES: u16 = 64;

/// Pages asked for at a time (chosen).
const PAGES_IN_FLIGHT: usize = 16;

/// When a page that did not come is asked for again (chosen: as a ping).
const PAGE_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a page is asked for before the joining counts as failed (chosen).
const PAGE_TRIES: u8 = 5;

/// How far a node is with joining.
#[derive(Debug, Default)]
pub(super) struct Joining {
    contact: Option<NodeId>,
    told: bool,
    next_range: u16,
    /// Pages awaited: end of the range to (continue after, deadline, tries).
    awaited: BTreeMap<u8, (Bytes, Instant, u8)>,
    again: Option<Instant>,
    tries: u8,
    /// A page never came.
    lacking: bool,
    /// The contact fell silent, or the table was learnt in part only: to be begun again.
    failed: bool,
}

impl Joining {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let page = self.awaited.values().map(|(_, deadline, _)| *deadline).min();
        [page, self.again].into_iter().flatten().min()
    }

    fn is_done(&self) -> bool {
        self.told
    }
}

impl Membership {
    /// Joins through `contact`, whose certificate has been checked.
    pub fn join(&mut self, now: Now, contact: NodeId) {
        self.joining = Joining { contact: Some(contact), ..Joining::default() };
        self.send_join(now, contact);
    }

    /// Whether the table has been learnt and everybody told.
    pub fn is_joined(&self) -> bool {
        !self.joining.failed && (self.joining.is_done() || self.joining.contact.is_none())
    }

    /// Whether a contact is letting this node in right now.
    pub fn is_joining(&self) -> bool {
        self.joining.contact.is_some() && !self.joining.is_done()
    }

    fn send_join(&mut self, now: Now, contact: NodeId) {
        self.joining.again = Some(now.instant + PAGE_TIMEOUT);
        self.joining.tries += 1;
        let statement = Some(self.own.to_wire());
        self.out.push((contact, Kind::Join(v1::Join { statement })));
    }

    /// A new super node asks for the table.
    pub fn handle_join(&mut self, now: Now, trust: &dyn Trust, from: NodeId, join: &v1::Join) {
        let Some(statement) = &join.statement else { return };
        if NodeId::from_slice(&statement.node) != Some(from) {
            return;
        }
        if self.learn(now, trust, statement) {
            self.originate(vec![member_update::Kind::Statement(statement.clone())]);
        }
        if self.table.is_present(&from) {
            let own = vec![member_update::Kind::Statement(self.own.to_wire())];
            self.send_updates(from, own, 0);
            self.send_page(from, &[0], range_end(0));
        }
    }

    /// Sends a page of the table.
    pub fn handle_members_request(&mut self, from: NodeId, request: &v1::MembersRequest) {
        if !request.nodes.is_empty() {
            return self.send_wanted(from, &request.nodes);
        }
        let (Some(_), Some(end)) = (request.from.first(), request.to.first()) else { return };
        self.send_page(from, &request.from, *end);
    }

    /// Takes a page of the table.
    pub fn handle_members_page(&mut self, now: Now, trust: &dyn Trust, page: &v1::MembersPage) {
        for statement in &page.statements {
            self.learn(now, trust, statement);
        }
        let Some(end) = page.to.first().copied() else { return };
        if self.joining.is_done() {
            return;
        }
        self.joining.again = None;
        if self.joining.next_range == 0 {
            self.joining.next_range = 1;
        } else if self.joining.awaited.remove(&end).is_none() {
            return;
        }
        if !page.more_after.is_empty() {
            self.request_page(now.instant, page.more_after.clone(), end, 0);
        }
        self.continue_joining(now);
    }

    pub(super) fn continue_joining(&mut self, now: Now) {
        if self.joining.is_done() || self.joining.contact.is_none() {
            return;
        }
        self.retry(now);
        if self.joining.next_range == 0 || self.joining.contact.is_none() {
            return;
        }
        while self.joining.next_range < RANGES && self.joining.awaited.len() < PAGES_IN_FLIGHT {
            let range = self.joining.next_range;
            self.joining.next_range += 1;
            let from = Bytes::copy_from_slice(&[range_start(range)]);
            self.request_page(now.instant, from, range_end(range), 0);
        }
        if self.joining.awaited.is_empty() {
            if self.joining.lacking {
                self.joining = Joining { failed: true, ..Joining::default() };
                return;
            }
            self.joining.told = true;
            self.next_reconcile = now.instant + Duration::from_secs(2);
        }
    }

    fn retry(&mut self, now: Now) {
        const JOIN_TRIES: u8 = 3;
        if self.joining.again.is_some_and(|at| at <= now.instant) {
            self.joining.again = None;
            match self.joining.contact {
                Some(contact) if self.joining.tries < JOIN_TRIES => self.send_join(now, contact),
                _ => {
                    self.joining = Joining { failed: true, ..Joining::default() };
                    return;
                }
            }
        }
        let late: Vec<u8> = self
            .joining
            .awaited
            .iter()
            .filter(|(_, (_, deadline, _))| *deadline <= now.instant)
            .map(|(end, _)| *end)
            .collect();
        for end in late {
            let Some((from, _, tries)) = self.joining.awaited.remove(&end) else { continue };
            if tries < PAGE_TRIES {
                self.request_page(now.instant, from, end, tries + 1);
            } else {
                self.joining.lacking = true;
            }
        }
    }

    fn request_page(&mut self, now: Instant, from: Bytes, end: u8, tries: u8) {
        let alive = |m: &super::table::Member| m.state == State::Alive;
        let known = self.table.random(&mut self.rng, alive).map(|m| m.super_node.node);
        // The contact knows us for sure; the others soon do, share the load, and outlive it.
        let enough_known = self.table.present() >= 16 && tries.is_multiple_of(2)
            || self.table.present() > 1 && tries >= 3;
        let teacher = if enough_known { known } else { self.joining.contact };
        let Some(teacher) = teacher else { return };
        self.joining.awaited.insert(end, (from.clone(), now + PAGE_TIMEOUT, tries));
        let to = Bytes::copy_from_slice(&[end]);
        let request = v1::MembersRequest { from, to, nodes: Vec::new() };
        self.out.push((teacher, Kind::MembersRequest(request)));
    }

    /// Sends members whose ids follow `after` up to the bucket `end`, as many as fit.
    fn send_page(&mut self, to: NodeId, after: &[u8], end: u8) {
        let mut page = v1::MembersPage {
            from: Bytes::copy_from_slice(after),
            to: Bytes::copy_from_slice(&[end]),
            ..Default::default()
        };
        let mut bytes = 0;
        'buckets: for bucket in after[0]..=end {
            let mut nodes: Vec<NodeId> = self.table.bucket(usize::from(bucket)).to_vec();
            nodes.sort_unstable();
            for node in nodes {
                if node.0.as_slice() <= after && after.len() > 1 {
                    continue;
                }
                let Some(member) = self.table.get(&node) else { continue };
                let statement = member.super_node.to_wire();
                let length = statement.encoded_len() + 4;
                if bytes + length > DATAGRAM_PAYLOAD_BYTES_MAX && !page.statements.is_empty() {
                    let last = page.statements.last().expect("not empty, tested above");
                    page.more_after = last.node.clone();
                    break 'buckets;
                }
                bytes += length;
                page.statements.push(statement);
            }
        }
        self.statistics.statements_sent += page.statements.len() as u64;
        self.out.push((to, Kind::MembersPage(page)));
    }
}

fn range_start(range: u16) -> u8 {
    (range * (256 / RANGES)) as u8
}

fn range_end(range: u16) -> u8 {
    (range * (256 / RANGES) + 256 / RANGES - 1) as u8
}
