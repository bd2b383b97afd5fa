//! Section VI.B: the census of super nodes. A node behind a NAT logs in again and again; which
//! super node it ends up with shows how the choice spreads, and a part of who there is.
//!
//! The paper: 8,153 logins in four days, 894 super nodes, the top 20 of which took 43.8 % of the
//! connections; 42 to 103 of a day's super nodes had been seen the day before (Table IV).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cooee_sim::place::PLACES;
use serde_json::json;

use super::{
    Bench,
    stage::{Plan, Stage, play},
};
use crate::{
    deployment::UserOptions,
    report::{
        Section, Table, picture,
        plot::{Axis, Chart, Series, Style, draw},
    },
};

/// Periods, as the paper had days.
const PERIODS: usize = 4;

const HOST: &str = "u0";

/// The paper's Table IV: unique, cumulative, common with the day before.
const PAPER: [(u32, u32, &str); PERIODS] =
    [(224, 224, "-"), (371, 553, "42"), (202, 699, "98"), (246, 898, "103")];

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let super_nodes = bench.choose(6, 16);
    let each = bench.choose(5, 40);
    let mut plan = Plan::of([(HOST, &PLACES[1])]);
    plan.super_nodes = super_nodes;
    play(bench, "census", &plan, |stage| {
        let mut section = Section::new(
            "census",
            "The census of super nodes (section VI.B, Table IV)",
            "One device behind a port-restricted NAT starts, gets attached, names its super node \
             and ends, again and again: once with the host cache that it keeps, once with an empty \
             one each time. A period stands for the paper's day.",
        );
        for (with, clears) in [("with the host cache that it keeps", false), CLEARED] {
            let seen = logins(stage, clears, PERIODS * each)?;
            let ranked = ranked(&seen);
            section.tables.push(periods(&seen, each, super_nodes, with));
            section.tables.push(ranking(&ranked, seen.len(), with));
            let changes = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
            section.notes.push(format!(
                "{with}: {changes} of {} logins ended at another super node than the one before \
                 (the paper: \"does not always reconnect to the same\").",
                seen.len() - 1
            ));
            let caption = format!("Which super node each login ended up with, {with}");
            let file = if clears { "census-cleared.png" } else { "census.png" };
            picture(bench.pictures.as_ref(), &mut section, file, &caption, |path| {
                draw(&chart(&seen, &ranked, &caption), path)
            })?;
            section.lines.push(json!({
                "logins": seen.len(), "super_nodes": super_nodes, "distinct": ranked.len(),
                "top_share": ranked[0].0 as f64 / seen.len() as f64, "changes": changes,
                "host_cache": if clears { "cleared" } else { "kept" },
            }));
        }
        Ok(section)
    })
}

/// The second series: it shows how the super nodes of an invitation share the newcomers.
const CLEARED: (&str, bool) = ("with its host cache cleared before each login", true);

/// The super node that each of `count` logins ended up with.
fn logins(stage: &Stage<'_>, clears: bool, count: usize) -> Result<Vec<String>> {
    let options = UserOptions { microphone: Some("silence".to_owned()), ..UserOptions::default() };
    let mut user = stage.user(HOST, &format!("census-{clears}"), options.clone())?;
    let mut seen = Vec::new();
    for login in 0..count {
        match (login, clears) {
            (0, _) => {}
            (_, true) => user.restart_without_host_cache(&options)?,
            (_, false) => user.restart(&options)?,
        }
        let status = user.status()?;
        let address = status["super_node"].as_str().context("it is attached")?;
        let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip).parse()?;
        seen.push(stage.names.name(ip));
        if (login + 1) % 20 == 0 {
            stage.bench.tell(&format!("census: {} of {count} logins", login + 1));
        }
    }
    user.node().end()?;
    Ok(seen)
}

/// Logins of each super node, most first.
fn ranked(seen: &[String]) -> Vec<(usize, &str)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in seen {
        *counts.entry(name).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.iter().map(|(name, count)| (*count, *name)).collect();
    ranked.sort_by(|one, other| other.cmp(one));
    ranked
}

fn periods(seen: &[String], each: usize, super_nodes: usize, with: &str) -> Table {
    let mut table = Table::new(
        &format!(
            "Distinct super nodes by period, of {super_nodes} there are; {each} logins each, {with}"
        ),
        &[
            "period",
            "paper: distinct",
            "together",
            "common with the day before",
            "distinct",
            "together",
            "common with the period before",
        ],
    );
    let mut together = BTreeSet::new();
    let mut before: Option<BTreeSet<&str>> = None;
    for (index, period) in seen.chunks(each).enumerate() {
        let now: BTreeSet<_> = period.iter().map(String::as_str).collect();
        together.extend(now.iter().copied());
        let common = before
            .as_ref()
            .map_or("-".to_owned(), |old| old.intersection(&now).count().to_string());
        let (distinct, all, paper_common) = PAPER[index.min(PERIODS - 1)];
        table.row([
            (index + 1).to_string(),
            distinct.to_string(),
            all.to_string(),
            paper_common.to_owned(),
            now.len().to_string(),
            together.len().to_string(),
            common,
        ]);
        before = Some(now);
    }
    table
}

fn ranking(ranked: &[(usize, &str)], logins: usize, with: &str) -> Table {
    let mut table = Table::new(
        &format!("Who took the logins, {with} (the paper: 43.8 % went to the top 20 of 894)"),
        &["rank", "super node", "logins", "share"],
    );
    for (rank, (count, name)) in ranked.iter().enumerate() {
        let share = 100.0 * *count as f64 / logins as f64;
        let cells = [(rank + 1).to_string(), (*name).to_owned(), count.to_string()];
        table.row(cells.into_iter().chain([format!("{share:.0} %")]));
    }
    table
}

fn chart(seen: &[String], ranked: &[(usize, &str)], title: &str) -> Chart {
    let names: Vec<_> = ranked.iter().rev().map(|(_, name)| (*name).to_owned()).collect();
    let point = |(login, name): (usize, &String)| {
        let row = names.iter().position(|other| other == name).unwrap_or(0);
        (login as f64 + 1.0, row as f64)
    };
    let points = seen.iter().enumerate().map(point).collect();
    let height = 140 + 30 * u32::try_from(names.len()).unwrap_or(10);
    Chart {
        title: title.to_owned(),
        x: Axis::new("login", 0.0, seen.len() as f64 + 1.0),
        y: Axis::of_names("", names),
        series: vec![Series { name: String::new(), points, style: Style::Points }],
        height,
    }
}
