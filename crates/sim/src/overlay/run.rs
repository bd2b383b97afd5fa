//! Runs a scenario: fills the network, lets things happen, asks and judges.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cooee_proto::{index::Answer, overlay::Output};
use rand::{Rng, seq::SliceRandom};

use super::{
    election::Candidates,
    hostile::Conspiracy,
    oracle::{Tally, Verdict},
    presence::{self, Watches},
    report::{Report, Sample},
    scenario::{Scenario, Size},
    users::{Doing, NOWHERE, Users, exponential},
    wildcard::{self, Searches},
    world::{Event, Micros, SECOND, Step, World},
};
use crate::latency::Place;

/// Median life of a super node, measured for Skype (Guha, Daswani, Jain, "An experimental study of
/// the
/// Skype peer-to-peer VoIP system", IPTPS 2006, section 4: 5.5 hours), as an exponential mean.
const SUPER_NODE_LIFE_HOURS: f64 = 5.5 / std::f64::consts::LN_2;

/// The same of those that relay media besides, every third here (chosen): 3.5 hours.
const RELAY_LIFE_HOURS: f64 = 3.5 / std::f64::consts::LN_2;

/// Users seen longer ago than this need not be found.
pub(super) const SEEN_WITHIN: Micros = 72 * 3600 * SECOND;

/// Share of the users that is online at the start, in percent.
const ONLINE_PERCENT: u32 = 33;

/// Virtual time over which the users are placed at the start.
pub(super) const FILLING: Micros = 120 * SECOND;

/// Program versions of the simulated super nodes.
pub(super) const VERSION_OLD: u32 = 0x00_01_00;
pub(super) const VERSION_NEW: u32 = 0x00_01_01;

/// When the nine tenths that a mass reboot took down come back, in seconds after it.
const REST_BACK_AFTER_S: std::ops::Range<u64> = 310..420;

/// Scenes from this number on restart the super node of the remaining number.
const FIRST_RESTART: u32 = 10;

pub(super) struct Pending {
    asker_trip_ms: f32,
    pub(super) asked: Micros,
    pub(super) target: u32,
    /// Whether a call was tried with a cached record already: this one is fresh.
    second: bool,
}

pub(super) struct Runner {
    pub(super) scenario: Scenario,
    pub(super) size: Size,
    pub(super) world: World,
    pub(super) users: Users,
    pub(super) tally: Tally,
    pub(super) conspiracy: Conspiracy,
    pub(super) watches: Watches,
    pub(super) searches: Searches,
    pub(super) candidates: Candidates,
    pub(super) pending: BTreeMap<(u32, u64), Pending>,
    pub(super) samples: Vec<Sample>,
    pub(super) sampled: (u64, u64, u64, usize),
    pub(super) struck_at: Option<Micros>,
    /// Users who lost their super node in the fault, and when each was attached again.
    pub(super) lost: Vec<u32>,
    pub(super) reattached: Vec<(Micros, usize)>,
    pub(super) crashing: bool,
}

/// Runs `scenario` in this size with this seed. `epoch` is any instant.
pub fn run(scenario: Scenario, size: Size, seed: u64, epoch: Instant) -> Report {
    run_telling(scenario, size, seed, epoch, &mut |_| {})
}

/// The same; each sample of the plot is told as it is made, so that a long run shows where it is.
pub fn run_telling(
    scenario: Scenario,
    size: Size,
    seed: u64,
    epoch: Instant,
    tell: &mut dyn FnMut(&Sample),
) -> Report {
    let mut runner = Runner::new(scenario, size, seed, epoch);
    runner.fill();
    runner.plan_steps();
    let end = FILLING + size.minutes * 60 * SECOND;
    let mut told = 0;
    while let Some(event) = runner.world.next(end) {
        runner.handle(event);
        runner.hear();
        if let Some(sample) = runner.samples.get(told) {
            tell(sample);
            told += 1;
        }
    }
    runner.world.now = end;
    runner.report(seed)
}

impl Runner {
    fn new(scenario: Scenario, size: Size, seed: u64, epoch: Instant) -> Self {
        Self {
            scenario,
            size,
            world: World::new(epoch, seed),
            users: Users::new(size.users),
            tally: Tally::default(),
            conspiracy: Conspiracy::default(),
            watches: Watches::default(),
            searches: Searches::default(),
            candidates: Candidates::default(),
            pending: BTreeMap::new(),
            samples: Vec::new(),
            sampled: (0, 0, 0, 0),
            struck_at: None,
            lost: Vec::new(),
            reattached: Vec::new(),
            crashing: false,
        }
    }

