//! Wildcard search over user names and display names (`ali*`), spread over the keepers of terms.
//!
//! The first three characters of the pattern name a search term; the keepers of the term hold all
//! listed records with a word that begins so. Three of them are asked, their pages are merged, the
//! best come first: exact name, name that begins so, display name. Who did not set `listed` is not
//! filed under any term. A term's record may be a day old: before a call the name is looked up
//! exactly.
//!
//! A page takes several datagrams (a record is half of one). What one keeper lacks another tells,
//! so
//! a merged page ends where two of three keepers have told all: `reach` below.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;

use super::{
    Found, Keeper, View,
    record::{TERM_CHARACTERS, UserRecord, fold, term_key},
};
use crate::{
    clock::UnixTime,
    identity::{NameKey, NetworkId, NodeId},
    overlay::{DATAGRAM_PAYLOAD_BYTES_MAX, placement::shard_of},
    wire::v1::{self, overlay_message::Kind},
};

/// Longest pattern, in characters (chosen).
const PATTERN_CHARACTERS_MAX: usize = 64;

/// Keepers of a term that are asked (chosen: two of them hostile still leave one).
const ASKED: usize = 3;

/// Results on one page: what fits a screen (chosen); some ten datagrams from each keeper.
const PAGE_RESULTS_MAX: usize = 20;

/// How long keepers may take (chosen).
const TIMEOUT: Duration = Duration::from_millis(900);

/// Searches under way (chosen).
const SEARCHES_MAX: usize = 1024;

/// Why a pattern cannot be searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not enough plain characters in front.
    #[error("begin with at least {TERM_CHARACTERS} characters before the first * or ?")]
    TooShort,
    /// Too long.
    #[error("a pattern has at most {PATTERN_CHARACTERS_MAX} characters")]
    TooLong,
}

/// A folded pattern of plain characters, `*` (any run) and `?` (any one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Reads what a person typed.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let folded = fold(text.trim());
        if folded.chars().count() > PATTERN_CHARACTERS_MAX {
            return Err(PatternError::TooLong);
        }
        let plain = folded.chars().take_while(|c| *c != '*' && *c != '?' && !c.is_whitespace());
        if plain.count() < TERM_CHARACTERS {
            return Err(PatternError::TooShort);
        }
        Ok(Self(folded))
    }

    /// The folded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the term to ask for.
    pub fn term(&self, network: NetworkId) -> NameKey {
        term_key(network, &self.0).expect("parsed patterns begin with enough characters")
    }

    /// How well a record matches; lower is better, `None` not at all.
    pub fn rank(&self, record: &UserRecord) -> Option<u8> {
        let name = record.user.as_str();
        let display = fold(&record.wire.display_name);
        if name == self.0 {
            Some(0)
        } else if matches_pattern(&self.0, name) {
            Some(1)
        } else if matches_pattern(&self.0, &display) {
            Some(2)
        } else {
            display.split_whitespace().any(|word| matches_pattern(&self.0, word)).then_some(3)
        }
    }
}

/// Whether `text` as a whole matches `pattern`; linear backtracking over the last `*` only.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// One result: its place in the order, and the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Where it stands among all results: ask for the page after the last one's.
    pub cursor: Bytes,
    /// The record.
    pub found: Found,
}

/// A finished wildcard search.
#[derive(Clone, Debug)]
pub struct WildcardAnswer {
    /// The number that [`Wildcards::search`] gave.
    pub search: u64,
    /// One page of results, best first.
    pub matches: Vec<Match>,
    /// Whether another page follows.
    pub more: bool,
}

/// What one keeper told of a page. Bound: [`PAGE_RESULTS_MAX`] parts.
#[derive(Default)]
struct Told {
    /// Parts that have come, each with the place of its last result.
    parts: BTreeMap<u32, Vec<u8>>,
    /// How many there are.
    of: u32,
    more: bool,
}

impl Told {
    fn is_complete(&self) -> bool {
        self.of > 0 && self.parts.len() as u32 >= self.of
    }

