//! The two ends of the sliding-window code: parity of earlier frames, repair of missing ones.
//!
//! The sender remembers its last [`WINDOW_MAX`]·2 frames. The receiver remembers the last
//! [`REMEMBERED`] packets with their parity; whenever a packet arrives while frames are missing it
//! solves for all of them at once and gives out those that are determined. Both work in memory
//! allocated at construction.

use super::{COVERED_FRAME_BYTES_MAX, Code, PARITY_MAX, PIECES_MAX, WINDOW_MAX, gf256};

/// Packets remembered on either side; covers the largest offset and window together.
const REMEMBERED: usize = 2 * WINDOW_MAX;

/// Most unknown pieces solved for at once. Chosen: bounds the worst case to about 100 µs, and more
/// than that many are lost only when no code of ours would help.
const UNKNOWN_MAX: usize = 32;

/// Longest parity symbol in bytes (one byte on the wire).
const SYMBOL_BYTES_MAX: usize = 255;

/// The symbol of a frame, its length first, zero-padded.
#[derive(Clone)]
struct Covered {
    packet: Option<u64>,
    bytes: [u8; 1 + COVERED_FRAME_BYTES_MAX],
}

impl Covered {
    const EMPTY: Self = Self { packet: None, bytes: [0; 1 + COVERED_FRAME_BYTES_MAX] };

    fn put(&mut self, packet: u64, frame: &[u8]) {
        self.packet = Some(packet);
        self.bytes.fill(0);
        if frame.len() <= COVERED_FRAME_BYTES_MAX {
            self.bytes[0] = frame.len() as u8;
            self.bytes[1..=frame.len()].copy_from_slice(frame);
        }
    }

    fn frame_bytes(&self) -> usize {
        usize::from(self.bytes[0])
    }

    fn piece(&self, piece: usize, symbol_bytes: usize) -> &[u8] {
        let start = (piece * symbol_bytes).min(self.bytes.len());
        let end = (start + symbol_bytes).min(self.bytes.len());
        &self.bytes[start..end]
    }
}

fn slot(packet: u64) -> usize {
    (packet % REMEMBERED as u64) as usize
}

/// The packets whose frames the parity of `packet` covers.
fn covered_packets(code: Code, packet: u64) -> core::ops::RangeInclusive<u64> {
    let newest = packet.wrapping_sub(u64::from(code.offset));
    newest.wrapping_sub(u64::from(code.window) - 1)..=newest
}

/// The sender's memory of its own frames.
pub struct SendWindow {
    frames: Vec<Covered>,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { frames: vec![Covered::EMPTY; REMEMBERED] }
    }
}

impl SendWindow {
    /// Remembers the frame of `packet` (any counter that grows by one per packet and equals the
    /// RTP sequence number modulo 2¹⁶).
    pub fn remember(&mut self, packet: u64, frame: &[u8]) {
        self.frames[slot(packet)].put(packet, frame);
    }

    /// The code with its window cut to frames that were sent; `None` when there is none yet.
    pub fn usable(&self, code: Code, packet: u64) -> Option<Code> {
        let sent = covered_packets(code, packet).rev().take_while(|f| self.get(*f).is_some());
        let window = sent.count() as u8;
        (window > 0).then_some(Code { window, ..code })
    }

    /// Bytes that one symbol of `packet` must have to cover the frames of its window.
    pub fn symbol_bytes(&self, code: Code, packet: u64) -> usize {
        let longest = covered_packets(code, packet)
            .filter_map(|frame| self.get(frame))
            .map(Covered::frame_bytes)
            .max();
        code.symbol_bytes(longest.unwrap_or(0))
    }

