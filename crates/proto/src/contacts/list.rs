//! The buddy list as a machine: requests, answers, pinned keys. Presence belongs elsewhere.

use std::collections::BTreeMap;

use crate::{
    call::Relation,
    clock::UnixTime,
    identity::{NodePublicKey, UserName},
};

/// Buddies in one list, removed ones included. Chosen: ten times what busy people have, and the
/// sealed list stays below a megabyte.
pub const BUDDIES_MAX: usize = 2_000;
/// Keys pinned for one buddy. Chosen: above the devices that one user may have.
pub const KEYS_MAX: usize = 16;
/// Requests of strangers that wait for the user. Chosen: a flood pushes nobody out.
const ASKED_MAX: usize = 100;
/// Bytes of a display name, as in calls.
const DISPLAY_NAME_BYTES_MAX: usize = crate::call::DISPLAY_NAME_BYTES_MAX;

/// How two users stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuddyState {
    /// We asked; no answer yet.
    Requested,
    /// They asked; the user has not decided.
    Asked,
    /// Both want it.
    Mutual,
    /// We want to hear nothing from them.
    Blocked,
    /// Taken from the list; kept so that another device's older list does not bring it back.
    Removed,
}

/// A device key of a buddy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The key.
    pub key: NodePublicKey,
    /// The user compared the safety number.
    pub verified: bool,
    /// When it was first seen.
    pub first_seen: UnixTime,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buddy {
    /// What they call themselves.
    pub display_name: String,
    /// How we stand.
    pub state: BuddyState,
    /// Keys of their devices.
    pub keys: Vec<PinnedKey>,
    /// When the entry last changed: the later one wins when two lists are joined.
    pub changed: UnixTime,
}

impl Buddy {
    /// Joins two devices' entries of one buddy. The order of the two makes no difference.
    fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        if (other.changed, other.state) > (self.changed, self.state) {
            self.state = other.state;
            self.changed = other.changed;
            self.display_name.clone_from(&other.display_name);
        }
        for theirs in &other.keys {
            match self.keys.iter_mut().find(|ours| ours.key == theirs.key) {
                Some(ours) => {
                    ours.verified |= theirs.verified;
                    ours.first_seen = ours.first_seen.min(theirs.first_seen);
                }
                None => self.keys.push(*theirs),
            }
        }
        // Verified keys stay, then the latest met.
        self.keys.sort_by_key(|pinned| {
            (!pinned.verified, std::cmp::Reverse(pinned.first_seen), pinned.key.0)
        });
        self.keys.truncate(KEYS_MAX);
        self.keys.sort_by_key(|pinned| (pinned.first_seen, pinned.key.0));
        *self != before
    }
}

/// What is known about a device key that a peer connection proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck {
    /// The user is no buddy: keys are not remembered.
    NotKept,
    /// The first key of this buddy: pinned now.
    FirstSeen,
    /// Pinned before; `verified` if the safety number was compared.
    Known {
        /// The user compared the safety number.
        verified: bool,
    },
    /// This buddy had other keys so far: a new device, or an attack. Warn the user. Pinned now,
    /// unverified, so that the warning comes once.
    Changed,
}

/// What the user should learn, and what must be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContactEvent {
    /// Somebody asks to be a buddy.
    Asked(UserName),
    /// Both want it now.
    BecameMutual(UserName),
    /// They declined.
    Declined(UserName),
    /// The list changed: seal and store it.
    ListChanged,
    /// Send a request to this user's devices.
    SendRequest(UserName),
    /// Send the answer to this user's devices.
    SendAnswer(UserName, bool),
}

/// Why a command was refused; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// The list is full.
    #[error("the buddy list is full")]
    Full,
    /// No such entry.
    #[error("this user is not in the buddy list")]
    Unknown,
    /// The user never asked.
    #[error("this user has not asked")]
    NotAsked,
    /// That is oneself.
    #[error("that is yourself")]
    Oneself,
}

/// The buddy list of the local user.
#[derive(Clone, Debug)]
pub struct Contacts {
    pub(super) own: UserName,
    pub(super) buddies: BTreeMap<UserName, Buddy>,
    events: Vec<ContactEvent>,
}

impl Contacts {
    /// An empty list of user `own`.
    pub fn new(own: UserName) -> Self {
        Self { own, buddies: BTreeMap::new(), events: Vec::new() }
    }

    /// All entries but removed ones.
    pub fn list(&self) -> impl Iterator<Item = (&UserName, &Buddy)> {
        self.buddies.iter().filter(|(_, buddy)| buddy.state != BuddyState::Removed)
    }

    /// One entry.
    pub fn get(&self, user: &UserName) -> Option<&Buddy> {
        self.buddies.get(user).filter(|buddy| buddy.state != BuddyState::Removed)
    }

