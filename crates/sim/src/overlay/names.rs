//! What the simulated users are called: a user name that begins with a first name, and a display
//! name, so that many begin alike.

use cooee_proto::overlay::mix::mix64;

const FIRST: [&str; 20] = [
    "Ali", "Alice", "Alina", "Alison", "Bertram", "Björn", "Casper", "Dorothea", "Edith", "Femke",
    "Gustav", "Hanna", "Ines", "Jakob", "Kemal", "Lucia", "Mats", "Nadia", "Olga", "Priya",
];

const LAST: [&str; 12] = [
    "Alicante",
    "Brandt",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Greco",
    "Haddad",
    "Ivanova",
    "Jensen",
    "Kowalski",
    "Lindqvist",
];

fn of<'a>(list: &[&'a str], user: u32, salt: u64) -> &'a str {
    list[(mix64(u64::from(user) ^ salt) % list.len() as u64) as usize]
}

/// The name that the user registered.
pub(super) fn user_name(user: u32) -> String {
    let first: String = of(&FIRST, user, 0xf1).chars().filter(char::is_ascii).collect();
    format!("{}{user:07}", first.to_ascii_lowercase())
}

/// What others are shown.
pub(super) fn display_name(user: u32) -> String {
    format!("{} {}", of(&FIRST, user, 0xd1), of(&LAST, user, 0x1a))
}

/// Whether the user lets wildcard searches show them: four of five.
pub(super) fn is_listed(user: u32) -> bool {
    !mix64(u64::from(user) ^ 0x715).is_multiple_of(5)
}
