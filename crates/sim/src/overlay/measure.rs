//! Measures a run: the series of the plot, where the records are, the figures, the targets.

use std::collections::BTreeMap;

use cooee_proto::{
    control::SILENCE_MAX,
    index::Answer,
    overlay::election::{BLOCK_SHARE_PERCENT_MAX, SUPER_NODES_MIN},
};

use super::{
    oracle::quantile,
    report::{Report, Sample},
    run::{Pending, Runner, SEEN_WITHIN},
    scenario::Scenario,
    users::{Doing, Users},
    world::{Event, SECOND, Step},
};

impl Runner {
    pub(super) fn sample(&mut self) {
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
        let mut counts = self.reattached.iter().filter(|(at, _)| *at <= until);
        let last = counts.next_back().map_or(0, |(_, count)| *count);
        last as f64 * 100.0 / self.lost.len() as f64
    }

    fn all_reattached_s(&self) -> f64 {
        let (Some(struck), false) = (self.struck_at, self.lost.is_empty()) else { return 0.0 };
        let all = self.reattached.iter().find(|(_, count)| *count == self.lost.len());
        all.map_or(-1.0, |(at, _)| (at - struck) as f64 / SECOND as f64)
    }

    pub(super) fn sample_consistency(&mut self) {
        let (consistent, ..) = self.check_records();
        self.tally.consistent_at_check = Some(consistent);
    }

    /// Of a sample of users: share of keepers that hold the newest record, users whose newest
    /// record none holds, users looked at.
    pub(super) fn check_records(&mut self) -> (f64, u64, u64) {
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

    /// What is needed to understand a wrong or missing answer.
    pub(super) fn note_failed(&mut self, host: u32, pending: &Pending, answer: &Answer) {
        const NOTED_MAX: usize = 8;
        if self.tally.failed_answers.len() >= NOTED_MAX {
            return;
        }
        let truth = self.users.users[pending.target as usize].truth;
        let told: Vec<u64> = answer.found.iter().map(|found| found.record.sequence).collect();
        let (clock, key) = (self.world.clock(), Users::key(pending.target));
        let holders = self.world.alive.iter().filter(|number| {
            let overlay = self.world.hosts[**number as usize].overlay.as_ref();
            overlay.is_some_and(|overlay| !overlay.keeper().find(clock.unix, &key).is_empty())
        });
        let holders = holders.count();
        let known = self.world.hosts[host as usize].overlay.as_ref();
        let known = known.map_or(0, |overlay| overlay.table().present());
        self.tally.failed_answers.push(format!(
            "at {:.1} s: user {}, {:?}, told {told:?}, true since {:.1} s {}; {holders} hold a \
             record; super node {host} of {} knows {known} of {}",
            pending.asked as f64 / SECOND as f64,
            pending.target,
            answer.source,
            truth.since as f64 / SECOND as f64,
            truth.sequence,
            self.world.hosts.len(),
            self.world.alive.len() - 1,
        ));
    }

    pub(super) fn report(&mut self, seed: u64) -> Report {
        let (consistent, records_lost, records_checked) = self.check_records();
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
            found_newest: tally.found - tally.settling,
            wrong: tally.wrong,
            failed_answers: tally.failed_answers.clone(),
            missing: tally.missing,
            missing_late: tally.missing_late,
            by_login_server: tally.by_login_server,
            calls: tally.calls,
            calls_connected: tally.calls_connected,
            expired: self.users.expired,
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
            records_lost_meanwhile: tally.lost_at_check.unwrap_or(records_lost),
            records_checked,
            keepers_consistent_percent: tally.consistent_at_check.unwrap_or(consistent),
            bytes_per_s_per_super_node: self.steady_bytes_per_s(),
            bytes_per_s_by_message: self.by_message(),
            machine_bytes_per_super_node: (memory / self.world.alive.len().max(1)) as u64,
            minutes: self.size.minutes,
            events: self.world.events,
            trace: format!("{:016x}", self.world.trace),
            samples: std::mem::take(&mut self.samples),
            ..Report::default()
        };
        self.report_presence_and_search(&mut report);
        self.report_election(&mut report);
        report.missed = missed(self.scenario, &report);
        report.ok = report.missed.is_empty();
        report
    }

