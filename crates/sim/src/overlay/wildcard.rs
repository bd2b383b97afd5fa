//! The scenario `wildcard`: people search by pattern, page by page, and get everyone who matches
//! and
//! lets themselves be listed, best first; who asks too fast is refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cooee_proto::index::{Pattern, WildcardAnswer, fold};
use rand::Rng;

use super::{
    names::{display_name, is_listed, user_name},
    run::Runner,
    users::{Doing, device},
    world::{Event, SECOND, Step},
};

/// Steps of the scenario.
pub(super) const SEARCH: u32 = 1;
const HURRY: u32 = 2;
const NEXT_PAGE: u32 = 100;

/// What is searched for: a first name, a name that others begin with too, a family name, a pattern
/// with a gap, nobody.
const PATTERNS: [&str; 7] = ["ali*", "alina*", "lindqvist", "björn*", "dor*eri*", "kem?l*", "zzz*"];

/// Pause between two pages of one search: what the limit for one device allows.
const PAGE_PAUSE_S: u64 = 2;

/// Pages that one search may take before it has failed.
const PAGES_MAX: u32 = 500;

struct Paging {
    pattern: String,
    asker: u32,
    home: u32,
    /// Users in the order in which they were told, with their rank.
    told: Vec<(u8, u32)>,
    pages: u32,
    after: Bytes,
}

/// Searches under way, and what they gave.
#[derive(Default)]
pub(super) struct Searches {
    paging: BTreeMap<u32, Paging>,
    asked: BTreeMap<(u32, u64), u32>,
    next: u32,
    /// Searches that came to their last page.
    pub(super) finished: u64,
    /// Of these: everyone who matches, nobody else, best first.
    pub(super) right: u64,
    /// Users found, and those that should have been.
    pub(super) found: u64,
    pub(super) matching: u64,
    /// Users shown who had not let themselves be listed.
    pub(super) unlisted: u64,
    /// Pages.
    pub(super) pages: u64,
    /// Delay of each page at the super node, in milliseconds.
    pub(super) delays_ms: Vec<f32>,
    /// Of a burst by one device: asked and refused.
    pub(super) hurried: (u64, u64),
    since: BTreeMap<(u32, u64), u64>,
}

impl Runner {
    pub(super) fn wildcard_scene(&mut self, number: u32) {
        match number {
            SEARCH => {
                let pause = self.world.rng.random_range(SECOND..5 * SECOND);
                self.world.after(pause, Event::Step(Step::Scene(SEARCH)));
                if self.searches.next == 10 {
                    self.world.after(SECOND, Event::Step(Step::Scene(HURRY)));
                }
                self.begin_search();
            }
            HURRY => self.hurry(),
            number => self.ask_page(number - NEXT_PAGE),
        }
    }

    fn someone(&mut self) -> Option<(u32, u32)> {
        let count = self.size.users;
        let attached = |user: &u32| self.users.users[*user as usize].doing == Doing::Attached;
        let user = (0..64).map(|_| self.world.rng.random_range(0..count)).find(attached)?;
        Some((user, self.users.users[user as usize].home))
    }

    fn begin_search(&mut self) {
        let Some((asker, home)) = self.someone() else { return };
        let number = self.searches.next;
        self.searches.next += 1;
        let pattern = match self.world.rng.random_range(0..=PATTERNS.len()) {
            at if at < PATTERNS.len() => PATTERNS[at].to_owned(),
            // Somebody's whole name.
            _ => user_name(self.world.rng.random_range(0..self.size.users)),
        };
        let (told, after) = (Vec::new(), Bytes::new());
        let paging = Paging { pattern, asker, home, told, pages: 0, after };
        self.searches.paging.insert(number, paging);
        self.ask_page(number);
    }

