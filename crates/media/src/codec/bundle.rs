//! Several Opus packets in one payload (`docs/protocol/voice.md`, payload type 113).
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-+-+-------+---+ - - - - - - - - - - - - - +----------------+
//! |V|E|   -   |N-1| N - 1 lengths, if E is 1  | N Opus packets |
//! +-+-+-------+---+ - - - - - - - - - - - - - +----------------+
//! ```
//! V is 0. Without E all packets are equally long. Where the room is little, headers cost more than
//! the codec can spare: a bundle shares them among packets that follow each other without a gap.

use super::opus;

/// Opus packets in one bundle at most (2 bits on the wire).
pub const BUNDLED_MAX: usize = 4;

/// Longest packet in a bundle, in bytes (one byte on the wire).
pub const BUNDLED_BYTES_MAX: usize = 255;

/// What is wrong with a bundle. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Shorter than it says, or not divisible.
    #[error("bundle is cut off")]
    Truncated,
    /// A later version, which this program cannot read.
    #[error("bundle of an unknown version")]
    UnknownVersion,
    /// A part is no Opus packet.
    #[error("bundle of something else than Opus")]
    NotOpus,
}

/// One Opus packet of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part<'a> {
    /// The packet.
    pub packet: &'a [u8],
    /// Samples it decodes to.
    pub samples: usize,
}

/// A bundle taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    parts: [Part<'a>; BUNDLED_MAX],
    count: usize,
}

impl<'a> Bundle<'a> {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// [`BundleError`] for bytes that no sender of this version writes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let [first, rest @ ..] = bytes else { return Err(BundleError::Truncated) };
        if first & 0x80 != 0 {
            return Err(BundleError::UnknownVersion);
        }
        let count = usize::from(first & 0x3) + 1;
        let told = if first & 0x40 != 0 { count - 1 } else { 0 };
        let (lengths, mut packets) = rest.split_at_checked(told).ok_or(BundleError::Truncated)?;
        let equal = packets.len() / count;
        if told == 0 && packets.len() % count != 0 {
            return Err(BundleError::Truncated);
        }
        let mut parts = [Part::default(); BUNDLED_MAX];
        for (index, part) in parts[..count].iter_mut().enumerate() {
            let length = match lengths.get(index) {
                Some(length) => usize::from(*length),
                None if told > 0 => packets.len(),
                None => equal,
            };
            let (packet, rest) = packets.split_at_checked(length).ok_or(BundleError::Truncated)?;
            let samples = opus::packet_samples(packet).map_err(|_| BundleError::NotOpus)?;
            *part = Part { packet, samples };
            packets = rest;
        }
        Ok(Self { parts, count })
    }

    /// Its packets, in order of time.
    pub fn parts(&self) -> &[Part<'a>] {
        &self.parts[..self.count]
    }

    /// Samples of all its packets.
    pub fn samples(&self) -> usize {
        self.parts().iter().map(|part| part.samples).sum()
    }
}

/// Collects the packets of one bundle.
#[derive(Clone, Debug)]
pub struct Bundler {
    packets: [u8; BUNDLED_MAX * BUNDLED_BYTES_MAX],
    lengths: [usize; BUNDLED_MAX],
    count: usize,
}

impl Default for Bundler {
    fn default() -> Self {
        let packets = [0; BUNDLED_MAX * BUNDLED_BYTES_MAX];
        Self { packets, lengths: [0; BUNDLED_MAX], count: 0 }
    }
}

impl Bundler {
    /// Bytes of a bundle of `count` packets of `bytes` each.
    pub const fn payload_bytes(count: usize, bytes: usize) -> usize {
        1 + count * bytes
    }

