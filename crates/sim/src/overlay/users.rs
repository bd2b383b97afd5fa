//! The users: rows that attach, publish, leave and look up as a device and its machine do.
//!
//! A device tries ten super nodes of its host cache at a time, 250 ms apart, takes the first that
//! accepts, follows "busy, try these", and backs off with full jitter when all is dark. It keeps a
//! spare super node warm. A super node that dies is noticed at once by half of its devices (reset)
//! and
//! by the others when the keep-alive is not answered.

use cooee_proto::{identity::NodeId, index::RECORD_LIFE_HOURS, overlay::mix::mix64, wire::v1};
use prost::Message;
use rand::Rng;

use super::{
    names::{display_name, is_listed, user_name},
    oracle::Truth,
    tag_trust::{name_key, node_id, sign_record},
    world::{Event, Micros, SECOND, World},
};
use crate::latency::Place;

/// No super node.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Longest time until a silent death is noticed: keep-alive period and time-out.
const KEEP_ALIVE_BOUND: Micros = 20 * SECOND;

/// TLS connections that a super node accepts per second (chosen: half of one core).
const ACCEPTED_PER_SECOND: u32 = 200;

/// Mean length of a session and of the time between two, in hours.
const SESSION_HOURS: f64 = 8.0;
const ABSENCE_HOURS: f64 = 16.0;

/// What a user does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Not there.
    Offline,
    /// Attached to a super node.
    Attached,
    /// Looking for a super node.
    Attaching,
}

/// One user with one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    /// What they do.
    pub(super) doing: Doing,
    /// Super node in use.
    pub(super) home: u32,
    spare: u32,
    plan: u32,
    tries: u8,
    /// What the index should say.
    pub(super) truth: Truth,
    /// When they were last attached.
    pub(super) seen: Micros,
    /// What their record shows.
    shown: v1::Presence,
}

/// All users.
pub(super) struct Users {
    /// By number.
    pub(super) users: Vec<User>,
    /// Users attached to each host.
    pub(super) attached_to: Vec<Vec<u32>>,
    /// Whether users come and go.
    pub(super) churn: bool,
    /// Whether they let themselves be found by wildcard.
    pub(super) listing: bool,
    /// Most devices that any super node ever carried.
    pub(super) attached_max: usize,
    /// Attempts to attach whose certificate had ended.
    pub(super) expired: u64,
    /// Turned away with "busy, try these".
    pub(super) turned_away: u64,
    pool: Vec<u32>,
    accepted: Vec<(Micros, u32)>,
}

fn certificate_number(user: u32) -> u64 {
    u64::from(user) | 1 << 40
}

/// The user's device.
pub(super) fn device(user: u32) -> NodeId {
    node_id(u64::from(user), true)
}

impl Users {
    /// Users that were never seen.
    pub(super) fn new(count: u32) -> Self {
        let user = User {
            doing: Doing::Offline,
            home: NOWHERE,
            spare: NOWHERE,
            plan: 0,
            tries: 0,
            truth: Truth::default(),
            seen: 0,
            shown: v1::Presence::Online,
        };
        Self {
            users: vec![user; count as usize],
            attached_to: Vec::new(),
            churn: false,
            listing: false,
            attached_max: 0,
            expired: 0,
            turned_away: 0,
            pool: Vec::new(),
            accepted: Vec::new(),
        }
    }

    /// Host caches are as fresh as this moment.
    pub(super) fn refresh_host_caches(&mut self, world: &World) {
        self.pool = world.alive.clone();
    }

    /// Users attached at present.
    pub(super) fn attached(&self) -> usize {
        self.attached_to.iter().map(Vec::len).sum()
    }

    /// The user will act after `span`; plans made before are void.
    pub(super) fn plan(&mut self, world: &mut World, user: u32, span: Micros) {
        let row = &mut self.users[user as usize];
        row.plan = row.plan.wrapping_add(1);
        world.after(span, Event::User { user, plan: row.plan });
    }

    /// The user acts.
    pub(super) fn act(&mut self, world: &mut World, user: u32, plan: u32) {
        let row = &self.users[user as usize];
        if row.plan != plan {
            return;
        }
        match row.doing {
            Doing::Offline => {
                self.users[user as usize].doing = Doing::Attaching;
                self.try_attach(world, user);
            }
            Doing::Attaching => self.try_attach(world, user),
            Doing::Attached => self.leave(world, user),
        }
    }

