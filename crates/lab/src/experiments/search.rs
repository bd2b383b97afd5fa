//! Figures 5 to 7: search in the three set-ups; the caching experiment (section IV.C.1); and the
//! same wildcard asked on two machines.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context, Result, ensure};
use cooee_sim::place::PLACES;
use serde_json::{Value, json};

use super::{
    Bench, median, ms, number, spread,
    stage::{Plan, SETUPS, Stage, block, play, unblock},
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

/// Where the machine is that is cleared.
const AGAIN: &str = "again";

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
        (AGAIN, &PLACES[0]),
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
        let table = caching(stage, &mut section)?;
        section.tables.push(table);
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

/// User B searches for A; B's machine is cleared; B searches again, once by way of the same super
/// node, once by way of another.
fn caching(stage: &Stage<'_>, section: &mut Section) -> Result<Table> {
    let mut table = Table::new(
        "Caching: B (public) searches for A (behind a NAT without UDP), then again from cleared \
         machines",
        &["", "paper", "ms", "messages", "payload bytes", "nodes"],
    );
    let (mut first, mut same, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..stage.bench.runs {
        let (target, name) = (format!("cached{run}"), format!("bee{run}"));
        let _target = stage.user("away", &target, quiet())?;
        stage.account(&name)?;
        let (by, search) = search_from_new(stage, &name, "one", &target, &|_| true)?;
        first.push(search);
        same.push(search_from_new(stage, &name, "two", &target, &|to| to == by)?.1);
        other.push(search_from_new(stage, &name, "three", &target, &|to| to != by)?.1);
    }
    for (word, paper, searches) in [
        ("first", "10 to 11 s", &first),
        ("from a cleared machine, same super node", "3 to 4 s", &same),
        ("from a cleared machine, another super node", "", &other),
    ] {
        table.row([word.to_owned(), paper.to_owned()].into_iter().chain(cells(searches)));
    }
    section.notes.push(
        "A super node answers from its cache for 60 s: one round trip to it, without the second \
         one to those who keep the name. So do the searches above whose super node another seeker \
         had asked before."
            .to_owned(),
    );
    let times =
        |searches: &[Search]| median(&searches.iter().map(|s| s.took_ms).collect::<Vec<_>>());
    let found = [&first, &same, &other].iter().all(|s| s.iter().all(|s| s.found == 1));
    section.targets.push(Target::new(
        "the second search, by the cache on the way",
        "a third of the first",
        "at most two thirds of the first",
        format!("{} ms after {} ms", number(times(&same)), number(times(&first))),
        found && times(&same) <= times(&first) * 2.0 / 3.0,
    ));
    section.lines.push(json!({
        "caching": true, "first_ms": times(&first), "second_ms": times(&same),
        "second_by_another_ms": times(&other), "found": found,
    }));
    Ok(table)
}

/// A search from a device that was never used, where a firewall leaves those super nodes alone that
/// are `right`; says which it is attached to, too.
fn search_from_new(
    stage: &Stage<'_>,
    name: &str,
    device: &str,
    target: &str,
    right: &dyn Fn(&str) -> bool,
) -> Result<(String, Search)> {
    let servers = (1..=SUPER_NODES).filter_map(|n| stage.network.ipv4(&format!("sn{n}")));
    let wrong: Vec<_> = servers.map(|ip| ip.to_string()).filter(|ip| !right(ip)).collect();
    if !wrong.is_empty() {
        block(stage.network, AGAIN, &format!("ip daddr {{ {} }}", wrong.join(", ")))?;
    }
    let options = UserOptions { device: Some(device.to_owned()), ..quiet() };
    let mut user = stage.deployment.user(AGAIN, name, options)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let search = search(stage, &user, AGAIN, target)?;
    let status = user.status()?;
    let by = status["super_node"].as_str().context("it is attached")?;
    let by = by.rsplit_once(':').map_or(by, |(ip, _)| ip).to_owned();
    ensure!(right(&by), "{name} is attached to {by}, which the firewall blocks");
    user.node().end()?;
    if !wrong.is_empty() {
        unblock(stage.network, AGAIN)?;
    }
    Ok((by, search))
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