    /// Up to where this keeper has told all it holds; `None` if it said nothing of use.
    fn reach(&self) -> Option<Reach> {
        if self.is_complete() && !self.more {
            return Some(Reach::All);
        }
        let whole =
            self.parts.iter().enumerate().take_while(|(at, (part, _))| *at == **part as usize);
        let last = whole.map(|(_, (_, last))| last).max().filter(|last| !last.is_empty());
        last.cloned().map(Reach::Until)
    }
}

/// Ordered: whoever told all reaches farthest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Until(Vec<u8>),
    All,
}

struct Search {
    pattern: Pattern,
    keepers: BTreeMap<NodeId, Told>,
    matches: BTreeMap<Vec<u8>, Found>,
    deadline: Instant,
}

/// Wildcard searches under way at this super node.
#[derive(Default)]
pub struct Wildcards {
    searches: BTreeMap<u64, Search>,
    next_id: u64,
    out: Vec<(NodeId, Kind)>,
    answers: Vec<WildcardAnswer>,
}

impl Wildcards {
    /// Starts a search for the page after `after` (empty for the first).
    pub fn search(
        &mut self,
        view: &View,
        keeper: &Keeper,
        pattern: Pattern,
        after: Bytes,
    ) -> Option<u64> {
        if self.searches.len() >= SEARCHES_MAX {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let term = pattern.term(view.trust.network());
        let request = v1::WildcardFind {
            request: id,
            term: Bytes::copy_from_slice(&term.0),
            pattern: pattern.0.clone(),
            after,
            limit: PAGE_RESULTS_MAX as u32,
        };
        let placement = keeper.placement(view, shard_of(&term));
        let deadline = view.now.instant + TIMEOUT;
        let (keepers, matches) = (BTreeMap::new(), BTreeMap::new());
        let mut search = Search { pattern, keepers, matches, deadline };
        for node in placement.keepers().iter().take(ASKED) {
            search.keepers.insert(*node, Told::default());
            if *node == view.own.0 {
                let own = keeper.match_pattern(view, &request);
                own.iter().for_each(|part| take(view, &mut search, *node, part));
            } else {
                self.out.push((*node, Kind::WildcardFind(request.clone())));
            }
        }
        self.searches.insert(id, search);
        self.settle(view.now.instant, id);
        Some(id)
    }

    /// A keeper answered.
    pub fn handle_answer(&mut self, view: &View, from: NodeId, answer: &v1::WildcardAnswer) {
        let Some(search) = self.searches.get_mut(&answer.request) else { return };
        take(view, search, from, answer);
        self.settle(view.now.instant, answer.request);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.searches.values().map(|search| search.deadline).min()
    }

    /// Gives up waiting where time is up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<u64> =
            self.searches.iter().filter(|(_, s)| s.deadline <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.settle(now, id);
        }
    }

    /// Messages to send.
    pub fn take_messages(&mut self) -> Vec<(NodeId, Kind)> {
        std::mem::take(&mut self.out)
    }

    /// Searches that are finished.
    pub fn take_answers(&mut self) -> Vec<WildcardAnswer> {
        std::mem::take(&mut self.answers)
    }

    fn settle(&mut self, now: Instant, id: u64) {
        let done = self.searches.get(&id).is_some_and(|search| {
            search.deadline <= now || search.keepers.values().all(Told::is_complete)
        });
        if !done {
            return;
        }
        let Some(search) = self.searches.remove(&id) else { return };
        let mut reaches: Vec<Reach> = search.keepers.values().filter_map(Told::reach).collect();
        reaches.sort_unstable();
        // The middle one of three: one keeper that tells little cannot shorten every page.
        let reach = reaches.get(reaches.len().saturating_sub(1) / 2).cloned();
        let Some(reach) = reach else {
            self.answers.push(WildcardAnswer { search: id, matches: Vec::new(), more: false });
            return;
        };
        let within = |place: &Vec<u8>| match &reach {
            Reach::All => true,
            Reach::Until(last) => place <= last,
        };
        let mut matches: Vec<Match> = search
            .matches
            .into_iter()
            .filter(|(place, _)| within(place))
            .map(|(cursor, found)| Match { cursor: cursor.into(), found })
            .collect();
        let more = reach != Reach::All || matches.len() > PAGE_RESULTS_MAX;
        matches.truncate(PAGE_RESULTS_MAX);
        self.answers.push(WildcardAnswer { search: id, matches, more });
    }
}

