//! From a rate on the wire and the loss of the path to a point of operation.
//!
//! Frame length follows from what headers may cost, redundancy from the loss; the codec gets the
//! rest. The shares of redundancy are those that gave the best PESQ at equal payload rate in
//! `docs/measurements/voice.md`.

use crate::{
    codec::{Application, FrameDuration},
    loss::Code,
    voice::OperatingPoint,
};

/// Least bit rate of the codec at which speech is understood.
const CODEC_BITS_PER_S_MIN: f64 = 6_000.0;

/// From this codec rate on, low delay (CELT) sounds as good as speech mode with its longer
/// look-ahead.
const LOW_DELAY_BITS_PER_S_MIN: f64 = 40_000.0;

/// What a packet of 120 ms must leave for its codec to go out alone, and a bundle of 180 ms not to
/// be one of 240 ms. Chosen on the figures of `docs/measurements/voice.md`: below 9 kbit/s a
/// kbit/s more is worth 0.5 of PESQ, and each bundle costs its length twice, collected and sent.
const ALONE_BITS_PER_S_MIN: f64 = 9_000.0;
const BUNDLED_BITS_PER_S_MIN: f64 = 8_200.0;

/// How bad the path is, in steps that are left only after a while (see [`Severity::of`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    None,
    Some,
    Moderate,
    High,
    VeryHigh,
}

impl Severity {
    /// The step for a loss between 0 and 1; bursts count as more loss.
    pub(super) fn of(loss: f64, burst: f64) -> Self {
        let felt = loss * (1.0 + 0.15 * (burst - 1.0).clamp(0.0, 3.0));
        match felt {
            ..0.007 => Self::None,
            ..0.035 => Self::Some,
            ..0.13 => Self::Moderate,
            ..0.245 => Self::High,
            _ => Self::VeryHigh,
        }
    }

    /// Pieces, parity and window: redundancy is parity ÷ pieces of the codec's rate.
    fn code(self) -> Option<Code> {
        match self {
            Self::None => None,
            Self::Some => Some(Code::new(2, 1, 1, 8)),
            Self::Moderate => Some(Code::new(3, 2, 1, 8)),
            Self::High => Some(Code::new(3, 4, 1, 8)),
            Self::VeryHigh => Some(Code::new(2, 3, 1, 10)),
        }
    }
}

/// The frame length for `wire` bit/s with `overhead_bytes` in each packet.
fn frame_for(
    wire: f64,
    overhead_bytes: usize,
    payload_max: f64,
    (severity, bundles): (Severity, bool),
) -> (FrameDuration, u8) {
    let candidates = [
        FrameDuration::Ms10,
        FrameDuration::Ms20,
        FrameDuration::Ms40,
        FrameDuration::Ms60,
        FrameDuration::Ms80,
    ];
    for frame in candidates {
        let headers = overhead_bytes as f64 * 8e3 / f64::from(frame.ms());
        // What should be left for payload: short frames are for rich paths only.
        let wanted = match (frame, severity) {
            (FrameDuration::Ms10, Severity::None) => 32_000.0,
            (FrameDuration::Ms10, _) => 48_000.0,
            (FrameDuration::Ms20, Severity::None) => 14_000.0_f64.min(payload_max),
            (FrameDuration::Ms20, _) => 20_000.0_f64.min(payload_max),
            (FrameDuration::Ms40, _) => 12_000.0_f64.min(payload_max),
            _ => 9_000.0_f64.min(payload_max),
        };
        if (wire - headers).min(payload_max) >= wanted {
            return (frame, 1);
        }
    }
    let left = |ms: f64| wire - overhead_bytes as f64 * 8e3 / ms;
    if !bundles || left(120.0) >= ALONE_BITS_PER_S_MIN {
        (FrameDuration::Ms120, 1)
    } else if left(180.0) >= BUNDLED_BITS_PER_S_MIN {
        (FrameDuration::Ms60, 3)
    } else {
        (FrameDuration::Ms60, 4)
    }
}

