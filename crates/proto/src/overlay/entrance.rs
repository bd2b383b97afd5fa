//! The way into the overlay: introductions to contacts, repeated until one of them has let this
//! node in and its table is learnt.
//!
//! One contact answers, is asked to let us in, and may die at that very moment; without repeating,
//! a super node then serves devices while it knows nobody, and finds nobody for them. While a node
//! is entering it takes no devices and holds look-ups back, for [`ENTERING_MAX`] at most: then it
//! is the first of its network, or all others are gone.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::super_node::{Output, SuperNodeOverlay};
use crate::clock::Now;

/// Addresses at which this node introduces itself (chosen).
const CONTACTS_MAX: usize = 32;

/// Time until the contacts are tried again if none let us in, and its bound; it doubles (chosen:
/// above two slow round trips, and an answer to each try costs others one datagram).
const AGAIN: Duration = Duration::from_secs(3);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Time until it is looked again whether the one that is letting us in fell silent (chosen).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a node that is entering takes no devices and holds look-ups back (chosen: the table of
/// 2,000 is learnt in one to two seconds; devices and callers wait no longer than that for
/// nothing).
const ENTERING_MAX: Duration = Duration::from_secs(8);

/// How far this node is with entering.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    contacts: Vec<SocketAddr>,
    /// Introduced there, not answered yet.
    awaited: Vec<SocketAddr>,
    /// When the contacts are tried again; none once this node is in, or never wanted to be.
    again: Option<Instant>,
    pause: Duration,
    /// Until when devices and look-ups wait.
    hold_until: Option<Instant>,
}

impl Entrance {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [self.again, self.hold_until].into_iter().flatten().min()
    }

    /// Whether devices and look-ups wait.
    pub(super) fn is_holding(&self) -> bool {
        self.hold_until.is_some()
    }

    /// A contact answered; whether it was one.
    pub(super) fn answered(&mut self, source: SocketAddr) -> bool {
        let before = self.awaited.len();
        self.awaited.retain(|contact| *contact != source);
        before > self.awaited.len()
    }
}

impl SuperNodeOverlay {
    /// Joins the overlay through super nodes at these addresses (from invitation or host cache),
    /// and tries again by itself until it is in. New addresses replace those given before.
    pub fn join(&mut self, now: Now, contacts: &[SocketAddr]) {
        let own = self.config.address;
        let others = contacts.iter().copied().filter(|contact| *contact != own);
        self.entrance.contacts = others.take(CONTACTS_MAX).collect();
        if self.entrance.contacts.is_empty() {
            return;
        }
        if self.entrance.again.is_none() {
            self.entrance.pause = AGAIN;
            self.entrance.hold_until = Some(now.instant + ENTERING_MAX);
        }
        self.introduce(now);
    }

    fn introduce(&mut self, now: Now) {
        self.entrance.again = Some(now.instant + self.entrance.pause);
        self.entrance.pause = (self.entrance.pause * 2).min(AGAIN_MAX);
        self.entrance.awaited.clone_from(&self.entrance.contacts);
        for contact in &self.entrance.contacts {
            let bytes = self.protection.introduce(now, *contact);
            self.outputs.push_back(Output::Datagram { to: *contact, bytes });
        }
    }

    /// Repeats what was not answered; ends the holding back when the node is in, or time is up.
    pub(super) fn continue_entering(&mut self, now: Now) {
        if self.entrance.again.is_none() && self.entrance.hold_until.is_none() {
            return;
        }
        let is_in = self.membership.is_joined() && self.membership.table().present() > 0;
        if is_in {
            (self.entrance.again, self.entrance.hold_until) = (None, None);
            self.entrance.awaited.clear();
        }
        if self.entrance.hold_until.is_some_and(|at| at <= now.instant) {
            self.entrance.hold_until = None;
        }
        if self.entrance.again.is_some_and(|at| at <= now.instant) {
            if self.membership.is_joining() {
                self.entrance.again = Some(now.instant + LOOK_AGAIN);
            } else {
                self.introduce(now);
            }
        }
    }
}
