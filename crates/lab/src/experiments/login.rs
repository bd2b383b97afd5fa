//! Table I: how long a login takes and what it costs, in the three set-ups, on a device that was
//! never online (cold) and on one that was (warm); with the login server's address blocked; and
//! with a wrong password.
//!
//! Cold is `cooee login` (password, certificate) and then `cooee up` until attached; warm is
//! `cooee up` alone, with the host cache of the first time. Times are the program's own; bytes
//! are IP packets on the user's interface, both ways, until then.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Bench, median, ms, number, spread,
    stage::{HOME, Plan, SETUPS, Setup, Stage, block, last_line, play, said, unblock},
};
use crate::{
    capture::{
        Capture, Flow, Packet,
        flows::{Count, flows, totals},
    },
    deployment::{PASSWORD, UserOptions},
    report::{Section, Table, Target},
};

/// What the paper measured (Table I), and the longest time that we want.
const PAPER: [(&str, &str, f64); 3] =
    [("3 to 7 s", "10 kB", 1000.0), ("3 to 7 s", "11 kB", 1000.0), ("35 s", "7 kB", 2000.0)];

/// Most bytes that a login may take.
const BYTES_MAX: f64 = 10_000.0;

/// The figures of one set-up's runs.
#[derive(Debug, Default)]
struct Runs {
    cold_ms: Vec<f64>,
    account_ms: Vec<f64>,
    warm_ms: Vec<f64>,
    bytes: Vec<f64>,
    warm_bytes: Vec<f64>,
    /// What the first cold login exchanged with whom.
    parts: Vec<Flow>,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let users = SETUPS.iter().map(|setup| (host(setup), setup.caller));
    play(bench, "login", &Plan::of(users), |stage| {
        let mut section = Section::new(
            "login",
            "Login (Table I)",
            "Cold: `cooee login` on a device that was never online (password, certificate), then \
             `cooee up` until it is attached. Warm: `cooee up` alone, another time. Bytes: IP \
             packets on the user's interface, both ways, until then. Median (lowest to highest).",
        );
        let mut table = Table::new(
            "Time and bytes",
            &["set-up", "paper", "cold, ms", "of it account", "warm, ms", "bytes, cold", "warm"],
        );
        let mut parts = Table::new(
            "The first cold login by part",
            &["set-up", "with", "over", "packets", "payload bytes", "IP bytes"],
        );
        for (setup, paper) in SETUPS.iter().zip(PAPER) {
            let runs = measure(stage, setup)?;
            for part in &runs.parts {
                let both =
                    |of: fn(&Count) -> usize| number((of(&part.sent) + of(&part.received)) as f64);
                parts.row([
                    setup.name.to_owned(),
                    part.peer.clone(),
                    part.transport.name().to_owned(),
                    both(|count| count.packets),
                    both(|count| count.payload),
                    both(|count| count.bytes),
                ]);
            }
            let row = [&runs.cold_ms, &runs.account_ms, &runs.warm_ms, &runs.bytes];
            let cells = row.into_iter().chain([&runs.warm_bytes]).map(|values| spread(values));
            let head = [setup.name.to_owned(), format!("{}, {}", paper.0, paper.1)];
            table.row(head.into_iter().chain(cells));
            judge(&mut section, setup, paper, &runs);
        }
        section.tables.push(table);
        section.tables.push(parts);
        section.tables.push(blocked(stage)?);
        section.tables.push(wrong_password(stage)?);
        section.lines_only = true;
        Ok(section)
    })
}

/// The host of a set-up's only user.
fn host(setup: &Setup) -> &'static str {
    match setup.name {
        "public" => "u0",
        "port-restricted" => "u1",
        _ => "u2",
    }
}

fn measure(stage: &Stage<'_>, setup: &Setup) -> Result<Runs> {
    let mut runs = Runs::default();
    for run in 0..stage.bench.runs {
        let (host, name) = (host(setup), format!("{}-{run}", host(setup)));
        stage.account(&name)?;
        let options = UserOptions { device: Some("second".to_owned()), ..UserOptions::default() };
        let capture = Capture::start(stage.network, host)?;
        let mut user = stage.deployment.user(host, &name, options.clone())?;
        let packets = capture.packets();
        runs.bytes.push(bytes(&packets));
        if run == 0 {
            runs.parts = flows(&packets, &stage.names);
        }
        let account_ms = figure(user.registered(), "took_ms")?;
        runs.account_ms.push(account_ms);
        runs.cold_ms.push(account_ms + figure(user.attached(), "login_ms")?);
        // A day passes: the node stores its host cache when it ends.
        user.node().end()?;
        let capture = Capture::start(stage.network, host)?;
        user.restart(&options)?;
        runs.warm_bytes.push(bytes(&capture.packets()));
        runs.warm_ms.push(figure(user.attached(), "login_ms")?);
        user.node().end()?;
        stage.bench.tell(&format!("{}: run {} of {}", setup.name, run + 1, stage.bench.runs));
    }
    Ok(runs)
}

