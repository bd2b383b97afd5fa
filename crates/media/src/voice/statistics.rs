//! What is counted on either side of a voice direction.

/// Counts of the sending side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SenderStatistics {
    /// Packets emitted.
    pub packets: u64,
    /// Payload bytes emitted.
    pub payload_bytes: u64,
    /// Frames that could not be encoded.
    pub encode_errors: u64,
    /// Loss on the path as reported, 0 to 1, smoothed.
    pub path_loss: f64,
    /// Share of frames missed after redundancy as reported, 0 to 1.
    pub missed: f64,
    /// Round trip in ms, smoothed; `None` before the first report.
    pub round_trip_ms: Option<f64>,
    /// Queueing delay on the path as reported, in ms, smoothed.
    pub queueing_ms: f64,
    /// The other side's playout delay in ms.
    pub remote_playout_delay_ms: f64,
    /// The other side's delay from its mouth to its packets in ms, their length not counted; 0
    /// while unknown.
    pub remote_capture_delay_ms: f64,
    /// Mouth to ear as far as known, in ms: look-ahead, half a round trip, and playout delay.
    /// Devices on both sides come on top.
    pub mouth_to_ear_ms: Option<f64>,
    /// Bit/s on the wire allowed at present, headers included.
    pub wire_bits_per_s: u32,
}

/// Counts of the receiving side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReceiverStatistics {
    /// Packets that arrived, duplicates not counted.
    pub packets: u64,
    /// Packets that arrived again.
    pub duplicates: u64,
    /// Packets that were not understood.
    pub malformed: u64,
    /// Packets that did not arrive in their own right although later ones did.
    pub lost: u64,
    /// Frames repaired by redundancy before they were due.
    pub repaired: u64,
    /// Frames that arrived or were repaired too late to be played.
    pub late: u64,
    /// Samples played.
    pub played_samples: u64,
    /// Of those, samples made up by concealment (deep redundancy and in-band included).
    pub concealed_samples: u64,
    /// Samples cut out to reduce delay.
    pub cut_samples: u64,
    /// Samples repeated to increase delay.
    pub repeated_samples: u64,
    /// Samples moved by slips, both directions.
    pub slipped_samples: u64,
    /// Interarrival jitter (RFC 3550), in ms.
    pub jitter_ms: f64,
    /// From the capture of a sample to its playing, the quickest packet's way over the path not
    /// counted, in ms: frame, jitter buffer and device block.
    pub playout_delay_ms: f64,
    /// Slack aimed at, in ms.
    pub target_ms: f64,
    /// Slack at present, in ms.
    pub slack_ms: f64,
    /// Sound queued decoded, in ms.
    pub queued_ms: f64,
}