    /// Writes the parity symbols of `packet` to `to`, each `symbol_bytes` long.
    pub fn write_parity(&self, code: Code, packet: u64, symbol_bytes: usize, to: &mut [u8]) {
        for (symbol, to) in to.chunks_mut(symbol_bytes).enumerate() {
            to.fill(0);
            for frame in covered_packets(code, packet) {
                let Some(covered) = self.get(frame) else { continue };
                for piece in 0..usize::from(code.pieces) {
                    let factor = code.coefficient(packet, symbol, frame, piece);
                    gf256::add_scaled(to, covered.piece(piece, symbol_bytes), factor);
                }
            }
        }
    }

    fn get(&self, packet: u64) -> Option<&Covered> {
        Some(&self.frames[slot(packet)]).filter(|covered| covered.packet == Some(packet))
    }
}

#[derive(Clone)]
struct Received {
    packet: Option<u64>,
    code: Option<Code>,
    symbol_bytes: usize,
    parity: [u8; PARITY_MAX * SYMBOL_BYTES_MAX],
}

struct Row {
    unknowns: [u8; UNKNOWN_MAX],
    value: [u8; SYMBOL_BYTES_MAX],
}

/// The receiver's memory of frames and parity, and the solver.
pub struct RepairWindow {
    frames: Vec<Covered>,
    received: Vec<Received>,
    rows: Vec<Row>,
    newest: Option<u64>,
}

impl Default for RepairWindow {
    fn default() -> Self {
        let nothing = Received {
            packet: None,
            code: None,
            symbol_bytes: 0,
            parity: [0; PARITY_MAX * SYMBOL_BYTES_MAX],
        };
        let rows = (0..UNKNOWN_MAX + PARITY_MAX)
            .map(|_| Row { unknowns: [0; UNKNOWN_MAX], value: [0; SYMBOL_BYTES_MAX] });
        Self {
            frames: vec![Covered::EMPTY; REMEMBERED],
            received: vec![nothing; REMEMBERED],
            rows: rows.collect(),
            newest: None,
        }
    }
}