fn take(view: &View, search: &mut Search, from: NodeId, answer: &v1::WildcardAnswer) {
    let parts = answer.parts.max(1);
    let Some(told) = search.keepers.get_mut(&from) else { return };
    if answer.refused || parts as usize > PAGE_RESULTS_MAX || answer.part >= parts {
        // It has no voice, and is not waited for.
        *told = Told { parts: BTreeMap::from([(0, Vec::new())]), of: 1, more: true };
        return;
    }
    (told.of, told.more) = (parts, answer.more);
    let mut last = Vec::new();
    for entry in answer.entries.iter().take(PAGE_RESULTS_MAX) {
        let Some(wire) = &entry.record else { continue };
        let Some(record) = view.trust.record(wire, view.now.unix) else { continue };
        let Some(rank) = search.pattern.rank(&record) else { continue };
        if record.is_listed() && record.is_live(view.now.unix) {
            last = order(rank, &record);
            search.matches.insert(last.clone(), Found { record, departed: None });
        }
    }
    told.parts.entry(answer.part).or_insert(last);
}

/// The order of results: rank, then name, then device.
fn order(rank: u8, record: &UserRecord) -> Vec<u8> {
    let mut place = vec![rank];
    place.extend_from_slice(record.user.as_str().as_bytes());
    place.push(0);
    place.extend_from_slice(&record.device.0);
    place
}

impl Keeper {
    /// Answers a wildcard search from what is filed under its term: one page, in parts of a
    /// datagram each.
    pub fn match_pattern(&self, view: &View, find: &v1::WildcardFind) -> Vec<v1::WildcardAnswer> {
        let empty = v1::WildcardAnswer { request: find.request, ..Default::default() };
        let (Some(term), Ok(pattern)) =
            (NameKey::from_slice(&find.term), Pattern::parse(&find.pattern))
        else {
            return vec![v1::WildcardAnswer { refused: true, ..empty }];
        };
        let now: UnixTime = view.now.unix;
        let mut ranked: Vec<(Vec<u8>, &super::Held)> = self
            .find(now, &term)
            .into_iter()
            .filter_map(|held| pattern.rank(&held.record).map(|r| (order(r, &held.record), held)))
            .filter(|(place, _)| place.as_slice() > find.after.as_ref())
            .collect();
        ranked.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let limit = (find.limit as usize).clamp(1, PAGE_RESULTS_MAX);
        let more = ranked.len() > limit;
        let (mut parts, mut part, mut bytes) = (Vec::new(), empty.clone(), 0);
        for (_, held) in ranked.into_iter().take(limit) {
            let entry = held.to_wire();
            let length = entry.encoded_len() + 4;
            if bytes + length > DATAGRAM_PAYLOAD_BYTES_MAX && !part.entries.is_empty() {
                parts.push(std::mem::replace(&mut part, empty.clone()));
                bytes = 0;
            }
            bytes += length;
            part.entries.push(entry);
        }
        parts.push(part);
        let of = parts.len() as u32;
        for (number, part) in parts.iter_mut().enumerate() {
            (part.part, part.parts, part.more) = (number as u32, of, more);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        assert!(matches_pattern("ali*", "alice"));
        assert!(matches_pattern("ali?e", "alice"));
        assert!(matches_pattern("a*c*e", "alice"));
        assert!(!matches_pattern("ali", "alice"));
        assert!(!matches_pattern("ali?", "alice"));
    }

    #[test]
    fn a_pattern_needs_a_term() {
        assert_eq!(Pattern::parse("al*"), Err(PatternError::TooShort));
        assert_eq!(Pattern::parse(&"a".repeat(65)), Err(PatternError::TooLong));
        assert_eq!(Pattern::parse(" ALI* ").map(|p| p.0), Ok("ali*".to_owned()));
    }
}