/// The point of operation for this path.
pub(super) fn plan(
    wire: f64,
    overhead_bytes: usize,
    payload_bits_per_s_max: f64,
    (severity, bundles): (Severity, bool),
) -> OperatingPoint {
    let (frame, bundled) =
        frame_for(wire, overhead_bytes, payload_bits_per_s_max, (severity, bundles));
    let seconds = f64::from(frame.ms()) / 1e3 * f64::from(bundled);
    let headers = overhead_bytes as f64 * 8.0 / seconds;
    let payload = (wire - headers).min(payload_bits_per_s_max).max(CODEC_BITS_PER_S_MIN);
    let payload_bytes = (payload * seconds / 8.0) as usize;
    // Frames longer than parity covers, or nothing left for the codec: no redundancy.
    let coded = severity.code().filter(|_| bundled == 1).and_then(|code| {
        let frame_bytes = code.frame_bytes_for(payload_bytes)?;
        let bits = frame_bytes as f64 * 8.0 / seconds;
        (bits >= CODEC_BITS_PER_S_MIN).then_some((code, bits))
    });
    let packed = if bundled == 1 { payload } else { payload - 8.0 / seconds };
    let codec = coded.map_or(packed, |(_, bits)| bits);
    let low_delay = frame == FrameDuration::Ms10 && codec >= LOW_DELAY_BITS_PER_S_MIN;
    OperatingPoint {
        frame,
        bundled,
        application: if low_delay { Application::LowDelay } else { Application::Voip },
        codec_bits_per_s: codec.ceil() as u32,
        code: coded.map(|(code, _)| code),
        in_band: false,
        deep_10ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_plan_costs_more_than_the_rate_it_was_made_for() {
        let all = [
            Severity::None,
            Severity::Some,
            Severity::Moderate,
            Severity::High,
            Severity::VeryHigh,
        ];
        for severity in all {
            for wire in (12..=192).map(|kilobits| f64::from(kilobits) * 1e3) {
                for overhead_bytes in [40, 56, 90] {
                    let point = plan(wire, overhead_bytes, 64_000.0, (severity, false));
                    let used = f64::from(point.wire_bits_per_s(overhead_bytes));
                    // Below the least codec rate with the longest packets nothing can be saved.
                    let floor = 6_000.0 + overhead_bytes as f64 * 8.0 / 0.12;
                    assert!(
                        used <= wire.max(floor) * 1.01,
                        "{severity:?} {wire}: {point:?} {used}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_rich_quiet_path_gets_the_lowest_delay() {
        assert_eq!(plan(110_000.0, 56, 64_000.0, (Severity::None, true)), OperatingPoint::QUIET);
    }

    #[test]
    fn twelve_kilobits_with_headers_still_carry_speech() {
        let point = plan(12_000.0, 56, 64_000.0, (Severity::None, false));
        assert_eq!(point.frame, FrameDuration::Ms120);
        assert!(point.codec_bits_per_s >= 8_000);
    }

    #[test]
    fn bundles_leave_the_codec_more_where_the_room_is_little_and_only_there() {
        let bundled = |wire: f64| plan(wire, 56, 64_000.0, (Severity::None, true));
        for wire in (8..=192).map(|kilobits| f64::from(kilobits) * 1e3) {
            let (point, alone) = (bundled(wire), plan(wire, 56, 64_000.0, (Severity::None, false)));
            let used = f64::from(point.wire_bits_per_s(56));
            assert!(used <= wire.max(7_900.0) * 1.01, "{wire}: {point:?} {used}");
            if wire > 13_000.0 {
                assert_eq!(point, alone);
            } else if wire < 12_500.0 {
                assert!(point.bundled > 1 && point.code.is_none(), "{wire}: {point:?}");
                assert!(point.codec_bits_per_s >= alone.codec_bits_per_s, "{wire}: {point:?}");
            }
        }
        assert!(bundled(12_000.0).codec_bits_per_s > 9_300);
        assert!(bundled(9_000.0).bundled > bundled(12_000.0).bundled);
    }
}