    fn report_presence_and_search(&self, report: &mut Report) {
        let (watches, searches) = (&self.watches, &self.searches);
        report.presence_changes = watches.expected;
        report.presence_in_a_second_percent = watches.in_a_second_percent();
        report.presence_ms_median = quantile(&watches.delays_ms, 0.5);
        report.presence_ms_p99 = quantile(&watches.delays_ms, 0.99);
        report.presence_vanished_s_max = watches.vanished_s_max;
        (report.searches, report.searches_right) = (searches.finished, searches.right);
        (report.searches_matching, report.searches_found) = (searches.matching, searches.found);
        (report.search_pages, report.searches_unlisted) = (searches.pages, searches.unlisted);
        report.search_page_ms_median = quantile(&searches.delays_ms, 0.5);
        report.search_page_ms_p99 = quantile(&searches.delays_ms, 0.99);
        report.searches_hurried_refused = searches.hurried.1;
    }

    fn report_election(&self, report: &mut Report) {
        let found = &self.candidates;
        (report.elected, report.retired) = (found.elected, found.retired);
        (report.super_nodes_grown, report.super_nodes_peak) = (found.grown, found.peak);
        report.super_nodes_at_end = self.world.alive.len();
        report.grown_load_percent = found.grown_load_percent;
        report.grown_waiting = found.waiting;
        report.block_percent = found.block_percent;
        report.version_percent = found.version_percent;
        report.unfit = found.unfit;
        report.retired_in_a_minute_percent_max = found.retired_in_a_minute_percent_max;
        report.shards_unconfirmed = found.unconfirmed;
        report.unplugged_retired = [found.unplugged.1, found.unplugged.0];
    }

    fn by_message(&self) -> Vec<(String, f64)> {
        let seconds = self.world.now as f64 / SECOND as f64 * f64::from(self.size.super_nodes);
        let bytes = self.world.bytes_by_kind.iter();
        let kinds = bytes.enumerate().filter(|(_, bytes)| **bytes > 0);
        let mut kinds: Vec<(String, f64)> = kinds
            .map(|(kind, bytes)| (message_name(kind).to_owned(), *bytes as f64 / seconds))
            .collect();
        kinds.sort_by(|one, other| other.1.total_cmp(&one.1));
        kinds
    }

    /// Mean traffic over the run after the filling.
    fn steady_bytes_per_s(&self) -> f64 {
        // Each sample weighs as much as super nodes were alive.
        let settled = self.samples.iter().skip(3);
        let (bytes, alive) = settled.fold((0.0, 0.0), |(bytes, alive), sample| {
            let weight = sample.super_nodes as f64;
            (bytes + sample.bytes_per_s * weight, alive + weight)
        });
        bytes / f64::max(alive, 1.0)
    }
}

