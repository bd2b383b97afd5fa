//! The scenario `presence`: users watch their buddies; these change what they show, go, vanish
//! without a word and come back; what the watchers are told, and when, is judged.
//!
//! ```text
//!   buddy ── record ─▶ super node ── Store ─▶ keepers ── WatchEvent ─▶ super node ─▶ watcher
//! ```
//!
//! Who vanishes is noticed by the keep-alive: the time from then on counts, and the whole is held
//! to
//! the bound of the control connection.

use std::collections::{BTreeMap, BTreeSet};

use cooee_proto::{
    control::{KEEPALIVE_INTERVAL, SILENCE_MAX},
    identity::{NameKey, NodeId},
    presence::Change,
    wire::v1::Presence,
};
use rand::{Rng, seq::IteratorRandom};

use super::{
    run::Runner,
    users::{Doing, Users, device},
    world::{Event, Micros, SECOND, Step},
};

/// Steps of the scenario.
pub(super) const WATCH: u32 = 1;
const CHANGE: u32 = 2;
const VANISHED: u32 = 100;

/// Watchers, and buddies of each (chosen: some thousand watches, and a name watched by a few).
const WATCHERS_MAX: usize = 300;
const BUDDIES: usize = 12;

/// A change that no watcher heard of in this time is late for good.
const LATE: Micros = 20 * SECOND;

/// The last changes are this long before the end, so that all can be heard of.
const LAST_CHANGE_BEFORE_END: Micros = (SILENCE_MAX.as_secs() + 30) * SECOND;

struct Awaited {
    at: Micros,
    presence: Presence,
    watchers: BTreeSet<u32>,
    /// When the device was gone in truth, if it vanished.
    vanished: Option<Micros>,
}

/// What is watched, what was told.
#[derive(Default)]
pub(super) struct Watches {
    watchers: BTreeMap<NodeId, u32>,
    of: BTreeMap<u32, BTreeSet<u32>>,
    names: BTreeMap<NameKey, u32>,
    awaited: BTreeMap<u32, Awaited>,
    vanishing: BTreeMap<u32, Micros>,
    /// Changes that watchers were to hear of, each watcher counted.
    pub(super) expected: u64,
    /// How long each took, from device to device, in milliseconds.
    pub(super) delays_ms: Vec<f32>,
    /// Longest time from a device's vanishing until a watcher was shown it, in seconds.
    pub(super) vanished_s_max: f64,
    /// Vanished devices that watchers were shown as offline.
    pub(super) vanished: u64,
}

impl Watches {
    /// The share of what was expected that came within a second, in percent.
    pub(super) fn in_a_second_percent(&self) -> f64 {
        let prompt = self.delays_ms.iter().filter(|delay| **delay <= 1000.0).count();
        prompt as f64 * 100.0 / self.expected.max(1) as f64
    }
}

impl Runner {
    pub(super) fn presence_scene(&mut self, number: u32) {
        match number {
            WATCH => self.begin_to_watch(),
            CHANGE => self.change_somebody(),
            number => self.notice_silence(number - VANISHED),
        }
    }

    fn begin_to_watch(&mut self) {
        let users = 0..self.size.users;
        let attached =
            users.filter(|user| self.users.users[*user as usize].doing == Doing::Attached);
        let watchers = attached.choose_multiple(&mut self.world.rng, WATCHERS_MAX);
        for watcher in &watchers {
            self.watches.watchers.insert(device(*watcher), *watcher);
        }
        for watcher in watchers {
            let own = device(watcher);
            let buddies = (0..self.size.users)
                .filter(|user| !self.watches.watchers.contains_key(&device(*user)))
                .choose_multiple(&mut self.world.rng, BUDDIES);
            for buddy in &buddies {
                self.watches.of.entry(*buddy).or_default().insert(watcher);
                self.watches.names.insert(Users::key(*buddy), *buddy);
            }
            let keys: Vec<NameKey> = buddies.iter().map(|buddy| Users::key(*buddy)).collect();
            let home = self.users.users[watcher as usize].home;
            self.world.with(home, |overlay, now| overlay.watch(now, own, &keys));
        }
        self.world.after(10 * SECOND, Event::Step(Step::Scene(CHANGE)));
    }

