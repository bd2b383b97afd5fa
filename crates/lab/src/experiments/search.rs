//! Figures 5 to 7: search in the three set-ups; the caching experiment (section IV.C.1); and the
//! same wildcard asked on two machines.

use std::{collections::BTreeSet, time::Instant};

use anyhow::Result;
use cooee_sim::place::PLACES;
use serde_json::{Value, json};

use super::{
    Bench, median, ms, number, spread,
    stage::{Plan, SETUPS, Stage, play},
};
use crate::{
    capture::{Capture, flows::totals},
    deployment::{User, UserOptions},
    report::{Section, Table, Target},
};

/// What the paper measured: time and nodes contacted.
const PAPER: [(&str, &str); 3] =
    [("3 to 4 s", "more than 24"), ("5 to 6 s", "its super node, 4 more"), ("10 to 15 s", "1")];

/// Super nodes: enough that most names are kept elsewhere.
const SUPER_NODES: usize = 8;

/// Longest time that we want for somebody who is there, in ms (chosen: four round trips of 100 ms,
/// and the program's start).
const SEARCH_MS_MAX: f64 = 500.0;

/// One search.
struct Search {
    took_ms: f64,
    found: usize,
    bytes: f64,
    messages: f64,
    nodes: usize,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let mut plan = Plan::of([
        ("u0", SETUPS[0].caller),
        ("u1", SETUPS[1].caller),
        ("u2", SETUPS[2].caller),
        ("away", &PLACES[2]),
        ("again", &PLACES[0]),
    ]);
    plan.super_nodes = SUPER_NODES;
    play(bench, "search", &plan, |stage| {
        let mut section = Section::new(
            "search",
            "User search (Figures 5 to 7)",
            "`cooee search NAME` from each set-up, the program's start included; eight super \
             nodes; who is searched for is online behind a NAT without UDP, another user each \
             time. Bytes are payload on the searcher's interface, both ways; median (lowest to \
             highest). Nodes are those that the searcher sends to.",
        );
        let mut targets = Vec::new();
        for run in 0..bench.runs {
            targets.push(stage.user("away", &format!("target{run}"), quiet())?);
        }
        let mut table = Table::new(
            "Search for somebody who is there",
            &["set-up", "paper", "paper: nodes", "ms", "messages", "payload bytes", "nodes"],
        );
        let mut missing = Table::new(
            "Search for a name that nobody has (the paper: always asked the login server)",
            &["set-up", "ms", "messages", "payload bytes", "nodes"],
        );
        for (index, setup) in SETUPS.iter().enumerate() {
            let host = format!("u{index}");
            let user = stage.user(&host, &format!("seeker{index}"), quiet())?;
            // The login is over; what follows is search alone.
            std::thread::sleep(std::time::Duration::from_secs(2));
            let found = (0..bench.runs)
                .map(|run| search(stage, &user, &host, &format!("target{run}")))
                .collect::<Result<Vec<_>>>()?;
            let none = (0..bench.runs)
                .map(|run| search(stage, &user, &host, &format!("nobody{index}{run}")))
                .collect::<Result<Vec<_>>>()?;
            let paper = [setup.name, PAPER[index].0, PAPER[index].1].map(str::to_owned);
            table.row(paper.into_iter().chain(cells(&found)));
            missing.row([setup.name.to_owned()].into_iter().chain(cells(&none)));
            let times: Vec<_> = found.iter().map(|search| search.took_ms).collect();
            let all_found = found.iter().all(|search| search.found == 1);
            section.targets.push(Target::new(
                &format!("search, {}", setup.name),
                PAPER[index].0,
                "below 500 ms, found each time",
                format!("{} ms", number(median(&times))),
                all_found && median(&times) <= SEARCH_MS_MAX,
            ));
            section.lines.push(json!({
                "setup": setup.name, "ms": median(&times), "found": all_found,
                "bytes": median(&found.iter().map(|s| s.bytes).collect::<Vec<_>>()),
                "messages": median(&found.iter().map(|s| s.messages).collect::<Vec<_>>()),
                "nodes": found.iter().map(|s| s.nodes).max(), "runs": found.len(),
                "nobody_ms": median(&none.iter().map(|s| s.took_ms).collect::<Vec<_>>()),
            }));
        }
        section.tables.extend([table, missing]);
        section.tables.push(caching(stage, &mut section.lines)?);
        section.tables.push(wildcard(stage)?);
        Ok(section)
    })
}

