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
    /// Of these with the very newest record: strictly, without the time that caches live.
    pub found_newest: u64,
    /// Of these with a record older than allowed.
    pub wrong: u64,
    /// Of these with nothing.
    pub missing: u64,
    /// Of these asked later than a minute after the fault.
    pub missing_late: u64,
    /// Of these found at no keeper, attached nowhere, and known to the login server, asked last.
    pub by_login_server: u64,
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
    /// Changes of presence that watchers were to hear of, each watcher counted (`presence`).
    pub presence_changes: u64,
    /// Of these heard of within a second, from device to device.
    pub presence_in_a_second_percent: f64,
    /// How long it took.
    pub presence_ms_median: f64,
    /// See above.
    pub presence_ms_p99: f64,
    /// Longest time from a device's vanishing without a word until a watcher was told.
    pub presence_vanished_s_max: f64,
    /// Wildcard searches that came to their last page (`wildcard`).
    pub searches: u64,
    /// Of these: everyone who matches, nobody else, best first.
    pub searches_right: u64,
    /// Users that matched, all searches together, and those of them found.
    pub searches_matching: u64,
    /// See above.
    pub searches_found: u64,
    /// Pages of all searches.
    pub search_pages: u64,
    /// Delay of a page at the super node that asks.
    pub search_page_ms_median: f64,
    /// See above.
    pub search_page_ms_p99: f64,
    /// Users shown who had not let themselves be listed.
    pub searches_unlisted: u64,
    /// Of thirty searches at once by one device, those refused.
    pub searches_hurried_refused: u64,
    /// Super nodes when everyone had come, at the end, and at most (`election`).
    pub super_nodes_grown: usize,
    /// See above.
    pub super_nodes_at_end: usize,
    /// See above.
    pub super_nodes_peak: usize,
    /// Times that a node was elected, and that one retired.
    pub elected: u64,
    /// See above.
    pub retired: u64,
    /// Mean load when everyone had come.
    pub grown_load_percent: u32,
    /// Users without a super node then.
    pub grown_waiting: usize,
    /// Share of the super nodes in the block that a third of the candidates share.
    pub block_percent: f64,
    /// Share of the more frequent program version.
    pub version_percent: f64,
    /// Super nodes on battery, metered, behind a NAT or against their owner's will.
    pub unfit: usize,
    /// Of those that went on battery while serving, those that retired.
    pub unplugged_retired: [u64; 2],
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
    /// Most super nodes that the network sent home within a minute, in percent of those alive.
    pub retired_in_a_minute_percent_max: f64,
    /// Shards whose keeper retired without having heard that two others hold them.
    pub shards_unconfirmed: u64,
    /// The first wrong or missing answers in words.
    pub failed_answers: Vec<String>,
    /// What was not met.
    pub missed: Vec<String>,
    /// The series of the plot.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}
