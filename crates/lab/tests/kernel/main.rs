//! The laboratory against the real kernel, inside its sandbox: one process, tests one by one.
//!
//! It has a `main` of its own because the sandbox is entered by starting the program again. Where
//! the kernel refuses namespaces it fails and says so; nothing is skipped in silence.

mod links;
mod nats;
mod stun;

use std::process::ExitCode;

type Test = (&'static str, fn() -> anyhow::Result<()>);

const TESTS: [Test; 4] = [
    ("stun::an_independent_client_sees_each_kind", stun::an_independent_client_sees_each_kind),
    ("nats::every_kind_maps_and_filters_as_it_says", nats::every_kind_maps_and_filters_as_it_says),
    ("nats::a_firewall_drops_or_rejects", nats::a_firewall_drops_or_rejects),
    (
        "links::an_emulated_link_delays_loses_and_limits",
        links::an_emulated_link_delays_loses_and_limits,
    ),
];

fn main() -> ExitCode {
    if let Err(error) = cooee_lab::sandbox::enter() {
        eprintln!("the kernel tests cannot run: {error:#}");
        println!("\ntest result: FAILED. 0 passed; {} failed; 0 ignored", TESTS.len());
        return ExitCode::FAILURE;
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        match test() {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED\n  {error:#}");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