    /// The user goes offline; comes back some day if users come and go.
    pub(super) fn leave(&mut self, world: &mut World, user: u32) {
        let home = self.users[user as usize].home;
        self.unlink(user);
        let row = &mut self.users[user as usize];
        row.doing = Doing::Offline;
        row.home = NOWHERE;
        row.seen = world.now;
        world.with(home, |overlay, now| overlay.detach(now, device(user)));
        if self.churn {
            let span = exponential(world, ABSENCE_HOURS);
            self.plan(world, user, span);
        }
    }

    /// A super node died: its devices notice sooner or later.
    pub(super) fn lose_host(&mut self, world: &mut World, host: u32) {
        let Some(lost) = self.attached_to.get_mut(host as usize).map(std::mem::take) else {
            return;
        };
        for user in lost {
            let row = &mut self.users[user as usize];
            row.doing = Doing::Attaching;
            row.home = NOWHERE;
            row.seen = world.now;
            let silent = world.rng.random::<bool>();
            let notice = if silent { world.rng.random_range(0..KEEP_ALIVE_BOUND) } else { 100_000 };
            self.plan(world, user, notice);
        }
    }

    /// A super node takes leave: its devices go to others within two seconds.
    pub(super) fn send_elsewhere(&mut self, world: &mut World, host: u32) {
        let Some(leaving) = self.attached_to.get_mut(host as usize).map(std::mem::take) else {
            return;
        };
        for user in leaving {
            let row = &mut self.users[user as usize];
            (row.doing, row.home, row.seen) = (Doing::Attaching, NOWHERE, world.now);
            let pause = world.rng.random_range(0..2 * SECOND);
            self.plan(world, user, pause);
        }
    }

    /// Attaches at once, without trying: for filling the network at the start.
    pub(super) fn place_at(&mut self, world: &mut World, user: u32, home: u32) {
        let spare = world.random_alive();
        self.users[user as usize].spare = spare;
        self.attach(world, user, home);
    }

    fn try_attach(&mut self, world: &mut World, user: u32) {
        if world.certified_until(certificate_number(user)).0 <= world.unix_ms() {
            // TLS tells that the certificate has ended; the user waits for the login server.
            self.expired += 1;
            return self.plan(world, user, 600 * SECOND);
        }
        const RACED: usize = 10;
        const STAGGER: Micros = 250_000;
        let spare = self.users[user as usize].spare;
        let place = Place::of(u64::from(user) | 1 << 40);
        let mut candidates = vec![];
        if spare != NOWHERE && self.users[user as usize].tries == 0 {
            candidates.push(spare);
        }
        while candidates.len() < RACED && !self.pool.is_empty() {
            candidates.push(self.pool[world.rng.random_range(0..self.pool.len())]);
        }
        if self.users[user as usize].tries >= 2 {
            // The bootstrap entry of the invitation: an operator's, the last resort.
            candidates.push(world.alive[0]);
        }
        let mut elapsed = 0;
        let mut following = 0;
        while let Some(host) = (!candidates.is_empty()).then(|| candidates.remove(0)) {
            elapsed += STAGGER;
            let Some(accepted) = self.knock(world, host) else { continue };
            let Err(try_these) = accepted else {
                let trip = place.round_trip_ms(&world.hosts[host as usize].place);
                // TCP, TLS, hello: two and a half round trips after the stagger.
                let _handshake_ms = trip * 2.5 + elapsed as f32 / 1000.0;
                let row = &mut self.users[user as usize];
                row.spare = candidates.last().copied().unwrap_or(spare);
                return self.attach(world, user, host);
            };
            self.turned_away += 1;
            following += 1;
            if following < 5 {
                candidates.extend(try_these.into_iter().take(2));
            }
        }
        let row = &mut self.users[user as usize];
        row.tries = (row.tries + 1).min(5);
        let bound = (SECOND << row.tries).min(30 * SECOND);
        let back_off = world.rng.random_range(0..bound) + elapsed + SECOND;
        self.plan(world, user, back_off);
    }

