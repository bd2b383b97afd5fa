//! What the fuzz targets share: a network with devices, a moment, and a way to cut one input into
//! many.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cooee_proto::{
    clock::{Now, UnixTime},
    identity::{Certificate, CertificateRequest, NetworkKey, NodeKey, Role, Roles, UserName},
};

/// The wall clock of every target.
pub(crate) const UNIX: UnixTime = UnixTime(1_800_000_000_000);

/// A moment.
pub(crate) fn now() -> Now {
    Now { instant: Instant::now(), unix: UNIX }
}

/// The network of every target.
pub(crate) fn network() -> NetworkKey {
    NetworkKey::from_seed([1; 32])
}

/// A user name of the targets.
pub(crate) fn name(text: &str) -> UserName {
    text.parse().expect("legal")
}

/// A device of the network and its certificate; made once, for signing costs more than most runs.
pub(crate) fn device(seed: u8, user: Option<&str>, role: Option<Role>) -> (NodeKey, Certificate) {
    thread_local! {
        static MADE: RefCell<BTreeMap<u8, Certificate>> = const { RefCell::new(BTreeMap::new()) };
    }
    let key = NodeKey::from_seed([seed; 32]);
    let issue = || {
        let request = CertificateRequest {
            public_key: key.public(),
            user: user.map(name),
            roles: role.map_or(Roles::NONE, |role| Roles::NONE.with(role)),
            serial: u64::from(seed) + 1,
            not_before: UNIX.minus(Duration::from_secs(3600)),
            not_after: UNIX.plus(Duration::from_secs(7 * 86_400)),
        };
        Certificate::issue(&network(), &request).expect("legal")
    };
    // One target runs in a process, and gives each seed one role.
    let certificate = MADE.with_borrow_mut(|made| made.entry(seed).or_insert_with(issue).clone());
    (key, certificate)
}

/// Cuts an input into pieces: a byte for the caller's choice, two for the length, the piece.
pub(crate) fn pieces(input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let (&[choice, high, low], tail) = rest.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([high, low])).min(tail.len());
        let (piece, tail) = tail.split_at(length);
        rest = tail;
        Some((choice, piece))
    })
}
