//! Gives memory back that only starting, logging in or setting up a call needed.
//!
//! Most of what a node occupies is its own program: 16 pages are mapped around each that is
//! touched, and starting touches nearly all of it (measured: 27 MiB of 34, of which a call uses 8).
//! The kernel would take these pages back under pressure; here it is told that they are not needed,
//! and whatever is still used comes back from the page cache in microseconds.
#![allow(unsafe_code)]

use std::fs;

use rustix::mm::{Advice, madvise};

/// Lets the pages of this program's code and constants go that are not in use; gives the bytes of
/// address space looked at, 0 where the system does not tell.
pub(crate) fn release_cold_code() -> usize {
    let Ok(program) = fs::read_link("/proc/self/exe") else { return 0 };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut released = 0;
    for (start, length) in clean_mappings(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is one whole mapping of the program's file, readable or executable
        // and never written since it was mapped (the writable ones and what the dynamic linker has
        // relocated are left out), so that its pages are the file's, and come back as they were.
        let told = unsafe { madvise(start as *mut _, length, Advice::LinuxDontNeed) };
        if told.is_ok() {
            released += length;
        }
    }
    released
}

/// Mappings of `program` that nobody has written to: its code, and what is before it in the file.
/// What comes after the code may be constants that were relocated and then protected.
fn clean_mappings(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        // Path after offset, device and inode; it may hold spaces.
        if !line.ends_with(program) || words.nth(3).is_none() {
            continue;
        }
        if !matches!(rights, "r--p" | "r-xp") {
            break;
        }
        let ends = range.split_once('-');
        let parse = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = ends.map(|(s, e)| (parse(s), parse(e))) {
            found.push((start, end.saturating_sub(start)));
        }
        if rights == "r-xp" {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_and_what_is_before_it_is_let_go() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 10 /opt/my programs/cooee
3000-9000 r-xp 00002000 fe:00 10 /opt/my programs/cooee
9000-a000 r--p 00008000 fe:00 10 /opt/my programs/cooee
a000-b000 rw-p 00009000 fe:00 10 /opt/my programs/cooee
b000-c000 r-xp 00000000 fe:00 11 /lib/libc.so.6
";
        let found = clean_mappings(maps, "/opt/my programs/cooee");
        assert_eq!(found, [(0x1000, 0x2000), (0x3000, 0x6000)]);
        assert_eq!(clean_mappings("garbage\n1-2 r--p", "/opt/cooee"), []);
    }

    #[test]
    fn code_goes_and_comes_back() {
        let resident = || -> u64 {
            let text = fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(2).unwrap().parse().unwrap() // pages of files
        };
        let before = resident();
        assert!(release_cold_code() > 0);
        let after = resident();
        assert!(after < before, "{before} pages of files before, {after} after");
        // Still the same program.
        assert_eq!(clean_mappings("", "x"), []);
    }
}