/// IP packets of both directions.
fn bytes(packets: &[Packet]) -> f64 {
    let [sent, received] = totals(packets);
    (sent.bytes + received.bytes) as f64
}

fn judge(section: &mut Section, setup: &Setup, paper: (&str, &str, f64), runs: &Runs) {
    let (cold, warm) = (median(&runs.cold_ms), median(&runs.warm_ms));
    let (bytes, warm_bytes) = (median(&runs.bytes), median(&runs.warm_bytes));
    let is_fast = cold.max(warm) <= paper.2;
    let is_small = bytes <= BYTES_MAX;
    section.lines.push(json!({
        "setup": setup.name, "cold_ms": cold.round(), "warm_ms": warm.round(),
        "bytes": bytes.round(), "ok": is_fast && is_small, "warm_bytes": warm_bytes.round(),
        "account_ms": median(&runs.account_ms).round(), "runs": runs.cold_ms.len(),
        "parts": runs.parts,
        "cold_ms_runs": runs.cold_ms, "warm_ms_runs": runs.warm_ms, "bytes_runs": runs.bytes,
    }));
    section.targets.push(Target::new(
        &format!("login time, {}", setup.name),
        paper.0,
        &format!("below {} s", paper.2 / 1000.0),
        format!("{} ms cold, {} ms warm", number(cold), number(warm)),
        is_fast,
    ));
    section.targets.push(Target::new(
        &format!("login bytes, {}", setup.name),
        paper.1,
        "at most 10 kB",
        format!("{} cold, {} warm", number(bytes), number(warm_bytes)),
        is_small,
    ));
}

fn figure(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("the program prints {key}"))
}

/// The paper blocked the login server's address (section IV.B.1): Skype came in through super
/// nodes.
fn blocked(stage: &Stage<'_>) -> Result<Table> {
    let mut table = Table::new(
        "The login server's address blocked (packets to it vanish)",
        &["set-up", "paper", "outcome", "ms", "bytes", "by way of"],
    );
    let address = stage.network.ipv4("login").context("the login server has an address")?;
    for setup in &SETUPS {
        let user = format!("{}-blocked", host(setup));
        stage.account(&user)?;
        block(stage.network, host(setup), &format!("ip daddr {address}"))?;
        let capture = Capture::start(stage.network, host(setup))?;
        let begin = Instant::now();
        let output = stage.login(host(setup), &user, "second", PASSWORD)?;
        let took_ms = ms(begin.elapsed());
        let line = last_line(&output).unwrap_or_default();
        let outcome = if output.status.success() { "logged in".to_owned() } else { said(&output) };
        unblock(stage.network, host(setup))?;
        let [sent, received] = totals(&capture.packets());
        let way = line["through"].as_str().map_or("-".to_owned(), |ip| format!("super node {ip}"));
        let bytes = number((sent.bytes + received.bytes) as f64);
        let cells = ["logged in".to_owned(), outcome, number(took_ms), bytes, way];
        table.row([setup.name.to_owned()].into_iter().chain(cells));
    }
    stage.bench.tell("logins with the login server blocked");
    Ok(table)
}

/// The paper's message (4) then had 18 bytes instead of 217 and more.
fn wrong_password(stage: &Stage<'_>) -> Result<Table> {
    let mut table = Table::new(
        "A wrong password, and the right one, at the login server (`cooee login` alone)",
        &["set-up", "password", "outcome", "exit code", "ms", "messages", "payload bytes"],
    );
    for setup in &SETUPS {
        let user = format!("{}-wrong", host(setup));
        stage.account(&user)?;
        for (device, word, password) in
            [("wrong", "wrong", "incorrect horse"), ("right", "right", PASSWORD)]
        {
            let capture = Capture::start(stage.network, host(setup))?;
            let begin = Instant::now();
            let output = stage.login(host(setup), &user, device, password)?;
            let took_ms = ms(begin.elapsed());
            let [sent, received] = totals(&capture.packets());
            let outcome =
                if output.status.success() { "logged in".to_owned() } else { said(&output) };
            table.row([
                setup.name.to_owned(),
                word.to_owned(),
                outcome,
                output.status.code().map_or("-".to_owned(), |code| code.to_string()),
                number(took_ms),
                format!("{} out, {} in", sent.messages, received.messages),
                format!(
                    "{} out, {} in",
                    number(sent.payload as f64),
                    number(received.payload as f64)
                ),
            ]);
        }
    }
    stage.bench.tell(&format!("logins with a wrong password; accounts made at {HOME}"));
    Ok(table)
}
