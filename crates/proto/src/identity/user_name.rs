//! User names: short, ASCII, case-folded, and compared by what a person sees.
//!
//! Two names with the same *skeleton* look alike (`alice` and `a1ice`, `al.ice`); the login server
//! lets only one of them exist in a network. The idea is Unicode's UTS 39, reduced to ASCII.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use super::identifier::{NameKey, NetworkId};

/// Longest user name, in characters (chosen: fits a certificate, a line and a person's memory).
pub const USER_NAME_CHARACTERS_MAX: usize = 32;

const CHARACTERS_MIN: usize = 3;

/// Why a text is not a user name. Each message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Too short or too long.
    #[error(
        "a user name has {CHARACTERS_MIN} to {USER_NAME_CHARACTERS_MAX} characters, this one {0}"
    )]
    Length(usize),
    /// The first character is not a letter.
    #[error("a user name starts with a letter")]
    Start,
    /// A character outside `a-z 0-9 . _ -`.
    #[error("a user name has only the letters a to z, digits, '.', '_' and '-', not {0:?}")]
    Character(char),
}

/// A user name, lower-case. Ordered and compared as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// The name as text, lower-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a person sees at a glance: equal for names that are easily taken for each other.
    pub fn skeleton(&self) -> String {
        let digits: String = self
            .0
            .chars()
            .filter(|c| !matches!(c, '.' | '_' | '-'))
            .map(|c| match c {
                '0' => 'o',
                '1' => 'l',
                '2' => 'z',
                '5' => 's',
                '8' => 'b',
                other => other,
            })
            .collect();
        digits.replace("rn", "m").replace("vv", "w").replace("cl", "d").replace('i', "l")
    }

    /// The key of this name in the Global Index of a network.
    pub fn key(&self, network: NetworkId) -> NameKey {
        let mut hash = Sha256::new();
        hash.update(b"cooee name");
        hash.update(network.0);
        hash.update(self.0.as_bytes());
        NameKey(hash.finalize().into())
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase();
        let legal = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(*c);
        if let Some(other) = name.chars().find(|c| !legal(c)) {
            return Err(UserNameError::Character(other));
        }
        if !(CHARACTERS_MIN..=USER_NAME_CHARACTERS_MAX).contains(&name.len()) {
            return Err(UserNameError::Length(name.len()));
        }
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(UserNameError::Start);
        }
        Ok(Self(name))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserName({})", self.0)
    }
}

impl AsRef<str> for UserName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().expect("legal name")
    }

    proptest! {
        #[test]
        fn legal_names_survive_text(text in "[a-zA-Z][a-zA-Z0-9._-]{2,31}") {
            let parsed = name(&text);
            prop_assert_eq!(parsed.as_str(), text.to_ascii_lowercase());
            prop_assert_eq!(name(parsed.as_ref()), parsed);
        }

        #[test]
        fn any_text_gives_a_name_or_an_error(text in "\\PC{0,40}") {
            if let Ok(parsed) = text.parse::<UserName>() {
                prop_assert!(parsed.as_str().len() <= USER_NAME_CHARACTERS_MAX);
                prop_assert!(parsed.as_str().is_ascii());
            }
        }
    }

    #[test]
    fn names_that_look_alike_share_a_skeleton() {
        for (one, other) in [
            ("alice", "a1ice"),
            ("alice", "al.i-c_e"),
            ("alice", "AIice"),
            ("modern", "rnodern"),
            ("bob", "b0b"),
            ("walter", "vvalter"),
            ("david", "clavicl"),
        ] {
            assert_eq!(name(one).skeleton(), name(other).skeleton(), "{one} {other}");
        }
        assert_ne!(name("alice").skeleton(), name("alicia").skeleton());
    }

    #[test]
    fn illegal_names_say_why() {
        assert_eq!("al".parse::<UserName>(), Err(UserNameError::Length(2)));
        assert_eq!("a".repeat(33).parse::<UserName>(), Err(UserNameError::Length(33)));
        assert_eq!("1alice".parse::<UserName>(), Err(UserNameError::Start));
        assert_eq!("al ice".parse::<UserName>(), Err(UserNameError::Character(' ')));
        assert_eq!("аlice".parse::<UserName>(), Err(UserNameError::Character('а')));
    }

    #[test]
    fn the_key_depends_on_the_network() {
        let (one, other) = (NetworkId([1; 16]), NetworkId([2; 16]));
        assert_eq!(name("Alice").key(one), name("alice").key(one));
        assert_ne!(name("alice").key(one), name("alice").key(other));
    }
}
