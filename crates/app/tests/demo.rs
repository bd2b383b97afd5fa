//! The demo, as a newcomer runs it: a whole network in real processes, one call, measured.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_connects_two_people_and_measures_what_they_hear() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cooee"))
        .args(["--json", "demo", "--talk", "8", "--keep"])
        .arg(folder.path())
        .output()
        .expect("cooee runs");
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problems}");
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["ok"], true, "{report}");
    for field in ["login_ms", "login_bytes", "ring_ms", "setup_ms", "bytes_per_s", "rss_mib"] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
    for field in ["mouth_to_ear_ms_mean", "mouth_to_ear_ms_sd"] {
        assert!(report[field].as_f64().is_some_and(|value| value >= 0.0), "{field}: {report}");
    }
    assert_eq!(report["path"], "direct UDP", "two users on one machine need no relay");
    assert!(report["cipher"].as_str().is_some_and(|cipher| cipher.contains("AES_256_GCM")));
    assert_eq!(report["codec"], "opus");
    assert!(report["login_bytes"].as_u64().is_some_and(|bytes| bytes <= 10_000), "paper: 10 kB");
    for file in ["alice-to-bob.wav", "alice-to-bob.png", "bob-to-alice.wav", "bob-to-alice.png"] {
        let length = folder.path().join(file).metadata().map_or(0, |file| file.len());
        assert!(length > 10_000, "{file} has {length} bytes");
    }
}
