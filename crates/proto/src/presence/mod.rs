//! Presence: a super node watches names at their keepers for the devices attached to it.
//!
//! * `watchers`: at a keeper, which super nodes want to know of changes to a name;
//! * `watching`: at a super node, which devices want to know, and what they were told last.
//!
//! No polling: a keeper tells a change as soon as it is stored. Watches are leases, so that a
//! watcher that died is forgotten by itself. *Invisible* is not published at all: an invisible
//! device publishes `offline` and can still be called by those who know it is there.

mod watchers;
mod watching;

pub use watchers::{WATCHED_KEYS_MAX, WATCHERS_PER_KEY_MAX, Watchers};
pub use watching::{Change, KEYS_PER_DEVICE_MAX, Watching};
