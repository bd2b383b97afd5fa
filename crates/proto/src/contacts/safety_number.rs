//! The number by which two people make sure that nobody sits between them.

use sha2::{Digest, Sha512};

use crate::identity::{NodePublicKey, UserName};

/// Rounds of hashing: a number of the same digits costs an attacker this much more. As Signal's.
const ROUNDS: usize = 5_200;
/// Digits of one half: 30, about 100 bits.
const GROUPS_OF_HALF: usize = 6;

/// 60 digits in 12 groups of 5, the same at both ends: each end's user name and device key give
/// half of it, the lower half first.
pub fn safety_number(
    ours: (&UserName, &NodePublicKey),
    theirs: (&UserName, &NodePublicKey),
) -> String {
    let mut halves = [half(ours), half(theirs)];
    halves.sort();
    halves.concat().join(" ")
}

fn half((user, key): (&UserName, &NodePublicKey)) -> Vec<String> {
    let mut hash = Sha512::new()
        .chain_update(b"cooee safety number 1")
        .chain_update(key.0)
        .chain_update(user.as_str())
        .finalize();
    for _ in 1..ROUNDS {
        hash = Sha512::new().chain_update(hash).chain_update(key.0).finalize();
    }
    hash.chunks_exact(5)
        .take(GROUPS_OF_HALF)
        .map(|bytes| {
            let number = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            format!("{:05}", number % 100_000)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeKey;

    #[test]
    fn both_ends_read_the_same_sixty_digits_and_another_key_gives_others() {
        let (alice, bob) = ("alice".parse().expect("legal"), "bob".parse().expect("legal"));
        let key = |seed| NodeKey::from_seed([seed; 32]).public();
        let at_alice = safety_number((&alice, &key(1)), (&bob, &key(2)));
        let at_bob = safety_number((&bob, &key(2)), (&alice, &key(1)));
        assert_eq!(at_alice, at_bob);
        assert_eq!(at_alice.chars().filter(char::is_ascii_digit).count(), 60);
        assert_eq!(at_alice.split(' ').count(), 12);
        let swapped = safety_number((&alice, &key(1)), (&bob, &key(3)));
        assert_ne!(at_alice, swapped);
        let renamed = safety_number((&alice, &key(1)), (&alice, &key(2)));
        assert_ne!(at_alice, renamed);
    }
}