/// Names of the messages by their field numbers (`overlay.proto`).
fn message_name(kind: usize) -> &'static str {
    match kind {
        0 => "introduction",
        1 => "ping",
        2 => "pong",
        3 => "ping request",
        4 => "spread",
        5 => "join",
        6 => "members request",
        7 => "members page",
        8 => "reconcile",
        9 => "bucket listing",
        20 => "store",
        21 => "stored",
        22 => "find",
        23 => "find answer",
        24 => "shard offer",
        25 => "shard pull",
        26 => "shard page",
        27 => "watch keys",
        28 => "watch event",
        29 => "wildcard find",
        30 => "wildcard answer",
        _ => "other",
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
    // A shard may have all its keepers among the dead, or in the other half, for the time.
    let last_resort =
        matches!(scenario, Scenario::Kill90Restart | Scenario::VersionCrash | Scenario::SplitHeal);
    demand(report.by_login_server == 0 || last_resort, "the keepers suffice");
    match scenario {
        Scenario::SteadyChurn => {
            demand(report.missing == 0, "everyone seen in 72 h is found");
        }
        Scenario::LoginServerGone => {
            demand(report.missing == 0, "everyone seen in 72 h is found");
            demand(report.expired == 0, "certified devices attach");
            let connected = report.calls_connected as f64 / report.calls.max(1) as f64;
            demand(connected >= 0.999, "99.9 % of calls reach the callee");
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
            demand(report.records_lost == 0, "no record lost once all super nodes are back");
            // In the first minute records go to keepers that are dead and not known to be.
            let known = report.missing_late == 0;
            demand(known, "from a minute after the fault on nobody who is there is not found");
        }
        Scenario::SplitHeal => {
            demand(report.missing == 0, "both halves find their own");
            demand(report.keepers_consistent_percent >= 100.0, "one index 60 s after healing");
        }
        Scenario::Hostile30 => demand(right_percent >= 99.9, "99.9 % of look-ups right"),
        Scenario::VersionCrash => {
            demand(report.missing == 0, "everyone is found or known to the login server");
            demand(report.reattached_percent_60s >= 99.9, "99.9 % attached again in 60 s");
        }
        Scenario::Presence => {
            demand(report.presence_changes > 0, "somebody watches");
            let prompt = report.presence_in_a_second_percent;
            demand(prompt >= 99.0, "99 % of changes reach the watchers within a second");
            let bound_s = SILENCE_MAX.as_secs_f64() + 1.0;
            let gone_s = report.presence_vanished_s_max;
            demand(gone_s > 0.0 && gone_s <= bound_s, "who vanished is offline in 280 s");
            demand(report.missing == 0, "everyone is found");
        }
        Scenario::Wildcard => {
            demand(report.searches > 0, "searches come to their end");
            let all = report.searches_right == report.searches;
            demand(all, "every search finds all who match, best first");
            demand(report.searches_unlisted == 0, "who is not listed is not shown");
            demand(report.searches_hurried_refused > 0, "who asks too fast is refused");
            demand(report.missing == 0, "everyone is found");
        }
        Scenario::Election => missed_in_election(report, &mut demand),
    }
    missed
}

fn missed_in_election(report: &Report, demand: &mut dyn FnMut(bool, &str)) {
    demand(report.grown_waiting == 0, "every user has a super node");
    demand(report.grown_load_percent <= 60, "as many super nodes as are needed");
    let grown = report.super_nodes_grown as f64;
    // The rule begins with 24 super nodes: of those before, every third may be of that block.
    let early = report.super_nodes < SUPER_NODES_MIN as u32;
    // Later candidates that ask at once do not see each other: one more than the share.
    let one_percent = 100.0 / grown.max(1.0);
    let most_percent = if early { 10.0 } else { BLOCK_SHARE_PERCENT_MAX as f64 + one_percent };
    demand(report.block_percent <= most_percent, "no address block above its share");
    demand(
        report.version_percent <= 75.0,
        "no program version above 70 %, but for those before the rule",
    );
    demand(report.unfit == 0, "nobody serves on battery, behind a NAT or unwillingly");
    let [unplugged, retired] = report.unplugged_retired;
    demand(unplugged > 0 && unplugged == retired, "who goes on battery retires");
    let shrunk = report.super_nodes_at_end as f64 <= grown * 0.6;
    demand(shrunk, "super nodes that are not needed retire");
    demand(report.missing == 0, "everyone is found");
    demand(report.records_lost == 0, "no record lost");
    let wave = report.retired_in_a_minute_percent_max;
    demand(wave <= 10.0, "at most a tenth of the super nodes retires within a minute");
    demand(report.shards_unconfirmed == 0, "who retires has heard that others hold its shards");
}