    /// Super nodes that know each other, and every user seen once.
    fn fill(&mut self) {
        // Every survivor of the worst scenario, a tenth of all, must be able to carry its share.
        self.world.certificate_life = Duration::from_secs(self.size.certificate_days * 86_400);
        self.world.capacity = match self.scenario {
            // An operator's few hold a third of the users.
            Scenario::Election => (self.size.users / self.size.super_nodes / 3).max(8),
            _ => (self.size.users / self.size.super_nodes * 5).max(50),
        };
        for number in 0..self.size.super_nodes {
            let version = if number % 10 < 6 { VERSION_OLD } else { VERSION_NEW };
            let host = self.world.add_host(version);
            let hostile = self.scenario == Scenario::Hostile30 && number % 10 < 3;
            self.world.hosts[host as usize].hostile = hostile;
        }
        if self.scenario == Scenario::Election {
            return self.fill_for_election();
        }
        self.users.listing = self.scenario == Scenario::Wildcard;
        self.world.introduce_all();
        self.users.refresh_host_caches(&self.world);
        for user in 0..self.size.users {
            let at = FILLING / u64::from(self.size.users) * u64::from(user) / 2;
            self.world.at(at, Event::User { user, plan: 0 });
        }
    }

    fn plan_steps(&mut self) {
        let start = FILLING;
        if self.scenario.super_nodes_churn() {
            for host in self.world.alive.clone() {
                let life = self.life(host);
                self.world.at(start + life, Event::Step(Step::Die(host)));
            }
        }
        if self.size.look_ups_per_minute > 0 {
            self.world.at(start, Event::Step(Step::LookUp));
        }
        let fault = start + self.scenario.fault_at(&self.size);
        match self.scenario {
            Scenario::SplitHeal => {
                self.world.at(fault, Event::Step(Step::Scene(1)));
                let heal = start + self.scenario.heal_at(&self.size);
                self.world.at(heal, Event::Step(Step::Scene(2)));
                self.world.at(heal + 60 * SECOND, Event::Step(Step::Scene(3)));
            }
            Scenario::Kill30 | Scenario::Kill90Restart | Scenario::VersionCrash => {
                self.world.at(fault, Event::Step(Step::Scene(1)));
            }
            Scenario::LoginServerGone => self.world.login_server_gone_at = Some(start),
            Scenario::Hostile30 => self.world.at(start, Event::Step(Step::Accuse)),
            Scenario::Presence => {
                self.world.at(start, Event::Step(Step::Scene(presence::WATCH)));
            }
            Scenario::Wildcard => {
                self.world.at(start, Event::Step(Step::Scene(wildcard::SEARCH)));
            }
            Scenario::SteadyChurn | Scenario::LookupDelay | Scenario::Election => {}
        }
        self.world.at(start, Event::Step(Step::Sample));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram { to, from, bytes } => self.deliver(from, to, bytes),
            Event::Wake { host } => self.world.wake(host),
            Event::User { user, plan: 0 }
                if self.users.users[user as usize].truth.sequence == 0 =>
            {
                self.first_appearance(user);
            }
            Event::User { user, plan } => self.users.act(&mut self.world, user, plan),
            Event::Step(step) => self.step(step),
        }
    }

    fn deliver(&mut self, from: u32, to: u32, bytes: bytes::Bytes) {
        let host = &self.world.hosts[to as usize];
        if self.crashing && host.version == VERSION_OLD && host.overlay.is_some() {
            // The poisonous message has reached it.
            self.strike(&[to]);
            return;
        }
        let honest = !host.hostile || host.overlay.is_none();
        if honest || self.conspiracy.meet(&mut self.world, from, to, &bytes) {
            self.world.deliver(from, to, &bytes);
        }
    }

    /// A user appears for the first time; two thirds go again and must be found all the same.
    fn first_appearance(&mut self, user: u32) {
        let home = self.world.random_alive();
        self.users.place_at(&mut self.world, user, home);
        if user % 100 >= ONLINE_PERCENT {
            self.users.churn = self.churning();
            self.users.plan(&mut self.world, user, 20 * SECOND);
        }
    }

    fn churning(&self) -> bool {
        self.scenario.super_nodes_churn()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Die(host) => {
                self.strike(&[host]);
                self.struck_at = None;
                // Another begins somewhere: the network keeps its size.
                let pause = self.world.rng.random_range(0..60 * SECOND);
                self.world.after(pause, Event::Step(Step::Born));
            }
            Step::Born => {
                let host = self.world.add_host(VERSION_NEW);
                let hostile =
                    self.scenario == Scenario::Hostile30 && self.world.rng.random_range(0..10) < 3;
                self.world.hosts[host as usize].hostile = hostile;
                self.world.join(host);
                let life = self.life(host);
                self.world.after(life, Event::Step(Step::Die(host)));
            }
            Step::LookUp => {
                let mean = 60.0 / self.size.look_ups_per_minute as f64 / 3600.0;
                let pause = exponential(&mut self.world, mean);
                self.world.after(pause, Event::Step(Step::LookUp));
                self.look_up();
            }
            Step::Sample => self.sample(),
            Step::Scene(number) => self.scene(number),
            Step::Accuse => {
                let liar = self.world.random_alive();
                let victim = self.world.random_alive();
                if self.world.hosts[liar as usize].hostile {
                    self.conspiracy.accuse(&mut self.world, liar, victim);
                }
                self.world.after(SECOND, Event::Step(Step::Accuse));
            }
        }
    }

    fn life(&mut self, host: u32) -> Micros {
        let mean_hours =
            if host.is_multiple_of(3) { RELAY_LIFE_HOURS } else { SUPER_NODE_LIFE_HOURS };
        exponential(&mut self.world, mean_hours)
    }

    fn scene(&mut self, number: u32) {
        match (self.scenario, number) {
            (Scenario::Kill30, _) => {
                let mut hosts = self.world.alive.clone();
                hosts.shuffle(&mut self.world.rng);
                hosts.truncate(hosts.len() * 3 / 10);
                self.strike(&hosts);
            }
            (Scenario::Kill90Restart, 1) => self.mass_reboot(),
            (Scenario::Kill90Restart, 2) => self.tally.lost_at_check = Some(self.check_records().1),
            (Scenario::Kill90Restart, number) => {
                // A survivor of the reboot is back, under its old address.
                let host = number - FIRST_RESTART;
                self.world.start(host);
                self.world.join(host);
            }
            (Scenario::VersionCrash, _) => {
                self.crashing = true;
                self.struck_at = Some(self.world.now);
            }
            (Scenario::SplitHeal, 1) => self.world.split = true,
            (Scenario::SplitHeal, 2) => {
                self.world.split = false;
                self.struck_at = Some(self.world.now);
            }
            (Scenario::SplitHeal, _) => self.sample_consistency(),
            (Scenario::Presence, number) => self.presence_scene(number),
            (Scenario::Wildcard, number) => self.wildcard_scene(number),
            (Scenario::Election, number) => self.election_scene(number),
            _ => {}
        }
    }

    /// All super nodes but one operator's go down; a tenth comes back within a minute, the others
    /// only later; every device restarts at the same time.
    fn mass_reboot(&mut self) {
        let mut hosts: Vec<u32> = self.world.alive.iter().copied().skip(1).collect();
        hosts.shuffle(&mut self.world.rng);
        self.strike(&hosts);
        let operators = self.world.alive[0];
        self.strike_devices(operators);
        let soon = hosts.len() / 10;
        for (place, host) in hosts.into_iter().enumerate() {
            let seconds = if place < soon { 5..60 } else { REST_BACK_AFTER_S };
            let pause = self.world.rng.random_range(seconds.start * SECOND..seconds.end * SECOND);
            self.world.after(pause, Event::Step(Step::Scene(FIRST_RESTART + host)));
        }
        self.world.after(300 * SECOND, Event::Step(Step::Scene(2)));
    }

    fn strike_devices(&mut self, host: u32) {
        let devices = self.users.attached_to.get(host as usize).cloned().unwrap_or_default();
        for user in devices {
            self.lost.push(user);
            let device = super::users::device(user);
            self.world.with(host, |overlay, now| overlay.detach(now, device));
        }
        self.users.lose_host(&mut self.world, host);
    }

    /// Kills super nodes.
    fn strike(&mut self, hosts: &[u32]) {
        self.struck_at.get_or_insert(self.world.now);
        for host in hosts {
            if self.world.hosts[*host as usize].overlay.is_none() {
                continue;
            }
            if let Some(users) = self.users.attached_to.get(*host as usize)
                && !self.scenario.super_nodes_churn()
            {
                self.lost.extend_from_slice(users);
            }
            if self.scenario == Scenario::Kill90Restart {
                self.world.kill_for_a_while(*host);
            } else {
                self.world.kill(*host);
            }
            self.users.lose_host(&mut self.world, *host);
        }
        self.pending.retain(|(host, _), _| !hosts.contains(host));
    }

    fn look_up(&mut self) {
        let Some((asker, target)) = self.users.pair(&mut self.world) else { return };
        let truth = self.users.users[target as usize];
        let home = self.users.users[asker as usize].home;
        let online = truth.doing != Doing::Offline;
        let settled = self.world.now > truth.truth.since + 5 * SECOND;
        if truth.truth.sequence == 0 || (!online && self.world.now > truth.seen + SEEN_WITHIN) {
            return;
        }
        let side = |host: u32| self.world.hosts.get(host as usize).map(|host| host.side);
        if !settled || (self.world.split && truth.home != NOWHERE && side(truth.home) != side(home))
        {
            return;
        }
        let near = self.near_home(&Place::of(u64::from(asker) | 1 << 40), home);
        let key = Users::key(target);
        let device = super::users::device(asker);
        let Some(Ok(id)) =
            self.world.with(home, |overlay, now| overlay.look_up(now, device, key, false))
        else {
            return;
        };
        let pending = Pending { asker_trip_ms: near, asked: self.world.now, target, second: false };
        self.pending.insert((home, id), pending);
    }

    /// Round trip to the super node in use. Devices choose the nearest of some that have room;
    /// users are placed at random here, so the asker is put where it would have chosen this one.
    fn near_home(&mut self, place: &Place, home: u32) -> f32 {
        const CHOICES: u64 = 12;
        let seed: u64 = self.world.rng.random();
        let host = self.world.hosts[home as usize].place;
        let others = (1..CHOICES).map(|n| Place::of(seed ^ n).round_trip_ms(place));
        others.fold(host.round_trip_ms(place), f32::min)
    }

    /// One way between a user and the super node in use.
    pub(super) fn leg_ms(&mut self, user: u32, home: u32) -> f32 {
        self.near_home(&Place::of(u64::from(user) | 1 << 40), home) / 2.0
    }

    fn hear(&mut self) {
        for told in std::mem::take(&mut self.world.told) {
            match told.output {
                Output::LookedUp(answer) => self.hear_answer(told.host, &answer),
                Output::Notify(change) => self.hear_change(&change),
                Output::Searched(answer) => self.hear_page(told.host, &answer),
                _ => {}
            }
        }
    }

    fn hear_answer(&mut self, host: u32, answer: &Answer) {
        let Some(pending) = self.pending.remove(&(host, answer.look_up)) else { return };
        if !pending.second {
            self.judge(host, &pending, answer);
        }
        self.call(host, &pending, answer);
    }

    fn judge(&mut self, host: u32, pending: &Pending, answer: &Answer) {
        let target = self.users.users[pending.target as usize];
        let login_server = self.world.login_server_gone_at.is_none();
        let verdict = match target.truth.judge(pending.asked, answer) {
            // The super node's shell asks the login server last (`cooee-node`, finding).
            Verdict::Missing if login_server && target.doing != Doing::Attached => {
                Verdict::Registered
            }
            verdict => verdict,
        };
        let waited_ms = (self.world.now - pending.asked) as f32 / 1000.0;
        if verdict == Verdict::Right && answer.source != cooee_proto::index::Source::Cache {
            self.tally.uncached_ms.push(pending.asker_trip_ms + waited_ms);
        }
        if matches!(verdict, Verdict::Wrong | Verdict::Missing) {
            self.note_failed(host, pending, answer);
        }
        let late = self.struck_at.is_some_and(|at| pending.asked > at + 60 * SECOND);
        self.tally.missing_late += u64::from(late && verdict == Verdict::Missing);
        self.tally.count(answer, verdict, pending.asker_trip_ms + waited_ms);
    }

    /// Calls whoever was found: the splice goes from the asker's super node to one that the record
    /// names. If the device is not there, the name is looked up once more past the cache, as the
    /// program does.
    fn call(&mut self, home: u32, pending: &Pending, answer: &Answer) {
        let target = self.users.users[pending.target as usize];
        let is_there = |user: &super::users::User| user.doing == Doing::Attached;
        if !is_there(&target) || target.truth.since + 5 * SECOND > self.world.now {
            return;
        }
        let held = self.world.hosts[target.home as usize].node;
        let names_it = answer.found.iter().any(|one| one.record.super_nodes.contains(&held));
        if names_it || pending.second {
            self.tally.calls += 1;
            self.tally.calls_connected += u64::from(names_it);
            return;
        }
        let key = Users::key(pending.target);
        let asker = self.world.hosts[home as usize].node;
        let again = self.world.with(home, |overlay, now| overlay.look_up(now, asker, key, true));
        if let Some(Ok(id)) = again {
            let second = Pending { second: true, asked: self.world.now, ..*pending };
            self.pending.insert((home, id), second);
        }
    }
}
