//! Every fuzz target of Cooee in one program, so that one link serves them all. The environment
//! names the target (`COOEE_FUZZ=identity`); everything else is libFuzzer's command line. Build and
//! run it with `scripts/fuzz`.
#![no_main]

mod network;
mod targets;

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("COOEE_FUZZ").unwrap_or_default();
    let found = targets::ALL.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("COOEE_FUZZ={wanted} names no target")).1
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET(input));
