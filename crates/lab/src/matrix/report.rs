//! The matrix in figures.

use cooee_sim::place::Outcome;
use serde::Serialize;

use super::Cell;

/// All cells in one line.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Every pair connected, and as well as the oracle says.
    pub ok: bool,
    /// Calls placed.
    pub pairs: usize,
    /// Calls in which both sides received voice.
    pub connected: usize,
    /// Pairs that the oracle wants direct.
    pub direct_expected: usize,
    /// Calls that went from one to the other by UDP.
    pub direct: usize,
    /// Calls over a relay by UDP.
    pub relayed_udp: usize,
    /// Calls over a relay with TCP on at least one side.
    pub tcp: usize,
    /// The simulator's NAT models came to the same outcomes, cell by cell.
    pub sim_agrees: bool,
    /// Dialling to voice path, median.
    pub setup_ms_median: Option<f64>,
    /// Dialling to voice path, 95 % of the calls below.
    pub setup_ms_p95: Option<f64>,
}

/// Sums the cells up.
pub fn summarise(cells: &[Cell]) -> Summary {
    let with = |outcome| cells.iter().filter(|cell| cell.outcome == Some(outcome)).count();
    let mut setups: Vec<_> = cells.iter().filter_map(|cell| cell.setup_ms).collect();
    setups.sort_by(f64::total_cmp);
    Summary {
        ok: !cells.is_empty() && cells.iter().all(Cell::is_as_expected),
        pairs: cells.len(),
        connected: cells.iter().filter(|cell| cell.connected).count(),
        direct_expected: cells.iter().filter(|cell| cell.expected == Outcome::Direct).count(),
        direct: with(Outcome::Direct),
        relayed_udp: with(Outcome::RelayedUdp),
        tcp: with(Outcome::Tcp),
        sim_agrees: cells.iter().all(|cell| cell.outcome == Some(cell.simulated)),
        setup_ms_median: share(&setups, 0.5),
        setup_ms_p95: share(&setups, 0.95),
    }
}

impl Cell {
    /// Voice both ways, on a path as good as the oracle's or better.
    pub fn is_as_expected(&self) -> bool {
        self.connected && self.outcome.is_some_and(|outcome| outcome <= self.expected)
    }
}

fn share(sorted: &[f64], share: f64) -> Option<f64> {
    let index = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(index).map(|ms| (ms * 10.0).round() / 10.0)
}
