//! The laboratory's short matrix with the built program: calls between the paper's three set-ups,
//! behind real NATs in network namespaces of their own.
//!
//! Where the kernel refuses namespaces it fails and says so; nothing is skipped in silence.

use std::process::Command;

use serde_json::Value;

#[test]
fn calls_between_the_papers_three_set_ups_connect_as_the_oracle_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_cooee"))
        .args(["--json", "lab", "matrix", "--short", "--talk", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}\n{said}");
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["pairs"], &summary["connected"]), (&6.into(), &6.into()), "{said}");
    assert_eq!((&summary["direct"], &summary["tcp"]), (&3.into(), &3.into()), "{said}");
}
