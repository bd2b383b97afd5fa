//! The scenario `election`: an operator's few super nodes fill up, able users' nodes step in as the
//! network needs them, diverse in address block and version; some go on battery and retire; then
//! most users go home and the network shrinks again.
//!
//! Candidates decide as the program does (`cooee-node`, candidacy): what only they know about
//! themselves, then what a dedicated super node sees of the network.

use std::time::Duration;

use cooee_proto::overlay::{
    election::{Consent, NotElected, Standing, may_serve, mean_load_percent},
    mix::mix64,
    statement::AddressBlock,
};
use rand::Rng;

use super::{
    run::{FILLING, Runner, VERSION_NEW, VERSION_OLD},
    users::Doing,
    world::{Event, Micros, SECOND, Step},
};

/// Steps of the scenario.
const LOOK: u32 = 1000;
const GONE: u32 = 1_000_000;
pub(super) const GROWN: u32 = 1;
const BATTERY: u32 = 2;
const GO_HOME: u32 = 3;

/// Mean time between two looks of a candidate (`cooee-node`, candidacy).
const LOOK_PERIOD: Micros = 120 * SECOND;

/// Refusals after which a serving node retires, and its time to do so (the same).
const REFUSALS_MAX: u32 = 2;
const RETIRING: Micros = 10 * SECOND;

/// How much longer it stays while it is handing over (the same).
const HANDING_OVER: Micros = 60 * SECOND;

/// Users that are there from the start, of a hundred; the others come by and by.
const EARLY_PERCENT: u32 = 25;

/// When the last have come, when it is judged, when nineteen of twenty go home; in minutes.
const LAST_COMES: u64 = 25;
const JUDGED: u64 = 35;
const HOME: u64 = 36;

/// The address block that a third of the candidates share.
const CROWDED: u32 = 30_000;

struct Candidate {
    consent: Consent,
    standing: Standing,
    /// Up and reachable since, before the start of the run.
    age: Duration,
    crowded: bool,
    host: Option<u32>,
    refusals: u32,
}

/// Who could serve, and what came of it.
#[derive(Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    /// Times that a candidate began to serve.
    pub(super) elected: u64,
    /// Times that one retired: because its owner, battery or resources say so, or the network.
    pub(super) retired: u64,
    /// Of these on battery, out of those that went on battery while serving.
    pub(super) unplugged: (u64, u64),
    /// Looks refused: not able; not needed; block; version.
    pub(super) refused: [u64; 4],
    /// Super nodes at most.
    pub(super) peak: usize,
    /// When everyone had come: super nodes, mean load, users without one.
    pub(super) grown: usize,
    pub(super) grown_load_percent: u32,
    pub(super) waiting: usize,
    /// The same moment: share of the crowded block, and of the more frequent version, in percent.
    pub(super) block_percent: f64,
    pub(super) version_percent: f64,
    /// Serving although on battery, behind a NAT, metered or refused by the owner.
    pub(super) unfit: usize,
    /// Those on their way out, and since when.
    retiring: std::collections::BTreeMap<u32, Micros>,
    /// When the network sent others home within the last minute.
    sent_home: std::collections::VecDeque<Micros>,
    /// Of those alive, at most, in percent.
    pub(super) retired_in_a_minute_percent_max: f64,
    /// Shards that were left without enough others having said that they hold them.
    pub(super) unconfirmed: u64,
}

impl Candidate {
    fn draw(number: u64) -> Self {
        let percent = |salt: u64| mix64(number ^ salt << 20) % 100;
        let consent =
            if percent(1) < 10 { Consent::Refused } else { Consent::Budget { devices_max: 0 } };
        let crowded = percent(2) < 33;
        let standing = Standing {
            verified_by: if percent(3) < 50 { 3 } else { 0 },
            uptime: Duration::ZERO,
            free_memory_mib: if percent(4) < 10 { 64 } else { 2048 },
            free_processor_percent: if percent(5) < 10 { 5 } else { 80 },
            upstream_kbps: if percent(6) < 20 { 500 } else { 10_000 },
            on_battery: percent(7) < 20,
            metered: percent(8) < 5,
            block: AddressBlock::of(super::world::address_in(CROWDED, 0).ip()),
            program_version: if percent(9) < 85 { VERSION_NEW } else { VERSION_OLD },
        };
        let age = Duration::from_secs(mix64(number ^ 0xa6e) % (3 * 3600));
        Self { consent, standing, age, crowded, host: None, refusals: 0 }
    }

