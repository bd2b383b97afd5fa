//! Searching for users: by name, or by wildcard among those who let themselves be listed.

use std::collections::BTreeMap;

use bytes::Bytes;
use cooee_proto::{
    identity::UserName,
    index::{Found, Pattern},
    overlay::Trust,
    wire::v1::Presence,
};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    Node,
    finding::record_of,
    presence::{rank, word},
};
use crate::{
    api::types::Problem,
    attachment::{Attachment, FoundDevice},
    login_server::unix_now,
    overlay::LiveTrust,
    transport::TransportError,
};

/// Pages of one search. Chosen: nobody reads further than a hundred names.
const PAGES_MAX: usize = 5;

/// Users of one search whose presence is asked for anew. Chosen: well within what a super node
/// answers one node at once.
const LOOKED_UP_MAX: usize = 20;

impl Node {
    /// Finds users: an array of `{user, display_name, presence}`, the best match first. With `*` or
    /// `?` in it the query is a pattern, else a name.
    pub async fn search(&self, query: &str) -> Result<Value, Problem> {
        let none = || Problem::refused("a dedicated super node searches for nobody");
        let attachment = self.attachment.as_ref().ok_or_else(none)?;
        let trust = LiveTrust::new(self.tls.clone());
        let query = query.trim();
        let users = if query.contains(['*', '?']) {
            by_pattern(attachment, &trust, query).await?
        } else {
            let name = Self::user_name(&query.to_lowercase())?;
            let found = look_up(attachment, &trust, &name).await.map_err(unreachable)?;
            // The last resort, for whom no living keeper has: that there is such a user.
            let found = match found {
                None if self.login.user_exists(&name).await == Some(true) => Some(Shown::unseen()),
                found => found,
            };
            found.into_iter().map(|entry| (name.clone(), entry)).collect()
        };
        Ok(users.into_iter().map(|(name, entry)| entry.to_json(&name)).collect())
    }
}

impl Node {
    /// The super nodes that keep a name, as this super node ranks them.
    pub fn keepers_of(&self, name: &UserName) -> Result<Value, Problem> {
        let none = || Problem::refused("only a super node knows which super nodes keep a name");
        let overlay = self.overlay().ok_or_else(none)?;
        let keepers = overlay.keepers_of(&name.key(self.invitation.root.network_id()));
        Ok(keepers.iter().map(ToString::to_string).collect())
    }
}

/// A user as a search shows them.
struct Shown {
    display_name: String,
    presence: Presence,
    /// If offline.
    last_seen_unix_ms: Option<u64>,
}

impl Shown {
    /// A user of the network of whom nothing else is known.
    fn unseen() -> Self {
        let display_name = String::new();
        Self { display_name, presence: Presence::Offline, last_seen_unix_ms: None }
    }

    fn to_json(&self, name: &UserName) -> Value {
        let presence = word(self.presence);
        let display_name =
            if self.display_name.is_empty() { name.as_str() } else { &self.display_name };
        json!({
            "user": name.as_str(), "display_name": display_name, "presence": presence,
            "last_seen_unix_ms": self.last_seen_unix_ms,
        })
    }
}

async fn by_pattern(
    attachment: &Attachment,
    trust: &LiveTrust,
    query: &str,
) -> Result<Vec<(UserName, Shown)>, Problem> {
    let pattern =
        Pattern::parse(query).map_err(|error| Problem::bad_request(format!("{query}: {error}")))?;
    let mut names: Vec<UserName> = Vec::new();
    let mut listed: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    let mut after = Bytes::new();
    for _ in 0..PAGES_MAX {
        let page = attachment.search(pattern.as_str(), after).await;
        let page = match page {
            Ok(page) => page,
            // Part of the answer is an answer.
            Err(_) if !names.is_empty() => break,
            Err(error) => return Err(unreachable(error)),
        };
        for found in page.found.iter().filter_map(|device| checked(device, trust)) {
            let record = &found.record;
            if !record.is_listed() || pattern.rank(record).is_none() {
                continue;
            }
            if !names.contains(&record.user) {
                names.push(record.user.clone());
            }
            listed.entry(record.user.to_string()).or_default().push(found);
        }
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    // What is filed under terms is up to a day old: the names tell the presence.
    let asked = names.iter().take(LOOKED_UP_MAX).map(|name| look_up(attachment, trust, name));
    let mut fresh = join_all(asked).await.into_iter();
    let shown = names.into_iter().filter_map(|name| {
        let fresh = fresh.next().and_then(Result::ok).flatten();
        let filed = || shown(listed.get(name.as_str()).map_or(&[], Vec::as_slice));
        Some((name.clone(), fresh.or_else(filed)?))
    });
    Ok(shown.collect())
}

async fn look_up(
    attachment: &Attachment,
    trust: &LiveTrust,
    name: &UserName,
) -> Result<Option<Shown>, TransportError> {
    let devices = attachment.look_up(name.key(trust.network())).await?;
    let found = devices.iter().filter_map(|device| checked(device, trust));
    let found: Vec<Found> = found.filter(|found| found.record.user == *name).collect();
    Ok(shown(&found))
}

pub(super) fn checked(device: &FoundDevice, trust: &LiveTrust) -> Option<Found> {
    let record = record_of(device, trust).filter(|record| record.is_live(unix_now()))?;
    Some(Found { record, departed: device.departed })
}

/// One user out of all devices: the newest name, and the presence of whichever is most present.
fn shown(devices: &[Found]) -> Option<Shown> {
    let newest = devices.iter().max_by_key(|found| found.rank())?;
    let presence = devices.iter().map(Found::presence).max_by_key(rank)?;
    let last_seen = devices.iter().filter_map(Found::last_seen).max();
    Some(Shown {
        display_name: newest.record.wire.display_name.clone(),
        presence,
        last_seen_unix_ms: last_seen.map(|at| at.0).filter(|_| rank(&presence) == 0),
    })
}

fn unreachable(error: TransportError) -> Problem {
    Problem::unreachable(format!("the search did not come through: {error}"))
}
