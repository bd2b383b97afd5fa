//! A fault planted on purpose, ten bytes deep: found in seconds if the fuzzer sees which branches
//! are taken and what is compared, never by chance. `scripts/fuzz` first shows that it is found.

use std::hint::black_box;

/// Found through what is compared.
const NUMBER: u32 = 0x5eed_c0ee;

pub(crate) fn run(input: &[u8]) {
    let Some((number, rest)) = input.split_first_chunk() else { return };
    // The black boxes keep the branches apart, as work between them would.
    if u32::from_be_bytes(*number) == NUMBER && at(rest, 0) == Some(b'p') {
        black_box(0);
        if at(rest, 1) == Some(b'l') {
            black_box(1);
            if at(rest, 2) == Some(b'a') {
                black_box(2);
                if at(rest, 3) == Some(b'n') {
                    black_box(3);
                    assert!(at(rest, 4) != Some(b't'), "the planted fault was reached");
                }
            }
        }
    }
}

fn at(bytes: &[u8], place: usize) -> Option<u8> {
    bytes.get(place).copied()
}