    fn is_unfit(&self) -> bool {
        let standing = &self.standing;
        self.consent == Consent::Refused
            || standing.on_battery
            || standing.metered
            || standing.verified_by == 0
    }
}

impl Runner {
    /// Users come by and by; a fifth of their nodes could serve.
    pub(super) fn fill_for_election(&mut self) {
        let hosts = self.size.super_nodes;
        self.world.introduce_all();
        self.users.refresh_host_caches(&self.world);
        for user in 0..self.size.users {
            if user % 100 < EARLY_PERCENT {
                // Evenly: these are placed without asking whether there is room.
                let number = user / 100 * EARLY_PERCENT + user % 100;
                let home = self.world.alive[(number % hosts) as usize];
                self.users.place_at(&mut self.world, user, home);
            } else {
                let span = self.world.rng.random_range(FILLING..LAST_COMES * 60 * SECOND);
                self.users.plan(&mut self.world, user, span);
            }
        }
        for number in 0..self.size.users {
            self.candidates.all.push(Candidate::draw(u64::from(number)));
            let first = self.world.rng.random_range(0..2 * LOOK_PERIOD);
            self.world.at(FILLING + first, Event::Step(Step::Scene(LOOK + number)));
        }
        for (minute, scene) in [(JUDGED, GROWN), (JUDGED - 5, BATTERY), (HOME, GO_HOME)] {
            self.world.at(FILLING + minute * 60 * SECOND, Event::Step(Step::Scene(scene)));
        }
    }

    pub(super) fn election_scene(&mut self, number: u32) {
        match number {
            GROWN => self.judge_grown(),
            BATTERY => self.unplug_some(),
            GO_HOME => self.go_home(),
            number if number >= GONE => self.go(number - GONE),
            number => {
                let pause = self.world.rng.random_range(LOOK_PERIOD / 2..LOOK_PERIOD * 3 / 2);
                self.world.after(pause, Event::Step(Step::Scene(number)));
                self.look((number - LOOK) as usize);
            }
        }
    }

    fn look(&mut self, number: usize) {
        let dedicated = self.world.rng.random_range(0..self.size.super_nodes);
        let up = Duration::from_micros(self.world.now);
        let candidate = &mut self.candidates.all[number];
        candidate.standing.uptime = candidate.age + up;
        let next = self.world.hosts.len() as u32;
        let block = candidate.crowded.then_some(CROWDED);
        if candidate.host.is_none() {
            let address = block.map_or_else(
                || super::world::address_of(next),
                |block| super::world::address_in(block, next),
            );
            candidate.standing.block = AddressBlock::of(address.ip());
        }
        let own = candidate.host;
        let own_load = own.map(|host| {
            let attached = self.users.attached_to.get(host as usize).map_or(0, Vec::len);
            attached as u32 * 100 / self.world.capacity
        });
        let Some(overlay) = self.world.hosts[dedicated as usize].overlay.as_ref() else { return };
        let verdict = may_serve(candidate.consent, &candidate.standing, overlay.table(), own_load);
        match (own, verdict) {
            (None, Ok(())) => {
                candidate.refusals = 0;
                let version = candidate.standing.program_version;
                let host = self.world.add_host_in(version, block);
                self.candidates.all[number].host = Some(host);
                self.candidates.elected += 1;
                self.world.join(host);
                self.candidates.peak = self.candidates.peak.max(self.world.alive.len());
            }
            (None, Err(reason)) => {
                let kind = match reason {
                    NotElected::NotNeeded => 1,
                    NotElected::CrowdedBlock => 2,
                    NotElected::CrowdedVersion => 3,
                    _ => 0,
                };
                self.candidates.refused[kind] += 1;
            }
            (Some(_), Ok(())) => candidate.refusals = 0,
            (Some(host), Err(reason)) => {
                candidate.refusals += 1;
                // What only the node itself knows takes effect at once.
                if reason != NotElected::NotNeeded || candidate.refusals >= REFUSALS_MAX {
                    candidate.host = None;
                    candidate.refusals = 0;
                    let unplugged = u64::from(reason == NotElected::Battery);
                    self.candidates.unplugged.0 += unplugged;
                    if unplugged == 0 {
                        self.note_sent_home();
                    }
                    self.retire(host);
                }
            }
        }
    }

