//! The figures of a run: the last line of `--json`, and the series behind the plot.

use serde::Serialize;

/// One point of the plot.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Virtual minutes since the start.
    pub minute: f64,
    /// Super nodes alive.
    pub super_nodes: usize,
    /// Users attached.
    pub attached: usize,
    /// Users who want to be attached.
    pub wanting: usize,
    /// Bytes per second and super node since the sample before.
    pub bytes_per_s: f64,
    /// Share of look-ups right since the sample before, in percent.
    pub right_percent: f64,
    /// Median look-up delay since the sample before, in milliseconds.
    pub lookup_ms: f64,
}

/// What a run gave.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether every target of the scenario was met.
    pub ok: bool,
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of the run.
    pub seed: u64,
    /// Super nodes at the start.
    pub super_nodes: u32,
    /// Users.
    pub users: u32,
    /// Look-ups judged.
    pub lookups: u64,
    /// Of these with the right record.
    pub found: u64,
    /// Of these with a record older than allowed.
    pub wrong: u64,
    /// Of these with nothing.
    pub missing: u64,
    /// Calls placed to whoever was found and is there.
    pub calls: u64,
    /// Of these whose splice reached the callee, at the first or the second look-up.
    pub calls_connected: u64,
    /// Attempts to attach that failed because the certificate had ended.
    pub expired: u64,
    /// Median delay, from the asking device and back.
    pub lookup_ms_median: f64,
    /// 99th percentile of the delay.
    pub lookup_ms_p99: f64,
    /// Median of the look-ups that the cache did not answer.
    pub lookup_ms_uncached_median: f64,
    /// Answered by the cache, the first keepers, more keepers (one, two, three round trips).
    pub lookups_by_round_trips: [u64; 3],
    /// Of the devices that lost their super node, attached again after 60 seconds.
    pub reattached_percent_60s: f64,
    /// The same after 300 seconds.
    pub reattached_percent_300s: f64,
    /// Seconds until all were attached again; -1 if never.
    pub all_reattached_s: f64,
    /// Most devices that any super node carried, and what it may.
    pub attached_max: usize,
    /// Devices that a super node may carry.
    pub capacity: u32,
    /// Users whose newest record no living keeper held at the end, of those checked.
    pub records_lost: u64,
    /// The same while only a tenth of the super nodes had come back from a mass reboot.
    pub records_lost_meanwhile: u64,
    /// Users checked for that.
    pub records_checked: u64,
    /// Keepers that held the newest record at the end, of all keepers of the users checked.
    pub keepers_consistent_percent: f64,
    /// Datagram bytes sent, headers included.
    pub bytes_per_s_per_super_node: f64,
    /// Of these by kind of message, the largest first, in bytes per second and super node over the
    /// whole run, the filling included.
    pub bytes_per_s_by_message: Vec<(String, f64)>,
    /// Memory of the process divided by the super nodes.
    pub rss_bytes_per_super_node: u64,
    /// Mean memory of one membership table and its shards as the machines count it.
    pub machine_bytes_per_super_node: u64,
    /// Virtual minutes.
    pub minutes: u64,
    /// Events run and virtual seconds per second.
    pub events: u64,
    /// Virtual seconds per real second.
    pub virtual_seconds_per_second: f64,
    /// Hash over all datagrams delivered: equal for equal seeds.
    pub trace: String,
    /// The first wrong answers in words.
    pub wrong_answers: Vec<String>,
    /// What was not met.
    pub missed: Vec<String>,
    /// The series of the plot.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}