    /// One watched user does something that watchers must be shown.
    fn change_somebody(&mut self) {
        let end = super::run::FILLING + self.size.minutes * 60 * SECOND;
        if self.world.now + LAST_CHANGE_BEFORE_END > end {
            return;
        }
        let pause = self.world.rng.random_range(0..SECOND / 2);
        self.world.after(pause, Event::Step(Step::Scene(CHANGE)));
        let now = self.world.now;
        let free = |user: &u32| {
            let busy = self.watches.awaited.get(user).is_some_and(|it| it.at + LATE > now);
            !busy && !self.watches.vanishing.contains_key(user)
        };
        let watched = self.watches.of.keys().copied().filter(free);
        let Some(user) = watched.choose(&mut self.world.rng) else { return };
        let row = self.users.users[user as usize];
        if row.doing == Doing::Offline {
            let home = self.world.random_alive();
            self.users.place_at(&mut self.world, user, home);
            return self.expect(user, Presence::Online, None);
        }
        let shown = self.users.shown(user);
        match self.world.rng.random_range(0..10) {
            0 | 1 => {
                self.users.leave(&mut self.world, user);
                self.expect(user, Presence::Offline, None);
            }
            2 | 3 => {
                // The last sign of life was up to one interval ago.
                let ago = self.world.rng.random_range(0..KEEPALIVE_INTERVAL.as_micros() as Micros);
                let noticed = SILENCE_MAX.as_micros() as Micros - ago;
                self.watches.vanishing.insert(user, now);
                self.world.after(noticed, Event::Step(Step::Scene(VANISHED + user)));
            }
            _ => {
                let others =
                    [Presence::Online, Presence::Away, Presence::DoNotDisturb, Presence::Offline];
                let others = others.into_iter().filter(|other| *other != shown);
                let Some(next) = others.choose(&mut self.world.rng) else { return };
                self.users.show(&mut self.world, user, next);
                self.expect(user, next, None);
            }
        }
    }

    /// The super node gives a device up that it has not heard of.
    fn notice_silence(&mut self, user: u32) {
        let vanished = self.watches.vanishing.remove(&user);
        let was_invisible = self.users.shown(user) == Presence::Offline;
        self.users.leave(&mut self.world, user);
        if !was_invisible {
            self.expect(user, Presence::Offline, vanished);
        }
    }

    fn expect(&mut self, user: u32, presence: Presence, vanished: Option<Micros>) {
        let watchers = self.watches.of.get(&user).cloned().unwrap_or_default();
        self.watches.expected += watchers.len() as u64;
        let at = self.world.now;
        self.watches.awaited.insert(user, Awaited { at, presence, watchers, vanished });
    }

    /// A super node tells one of its devices how a name looks now.
    pub(super) fn hear_change(&mut self, change: &Change) {
        let Some(watcher) = self.watches.watchers.get(&change.device).copied() else { return };
        let Some(user) = self.watches.names.get(&change.key).copied() else { return };
        let shown = change.found.iter().map(cooee_proto::index::Found::presence);
        let shown = shown.max_by_key(|presence| *presence != Presence::Offline);
        let Some(awaited) = self.watches.awaited.get_mut(&user) else { return };
        if shown != Some(awaited.presence) || !awaited.watchers.remove(&watcher) {
            return;
        }
        let (at, vanished) = (awaited.at, awaited.vanished);
        // From the buddy to its super node, and from the watcher's to the watcher.
        let legs_ms: f32 = [user, watcher]
            .into_iter()
            .map(|user| {
                let home = self.users.users[user as usize].home;
                let attached = home != super::users::NOWHERE;
                if attached { self.leg_ms(user, home) } else { 0.0 }
            })
            .sum();
        let told_ms = (self.world.now - at) as f32 / 1000.0 + legs_ms;
        self.watches.delays_ms.push(told_ms);
        if let Some(vanished) = vanished {
            let seconds = (self.world.now - vanished) as f64 / SECOND as f64;
            self.watches.vanished += 1;
            self.watches.vanished_s_max = self.watches.vanished_s_max.max(seconds);
        }
    }
}
