//! Runs a scenario: fills the network, lets things happen, asks and judges.

use std::{collections::BTreeMap, time::Instant};

use cooee_proto::{index::Answer, overlay::Output};
use rand::{Rng, seq::SliceRandom};

use super::{
    hostile::Conspiracy,
    oracle::{Tally, Verdict},
    report::{Report, Sample},
    scenario::{Scenario, Size},
    users::{Doing, NOWHERE, Users, exponential},
    world::{Event, Micros, SECOND, Step, World},
};
use crate::latency::Place;

/// Median life of a super node, measured for Skype (Guha, Daswani, Jain, "An experimental study of the
/// Skype peer-to-peer VoIP system", IPTPS 2006, section 4: 5.5 hours), as an exponential mean.
const SUPER_NODE_LIFE_HOURS: f64 = 5.5 / std::f64::consts::LN_2;

/// Users seen longer ago than this need not be found.
const SEEN_WITHIN: Micros = 72 * 3600 * SECOND;

/// Share of the users that is online at the start, in percent.
const ONLINE_PERCENT: u32 = 33;

/// Virtual time over which the users are placed at the start.
const FILLING: Micros = 120 * SECOND;

/// Program versions of the simulated super nodes.
const VERSION_OLD: u32 = 0x00_01_00;
const VERSION_NEW: u32 = 0x00_01_01;

/// Scenes from this number on restart the super node of the remaining number.
const FIRST_RESTART: u32 = 10;

struct Pending {
    asker_trip_ms: f32,
    asked: Micros,
    target: u32,
}

struct Runner {
    scenario: Scenario,
    size: Size,
    world: World,
    users: Users,
    tally: Tally,
    conspiracy: Conspiracy,
    pending: BTreeMap<(u32, u64), Pending>,
    samples: Vec<Sample>,
    sampled: (u64, u64, u64, usize),
    struck_at: Option<Micros>,
    /// Users who lost their super node in the fault, and when each was attached again.
    lost: Vec<u32>,
    reattached: Vec<(Micros, usize)>,
    crashing: bool,
}

