//! The receiver's report: which packets arrived, and how much later than the quickest.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |  version = 1  |  count (≤ 32) |        newest sequence        |
//! +---------------+---------------+-------------------------------+
//! |   hold (ms)   | missed (1/255)|     playout delay (ms)        |
//! +---------------+---------------+-------------------------------+
//! | one byte per packet, oldest first, the last is the newest:    |
//! | 255 = not arrived, else queueing delay in ms, 254 = or more   |
//! +---------------+-----------------------------------------------+
//! | capture (ms)  |
//! +---------------+
//! ```
//! At most 41 bytes; the last may be missing. The sender knows when it sent each packet, so the
//! newest sequence number and the hold time (from its arrival until this report left) give the
//! round trip; queueing delay is transit above the least of the last 10 s.

/// Packets in one report at most.
pub const REPORTED_MAX: usize = 32;

/// Bytes of one report at most.
pub const FEEDBACK_BYTES_MAX: usize = HEADER_BYTES + REPORTED_MAX + 1;

const HEADER_BYTES: usize = 8;
const VERSION: u8 = 1;
const NOT_ARRIVED: u8 = 255;

/// What is wrong with a report. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// Shorter than it says.
    #[error("voice report is cut off")]
    Truncated,
    /// A later version, or a count out of bounds.
    #[error("voice report of an unknown version or size")]
    UnknownVersion,
}

/// One report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Sequence number of the newest packet that arrived.
    pub newest_sequence: u16,
    /// Milliseconds from that packet's arrival to this report.
    pub hold_ms: u8,
    /// Share of frames that could not be played in time, redundancy included, in 1/255.
    pub missed: u8,
    /// From the capture of a sample to its playing, without the path, in ms.
    pub playout_delay_ms: u16,
    /// From the mouth of the side that reports until its packets leave, their own length not
    /// counted: microphone, processing and look-ahead, in ms; 0 is unknown.
    pub capture_delay_ms: u8,
    count: u8,
    queueing_ms: [u8; REPORTED_MAX],
}

impl Feedback {
    /// An empty report about `newest_sequence`.
    pub fn new(newest_sequence: u16) -> Self {
        Self {
            newest_sequence,
            hold_ms: 0,
            missed: 0,
            playout_delay_ms: 0,
            capture_delay_ms: 0,
            count: 0,
            queueing_ms: [NOT_ARRIVED; REPORTED_MAX],
        }
    }

    /// Adds the next packet, oldest first; the last one added must be the newest that arrived.
    pub fn push(&mut self, queueing_ms: Option<f64>) {
        if let Some(slot) = self.queueing_ms.get_mut(usize::from(self.count)) {
            *slot = queueing_ms.map_or(NOT_ARRIVED, |ms| ms.clamp(0.0, 254.0) as u8);
            self.count += 1;
        }
    }

    /// Each packet's sequence number and its queueing delay in ms, `None` when it did not arrive.
    pub fn packets(&self) -> impl Iterator<Item = (u16, Option<u8>)> + '_ {
        let oldest = self.newest_sequence.wrapping_sub(u16::from(self.count).saturating_sub(1));
        self.queueing_ms[..usize::from(self.count)].iter().enumerate().map(move |(index, ms)| {
            (oldest.wrapping_add(index as u16), Some(*ms).filter(|ms| *ms != NOT_ARRIVED))
        })
    }

    /// Writes the report; returns its length.
    pub fn encode(&self, to: &mut [u8; FEEDBACK_BYTES_MAX]) -> usize {
        to[0] = VERSION;
        to[1] = self.count;
        to[2..4].copy_from_slice(&self.newest_sequence.to_be_bytes());
        to[4] = self.hold_ms;
        to[5] = self.missed;
        to[6..8].copy_from_slice(&self.playout_delay_ms.to_be_bytes());
        let end = HEADER_BYTES + usize::from(self.count);
        to[HEADER_BYTES..end].copy_from_slice(&self.queueing_ms[..usize::from(self.count)]);
        to[end] = self.capture_delay_ms;
        end + 1
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`FeedbackError`] for bytes that no receiver of this version writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FeedbackError> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FeedbackError::Truncated);
        };
        let count = usize::from(head[1]);
        if head[0] != VERSION || count > REPORTED_MAX {
            return Err(FeedbackError::UnknownVersion);
        }
        let packets = rest.get(..count).ok_or(FeedbackError::Truncated)?;
        let mut feedback = Self::new(u16::from_be_bytes([head[2], head[3]]));
        feedback.hold_ms = head[4];
        feedback.missed = head[5];
        feedback.playout_delay_ms = u16::from_be_bytes([head[6], head[7]]);
        feedback.capture_delay_ms = rest.get(count).copied().unwrap_or(0);
        feedback.count = head[1];
        feedback.queueing_ms[..count].copy_from_slice(packets);
        Ok(feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_wire_and_its_truncations_are_refused() {
        let mut feedback = Feedback::new(1);
        feedback.hold_ms = 7;
        feedback.missed = 3;
        feedback.playout_delay_ms = 300;
        feedback.capture_delay_ms = 21;
        for packet in 0..20 {
            feedback.push((packet % 4 != 0).then_some(f64::from(packet) * 20.0));
        }
        let mut bytes = [0; FEEDBACK_BYTES_MAX];
        let length = feedback.encode(&mut bytes);
        assert_eq!(length, 29);
        assert_eq!(Feedback::decode(&bytes[..length]), Ok(feedback));
        for cut in 0..length - 1 {
            assert!(Feedback::decode(&bytes[..cut]).is_err());
        }
        let older = Feedback { capture_delay_ms: 0, ..feedback };
        assert_eq!(Feedback::decode(&bytes[..length - 1]), Ok(older));
        let packets: Vec<_> = feedback.packets().collect();
        assert_eq!(packets[0], (65_518, None));
        assert_eq!(packets[19], (1, Some(254)));
    }
}