fn quiet() -> UserOptions {
    UserOptions { microphone: Some("silence".to_owned()), ..UserOptions::default() }
}

fn search(stage: &Stage<'_>, user: &User<'_>, host: &str, name: &str) -> Result<Search> {
    let capture = Capture::start(stage.network, host)?;
    let begin = Instant::now();
    let found = lines(stage, user, host, name)?;
    let took_ms = ms(begin.elapsed());
    let packets = capture.packets();
    let [sent, received] = totals(&packets);
    let asked = packets.iter().filter(|packet| packet.outgoing && packet.payload > 0);
    let nodes: BTreeSet<_> = asked.map(|packet| packet.to.ip()).collect();
    Ok(Search {
        took_ms,
        found: found.iter().filter(|line| line["user"] == name).count(),
        bytes: (sent.payload + received.payload) as f64,
        messages: (sent.messages + received.messages) as f64,
        nodes: nodes.len(),
    })
}

fn lines(stage: &Stage<'_>, user: &User<'_>, host: &str, query: &str) -> Result<Vec<Value>> {
    let arguments = ["search", query, "--profile-dir", user.profile()];
    let output = stage.deployment.attempt(host, &arguments, &[])?;
    anyhow::ensure!(output.status.success(), "search: {}", super::stage::said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn cells(searches: &[Search]) -> [String; 4] {
    let of = |value: fn(&Search) -> f64| searches.iter().map(value).collect::<Vec<_>>();
    [
        spread(&of(|search| search.took_ms)),
        spread(&of(|search| search.messages)),
        spread(&of(|search| search.bytes)),
        spread(&of(|search| search.nodes as f64)),
    ]
}

/// User B searches for A; B's machine is cleared; B searches again.
fn caching(stage: &Stage<'_>, lines: &mut Vec<Value>) -> Result<Table> {
    let mut table = Table::new(
        "Caching: B (public) searches for A (behind a NAT without UDP), then again from a cleared \
         machine",
        &["", "paper", "ms", "messages", "payload bytes", "nodes"],
    );
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for run in 0..stage.bench.runs {
        let (target, name) = (format!("cached{run}"), format!("bee{run}"));
        let _target = stage.user("away", &target, quiet())?;
        for (device, searches) in [("one", &mut first), ("two", &mut second)] {
            if device == "one" {
                stage.account(&name)?;
            }
            let options = UserOptions { device: Some(device.to_owned()), ..quiet() };
            let mut user = stage.deployment.user("again", &name, options)?;
            std::thread::sleep(std::time::Duration::from_secs(1));
            searches.push(search(stage, &user, "again", &target)?);
            user.node().end()?;
        }
    }
    for (word, paper, searches) in
        [("first", "10 to 11 s", &first), ("from the cleared machine", "3 to 4 s", &second)]
    {
        table.row([word.to_owned(), paper.to_owned()].into_iter().chain(cells(searches)));
    }
    let times =
        |searches: &[Search]| median(&searches.iter().map(|s| s.took_ms).collect::<Vec<_>>());
    lines.push(json!({ "caching": true, "first_ms": times(&first), "second_ms": times(&second) }));
    Ok(table)
}

/// The paper: the results of two machines were never completely identical.
fn wildcard(stage: &Stage<'_>) -> Result<Table> {
    let mut table = Table::new(
        "The wildcard `target*` asked on two machines (the paper: never identical)",
        &["machine", "found", "identical"],
    );
    let mut found = Vec::new();
    for (host, name) in [("u0", "wild0"), ("u1", "wild1")] {
        let user = stage.user(host, name, quiet())?;
        let users: BTreeSet<_> = lines(stage, &user, host, "target*")?
            .iter()
            .filter_map(|line| line["user"].as_str().map(str::to_owned))
            .collect();
        found.push((name, users));
    }
    let same = if found[0].1 == found[1].1 { "yes" } else { "no" };
    for (name, users) in &found {
        table.row([(*name).to_owned(), users.len().to_string(), same.to_owned()]);
    }
    Ok(table)
}
