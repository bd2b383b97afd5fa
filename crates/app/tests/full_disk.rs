//! Disks without room: a profile and a login server on a file system of a few megabytes that the
//! test makes in a namespace of its own, fills, and empties again.

mod support;

use std::process::Command;

use cooee_lab::deployment::UserOptions;
use support::{COOEE, network};

/// Runs a shell script with a tiny file system at `$D`; what it printed.
fn with_tiny_disk(
    kib: u32,
    folder: &std::path::Path,
    more: &[(&str, &str)],
    script: &str,
) -> String {
    let prelude = "set -eu; mkdir -p \"$D\"; mount -t tmpfs -o size=${KIB}k tmpfs \"$D\"
        fill() { dd if=/dev/zero of=\"$D/filler\" bs=4k 2>/dev/null || true; }
        fails() {
            if \"$@\" >\"$OUT\" 2>&1; then echo \"it worked: $*\"; exit 9; fi
            cat \"$OUT\"
        }
        until_ok() {
            n=0
            until \"$@\"; do n=$((n+1)); [ $n -lt 100 ] || exit 8; sleep 0.1; done
        }\n";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("{prelude}{script}"))
        .env("D", folder.join("disk"))
        .env("OUT", folder.join("out"))
        .env("KIB", kib.to_string())
        .env("COOEE", COOEE)
        .env("COOEE_PASSWORD", "correct horse battery staple")
        .envs(more.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{said}\n{errors}", output.status);
    said
}

#[test]
fn a_profile_on_a_full_disk_loses_nothing_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let script = r#"
        P="--profile-dir $D/profile"
        mkdir "$D/profile"; fill
        echo "== register"; fails $COOEE register alice --invitation "$INVITATION" $P
        rm "$D/filler"
        $COOEE register alice --invitation "$INVITATION" $P
        $COOEE up $P --bind 127.0.0.1 --loopback --super-node never --microphone silence &
        NODE=$!
        until_ok sh -c "$COOEE --json status $P 2>/dev/null | grep -q '\"attached\"'"
        $COOEE message bob first $P
        fill
        echo "== message"; fails $COOEE message bob second $P
        echo "== buddy"; fails $COOEE buddies block mallory $P
        rm "$D/filler"
        $COOEE message bob third $P
        kill $NODE; wait $NODE
        echo "== kept"
        $COOEE up $P --bind 127.0.0.1 --loopback --super-node never --microphone silence &
        NODE=$!
        until_ok sh -c "$COOEE --json status $P >/dev/null 2>&1"
        $COOEE --json messages $P; kill $NODE; wait $NODE
    "#;
    let said = with_tiny_disk(768, folder.path(), &[("INVITATION", network.invitation())], script);
    let part = |name: &str| {
        let from = said.split(&format!("== {name}\n")).nth(1).unwrap_or_else(|| panic!("{said}"));
        from.split("== ").next().unwrap().to_owned()
    };
    assert!(part("register").contains("No space left"), "{said}");
    assert!(part("register").contains("free some space"), "{said}");
    assert!(part("message").contains("No space left"), "{said}");
    assert!(part("buddy").contains("No space left"), "{said}");
    let kept = part("kept");
    assert!(kept.contains("first") && kept.contains("third") && !kept.contains("second"), "{said}");
}

#[test]
fn a_login_server_on_a_full_disk_refuses_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let script = r#"
        L="--dir $D/login-server"
        $COOEE login-server init $L --listen $LISTEN --advertise $LISTEN >/dev/null
        I=$($COOEE --json login-server invite $L | sed 's/.*"invitation":"\([^"]*\)".*/\1/')
        $COOEE login-server run $L >"$D/../server.log" 2>&1 &
        SERVER=$!
        until_ok $COOEE register alice --invitation "$I" --profile-dir "$D/../alice"
        fill
        echo "== refused"; fails $COOEE register bob --invitation "$I" --profile-dir "$D/../bob"
        rm "$D/filler"
        $COOEE register bob --invitation "$I" --profile-dir "$D/../bob"
        $COOEE login alice --invitation "$I" --profile-dir "$D/../alice2"
        echo "== users"; $COOEE login-server users $L
        kill $SERVER; wait $SERVER
    "#;
    let listen = listen.to_string();
    let said = with_tiny_disk(4096, folder.path(), &[("LISTEN", &listen)], script);
    assert!(said.contains("the disk of the login server is full"), "{said}");
    let users = said.split("== users\n").nth(1).unwrap();
    assert!(users.contains("alice") && users.contains("bob"), "{said}");
}

/// What the caller hears is recorded on the tiny disk, everything else lies elsewhere.
#[test]
fn a_call_goes_on_when_its_recording_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let options = UserOptions {
        microphone: Some("tone:440".into()),
        answers: true,
        ..UserOptions::default()
    };
    let _bob = network.user("here", "bob", options).unwrap();
    let script = r#"
        P="--profile-dir $D/../alice"
        $COOEE register alice --invitation "$INVITATION" $P
        $COOEE up $P --bind 127.0.0.1 --loopback --super-node never --microphone silence &
        NODE=$!
        until_ok sh -c "$COOEE --json status $P 2>/dev/null | grep -q '\"attached\"'"
        $COOEE --json call bob --for 8 --speaker "wav:$D/ear.wav" $P >"$D/../events" &
        CALL=$!
        until_ok test -s "$D/ear.wav.json"
        fill
        echo "== events"; wait $CALL && echo "the call was whole"
        cat "$D/../events"
        kill $NODE; wait $NODE
        echo "== kept"; stat -c %s "$D/ear.wav"
    "#;
    let said = with_tiny_disk(1024, folder.path(), &[("INVITATION", network.invitation())], script);
    assert!(said.contains("the call was whole"), "{said}");
    let (before, after) = said.split_once("recording_failed").unwrap_or_else(|| panic!("{said}"));
    assert!(after.contains("the disk full"), "{said}");
    assert!(before.contains("\"answered_unix_ms\"") || after.contains("hung_up"), "{said}");
    // Sound still came after the recording had ended.
    let later = after.matches("\"statistics\"").count();
    assert!(later >= 2, "{later} statistics after the recording failed: {said}");
    let kept: u64 = said.split("== kept\n").nth(1).unwrap().trim().parse().unwrap();
    assert!(kept > 44, "what was recorded is kept");
}
