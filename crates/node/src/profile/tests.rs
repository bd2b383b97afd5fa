//! Profiles on disk: made, opened again, locked, damaged.

use std::time::Duration;

use cooee_proto::{attachment::PortKind, clock::UnixTime, host_cache::HostCache};
use proptest::prelude::*;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000_000);

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn two_nodes_on_one_profile_is_an_error_that_says_what_to_do() {
    let directory = directory();
    let first = Profile::open(directory.path()).unwrap();
    let error = Profile::open(directory.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains("--profile-dir"), "{text}");
    drop(first);
    Profile::open(directory.path()).unwrap();
}

#[test]
fn key_and_port_are_drawn_once_and_the_key_is_private() {
    let directory = directory();
    let path = directory.path().join("deeper").join("profile");
    let (key, port) = {
        let profile = Profile::open(&path).unwrap();
        (profile.device_key().unwrap().node_id(), profile.port().unwrap())
    };
    let profile = Profile::open(&path).unwrap();
    assert_eq!(profile.device_key().unwrap().node_id(), key);
    assert_eq!(profile.port().unwrap(), port);
    assert!(PORTS.contains(&port));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = profile.path("device.key");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        profile.device_key().unwrap();
        assert_eq!(mode(&file), 0o600);
    }
}

#[test]
fn a_damaged_key_is_an_error_and_is_not_overwritten() {
    let directory = directory();
    let profile = Profile::open(directory.path()).unwrap();
    fs::write(profile.path("device.key"), "not a key").unwrap();
    assert!(matches!(profile.device_key(), Err(ProfileError::Damaged { .. })));
    assert_eq!(fs::read_to_string(profile.path("device.key")).unwrap(), "not a key");
}

#[test]
fn the_profile_is_where_the_environment_says() {
    let directory = |variables: &[(&str, &str)]| {
        Profile::default_directory("default", |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(directory(&[("COOEE_PROFILE_DIR", "/p"), ("HOME", "/h")]), Some("/p".into()));
    assert_eq!(directory(&[("XDG_DATA_HOME", "/x")]), Some("/x/cooee/default".into()));
    assert_eq!(directory(&[("HOME", "/h")]), Some("/h/.local/share/cooee/default".into()));
    assert_eq!(directory(&[]), None);
}

fn filled_cache() -> HostCache {
    let mut cache = HostCache::new([]);
    for n in 0..50 {
        let address = format!("192.0.{n}.1:4000").parse().unwrap();
        cache.handle_success(address, Duration::from_millis(n), NOW);
        cache.handle_uptime(address, Duration::from_secs(n * 100));
    }
    cache
}

#[test]
fn the_host_cache_comes_back_with_what_was_learnt_of_the_nat() {
    let directory = directory();
    let file = Profile::open(directory.path()).unwrap().host_cache_file();
    let cache = filled_cache();
    let entries: Vec<_> = cache.entries().cloned().collect();
    let nat = Some(serde_json::json!({"mapping": "endpoint-independent"}));
    file.store(&entries, PortKind::Https, nat.clone()).unwrap();
    let restored = file.restore([], NOW);
    let expected = Restored { host_cache: cache, port_kind: PortKind::Https, nat, notice: None };
    assert_eq!(restored, expected);
}

#[test]
fn without_a_file_the_bootstrap_entries_are_all() {
    let directory = directory();
    let file = Profile::open(directory.path()).unwrap().host_cache_file();
    let bootstrap = "192.0.2.1:4000".parse().unwrap();
    let restored = file.restore([bootstrap], NOW);
    assert_eq!(restored.host_cache.bootstrap().collect::<Vec<_>>(), [bootstrap]);
    assert_eq!(restored.notice, None);
}

#[test]
fn a_write_that_fails_leaves_the_old_file() {
    let directory = directory();
    let path = directory.path().join("file");
    write_atomically(&path, b"old", false).unwrap();
    // A directory in the place of the new file cannot be removed or written.
    fs::create_dir(directory.path().join(".file.new")).unwrap();
    assert!(write_atomically(&path, b"new", false).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_host_cache_is_told_and_started_over(
        cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let directory = directory();
        let file = Profile::open(directory.path()).unwrap().host_cache_file();
        let path = directory.path().join("host-cache.json");
        let entries: Vec<_> = filled_cache().entries().cloned().collect();
        file.store(&entries, PortKind::Own, None).unwrap();
        let whole = fs::read(&path).unwrap();

        fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
        let restored = file.restore(["192.0.2.1:4000".parse().unwrap()], NOW);
        prop_assert!(restored.notice.is_some());
        prop_assert!(restored.host_cache.is_empty());
        prop_assert!(path.with_extension("json.damaged").exists());

        let mut flipped = whole.clone();
        let place = flip.index(flipped.len());
        flipped[place] ^= 1 << bit;
        fs::write(&path, &flipped).unwrap();
        // Still JSON or not: never a panic, never beyond the bounds.
        prop_assert!(file.restore([], NOW).host_cache.len() <= 200);
    }
}
