//! From cells to figures: the median over the runs, with its spread.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Cell, Condition, Kind};

/// Median and range of one figure over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

/// Figures of one peer on one condition.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Who.
    pub peer: Kind,
    /// On what.
    pub condition: String,
    /// Calls that were measured, and calls that were tried.
    pub runs: (usize, usize),
    /// Mean delay of a call.
    pub mouth_to_ear_ms: Option<Spread>,
    /// Its standard deviation within a call.
    pub mouth_to_ear_ms_sd: Option<Spread>,
    /// Mean over the sentences of a call.
    pub pesq: Option<Spread>,
    /// Mean over the sentences of a call.
    pub visqol: Option<Spread>,
    /// Mean over the sentences of a call.
    pub plcmos: Option<Spread>,
    /// In one direction, from the IP header on.
    pub bytes_per_s: Option<Spread>,
    /// Of one program.
    pub cpu_percent: Option<Spread>,
    /// Of one program.
    pub rss_mib: Option<Spread>,
}

/// Figures of every peer on every condition that was tried.
pub fn figures(cells: &[Cell], conditions: &[Condition]) -> Vec<Figures> {
    let mut figures = Vec::new();
    for condition in conditions {
        for peer in Kind::ALL {
            let of = |c: &&Cell| c.peer == peer && c.condition == condition.name;
            let tried: Vec<&Cell> = cells.iter().filter(of).collect();
            if !tried.is_empty() {
                figures.push(Figures::of(peer, &condition.name, &tried));
            }
        }
    }
    figures
}

impl Figures {
    fn of(peer: Kind, condition: &str, tried: &[&Cell]) -> Self {
        let cells: Vec<_> = tried.iter().filter(|cell| cell.problem.is_none()).collect();
        let spread = |value: &dyn Fn(&Cell) -> Option<f64>| {
            Spread::of(cells.iter().filter_map(|cell| value(cell)))
        };
        Self {
            peer,
            condition: condition.to_owned(),
            runs: (cells.len(), tried.len()),
            mouth_to_ear_ms: spread(&|c| Some(c.mouth_to_ear_ms?.0)),
            mouth_to_ear_ms_sd: spread(&|c| Some(c.mouth_to_ear_ms?.1)),
            pesq: spread(&|c| c.scores.as_ref()?.pesq()),
            visqol: spread(&|c| c.scores.as_ref()?.visqol()),
            plcmos: spread(&|c| c.scores.as_ref()?.plcmos()),
            bytes_per_s: spread(&|c| c.bytes_per_s),
            cpu_percent: spread(&|c| c.cpu_percent),
            rss_mib: spread(&|c| c.rss_mib),
        }
    }

    /// As one line of JSON, medians under the plain names.
    pub fn json(&self) -> Value {
        let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
        json!({
            "peer": self.peer.name(),
            "condition": self.condition,
            "mouth_to_ear_ms_mean": median(self.mouth_to_ear_ms),
            "mouth_to_ear_ms_sd": median(self.mouth_to_ear_ms_sd),
            "pesq": median(self.pesq),
            "visqol": median(self.visqol),
            "plcmos": median(self.plcmos),
            "bytes_per_s": median(self.bytes_per_s),
            "cpu_percent": median(self.cpu_percent),
            "rss_mib": median(self.rss_mib),
            "runs": self.runs.0,
            "failed": self.runs.1 - self.runs.0,
            "mouth_to_ear_ms_range": self.mouth_to_ear_ms.map(|s| [s.min, s.max]),
            "pesq_range": self.pesq.map(|s| [s.min, s.max]),
        })
    }
}
