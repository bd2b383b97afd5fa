//! The laboratory in short with the built program: calls between the paper's three set-ups and the
//! cheapest of the paper's experiments,
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

#[test]
fn the_papers_cheap_experiments_write_a_report_with_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cooee"))
        .args(["--json", "lab", "paper", "--quick", "--only", "messages", "--only", "census"])
        .args(["--delay-ms", "5", "--report"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}\n{said}");
    let lines: Vec<Value> =
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let logins: Vec<_> = lines.iter().filter(|line| line["attached_s"].is_number()).collect();
    assert_eq!(logins.len(), 2, "{said}");
    for login in logins {
        // A handshake and a greeting with one super node at least, a spare at most.
        let messages = login["received"]["messages"].as_u64().unwrap();
        assert!((3..200).contains(&messages), "{login}");
    }
    for (host_cache, distinct) in [("kept", 1..=6), ("cleared", 2..=6)] {
        let of = |line: &&Value| line["logins"].is_u64() && line["host_cache"] == host_cache;
        let census = lines.iter().find(of).unwrap();
        assert_eq!(census["logins"], 20, "{census}");
        assert!(distinct.contains(&census["distinct"].as_u64().unwrap()), "{census}");
    }
    let summary = lines.last().unwrap();
    assert_eq!((&summary["experiments"], &summary["failed"]), (&2.into(), &Value::Array(vec![])));
    let report = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    for picture in ["messages-warm.png", "census.png"] {
        assert!(report.contains(picture) && folder.path().join(picture).exists(), "{picture}");
    }
}

#[test]
fn an_unknown_experiment_is_answered_with_those_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_cooee"))
        .args(["lab", "paper", "--only", "seance"])
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in ["seance", "login", "census"] {
        assert!(problem.contains(word), "{problem}");
    }
}

#[test]
fn a_call_survives_a_restarted_nat_and_a_blocked_udp() {
    let output = Command::new(env!("CARGO_BIN_EXE_cooee"))
        .args(["--json", "lab", "mobility", "--faults", "nat-rebinding,udp-blocked"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = |fault: &str| {
        let row = rows.iter().find(|row| row["fault"] == fault);
        row.unwrap_or_else(|| panic!("no row {fault}: {said}{problem}"))
    };
    // Back to the direct path is a matter of time, and a loaded machine has little. TLS is not:
    // there is no other way.
    let any = ["direct", "relayed"];
    for (fault, after) in
        [("nat-rebinding", &any[..]), ("udp-blocked", &["relayed T"]), ("udp-unblocked", &any)]
    {
        let row = row(fault);
        assert!(row["problem"].is_null(), "{row}");
        // The limit for a quiet machine is a second.
        assert!(row["gap_ms"].as_u64().unwrap() < 2_500, "{row}");
        let path = row["path_after"].as_str().unwrap();
        assert!(after.iter().any(|kind| path.starts_with(kind)), "{row}");
    }
}
