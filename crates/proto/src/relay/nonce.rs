//! Nonces that need no memory: expiry and a tag over it and the client's address.
//!
//! A captured request can thus be replayed from its own address only, and only while it is young
//! (RFC 8489 section 9.2: 438 Stale Nonce afterwards).

use std::{net::SocketAddr, time::Duration};

use super::RelaySecret;
use crate::clock::UnixTime;

/// Chosen: RFC 8656 section 7.2 proposes at least once an hour; a refresh every 5 minutes then
/// meets a stale nonce every other time, which costs one round trip.
const LIFETIME: Duration = Duration::from_secs(600);
const PURPOSE: &[u8] = b"cooee relay nonce";
/// Bytes of the tag that are kept: 96 bits, forged online only.
const TAG_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceState {
    Fresh,
    /// Ours but old, or never ours: both get a new one.
    Stale,
}

pub(super) fn issue(secret: &RelaySecret, now: UnixTime, client: SocketAddr) -> String {
    let expiry = now.plus(LIFETIME).seconds();
    format!("{expiry:x}-{}", tag(secret, expiry, client))
}

pub(super) fn check(
    secret: &RelaySecret,
    now: UnixTime,
    client: SocketAddr,
    nonce: &str,
) -> NonceState {
    let fresh = || {
        let (expiry, given) = nonce.split_once('-')?;
        let expiry = u64::from_str_radix(expiry, 16).ok()?;
        let young = expiry >= now.seconds() && expiry <= now.plus(LIFETIME).seconds();
        (young && given == tag(secret, expiry, client)).then_some(())
    };
    if fresh().is_some() { NonceState::Fresh } else { NonceState::Stale }
}

fn tag(secret: &RelaySecret, expiry: u64, client: SocketAddr) -> String {
    let address = client.to_string();
    let tag = secret.tag(PURPOSE, &[&expiry.to_be_bytes(), address.as_bytes()]);
    hex::encode(&tag[..TAG_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_serves_its_own_address_for_its_lifetime() {
        let secret = RelaySecret::new([1; 32]);
        let (mine, other) = (([1, 2, 3, 4], 5).into(), ([1, 2, 3, 4], 6).into());
        let start = UnixTime::from_seconds(1_000_000);
        let nonce = issue(&secret, start, mine);
        assert_eq!(check(&secret, start, mine, &nonce), NonceState::Fresh);
        assert_eq!(check(&secret, start.plus(LIFETIME), mine, &nonce), NonceState::Fresh);
        let late = start.plus(LIFETIME + Duration::from_secs(1));
        assert_eq!(check(&secret, late, mine, &nonce), NonceState::Stale);
        assert_eq!(check(&secret, start, other, &nonce), NonceState::Stale);
        for forged in ["", "-", "zz-00", "ffffffffffffffff-00", &nonce[1..]] {
            assert_eq!(check(&secret, start, mine, forged), NonceState::Stale);
        }
    }
}
