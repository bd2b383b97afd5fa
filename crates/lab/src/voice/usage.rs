//! Processor time and memory of a program and everything that it started.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

/// What a program used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time so far, in seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory, in MiB: pages that several of its processes share count once.
    pub(crate) rss_mib: f64,
}

/// Usage of the process `pid` and its descendants.
pub(crate) fn of_tree(pid: u32) -> Result<Usage> {
    let parents = parents()?;
    let mut members = vec![pid];
    let mut at = 0;
    while let Some(&member) = members.get(at) {
        members.extend(parents.iter().filter(|(_, parent)| **parent == member).map(|(p, _)| p));
        at += 1;
    }
    let several = members.len() > 1;
    let mut usage = Usage::default();
    for (index, member) in members.into_iter().enumerate() {
        match of(member, several) {
            Ok(one) => {
                usage.cpu_s += one.cpu_s;
                usage.rss_mib += one.rss_mib;
            }
            // A descendant may end while we look; the program itself may not.
            Err(error) if index == 0 => return Err(error),
            Err(_) => {}
        }
    }
    Ok(usage)
}

fn of(pid: u32, share_pages: bool) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("process has ended")?;
    let ticks = |field: usize| field_after_name(&stat, field)?.parse::<f64>().ok();
    // utime and stime of proc(5), and what reaped children used.
    let total: f64 = (14..=17).filter_map(ticks).sum();
    #[allow(clippy::cast_precision_loss)]
    let cpu_s = total / rustix::param::clock_ticks_per_second() as f64;
    let (file, key) = if share_pages { ("smaps_rollup", "Pss:") } else { ("status", "VmRSS:") };
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    let kib: f64 = line.split_whitespace().next().unwrap_or("0").parse()?;
    Ok(Usage { cpu_s, rss_mib: kib / 1_024.0 })
}

/// A field of `/proc/PID/stat` by its number in proc(5); those after the name in parentheses.
fn field_after_name(stat: &str, field: usize) -> Option<&str> {
    stat.rsplit(')').next()?.split_whitespace().nth(field.checked_sub(3)?)
}

/// Every process and its parent.
fn parents() -> Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = field_after_name(&stat, 4).and_then(|parent| parent.parse().ok()) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_counts_with_its_parent() {
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 30";
        let mut child = std::process::Command::new("sh").args(["-c", busy]).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let used = || of_tree(std::process::id()).unwrap().cpu_s;
        let alone = of(std::process::id(), false).unwrap().cpu_s;
        while used() < alone + 0.05 {
            assert!(std::time::Instant::now() < deadline, "the child's time is not counted");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
