//! Certificates issued, parsed, bent and checked.

use proptest::prelude::*;

use super::*;
use crate::identity::NodeKey;

const DAY_MS: u64 = 86_400_000;

fn network() -> NetworkKey {
    NetworkKey::from_seed([7; 32])
}

fn request(user: Option<&str>) -> CertificateRequest {
    CertificateRequest {
        public_key: NodeKey::from_seed([9; 32]).public(),
        user: user.map(|name| name.parse().unwrap()),
        roles: Roles::NONE,
        serial: 0x1234_5678_9abc_def0,
        not_before: UnixTime(1_800_000_000_000),
        not_after: UnixTime(1_800_000_000_000 + 7 * DAY_MS),
    }
}

fn issue(request: &CertificateRequest) -> Certificate {
    Certificate::issue(&network(), request).unwrap()
}

fn check(certificate: &Certificate, at: UnixTime) -> Result<(), CertificateError> {
    let root = network().root();
    certificate.verify(&root, at, &RevocationList::empty(root.network_id()))
}

#[test]
fn a_certificate_says_what_was_asked_and_is_small() {
    let asked =
        CertificateRequest { roles: Roles::NONE.with(Role::SuperNode), ..request(Some("alice")) };
    let certificate = issue(&asked);
    assert_eq!(certificate.public_key(), asked.public_key);
    assert_eq!(certificate.user(), asked.user.as_ref());
    assert_eq!(certificate.roles(), asked.roles);
    assert_eq!(certificate.serial(), asked.serial >> 1);
    assert_eq!(
        (certificate.not_before(), certificate.not_after()),
        (asked.not_before, asked.not_after)
    );
    assert_eq!(check(&certificate, asked.not_before), Ok(()));
    assert_eq!(check(&certificate, asked.not_after), Ok(()));
    let plain = issue(&request(Some("alice")));
    assert!(plain.der().len() < 340, "{} bytes", plain.der().len());
}

#[test]
fn a_certificate_of_another_network_is_named_as_such() {
    let certificate = issue(&request(None));
    let other = NetworkKey::from_seed([8; 32]).root();
    let at = certificate.not_before();
    let error = certificate.verify(&other, at, &RevocationList::empty(other.network_id()));
    assert_eq!(error, Err(CertificateError::OtherNetwork(network().root().network_id())));
}

#[test]
fn a_forged_certificate_that_claims_our_network_is_refused() {
    let mut profile = request(Some("alice"));
    profile.serial = 5;
    let honest = issue(&profile);
    let forged = Certificate { signature: [1; 64], ..honest.clone() };
    assert_eq!(check(&forged, honest.not_before()), Err(CertificateError::Signature));
}

#[test]
fn a_wrong_clock_and_a_removed_device_are_told_apart() {
    let certificate = issue(&request(Some("alice")));
    let early = UnixTime(certificate.not_before().0 - 1000);
    let late = certificate.not_after().plus(std::time::Duration::from_secs(1));
    assert!(matches!(check(&certificate, early), Err(CertificateError::NotYetValid { .. })));
    assert!(matches!(check(&certificate, late), Err(CertificateError::Expired { .. })));
    let node = certificate.node();
    let list = RevocationList::issue(&network(), 1, early, [node].into()).unwrap();
    let root = network().root();
    let error = certificate.verify(&root, certificate.not_before(), &list);
    assert_eq!(error, Err(CertificateError::Revoked(node)));
}

#[test]
fn a_key_that_is_no_point_is_not_certified() {
    let keys = (0..=255).map(|byte| NodePublicKey([byte; 32]));
    let bad: Vec<_> = keys.filter(|key| key.x25519().is_none()).collect();
    assert!(bad.len() > 64, "about half of all strings are no point");
    for public_key in bad {
        let asked = CertificateRequest { public_key, ..request(None) };
        assert!(Certificate::issue(&network(), &asked).is_err());
    }
}

#[test]
fn renewal_is_due_after_half_of_the_life() {
    let certificate = issue(&request(None));
    assert_eq!(certificate.renew_at().0, 1_800_000_000_000 + 7 * DAY_MS / 2);
}

proptest! {
    #[test]
    fn no_flipped_bit_goes_unnoticed(bit in 0_usize..330 * 8) {
        let mut der = issue(&request(Some("alice"))).der().to_vec();
        prop_assume!(bit / 8 < der.len());
        der[bit / 8] ^= 1 << (bit % 8);
        if let Ok(parsed) = Certificate::parse(&der) {
            prop_assert!(check(&parsed, request(None).not_before).is_err());
        }
    }

    #[test]
    fn no_truncation_parses(length in 0_usize..330) {
        let der = issue(&request(Some("alice"))).der().to_vec();
        prop_assert!(Certificate::parse(&der[..length.min(der.len() - 1)]).is_err());
    }

    #[test]
    fn any_bytes_give_a_certificate_or_an_error(bytes: Vec<u8>) {
        let _ = Certificate::parse(&bytes);
    }

    #[test]
    fn any_request_survives_der(
        seed: [u8; 32], user in prop::option::of("[a-z][a-z0-9._-]{2,31}"), serial: u64,
        role_bits in 0_u8..4, begin_seconds in 0_u64..4_000_000_000, days in 1_u64..1000,
    ) {
        let asked = CertificateRequest {
            public_key: NodeKey::from_seed(seed).public(),
            user: user.map(|name| name.parse().unwrap()),
            roles: Roles(role_bits),
            serial,
            not_before: UnixTime::from_seconds(begin_seconds),
            not_after: UnixTime::from_seconds(begin_seconds + days * 86_400),
        };
        let parsed = Certificate::parse(issue(&asked).der()).unwrap();
        prop_assert_eq!(parsed.user(), asked.user.as_ref());
        prop_assert_eq!(parsed.public_key(), asked.public_key);
        prop_assert_eq!(parsed.roles(), asked.roles);
        prop_assert_eq!(parsed.not_before(), asked.not_before);
        prop_assert_eq!(parsed.not_after(), asked.not_after);
        prop_assert_eq!(check(&parsed, asked.not_after), Ok(()));
    }
}