    /// Packets collected.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets what was collected.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds the packet that follows; `false` when it is too long or there are enough.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        if packet.len() > BUNDLED_BYTES_MAX || self.count == BUNDLED_MAX {
            return false;
        }
        let at = self.bytes();
        self.packets[at..at + packet.len()].copy_from_slice(packet);
        self.lengths[self.count] = packet.len();
        self.count += 1;
        true
    }

    /// Writes the bundle to `to` and starts the next; returns its length. `None` when nothing was
    /// collected or `to` is too short.
    pub fn write(&mut self, to: &mut [u8]) -> Option<usize> {
        let packets = &self.packets[..self.bytes()];
        let (lengths, last) = self.lengths.get(..self.count)?.split_last().map(|(l, f)| (f, l))?;
        let told = lengths.iter().any(|length| length != last);
        let packets_at = 1 + if told { lengths.len() } else { 0 };
        let whole = to.get_mut(..packets_at + packets.len())?;
        whole[0] = u8::from(told) << 6 | (self.count - 1) as u8;
        for (to, length) in whole[1..packets_at].iter_mut().zip(lengths) {
            *to = *length as u8;
        }
        whole[packets_at..].copy_from_slice(packets);
        let length = whole.len();
        self.clear();
        Some(length)
    }

    fn bytes(&self) -> usize {
        self.lengths[..self.count].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An Opus packet of one frame of 60 ms (SILK, wideband).
    fn packet(bytes: usize) -> Vec<u8> {
        let mut packet = vec![0x5a; bytes];
        packet[0] = 11 << 3;
        packet
    }

    fn bundle(lengths: &[usize]) -> Vec<u8> {
        let mut bundler = Bundler::default();
        for length in lengths {
            assert!(bundler.push(&packet(*length)));
        }
        let mut to = [0; BUNDLED_MAX * BUNDLED_BYTES_MAX + BUNDLED_MAX];
        let length = bundler.write(&mut to).unwrap();
        assert!(bundler.is_empty());
        to[..length].to_vec()
    }

    #[test]
    fn equal_packets_cost_one_byte_and_others_one_more_each() {
        assert_eq!(bundle(&[60, 60, 60]).len(), Bundler::payload_bytes(3, 60));
        assert_eq!(bundle(&[60, 61, 60]).len(), 1 + 2 + 181);
        assert_eq!(bundle(&[255; 4]).len(), 1 + 4 * 255);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut bundler = Bundler::default();
        assert!(!bundler.push(&packet(256)));
        assert_eq!(bundler.write(&mut [0; 9]), None);
        for _ in 0..BUNDLED_MAX {
            assert!(bundler.push(&packet(5)));
        }
        assert!(!bundler.push(&packet(5)));
        assert_eq!(bundler.write(&mut [0; 9]), None);
        assert_eq!(bundler.len(), BUNDLED_MAX);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(Bundle::parse(&[]), Err(BundleError::Truncated));
        assert_eq!(Bundle::parse(&[0x82; 60]), Err(BundleError::UnknownVersion));
        assert_eq!(Bundle::parse(&[0x01, 0x58, 0x58, 0x58]), Err(BundleError::Truncated));
        assert_eq!(Bundle::parse(&[0x41, 9, 0x58, 0x58]), Err(BundleError::Truncated));
        // A packet of three frames of 60 ms: longer than Opus allows.
        assert_eq!(Bundle::parse(&[0x00, 0x5b, 3]), Err(BundleError::NotOpus));
        assert_eq!(Bundle::parse(&[0x03]), Err(BundleError::NotOpus));
    }

    proptest! {
        #[test]
        fn every_bundle_survives_the_wire(
            lengths in proptest::collection::vec(1..=BUNDLED_BYTES_MAX, 1..=BUNDLED_MAX),
        ) {
            let bytes = bundle(&lengths);
            let parsed = Bundle::parse(&bytes).unwrap();
            let expected: Vec<_> = lengths.iter().map(|length| packet(*length)).collect();
            let packets: Vec<_> = parsed.parts().iter().map(|part| part.packet.to_vec()).collect();
            prop_assert_eq!(packets, expected);
            prop_assert_eq!(parsed.samples(), lengths.len() * 2_880);
        }

        #[test]
        fn any_bytes_are_refused_or_within_bounds(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            if let Ok(bundle) = Bundle::parse(&bytes) {
                prop_assert!((1..=BUNDLED_MAX).contains(&bundle.parts().len()));
                prop_assert!(bundle.samples() <= BUNDLED_MAX * crate::codec::FRAME_SAMPLES_MAX);
                let inside: usize = bundle.parts().iter().map(|part| part.packet.len()).sum();
                prop_assert!(inside < bytes.len());
                prop_assert!(bundle.parts().iter().all(|part| part.samples > 0));
            }
        }

        #[test]
        fn a_true_bundle_with_one_byte_changed_does_no_harm(
            lengths in proptest::collection::vec(1..=90_usize, 1..=BUNDLED_MAX),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
        ) {
            let mut bytes = bundle(&lengths);
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(bundle) = Bundle::parse(&bytes) {
                prop_assert!(bundle.samples() <= BUNDLED_MAX * crate::codec::FRAME_SAMPLES_MAX);
            }
        }
    }
}
