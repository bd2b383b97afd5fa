//! A machine whose clock is a day wrong: every command says which way and what to do, nothing is
//! lost, and a node comes back by itself once the clock is set. The shipped program runs under
//! Debian's libfaketime, which shifts the wall clock alone.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use support::{Done, command, network, run, signal, wait_for};

/// Where Debian keeps the library, whatever the processor.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = folders.map(|at| at.path().join("faketime/libfaketimeMT.so.1"));
    let missing = "libfaketime is missing: scripts/install-dependencies test installs it";
    found.find(|path| path.exists()).expect(missing)
}

/// A command by a clock that is off by what the file says, which may change meanwhile.
fn by_clock(file: &Path, profile: &Path, arguments: &[&str]) -> Command {
    let mut command = command(profile, arguments);
    command.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", file);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

fn up(file: &Path, profile: &Path) -> Child {
    let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];
    let mut command = by_clock(file, profile, &[&up[..], &["--microphone", "silence"]].concat());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(node: Child) -> Done {
    signal(node.id(), "TERM");
    node.wait_with_output().unwrap().into()
}

#[test]
fn a_clock_wrong_by_a_day_is_named_and_setting_it_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let at = |name: &str| folder.path().join(name);
    let clock = at("clock");
    let account = |what: &str, profile: &str, off: &str| -> Done {
        fs::write(&clock, off).unwrap();
        let arguments = [what, "alice", "--invitation", network.invitation()];
        by_clock(&clock, &at(profile), &arguments).output().unwrap().into()
    };
    for (what, off, words) in [
        ("register", "-1d", "1 day behind the network's: set it and try again"),
        ("register", "+1d", "1 day ahead of the network's: set it and try again"),
        ("register", "+0", ""),
        ("login", "-1d", "1 day behind the network's: set it and try again"),
        ("login", "+1d", "1 day ahead of the network's: set it and try again"),
        ("login", "+0", ""),
    ] {
        let done = account(what, &format!("{what}-alice"), off);
        let code = if words.is_empty() { 0 } else { 4 };
        assert!(done.code == Some(code) && done.err.contains(words), "{what} {off}: {done:?}");
    }

    // Behind: its certificate, and those of others, are not valid yet.
    let profile = at("register-alice");
    fs::write(&clock, "-1d").unwrap();
    let node = up(&clock, &profile);
    let says = |what: &str| run(&profile, &["status"]).out.contains(what);
    wait_for("the reason in the status", || {
        says("the clock of this device is probably wrong, set it").then_some(())
    });
    fs::write(&clock, "+0").unwrap();
    wait_for("recovery by itself", || says("\"attached\"").then_some(()));
    let done = end(node);
    assert!(done.code == Some(0) && !done.err.contains("panicked"), "{done:?}");

    // Ahead: everything is still valid, but nothing that it signs counts.
    fs::write(&clock, "+1d").unwrap();
    let node = up(&clock, &profile);
    wait_for("attachment", || says("\"attached\"").then_some(()));
    let done = end(node);
    assert!(done.err.contains("1 day ahead of the network's: set it, or nobody"), "{done:?}");
}
