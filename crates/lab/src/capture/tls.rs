//! Which TLS records (RFC 8446 section 5.1) begin in a TCP segment. Lengths are in the clear, so
//! the records of a stream can be told apart without any key.

/// Bytes of a record's header: type, version, length.
const HEADER_BYTES: usize = 5;

/// What a record carries, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    ClientHello,
    ServerHello,
    Handshake,
    ChangeCipherSpec,
    Alert,
    Data,
}

/// One direction of a TCP connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Sequence number that comes next; none before the first segment.
    next: Option<u32>,
    /// Bytes of the present record that are still to come.
    left: usize,
    /// A header that was cut.
    header: Vec<u8>,
    /// Not TLS: nothing more is looked for.
    is_foreign: bool,
}

impl Stream {
    /// Takes a segment; the records that begin in it, or none for what was seen before.
    pub(super) fn take(&mut self, sequence: u32, payload: &[u8]) -> Option<Vec<Record>> {
        let next = *self.next.get_or_insert(sequence);
        let seen = usize::try_from(next.wrapping_sub(sequence)).unwrap_or(usize::MAX);
        if seen >= payload.len() && seen < usize::MAX / 2 && next != sequence {
            return None;
        }
        self.next = Some(sequence.wrapping_add(u32::try_from(payload.len()).unwrap_or(0)));
        let mut records = Vec::new();
        let mut at = 0;
        while at < payload.len() && !self.is_foreign {
            if self.left > 0 {
                let skip = self.left.min(payload.len() - at);
                (self.left, at) = (self.left - skip, at + skip);
                continue;
            }
            self.header.push(payload[at]);
            at += 1;
            if self.header.len() < HEADER_BYTES {
                self.is_foreign = !(20..=23).contains(&self.header[0]);
                continue;
            }
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            self.is_foreign |= self.header[1] != 3;
            records.push(kind(self.header[0], payload.get(at)));
            self.header.clear();
        }
        Some(records)
    }

    /// Whether this is no TLS.
    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign
    }
}

fn kind(content: u8, first: Option<&u8>) -> Record {
    match (content, first) {
        (20, _) => Record::ChangeCipherSpec,
        (21, _) => Record::Alert,
        (22, Some(1)) => Record::ClientHello,
        (22, Some(2)) => Record::ServerHello,
        (22, _) => Record::Handshake,
        _ => Record::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_however_the_segments_cut_them() {
        let mut bytes = vec![22, 3, 1, 0, 4, 1, 0, 0, 0];
        bytes.extend([20, 3, 3, 0, 1, 1]);
        bytes.extend([23, 3, 3, 0, 3, 9, 9, 9]);
        let wanted = [Record::ClientHello, Record::ChangeCipherSpec, Record::Data];
        for cut in [1, 2, 7, bytes.len()] {
            let mut stream = Stream::default();
            let mut found = Vec::new();
            let mut sequence = u32::MAX - 3;
            for part in bytes.chunks(cut) {
                found.extend(stream.take(sequence, part).unwrap());
                sequence = sequence.wrapping_add(u32::try_from(part.len()).unwrap());
            }
            let told = found.iter().filter(|record| **record != Record::Handshake).count();
            // A hello cut right behind its header cannot be told from another handshake message.
            assert!(found.len() == 3 && (found == wanted || told == 2), "{cut}: {found:?}");
            let again = stream.take(sequence.wrapping_sub(3), &bytes[bytes.len() - 3..]);
            assert_eq!(again, None, "a retransmission is no message");
        }
    }

    #[test]
    fn what_is_not_tls_is_left_alone() {
        let mut stream = Stream::default();
        assert_eq!(stream.take(1, b"CONNECT host:443 HTTP/1.1"), Some(vec![]));
        assert!(stream.is_foreign());
    }
}
