//! The buddy list: who may see whom, which device keys are theirs, and what the login server
//! keeps of it in sealed form (`docs/protocol/peer.md`).
//!
//! ```text
//! (none) ─request─▶ Requested ─BuddyAnswer(yes)─▶ Mutual
//! (none) ─BuddyRequest─▶ Asked ─accept─▶ Mutual        any ─remove─▶ Removed, any ─block─▶ Blocked
//! ```
//!
//! Keys are pinned when first seen. A buddy's device with another key is a new device or an
//! attack by whoever issues certificates: the user is warned until the safety number is compared.

mod list;
mod safety_number;
mod sealed;

pub use list::{
    BUDDIES_MAX, Buddy, BuddyState, ContactError, ContactEvent, Contacts, KEYS_MAX, KeyCheck,
    PinnedKey,
};
pub use safety_number::safety_number;
pub use sealed::{BUDDY_LIST_SLOTS, StoredListError};