/// Runs `scenario` in this size with this seed. `epoch` is any instant.
pub fn run(scenario: Scenario, size: Size, seed: u64, epoch: Instant) -> Report {
    let mut runner = Runner::new(scenario, size, seed, epoch);
    runner.fill();
    runner.plan_steps();
    let end = FILLING + size.minutes * 60 * SECOND;
    while let Some(event) = runner.world.next(end) {
        runner.handle(event);
        runner.hear();
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
        self.world.capacity = (self.size.users / self.size.super_nodes * 5).max(50);
        for number in 0..self.size.super_nodes {
            let version = if number % 10 < 6 { VERSION_OLD } else { VERSION_NEW };
            let host = self.world.add_host(version);
            let hostile = self.scenario == Scenario::Hostile30 && number % 10 < 3;
            self.world.hosts[host as usize].hostile = hostile;
        }
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
                let life = exponential(&mut self.world, SUPER_NODE_LIFE_HOURS);
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
            Scenario::Hostile30 => self.world.at(start, Event::Step(Step::Accuse)),
            Scenario::SteadyChurn | Scenario::LookupDelay | Scenario::LoginServerGone => {}
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
                let life = exponential(&mut self.world, SUPER_NODE_LIFE_HOURS);
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

    fn scene(&mut self, number: u32) {
        match (self.scenario, number) {
            (Scenario::Kill30, _) => {
                let mut hosts = self.world.alive.clone();
                hosts.shuffle(&mut self.world.rng);
                hosts.truncate(hosts.len() * 3 / 10);
                self.strike(&hosts);
            }
            (Scenario::Kill90Restart, 1) => self.mass_reboot(),
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
            _ => {}
        }
    }

    /// All super nodes but one operator's go down; a tenth comes back within a minute; every device
    /// restarts at the same time.
    fn mass_reboot(&mut self) {
        let mut hosts: Vec<u32> = self.world.alive.iter().copied().skip(1).collect();
        hosts.shuffle(&mut self.world.rng);
        let back: Vec<u32> = hosts.iter().copied().take(hosts.len() / 10).collect();
        self.strike(&hosts);
        let operators = self.world.alive[0];
        self.strike_devices(operators);
        for host in back {
            let pause = self.world.rng.random_range(5 * SECOND..60 * SECOND);
            self.world.after(pause, Event::Step(Step::Scene(FIRST_RESTART + host)));
        }
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
            self.world.kill(*host);
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
        let place = Place::of(u64::from(asker) | 1 << 40);
        let near = self.near_home(&place, home);
        let key = Users::key(target);
        let device = super::users::device(asker);
        let Some(Ok(id)) =
            self.world.with(home, |overlay, now| overlay.look_up(now, device, key, false))
        else {
            return;
        };
        let pending = Pending { asker_trip_ms: near, asked: self.world.now, target };
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

    fn hear(&mut self) {
        for told in std::mem::take(&mut self.world.told) {
            if let Output::LookedUp(answer) = told.output
                && let Some(pending) = self.pending.remove(&(told.host, answer.look_up))
            {
                self.judge(&pending, &answer);
            }
        }
    }

    fn judge(&mut self, pending: &Pending, answer: &Answer) {
        let truth = self.users.users[pending.target as usize].truth;
        let verdict = truth.judge(pending.asked, answer);
        let waited_ms = (self.world.now - pending.asked) as f32 / 1000.0;
        if verdict == Verdict::Right && answer.source != cooee_proto::index::Source::Cache {
            self.tally.uncached_ms.push(pending.asker_trip_ms + waited_ms);
        }
        self.tally.count(answer, verdict, pending.asker_trip_ms + waited_ms);
    }

    fn sample(&mut self) {
        let spacing = (self.size.minutes * 60 / 240).clamp(5, 600) * SECOND;
        self.world.after(spacing, Event::Step(Step::Sample));
        let (bytes, look_ups, found, delays) = self.sampled;
        let seconds = spacing as f64 / SECOND as f64;
        let alive = self.world.alive.len().max(1);
        let mut recent = self.tally.delays_ms[delays..].to_vec();
        recent.sort_unstable_by(f32::total_cmp);
        let asked = self.tally.look_ups - look_ups;
        let wanting = self.users.users.iter().filter(|u| u.doing != Doing::Offline).count();
        let attached = self.users.attached();
        self.samples.push(Sample {
            minute: self.world.now as f64 / SECOND as f64 / 60.0,
            super_nodes: alive,
            attached,
            wanting,
            bytes_per_s: (self.world.bytes - bytes) as f64 / seconds / alive as f64,
            right_percent: if asked == 0 {
                100.0
            } else {
                (self.tally.found - found) as f64 * 100.0 / asked as f64
            },
            lookup_ms: recent.get(recent.len() / 2).copied().map_or(0.0, f64::from),
        });
        self.sampled =
            (self.world.bytes, self.tally.look_ups, self.tally.found, self.tally.delays_ms.len());
        if self.struck_at.is_none() {
            self.users.refresh_host_caches(&self.world);
        } else if !self.lost.is_empty() {
            self.note_reattached();
        }
    }

    fn note_reattached(&mut self) {
        let attached = |user: &&u32| self.users.users[**user as usize].doing == Doing::Attached;
        let count = self.lost.iter().filter(attached).count();
        self.reattached.push((self.world.now, count));
    }

    fn reattached_percent(&self, seconds: u64) -> f64 {
        let Some(struck) = self.struck_at else { return 100.0 };
        if self.lost.is_empty() {
            return 100.0;
        }
        let until = struck + seconds * SECOND;
        let counts = self.reattached.iter().filter(|(at, _)| *at <= until);
        let last = counts.last().map_or(0, |(_, count)| *count);
        last as f64 * 100.0 / self.lost.len() as f64
    }

    fn all_reattached_s(&self) -> f64 {
        let (Some(struck), false) = (self.struck_at, self.lost.is_empty()) else { return 0.0 };
        let all = self.reattached.iter().find(|(_, count)| *count == self.lost.len());
        all.map_or(-1.0, |(at, _)| (at - struck) as f64 / SECOND as f64)
    }

    fn sample_consistency(&mut self) {
        let (consistent, ..) = self.check_records();
        self.tally.consistent_at_check = Some(consistent);
    }

    /// Of a sample of users: share of keepers that hold the newest record, users whose newest
    /// record none holds, users looked at.
    fn check_records(&mut self) -> (f64, u64, u64) {
        const CHECKED: u32 = 20_000;
        let step = (self.size.users / CHECKED).max(1);
        let (mut held, mut keepers, mut lost, mut checked) = (0_u64, 0_u64, 0, 0);
        let clock = self.world.clock();
        let reference = self.world.alive[0] as usize;
        let numbers: BTreeMap<_, _> =
            self.world.alive.iter().map(|n| (self.world.hosts[*n as usize].node, *n)).collect();
        for user in (0..self.size.users).step_by(step as usize) {
            let row = self.users.users[user as usize];
            let settled = row.truth.since + 60 * SECOND < self.world.now;
            let absent = row.doing == Doing::Offline && row.seen + SEEN_WITHIN < self.world.now;
            if row.truth.sequence == 0 || !settled || absent {
                continue;
            }
            let key = Users::key(user);
            let Some(overlay) = self.world.hosts[reference].overlay.as_ref() else { continue };
            let mut any = false;
            for node in overlay.keepers_of(clock, &key) {
                let Some(number) = numbers.get(&node) else { continue };
                let Some(keeper) = self.world.hosts[*number as usize].overlay.as_ref() else {
                    continue;
                };
                keepers += 1;
                let newest = keeper.keeper().find(clock.unix, &key);
                if newest.iter().any(|held| held.record.sequence == row.truth.sequence) {
                    held += 1;
                    any = true;
                }
            }
            checked += 1;
            lost += u64::from(!any);
        }
        (held as f64 * 100.0 / keepers.max(1) as f64, lost, checked)
    }

    fn report(&mut self, seed: u64) -> Report {
        let (consistent, records_lost, records_checked) = self.check_records();
        let seconds = self.world.now as f64 / SECOND as f64;
        let memory: usize = self
            .world
            .alive
            .iter()
            .filter_map(|host| self.world.hosts[*host as usize].overlay.as_ref())
            .map(|o| o.table().memory_bytes() + o.keeper().memory_bytes())
            .sum();
        let tally = &self.tally;
        let mut report = Report {
            scenario: self.scenario.name().to_owned(),
            seed,
            super_nodes: self.size.super_nodes,
            users: self.size.users,
            lookups: tally.look_ups,
            found: tally.found,
            wrong: tally.wrong,
            missing: tally.missing,
            lookup_ms_median: tally.quantile(0.5),
            lookup_ms_p99: tally.quantile(0.99),
            lookup_ms_uncached_median: tally.uncached_quantile(0.5),
            lookups_by_round_trips: [tally.by_cache, tally.by_keepers, tally.by_more],
            reattached_percent_60s: self.reattached_percent(60),
            reattached_percent_300s: self.reattached_percent(300),
            all_reattached_s: self.all_reattached_s(),
            attached_max: self.users.attached_max,
            capacity: self.world.capacity,
            records_lost,
            records_checked,
            keepers_consistent_percent: tally.consistent_at_check.unwrap_or(consistent),
            bytes_per_s_per_super_node: self.steady_bytes_per_s(),
            machine_bytes_per_super_node: (memory / self.world.alive.len().max(1)) as u64,
            minutes: self.size.minutes,
            events: self.world.events,
            trace: format!("{:016x}", self.world.trace),
            samples: std::mem::take(&mut self.samples),
            ..Report::default()
        };
        let _ = seconds;
        report.missed = missed(self.scenario, &report);
        report.ok = report.missed.is_empty();
        report
    }

    /// Mean traffic over the run after the filling.
    fn steady_bytes_per_s(&self) -> f64 {
        let settled: Vec<f64> = self.samples.iter().skip(3).map(|s| s.bytes_per_s).collect();
        settled.iter().sum::<f64>() / settled.len().max(1) as f64
    }
}

/// The targets that a run missed.
fn missed(scenario: Scenario, report: &Report) -> Vec<String> {
    let mut missed = Vec::new();
    let mut demand = |met: bool, target: &str| {
        if !met {
            missed.push(target.to_owned());
        }
    };
    let right_percent = report.found as f64 * 100.0 / report.lookups.max(1) as f64;
    demand(report.wrong == 0, "no look-up may be wrong");
    demand(report.attached_max <= report.capacity as usize, "no super node above its limit");
    match scenario {
        Scenario::SteadyChurn | Scenario::LoginServerGone => {
            demand(report.missing == 0, "everyone seen in 72 h is found");
        }
        Scenario::LookupDelay => {
            demand(report.missing == 0, "everyone is found");
            demand(report.lookup_ms_median <= 250.0, "median delay at most 250 ms");
            demand(report.lookup_ms_p99 <= 1000.0, "99 % within 1 s");
        }
        Scenario::Kill30 => {
            demand(report.reattached_percent_60s >= 99.9, "99.9 % attached again in 60 s");
            demand(report.records_lost == 0, "no record lost");
        }
        Scenario::Kill90Restart => {
            demand(report.reattached_percent_300s >= 100.0, "all attached within 5 minutes");
        }
        Scenario::SplitHeal => {
            demand(report.missing == 0, "both halves find their own");
            demand(report.keepers_consistent_percent >= 100.0, "one index 60 s after healing");
        }
        Scenario::Hostile30 => demand(right_percent >= 99.9, "99.9 % of look-ups right"),
        Scenario::VersionCrash => {
            demand(report.reattached_percent_60s >= 99.9, "99.9 % attached again in 60 s");
        }
    }
    missed
}
