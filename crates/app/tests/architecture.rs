//! Guards the architecture: dependency directions, purity, file sizes and file headers.
//!
//! What clippy's disallowed lists catch by path, this test catches by text, so that `use … as …`
//! or a macro cannot slip past either of them unnoticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Own lines of code in one file, tests at its end not counted.
const FILE_LINES_MAX: usize = 500;

/// Columns of one line.
const COLUMNS_MAX: usize = 100;

/// Which workspace crates each crate may use.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("cooee-proto", &[]),
    ("cooee-media", &[]),
    ("cooee-node", &["cooee-proto", "cooee-media"]),
    ("cooee-sim", &["cooee-proto", "cooee-media"]),
    ("cooee-lab", &["cooee-sim"]),
    ("cooee", &["cooee-node", "cooee-sim", "cooee-lab"]),
];

const PURE: [&str; 2] = ["cooee-proto", "cooee-media"];

/// What a pure crate may never pull in, however indirectly.
const SHELL_LIBRARIES: [&str; 5] = ["tokio", "mio", "socket2", "async-std", "smol"];

/// Words that give away a clock, socket, file, environment or OS randomness in pure code.
const IMPURE_WORDS: [&str; 14] = [
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "std::env",
    "std::fs",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "thread_rng",
    "OsRng",
    "getrandom",
    "from_entropy",
    "HashMap",
    "HashSet",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("workspace exists")
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![below.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder is readable") {
            let path = entry.expect("entry is readable").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The lines above the file's unit tests.
fn own_code(text: &str) -> &str {
    text.find("\n#[cfg(test)]\n").map_or(text, |tests| &text[..tests])
}

/// Unit tests in files of their own: `tests.rs` and what is below `tests/`.
fn is_unit_test(file: &Path) -> bool {
    file.ends_with("tests.rs") || file.iter().any(|part| part == "tests")
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Package id → (name, ids of its normal and build dependencies' normal graph).
fn normal_graph(metadata: &serde_json::Value) -> BTreeMap<String, (String, Vec<String>)> {
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| (p["id"].as_str().expect("id"), p["name"].as_str().expect("name")))
        .collect();
    let mut graph = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let id = node["id"].as_str().expect("id");
        let uses = node["deps"]
            .as_array()
            .expect("deps")
            .iter()
            .filter(|dep| {
                dep["dep_kinds"].as_array().expect("kinds").iter().any(|k| k["kind"].is_null())
            })
            .map(|dep| dep["pkg"].as_str().expect("pkg").to_owned())
            .collect();
        graph.insert(id.to_owned(), (names[id].to_owned(), uses));
    }
    graph
}

#[test]
fn crates_depend_only_downwards() {
    let metadata = metadata();
    let graph = normal_graph(&metadata);
    for (name, uses) in graph.values() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| crate_name == name) else {
            continue;
        };
        for used in uses.iter().map(|id| graph[id].0.as_str()) {
            if ALLOWED.iter().any(|(ours, _)| *ours == used) {
                assert!(allowed.contains(&used), "{name} must not use {used}");
            }
        }
    }
}

#[test]
fn pure_crates_never_pull_in_a_runtime_or_sockets() {
    let graph = normal_graph(&metadata());
    for pure in PURE {
        let start = graph
            .iter()
            .find(|(_, (name, _))| name == pure)
            .map(|(id, _)| id.clone())
            .expect("pure crate is in the workspace");
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(id) = open.pop() {
            let (name, uses) = &graph[&id];
            assert!(!SHELL_LIBRARIES.contains(&name.as_str()), "{pure} pulls in {name}");
            if seen.insert(id.clone()) {
                open.extend(uses.iter().cloned());
            }
        }
    }
}

#[test]
fn pure_code_reads_no_clock_socket_file_environment_or_randomness() {
    let mut found = Vec::new();
    for pure in ["proto", "media"] {
        for file in rust_files(&root().join("crates").join(pure).join("src")) {
            if is_unit_test(&file) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("source is readable");
            for (number, line) in own_code(&text).lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for word in IMPURE_WORDS.iter().filter(|word| code.contains(*word)) {
                    found.push(format!("{}:{}: {word}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "impure words in pure code:\n{}", found.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut found = Vec::new();
    for file in rust_files(&root().join("crates")) {
        let text = fs::read_to_string(&file).expect("source is readable");
        let lines = own_code(&text).lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} own lines, at most {FILE_LINES_MAX}", file.display()));
        }
        if !text.starts_with("//!") {
            found.push(format!("{}: does not open with //!", file.display()));
        }
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                found.push(format!("{}:{}: {columns} columns", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_where_nothing_needs_it() {
    for (folder, main) in [("proto", "lib.rs"), ("sim", "lib.rs"), ("app", "main.rs")] {
        let path = root().join("crates").join(folder).join("src").join(main);
        let text = fs::read_to_string(path).expect("source is readable");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{folder} must forbid unsafe code");
    }
}
