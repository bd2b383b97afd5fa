//! The report: the small packet by which each side says what it hears, path by path.
//!
//! It is sent as RTP with payload type 127 on its own SSRC, so it is encrypted, authenticated and
//! protected against replay like the voice. Layout (big endian), version 1:
//!
//! ```text
//! 0        version (high 4 bits) | flags: 1 media path, 2 on hold, 4 answer wanted
//! 1        the sender's number of the path on which this report leaves
//! 2..6     the sender's clock, milliseconds, wrapping
//! 6..8     milliseconds until its next report on this path, at most
//! 8        number n of entries, at most 8
//! 9..      n entries of 9 bytes: path number of the *receiver* of this report, the clock of its
//!          last report heard there, milliseconds since that report, milliseconds since
//!          anything was heard there (both saturate at 65,535)
//! then     length of the voice engine's feedback, 2 bytes, and the feedback, at most 512 bytes
//! ```
//!
//! Bytes after that are ignored, so that later versions can add to it.

use bytes::Bytes;

use super::error::SessionError;

/// Payload type of reports (dynamic range, RFC 3551).
pub const REPORT_PAYLOAD_TYPE: u8 = 127;
/// The longest feedback that the voice engine may send (chosen: one report stays below 600 B).
pub const FEEDBACK_LENGTH_MAX: usize = 512;
/// Entries per report (chosen: more paths than that are never alive at once).
pub(super) const ENTRIES_MAX: usize = 8;
const VERSION: u8 = 1;
const HEADER_LENGTH: usize = 9;
const ENTRY_LENGTH: usize = 9;

/// What was heard on one of the receiver's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The path's number, given by the receiver of the report.
    pub(super) path: u8,
    /// Clock of the last report that came in on it.
    pub(super) echo_ms: u32,
    /// How long ago that was.
    pub(super) echo_age_ms: u16,
    /// How long ago anything came in on it.
    pub(super) heard_age_ms: u16,
}

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The media leaves on this path.
    pub(super) media_path: bool,
    /// The sender is on hold: no voice is to be expected.
    pub(super) hold: bool,
    /// The receiver should report on this path at once.
    pub(super) answer_wanted: bool,
    /// The sender's number of the path.
    pub(super) path: u8,
    /// The sender's clock.
    pub(super) clock_ms: u32,
    /// When the next report is due, at most.
    pub(super) next_ms: u16,
    /// What was heard.
    pub(super) heard: Vec<Heard>,
    /// From the voice engine.
    pub(super) feedback: Bytes,
}

impl Report {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            HEADER_LENGTH + 2 + ENTRY_LENGTH * self.heard.len() + self.feedback.len(),
        );
        let flags = u8::from(self.media_path)
            | u8::from(self.hold) << 1
            | u8::from(self.answer_wanted) << 2;
        out.push(VERSION << 4 | flags);
        out.push(self.path);
        out.extend(self.clock_ms.to_be_bytes());
        out.extend(self.next_ms.to_be_bytes());
        let entries = &self.heard[..self.heard.len().min(ENTRIES_MAX)];
        out.push(entries.len() as u8);
        for entry in entries {
            out.push(entry.path);
            out.extend(entry.echo_ms.to_be_bytes());
            out.extend(entry.echo_age_ms.to_be_bytes());
            out.extend(entry.heard_age_ms.to_be_bytes());
        }
        let feedback = &self.feedback[..self.feedback.len().min(FEEDBACK_LENGTH_MAX)];
        out.extend((feedback.len() as u16).to_be_bytes());
        out.extend(feedback);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SessionError> {
        let mut rest = Reader(bytes);
        let first = rest.u8()?;
        if first >> 4 != VERSION {
            return Err(SessionError::MalformedReport);
        }
        let mut report = Self {
            media_path: first & 1 != 0,
            hold: first & 2 != 0,
            answer_wanted: first & 4 != 0,
            path: rest.u8()?,
            clock_ms: rest.u32()?,
            next_ms: rest.u16()?,
            ..Self::default()
        };
        let entries = usize::from(rest.u8()?);
        if entries > ENTRIES_MAX {
            return Err(SessionError::MalformedReport);
        }
        for _ in 0..entries {
            report.heard.push(Heard {
                path: rest.u8()?,
                echo_ms: rest.u32()?,
                echo_age_ms: rest.u16()?,
                heard_age_ms: rest.u16()?,
            });
        }
        let length = usize::from(rest.u16()?);
        if length > FEEDBACK_LENGTH_MAX {
            return Err(SessionError::MalformedReport);
        }
        report.feedback = Bytes::copy_from_slice(rest.take(length)?);
        Ok(report)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SessionError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(SessionError::MalformedReport)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SessionError> {
        self.take(N)?.try_into().map_err(|_| SessionError::MalformedReport)
    }

    fn u8(&mut self) -> Result<u8, SessionError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, SessionError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, SessionError> {
        self.array().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_report() -> impl Strategy<Value = Report> {
        let heard = (any::<u8>(), any::<u32>(), any::<u16>(), any::<u16>()).prop_map(
            |(path, echo_ms, echo_age_ms, heard_age_ms)| Heard {
                path,
                echo_ms,
                echo_age_ms,
                heard_age_ms,
            },
        );
        (
            any::<(bool, bool, bool, u8, u32, u16)>(),
            proptest::collection::vec(heard, 0..=ENTRIES_MAX),
            proptest::collection::vec(any::<u8>(), 0..=FEEDBACK_LENGTH_MAX),
        )
            .prop_map(|(head, heard, feedback)| Report {
                media_path: head.0,
                hold: head.1,
                answer_wanted: head.2,
                path: head.3,
                clock_ms: head.4,
                next_ms: head.5,
                heard,
                feedback: feedback.into(),
            })
    }

    proptest! {
        #[test]
        fn a_report_survives_the_round_trip(report in any_report()) {
            prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
        }

        #[test]
        fn a_truncated_report_is_an_error(
            report in any_report(), cut in any::<prop::sample::Index>(),
        ) {
            let bytes = report.encode();
            prop_assert!(Report::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Report::decode(&bytes);
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let report = Report {
            media_path: true,
            hold: false,
            answer_wanted: true,
            path: 3,
            clock_ms: 0x01020304,
            next_ms: 250,
            heard: vec![Heard { path: 9, echo_ms: 5, echo_age_ms: 6, heard_age_ms: 7 }],
            feedback: Bytes::from_static(b"hi"),
        };
        let golden = [0x15, 3, 1, 2, 3, 4, 0, 250, 1, 9, 0, 0, 0, 5, 0, 6, 0, 7, 0, 2, b'h', b'i'];
        assert_eq!(report.encode(), golden);
    }
}
