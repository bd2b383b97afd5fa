//! The buddy list and the messages as the local API shows them.

use std::collections::BTreeMap;

use cooee_proto::{
    contacts::{Buddy, BuddyState, ContactError, safety_number},
    identity::UserName,
};

use super::Task;
use crate::people::{BuddyDeviceView, BuddyView, MessageView, PeopleError, store::Entry};

impl Task {
    pub(in crate::people) fn buddies(&self) -> Vec<BuddyView> {
        let view = |(user, buddy): (&UserName, &Buddy)| BuddyView {
            user: user.to_string(),
            display_name: buddy.display_name.clone(),
            state: match buddy.state {
                BuddyState::Requested => "requested",
                BuddyState::Asked => "asked",
                BuddyState::Mutual => "mutual",
                BuddyState::Blocked => "blocked",
                BuddyState::Removed => "removed",
            },
            presence: match buddy.state {
                BuddyState::Mutual => self.shown(user).presence,
                _ => "unknown",
            },
            last_seen_unix_ms: match buddy.state {
                BuddyState::Mutual => self.shown(user).last_seen_unix_ms,
                _ => None,
            },
            verified: !buddy.keys.is_empty() && buddy.keys.iter().all(|key| key.verified),
        };
        self.list().list().map(view).collect()
    }

    pub(in crate::people) fn devices(
        &self,
        user: &UserName,
    ) -> Result<Vec<BuddyDeviceView>, PeopleError> {
        let keys = self.list().get(user).ok_or(ContactError::Unknown)?.keys.clone();
        let own = (&self.own.0, &self.own.1);
        Ok(keys
            .into_iter()
            .map(|pinned| BuddyDeviceView {
                node: pinned.key.node_id().to_string(),
                safety_number: safety_number(own, (user, &pinned.key)),
                verified: pinned.verified,
                first_seen_unix_ms: pinned.first_seen.0,
            })
            .collect())
    }

    pub(in crate::people) fn messages(&self) -> Vec<MessageView> {
        let mut messages: Vec<MessageView> = Vec::new();
        let mut places = BTreeMap::new();
        for entry in self.store.history() {
            match entry.clone() {
                Entry::Message { id, user, direction, text, sent_unix_ms } => {
                    let is_ours = direction == "sent";
                    let state = if is_ours { "waiting" } else { "received" }.to_owned();
                    if is_ours {
                        places.insert(id.clone(), messages.len());
                    }
                    messages.push(MessageView { id, user, direction, text, sent_unix_ms, state });
                }
                Entry::Progress { id, state } => {
                    if let Some(at) = places.get(&id) {
                        messages[*at].state = state;
                    }
                }
            }
        }
        messages
    }
}