    fn ask_page(&mut self, number: u32) {
        let Some(paging) = self.searches.paging.get_mut(&number) else { return };
        paging.pages += 1;
        let pattern = Pattern::parse(&paging.pattern).expect("patterns of the scenario are legal");
        let (after, asker, home) = (paging.after.clone(), device(paging.asker), paging.home);
        let asked = self.world.with(home, |o, now| o.search(now, asker, pattern, after));
        match asked {
            Some(Ok(search)) => {
                self.searches.asked.insert((home, search), number);
                self.searches.since.insert((home, search), self.world.now);
            }
            // Somebody else of this device searches: a little later.
            _ => self.world.after(2 * SECOND, Event::Step(Step::Scene(NEXT_PAGE + number))),
        }
    }

    /// One device asks thirty times at once.
    fn hurry(&mut self) {
        const ASKED: u64 = 30;
        let Some((asker, home)) = self.someone() else { return };
        for _ in 0..ASKED {
            let pattern = Pattern::parse("ali*").expect("legal");
            let asked =
                self.world.with(home, |o, now| o.search(now, device(asker), pattern, Bytes::new()));
            self.searches.hurried.0 += 1;
            self.searches.hurried.1 += u64::from(matches!(asked, Some(Err(_))));
        }
    }

    /// A page has come.
    pub(super) fn hear_page(&mut self, host: u32, answer: &WildcardAnswer) {
        let at = (host, answer.search);
        let Some(number) = self.searches.asked.remove(&at) else { return };
        if let Some(since) = self.searches.since.remove(&at) {
            self.searches.delays_ms.push((self.world.now - since) as f32 / 1000.0);
        }
        let Some(paging) = self.searches.paging.get_mut(&number) else { return };
        self.searches.pages += 1;
        for one in &answer.matches {
            let rank = one.cursor.first().copied().unwrap_or(u8::MAX);
            paging.told.push((rank, user_of(one.found.record.user.as_ref())));
        }
        let last = answer.matches.last().map(|last| last.cursor.clone());
        match last.filter(|_| answer.more && paging.pages < PAGES_MAX) {
            Some(last) => {
                paging.after = last;
                let step = Step::Scene(NEXT_PAGE + number);
                self.world.after(PAGE_PAUSE_S * SECOND, Event::Step(step));
            }
            None => self.judge_search(number),
        }
    }

    fn judge_search(&mut self, number: u32) {
        let Some(paging) = self.searches.paging.remove(&number) else { return };
        let matching: BTreeSet<u32> = (0..self.size.users)
            .filter(|user| is_listed(*user) && matches(&paging.pattern, *user))
            .collect();
        let told: BTreeSet<u32> = paging.told.iter().map(|(_, user)| *user).collect();
        let ranks = paging.told.iter().map(|(rank, _)| *rank);
        let searches = &mut self.searches;
        searches.finished += 1;
        searches.matching += matching.len() as u64;
        searches.found += told.intersection(&matching).count() as u64;
        searches.unlisted += told.iter().filter(|user| !is_listed(**user)).count() as u64;
        let right = told == matching && paging.told.len() == told.len() && ranks.is_sorted();
        searches.right += u64::from(right);
    }
}

/// The number at the end of a user's name.
fn user_of(name: &str) -> u32 {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u32::MAX)
}

/// The oracle's own reading of a pattern, for the patterns above: pieces between `*` in this order,
/// `?` for the letter a; the whole text unless it ends with `*`.
fn matches(pattern: &str, user: u32) -> bool {
    let display = fold(&display_name(user));
    let words = display.split(' ');
    let name = user_name(user);
    let mut texts = std::iter::once(name.as_str()).chain(std::iter::once(display.as_str()));
    texts.any(|text| fits(pattern, text)) || words.into_iter().any(|text| fits(pattern, text))
}

fn fits(pattern: &str, text: &str) -> bool {
    let pattern = pattern.replace('?', "a");
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = if piece.is_empty() { "" } else { after };
    }
    rest.is_empty()
}