    /// What the user is to us, for calls and messages.
    pub fn relation(&self, user: &UserName) -> Relation {
        match self.buddies.get(user).map(|buddy| buddy.state) {
            Some(BuddyState::Mutual) => Relation::MutualBuddy,
            Some(BuddyState::Blocked) => Relation::Blocked,
            _ => Relation::Stranger,
        }
    }

    /// The next thing to tell or to send.
    pub fn poll_event(&mut self) -> Option<ContactEvent> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }

    /// Asks `user` to be a buddy; accepts at once if they asked before.
    pub fn request(&mut self, now: UnixTime, user: &UserName) -> Result<(), ContactError> {
        if *user == self.own {
            return Err(ContactError::Oneself);
        }
        match self.buddies.get(user).map(|buddy| buddy.state) {
            Some(BuddyState::Asked) => return self.accept(now, user),
            Some(BuddyState::Mutual) => return Ok(()),
            _ => self.set(now, user, BuddyState::Requested)?,
        }
        self.events.push(ContactEvent::SendRequest(user.clone()));
        Ok(())
    }

    /// Accepts a request.
    pub fn accept(&mut self, now: UnixTime, user: &UserName) -> Result<(), ContactError> {
        self.expect_asked(user)?;
        self.set(now, user, BuddyState::Mutual)?;
        self.events.push(ContactEvent::SendAnswer(user.clone(), true));
        self.events.push(ContactEvent::BecameMutual(user.clone()));
        Ok(())
    }

    /// Declines a request.
    pub fn decline(&mut self, now: UnixTime, user: &UserName) -> Result<(), ContactError> {
        self.expect_asked(user)?;
        self.set(now, user, BuddyState::Removed)?;
        self.events.push(ContactEvent::SendAnswer(user.clone(), false));
        Ok(())
    }

    /// Takes a user from the list; they become a stranger and are told.
    pub fn remove(&mut self, now: UnixTime, user: &UserName) -> Result<(), ContactError> {
        let state = self.get(user).ok_or(ContactError::Unknown)?.state;
        self.set(now, user, BuddyState::Removed)?;
        if state == BuddyState::Mutual {
            self.events.push(ContactEvent::SendAnswer(user.clone(), false));
        }
        Ok(())
    }

    /// Wants to hear nothing from a user.
    pub fn block(&mut self, now: UnixTime, user: &UserName) -> Result<(), ContactError> {
        if *user == self.own {
            return Err(ContactError::Oneself);
        }
        self.set(now, user, BuddyState::Blocked)
    }

    /// A device of `user` brought their request.
    pub fn handle_request(&mut self, now: UnixTime, user: &UserName, display_name: &str) {
        match self.buddies.get(user).map(|buddy| buddy.state) {
            Some(BuddyState::Blocked) => return,
            // They lost our answer, or both asked at once.
            Some(BuddyState::Mutual) => {
                self.events.push(ContactEvent::SendAnswer(user.clone(), true));
            }
            Some(BuddyState::Requested) => {
                // The list has this user: no bound is met.
                let _ = self.set(now, user, BuddyState::Mutual);
                self.events.push(ContactEvent::SendAnswer(user.clone(), true));
                self.events.push(ContactEvent::BecameMutual(user.clone()));
            }
            Some(BuddyState::Asked) => {}
            Some(BuddyState::Removed) | None => {
                let waiting = self.buddies.values().filter(|b| b.state == BuddyState::Asked);
                let is_oneself = *user == self.own;
                if is_oneself
                    || waiting.count() >= ASKED_MAX
                    || self.set(now, user, BuddyState::Asked).is_err()
                {
                    return;
                }
                self.events.push(ContactEvent::Asked(user.clone()));
            }
        }
        self.handle_display_name(user, display_name);
    }

    /// A device of `user` brought their answer. One that answers nothing changes nothing, but a
    /// buddy who says no has taken us from the list.
    pub fn handle_answer(
        &mut self,
        now: UnixTime,
        user: &UserName,
        accepted: bool,
        display_name: &str,
    ) {
        let state = self.buddies.get(user).map(|buddy| buddy.state);
        let (next, event) = match (state, accepted) {
            (Some(BuddyState::Requested), true) => {
                (BuddyState::Mutual, ContactEvent::BecameMutual(user.clone()))
            }
            (Some(BuddyState::Requested | BuddyState::Mutual), false) => {
                (BuddyState::Removed, ContactEvent::Declined(user.clone()))
            }
            _ => return,
        };
        // The list has this user: no bound is met.
        let _ = self.set(now, user, next);
        self.events.push(event);
        self.handle_display_name(user, display_name);
    }

    /// What a buddy calls themself now.
    pub fn handle_display_name(&mut self, user: &UserName, display_name: &str) {
        if let Some(buddy) = self.buddies.get_mut(user)
            && !display_name.is_empty()
            && display_name.len() <= DISPLAY_NAME_BYTES_MAX
        {
            display_name.clone_into(&mut buddy.display_name);
        }
    }

    /// A peer connection proved that a device of `user` has `key`.
    pub fn handle_key(&mut self, now: UnixTime, user: &UserName, key: NodePublicKey) -> KeyCheck {
        let Some(buddy) = self.buddies.get_mut(user) else { return KeyCheck::NotKept };
        if let Some(pinned) = buddy.keys.iter().find(|pinned| pinned.key == key) {
            return KeyCheck::Known { verified: pinned.verified };
        }
        let is_first = buddy.keys.is_empty();
        if buddy.keys.len() >= KEYS_MAX {
            // The oldest unverified key gives way; verified ones stay while there is any other.
            let oldest = buddy.keys.iter().position(|pinned| !pinned.verified).unwrap_or(0);
            buddy.keys.remove(oldest);
        }
        buddy.keys.push(PinnedKey { key, verified: false, first_seen: now });
        buddy.changed = now;
        self.events.push(ContactEvent::ListChanged);
        if is_first { KeyCheck::FirstSeen } else { KeyCheck::Changed }
    }

    /// The user compared the safety number with this device of a buddy.
    pub fn verify_key(
        &mut self,
        now: UnixTime,
        user: &UserName,
        key: &NodePublicKey,
    ) -> Result<(), ContactError> {
        let buddy = self.buddies.get_mut(user).ok_or(ContactError::Unknown)?;
        let pinned = buddy.keys.iter_mut().find(|pinned| pinned.key == *key);
        pinned.ok_or(ContactError::Unknown)?.verified = true;
        buddy.changed = now;
        self.events.push(ContactEvent::ListChanged);
        Ok(())
    }

    /// Joins the list with another device's: of each entry the later one stays, and of its keys
    /// those of both, for each device of the user has met other ones. Says whether this list
    /// changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (user, theirs) in &other.buddies {
            let is_room = self.buddies.len() < BUDDIES_MAX;
            match self.buddies.get_mut(user) {
                Some(ours) => changed |= ours.merge(theirs),
                None if is_room => {
                    self.buddies.insert(user.clone(), theirs.clone());
                    changed = true;
                }
                None => {}
            }
        }
        if changed {
            self.events.push(ContactEvent::ListChanged);
        }
        changed
    }

    /// Whether this list says the same as another.
    pub fn is_same(&self, other: &Self) -> bool {
        self.buddies == other.buddies
    }

    fn expect_asked(&self, user: &UserName) -> Result<(), ContactError> {
        match self.buddies.get(user).map(|buddy| buddy.state) {
            Some(BuddyState::Asked) => Ok(()),
            Some(_) => Err(ContactError::NotAsked),
            None => Err(ContactError::Unknown),
        }
    }

    fn set(
        &mut self,
        now: UnixTime,
        user: &UserName,
        state: BuddyState,
    ) -> Result<(), ContactError> {
        if !self.buddies.contains_key(user) && self.buddies.len() >= BUDDIES_MAX {
            return Err(ContactError::Full);
        }
        let buddy = self.buddies.entry(user.clone()).or_insert_with(|| Buddy {
            display_name: String::new(),
            state,
            keys: Vec::new(),
            changed: now,
        });
        buddy.state = state;
        buddy.changed = now;
        self.events.push(ContactEvent::ListChanged);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeKey;

    fn name(text: &str) -> UserName {
        text.parse().expect("a legal name")
    }

    fn events(contacts: &mut Contacts) -> Vec<ContactEvent> {
        std::iter::from_fn(|| contacts.poll_event())
            .filter(|event| *event != ContactEvent::ListChanged)
            .collect()
    }

    #[test]
    fn a_request_and_its_answer_make_mutual_buddies() {
        let (alice, bob) = (name("alice"), name("bob"));
        let mut at_alice = Contacts::new(alice.clone());
        let mut at_bob = Contacts::new(bob.clone());
        at_alice.request(UnixTime(1), &bob).expect("room");
        assert_eq!(events(&mut at_alice), [ContactEvent::SendRequest(bob.clone())]);
        assert_eq!(at_alice.relation(&bob), Relation::Stranger);
        at_bob.handle_request(UnixTime(2), &alice, "Alice");
        assert_eq!(events(&mut at_bob), [ContactEvent::Asked(alice.clone())]);
        assert_eq!(at_bob.relation(&alice), Relation::Stranger);
        at_bob.accept(UnixTime(3), &alice).expect("asked");
        at_alice.handle_answer(UnixTime(4), &bob, true, "Bob");
        assert_eq!(at_alice.relation(&bob), Relation::MutualBuddy);
        assert_eq!(at_bob.relation(&alice), Relation::MutualBuddy);
        assert_eq!(at_alice.get(&bob).map(|b| b.display_name.as_str()), Some("Bob"));
        at_bob.remove(UnixTime(5), &alice).expect("in the list");
        at_alice.handle_answer(UnixTime(6), &bob, false, "");
        assert_eq!(at_alice.relation(&bob), Relation::Stranger);
    }

    #[test]
    fn an_answer_nobody_asked_for_changes_nothing() {
        let mut contacts = Contacts::new(name("alice"));
        contacts.handle_answer(UnixTime(1), &name("mallory"), true, "Bob");
        assert_eq!(contacts.relation(&name("mallory")), Relation::Stranger);
        assert_eq!(contacts.list().count(), 0);
        contacts.handle_request(UnixTime(1), &name("mallory"), "Bob");
        contacts.handle_answer(UnixTime(2), &name("mallory"), true, "Bob");
        assert_eq!(contacts.relation(&name("mallory")), Relation::Stranger);
    }

    #[test]
    fn a_blocked_user_cannot_ask_and_a_flood_of_requests_is_bounded() {
        let mut contacts = Contacts::new(name("alice"));
        contacts.block(UnixTime(1), &name("mallory")).expect("room");
        contacts.handle_request(UnixTime(2), &name("mallory"), "");
        assert_eq!(contacts.relation(&name("mallory")), Relation::Blocked);
        for number in 0..2 * ASKED_MAX {
            contacts.handle_request(UnixTime(2), &name(&format!("flood{number}")), "");
        }
        assert_eq!(contacts.list().count(), ASKED_MAX + 1);
    }

    #[test]
    fn a_changed_key_is_noticed_once_and_a_verified_one_stays_verified() {
        let mut contacts = Contacts::new(name("alice"));
        let bob = name("bob");
        let key = |seed| NodeKey::from_seed([seed; 32]).public();
        assert_eq!(contacts.handle_key(UnixTime(1), &bob, key(1)), KeyCheck::NotKept);
        contacts.request(UnixTime(1), &bob).expect("room");
        assert_eq!(contacts.handle_key(UnixTime(1), &bob, key(1)), KeyCheck::FirstSeen);
        contacts.verify_key(UnixTime(2), &bob, &key(1)).expect("pinned");
        assert_eq!(contacts.handle_key(UnixTime(3), &bob, key(2)), KeyCheck::Changed);
        let known = KeyCheck::Known { verified: false };
        assert_eq!(contacts.handle_key(UnixTime(3), &bob, key(2)), known);
        for seed in 10..40 {
            contacts.handle_key(UnixTime(4), &bob, key(seed));
        }
        let known = KeyCheck::Known { verified: true };
        assert_eq!(contacts.handle_key(UnixTime(5), &bob, key(1)), known);
        assert_eq!(contacts.get(&bob).map(|b| b.keys.len()), Some(KEYS_MAX));
    }

    #[test]
    fn of_two_lists_the_later_entry_stays() {
        let (mut phone, mut desk) = (Contacts::new(name("alice")), Contacts::new(name("alice")));
        phone.request(UnixTime(1), &name("bob")).expect("room");
        desk.merge(&phone);
        desk.remove(UnixTime(2), &name("bob")).expect("in the list");
        phone.request(UnixTime(1), &name("carol")).expect("room");
        phone.merge(&desk);
        desk.merge(&phone);
        let names = |c: &Contacts| c.list().map(|(user, _)| user.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&phone), ["carol"]);
        assert_eq!(names(&desk), ["carol"]);
    }

    #[test]
    fn two_devices_that_change_one_entry_at_once_lose_nothing() {
        let (mut phone, mut desk) = (Contacts::new(name("alice")), Contacts::new(name("alice")));
        let bob = name("bob");
        let key = |seed| NodeKey::from_seed([seed; 32]).public();
        phone.request(UnixTime(1), &bob).expect("room");
        phone.handle_key(UnixTime(1), &bob, key(1));
        assert!(desk.merge(&phone));
        phone.verify_key(UnixTime(5), &bob, &key(1)).expect("pinned");
        desk.handle_key(UnixTime(6), &bob, key(2));
        desk.handle_answer(UnixTime(7), &bob, true, "Bob");
        let before = (phone.clone(), desk.clone());
        assert!(phone.merge(&before.1) && desk.merge(&before.0));
        assert!(phone.is_same(&desk));
        let joined = phone.get(&bob).expect("in the list");
        assert_eq!((joined.state, joined.keys.len()), (BuddyState::Mutual, 2));
        assert!(joined.keys.iter().any(|pinned| pinned.verified && pinned.key == key(1)));
        assert!(!phone.merge(&desk), "a second time changes nothing");
    }
}