    fn note_sent_home(&mut self) {
        let (now, alive) = (self.world.now, self.world.alive.len() as f64);
        let found = &mut self.candidates;
        found.sent_home.push_back(now);
        while found.sent_home.front().is_some_and(|at| at + 60 * SECOND < now) {
            found.sent_home.pop_front();
        }
        let percent = found.sent_home.len() as f64 * 100.0 / alive;
        found.retired_in_a_minute_percent_max = found.retired_in_a_minute_percent_max.max(percent);
    }

    fn retire(&mut self, host: u32) {
        self.candidates.retired += 1;
        self.world.with(host, |overlay, now| overlay.leave(now));
        self.users.send_elsewhere(&mut self.world, host);
        self.world.after(RETIRING, Event::Step(Step::Scene(GONE + host)));
    }

    /// Ends a super node that retires, once others hold what it kept.
    fn go(&mut self, host: u32) {
        let overlay = self.world.hosts[host as usize].overlay.as_ref();
        let waits = overlay.is_some_and(|overlay| overlay.handing_over() > 0);
        let retired_at = self.candidates.retiring.entry(host).or_insert(self.world.now);
        if waits && self.world.now < *retired_at + HANDING_OVER {
            return self.world.after(SECOND, Event::Step(Step::Scene(GONE + host)));
        }
        self.candidates.unconfirmed += overlay.map_or(0, |overlay| overlay.handing_over() as u64);
        self.world.kill(host);
    }

    /// Every tenth that serves loses its mains.
    fn unplug_some(&mut self) {
        let serving = self.candidates.all.iter_mut().filter(|it| it.host.is_some());
        for candidate in serving.step_by(10) {
            candidate.standing.on_battery = true;
            self.candidates.unplugged.1 += 1;
        }
    }

    fn go_home(&mut self) {
        for user in 0..self.size.users {
            if user % 20 > 0 && self.users.users[user as usize].doing == Doing::Attached {
                self.users.leave(&mut self.world, user);
            }
        }
    }

    fn judge_grown(&mut self) {
        let members = self.world.alive.len();
        let share = |count: usize| count as f64 * 100.0 / members as f64;
        let host = |number: &u32| &self.world.hosts[*number as usize];
        let block = AddressBlock::of(super::world::address_in(CROWDED, 0).ip());
        let crowded = self.world.alive.iter().map(host);
        let crowded = crowded.filter(|host| AddressBlock::of(host.address.ip()) == block).count();
        let new = self.world.alive.iter().map(host).filter(|h| h.version == VERSION_NEW).count();
        let load = self.world.hosts[0].overlay.as_ref().map(|o| mean_load_percent(o.table()));
        let waiting = self.users.users.iter().filter(|user| user.doing != Doing::Attached).count();
        let unfit = self.candidates.all.iter().filter(|it| it.host.is_some() && it.is_unfit());
        let unfit = unfit.count();
        let found = &mut self.candidates;
        (found.grown, found.grown_load_percent) = (members, load.unwrap_or(0));
        (found.block_percent, found.version_percent) =
            (share(crowded), share(new.max(members - new)));
        (found.waiting, found.unfit) = (waiting, unfit);
    }
}