    /// Asks a super node for room: `None` if it does not answer.
    fn knock(&mut self, world: &mut World, host: u32) -> Option<Result<(), Vec<u32>>> {
        let number = host as usize;
        if self.accepted.len() <= number {
            self.accepted.resize(number + 1, (0, 0));
        }
        let second = world.now / SECOND;
        let (at, count) = self.accepted[number];
        let count = if at == second { count } else { 0 };
        let verdict = world.with(host, |overlay, _| match overlay.admit() {
            Ok(()) if count >= ACCEPTED_PER_SECOND => Err(overlay.try_these()),
            other => other,
        })?;
        self.accepted[number] = (second, count + 1);
        let number_of = |address: std::net::SocketAddr| match address {
            std::net::SocketAddr::V4(v4) => u32::from(*v4.ip()) & 0xffff,
            std::net::SocketAddr::V6(_) => NOWHERE,
        };
        Some(verdict.map_err(|list| list.into_iter().map(number_of).collect()))
    }

    fn attach(&mut self, world: &mut World, user: u32, home: u32) {
        if self.attached_to.len() <= home as usize {
            self.attached_to.resize(world.hosts.len(), Vec::new());
        }
        self.attached_to[home as usize].push(user);
        self.attached_max = self.attached_max.max(self.attached_to[home as usize].len());
        let row = &mut self.users[user as usize];
        row.doing = Doing::Attached;
        row.home = home;
        row.tries = 0;
        row.seen = world.now;
        row.shown = v1::Presence::Online;
        world.with(home, |overlay, now| overlay.attach(now, device(user)));
        self.publish(world, user);
        if self.churn {
            let span = exponential(world, SESSION_HOURS).min(60 * 3600 * SECOND);
            self.plan(world, user, span);
        }
    }

    /// What the user's record shows.
    pub(super) fn shown(&self, user: u32) -> v1::Presence {
        self.users[user as usize].shown
    }

    /// An attached user shows something else.
    pub(super) fn show(&mut self, world: &mut World, user: u32, presence: v1::Presence) {
        self.users[user as usize].shown = presence;
        self.publish(world, user);
    }

    fn publish(&mut self, world: &mut World, user: u32) {
        let row = &mut self.users[user as usize];
        let home = row.home;
        let sequence = world.unix_ms().max(row.truth.sequence + 1);
        row.truth.publish(world.now, sequence);
        let listed = self.listing && is_listed(user);
        let super_nodes = [home, row.spare]
            .iter()
            .filter(|host| **host != NOWHERE)
            .map(|host| bytes::Bytes::copy_from_slice(&world.hosts[*host as usize].node.0))
            .collect();
        let record = v1::UserRecord {
            super_nodes,
            sequence,
            expiry_unix_ms: sequence + RECORD_LIFE_HOURS * 3_600_000,
            presence: row.shown.into(),
            listed,
            display_name: if listed { display_name(user) } else { String::new() },
            ..Default::default()
        };
        let not_after = world.certified_until(certificate_number(user));
        let record = sign_record(device(user), &user_name(user), not_after, record).encode_to_vec();
        world.with(home, |overlay, now| {
            overlay.publish(now, device(user), &record).expect("a right record is taken");
        });
    }

    fn unlink(&mut self, user: u32) {
        let home = self.users[user as usize].home;
        if let Some(list) = self.attached_to.get_mut(home as usize)
            && let Some(place) = list.iter().position(|other| *other == user)
        {
            list.swap_remove(place);
        }
    }

    /// Users for a look-up: an attached one asks for another, popular ones more often.
    pub(super) fn pair(&self, world: &mut World) -> Option<(u32, u32)> {
        let count = self.users.len() as u32;
        let asker = (0..64)
            .map(|_| world.rng.random_range(0..count))
            .find(|user| self.users[*user as usize].doing == Doing::Attached)?;
        let skew: f64 = world.rng.random();
        let rank = (skew.powi(3) * f64::from(count)) as u32;
        // Popular users are spread over all numbers.
        let target = (mix64(u64::from(rank)) % u64::from(count)) as u32;
        Some((asker, target))
    }

    /// Key of the user's name.
    pub(super) fn key(user: u32) -> cooee_proto::identity::NameKey {
        name_key(&user_name(user))
    }
}

/// An exponentially distributed span with this mean.
pub(super) fn exponential(world: &mut World, mean_hours: f64) -> Micros {
    let uniform: f64 = world.rng.random();
    (-(1.0 - uniform).ln() * mean_hours * 3600.0 * SECOND as f64) as Micros
}