impl RepairWindow {
    /// Takes a received packet's frame and parity (if it has any); calls `repaired` with packet
    /// number and frame for each missing frame that is now known.
    pub fn receive(
        &mut self,
        packet: u64,
        frame: &[u8],
        parity: Option<(Code, usize, &[u8])>,
        repaired: &mut dyn FnMut(u64, &[u8]),
    ) {
        let newest = *self.newest.get_or_insert(packet);
        if packet + REMEMBERED as u64 <= newest {
            return;
        }
        self.newest = Some(newest.max(packet));
        self.frames[slot(packet)].put(packet, frame);
        let received = &mut self.received[slot(packet)];
        received.packet = Some(packet);
        received.code = None;
        if let Some((code, symbol_bytes, bytes)) = parity
            && bytes.len() <= received.parity.len()
            && symbol_bytes <= SYMBOL_BYTES_MAX
        {
            received.code = Some(code);
            received.symbol_bytes = symbol_bytes;
            received.parity[..bytes.len()].copy_from_slice(bytes);
            self.solve(code, symbol_bytes, repaired);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.frames.fill(Covered::EMPTY);
        self.received.iter_mut().for_each(|received| received.packet = None);
        self.newest = None;
    }

    /// Whether `packet` itself arrived, as far as is remembered.
    pub fn received(&self, packet: u64) -> bool {
        self.received[slot(packet)].packet == Some(packet)
    }

    fn known(&self, packet: u64) -> bool {
        self.frames[slot(packet)].packet == Some(packet)
    }

    /// Gauss-Jordan elimination over all parity of the same shape.
    fn solve(&mut self, code: Code, symbol_bytes: usize, repaired: &mut dyn FnMut(u64, &[u8])) {
        let pieces = usize::from(code.pieces);
        let newest = self.newest.unwrap_or(0);
        let oldest = (newest + 1).saturating_sub(REMEMBERED as u64);
        let mut missing = [0_u64; UNKNOWN_MAX];
        let mut count = 0;
        for packet in (oldest..=newest).rev() {
            if !self.known(packet) && (count + 1) * pieces <= UNKNOWN_MAX {
                missing[count] = packet;
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        let missing = &missing[..count];
        let rows = self.collect_rows(code.pieces, symbol_bytes, oldest..=newest, missing);
        let pivots = eliminate(&mut self.rows[..rows], count * pieces, symbol_bytes);
        for (index, &packet) in missing.iter().enumerate() {
            let mut covered = [0; PIECES_MAX * SYMBOL_BYTES_MAX];
            let known = (0..pieces).all(|piece| {
                let unknown = index * pieces + piece;
                let Some(row) = pivots[unknown] else { return false };
                let row = &self.rows[usize::from(row)];
                let alone = row.unknowns.iter().filter(|u| **u != 0).count() == 1;
                covered[piece * symbol_bytes..][..symbol_bytes]
                    .copy_from_slice(&row.value[..symbol_bytes]);
                alone
            });
            let frame_bytes = usize::from(covered[0]);
            if known && frame_bytes > 0 && frame_bytes < pieces * symbol_bytes {
                self.frames[slot(packet)].put(packet, &covered[1..=frame_bytes]);
                repaired(packet, &covered[1..=frame_bytes]);
            }
        }
    }

    /// Fills `self.rows` with one equation per useful parity symbol; returns how many.
    fn collect_rows(
        &mut self,
        pieces: u8,
        symbol_bytes: usize,
        packets: core::ops::RangeInclusive<u64>,
        missing: &[u64],
    ) -> usize {
        let oldest = *packets.start();
        let mut count = 0;
        for packet in packets.rev() {
            let received = &self.received[slot(packet)];
            let Some(code) = received.code.filter(|code| code.pieces == pieces) else { continue };
            if received.packet != Some(packet) || received.symbol_bytes != symbol_bytes {
                continue;
            }
            let covered = covered_packets(code, packet);
            let useful = missing.iter().any(|missed| covered.contains(missed));
            // A frame that is neither known nor asked for makes the equation useless.
            let usable = covered
                .clone()
                .all(|frame| frame >= oldest && (self.known(frame) || missing.contains(&frame)));
            if !useful || !usable {
                continue;
            }
            for symbol in 0..usize::from(code.parity) {
                if count == self.rows.len() {
                    return count;
                }
                let row = &mut self.rows[count];
                row.unknowns.fill(0);
                row.value[..symbol_bytes]
                    .copy_from_slice(&received.parity[symbol * symbol_bytes..][..symbol_bytes]);
                for frame in covered.clone() {
                    for piece in 0..usize::from(pieces) {
                        let factor = code.coefficient(packet, symbol, frame, piece);
                        if let Some(index) = missing.iter().position(|missed| *missed == frame) {
                            row.unknowns[index * usize::from(pieces) + piece] = factor;
                        } else {
                            let known = self.frames[slot(frame)].piece(piece, symbol_bytes);
                            gf256::add_scaled(&mut row.value[..symbol_bytes], known, factor);
                        }
                    }
                }
                count += 1;
            }
        }
        count
    }
}

/// Brings `rows` to reduced row echelon form; returns the row that has each unknown as its pivot.
fn eliminate(rows: &mut [Row], unknowns: usize, symbol_bytes: usize) -> [Option<u8>; UNKNOWN_MAX] {
    let mut pivots = [None; UNKNOWN_MAX];
    let mut done = 0;
    for (unknown, pivot_row) in pivots.iter_mut().enumerate().take(unknowns) {
        let Some(found) = (done..rows.len()).find(|row| rows[*row].unknowns[unknown] != 0) else {
            continue;
        };
        rows.swap(done, found);
        let factor = gf256::inverse(rows[done].unknowns[unknown]);
        gf256::scale(&mut rows[done].unknowns[..unknowns], factor);
        gf256::scale(&mut rows[done].value[..symbol_bytes], factor);
        let (before, from) = rows.split_at_mut(done);
        let Some((pivot, after)) = from.split_first_mut() else { break };
        for row in before.iter_mut().chain(after) {
            let factor = row.unknowns[unknown];
            gf256::add_scaled(&mut row.unknowns[..unknowns], &pivot.unknowns[..unknowns], factor);
            gf256::add_scaled(&mut row.value[..symbol_bytes], &pivot.value[..symbol_bytes], factor);
        }
        *pivot_row = Some(done as u8);
        done += 1;
    }
    pivots
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn frame(packet: u64, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (packet * 31 + i as u64 * 7) as u8).collect()
    }

    /// Sends `count` packets through a link that loses `lost`; returns when each was repaired.
    fn run(
        code: Code,
        count: u64,
        bytes: impl Fn(u64) -> usize,
        lost: &[u64],
    ) -> BTreeMap<u64, u64> {
        let (mut sender, mut receiver) = (SendWindow::default(), RepairWindow::default());
        let mut repaired = BTreeMap::new();
        for packet in 70_000..70_000 + count {
            let own = frame(packet, bytes(packet));
            let Some(code) = sender.usable(code, packet) else {
                sender.remember(packet, &own);
                receiver.receive(packet, &own, None, &mut |_, _| {});
                continue;
            };
            let symbol_bytes = sender.symbol_bytes(code, packet);
            let mut parity = vec![0; usize::from(code.parity) * symbol_bytes];
            sender.write_parity(code, packet, symbol_bytes, &mut parity);
            sender.remember(packet, &own);
            if !lost.contains(&(packet - 70_000)) {
                receiver.receive(packet, &own, Some((code, symbol_bytes, &parity)), &mut |p, f| {
                    assert_eq!(f, frame(p, bytes(p)), "packet {p}");
                    repaired.insert(p - 70_000, packet - 70_000);
                });
            }
        }
        repaired
    }

    #[test]
    fn a_lost_frame_is_back_one_packet_later() {
        let repaired = run(Code::new(1, 1, 1, 8), 40, |_| 40, &[20]);
        assert_eq!(repaired, BTreeMap::from([(20, 21)]));
    }

    #[test]
    fn a_burst_is_back_after_as_many_packets_as_were_lost() {
        let repaired = run(Code::new(1, 1, 1, 12), 40, |_| 40, &[20, 21, 22]);
        assert_eq!(repaired, BTreeMap::from([(20, 25), (21, 25), (22, 25)]));
    }

    #[test]
    fn half_sized_parity_repairs_a_frame_after_two_packets() {
        let repaired = run(Code::new(2, 1, 1, 6), 40, |_| 41, &[10, 25]);
        assert_eq!(repaired, BTreeMap::from([(10, 12), (25, 27)]));
    }

    #[test]
    fn a_plain_copy_repairs_at_its_offset() {
        let repaired = run(Code::new(1, 1, 3, 1), 40, |_| 40, &[20, 21]);
        assert_eq!(repaired, BTreeMap::from([(20, 23), (21, 24)]));
    }

    #[test]
    fn frames_of_changing_length_are_repaired_exactly() {
        let repaired = run(Code::new(1, 2, 1, 4), 60, |p| 20 + (p % 5) as usize, &[30, 31, 45]);
        assert_eq!(repaired.keys().copied().collect::<Vec<_>>(), [30, 31, 45]);
    }

    #[test]
    fn a_receiver_that_joins_late_repairs_nothing_wrong() {
        let lost: Vec<u64> = (0..15).chain([20]).collect();
        let repaired = run(Code::new(1, 1, 1, 4), 40, |_| 40, &lost);
        assert_eq!(repaired.get(&20), Some(&21));
    }

    #[test]
    fn of_a_burst_longer_than_the_window_only_its_end_is_repaired() {
        let lost: Vec<u64> = (15..35).collect();
        let repaired = run(Code::new(1, 1, 1, 8), 60, |_| 40, &lost);
        assert_eq!(repaired.into_keys().collect::<Vec<_>>(), (27..35).collect::<Vec<_>>());
    }
}
