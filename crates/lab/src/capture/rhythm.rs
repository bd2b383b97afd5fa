//! Voice that goes over TCP, told by its rhythm: nothing else shows it.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Packet, Transport, packet::VOICE_OVER_TCP};

/// Each side chooses its own way, so each direction's voice is looked for by itself, and anew in
/// each step of so many seconds, for a way may be left.
const STEP_S: f64 = 1.0;

/// Messages a second from which a connection counts as voice: frames are 120 ms at most.
const VOICE_RATE_MIN: f64 = 5.0;

/// Steps in which the rhythm is looked for before, in s, and messages a second that make it: voice
/// of which no loss is known comes in packets of 20 ms at most, and a path's checks more rarely.
const RHYTHM_S: f64 = 0.2;
const RHYTHM_MIN: f64 = 30.0;

/// The watched host's end and the other, and whether the host sends.
type Way = (SocketAddr, SocketAddr, bool);

/// Marks the voice of a call that goes from `from_s` to `to_s`: in each step and direction the data
/// packets of the connection that carries the most messages, if they are at least
/// [`VOICE_RATE_MIN`] a second; before, as long as the same rhythm goes back (a path is tried with
/// silent packets while it rings); and what follows on the ways of the last step.
pub fn mark_voice_over_tcp(packets: &mut [Packet], from_s: f64, to_s: f64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let steps = (((to_s - from_s) / STEP_S) as usize).max(1);
    for step in 0..steps {
        let begin_s = from_s + step as f64 * STEP_S;
        let is_last = step + 1 == steps;
        let end_s = if is_last { to_s } else { begin_s + STEP_S };
        for way in busiest(packets, begin_s, end_s) {
            let begin_s = if step == 0 { beginning(packets, way, begin_s) } else { begin_s };
            let end_s = if is_last { f64::INFINITY } else { end_s };
            for packet in packets.iter_mut().filter(|packet| packet.payload > 0) {
                if (begin_s..end_s).contains(&packet.at_s) && way_of(packet) == Some(way) {
                    packet.kind = VOICE_OVER_TCP;
                }
            }
        }
    }
}

/// The busiest way of each direction, if it is busy enough to be voice.
fn busiest(packets: &[Packet], begin_s: f64, end_s: f64) -> Vec<Way> {
    let mut counts: BTreeMap<Way, usize> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| (begin_s..end_s).contains(&packet.at_s)) {
        if let Some(way) = way_of(packet) {
            *counts.entry(way).or_default() += packet.messages;
        }
    }
    let least = VOICE_RATE_MIN * (end_s - begin_s);
    let of = |outgoing: bool| {
        let ways = counts.iter().filter(|(way, _)| way.2 == outgoing);
        let (way, count) = ways.max_by_key(|(_, count)| **count)?;
        (*count as f64 >= least).then_some(*way)
    };
    [of(true), of(false)].into_iter().flatten().collect()
}

/// How far back from `from_s` the messages of a way follow each other as voice does.
fn beginning(packets: &[Packet], way: Way, from_s: f64) -> f64 {
    let mut begin_s = from_s;
    loop {
        let step = (begin_s - RHYTHM_S)..begin_s;
        let messages: usize = packets
            .iter()
            .filter(|packet| step.contains(&packet.at_s) && way_of(packet) == Some(way))
            .map(|packet| packet.messages)
            .sum();
        if begin_s <= 0.0 || (messages as f64) < RHYTHM_MIN * RHYTHM_S {
            return begin_s;
        }
        begin_s -= RHYTHM_S;
    }
}

fn way_of(packet: &Packet) -> Option<Way> {
    let (own, other) =
        if packet.outgoing { (packet.from, packet.to) } else { (packet.to, packet.from) };
    (packet.transport == Transport::Tcp).then_some((own, other, packet.outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of `payload` bytes each `every_ms` in `from_s..to_s`.
    fn stream(
        server: u16,
        outgoing: bool,
        span_s: (f64, f64),
        every_ms: f64,
        payload: usize,
    ) -> Vec<Packet> {
        let own = SocketAddr::from(([192, 0, 2, 1], 40_000 + server));
        let other = SocketAddr::from(([192, 0, 2, 2], server));
        let (from, to) = if outgoing { (own, other) } else { (other, own) };
        let mut packets = Vec::new();
        let mut at_s = span_s.0;
        while at_s < span_s.1 {
            packets.push(Packet {
                at_s,
                from,
                to,
                outgoing,
                transport: Transport::Tcp,
                bytes: payload + 52,
                payload,
                messages: 1,
                kind: "TCP data",
            });
            at_s += every_ms / 1e3;
        }
        packets
    }

    fn marked(packets: &[Packet], outgoing: bool, server: u16) -> usize {
        let is_one = |packet: &&Packet| {
            packet.outgoing == outgoing
                && packet.peer().port() == server
                && packet.kind == VOICE_OVER_TCP
        };
        packets.iter().filter(is_one).count()
    }

    #[test]
    fn each_direction_has_its_own_way_and_reports_are_no_voice() {
        // Voice leaves by one relay, comes back by another, and both carry reports the other way.
        let mut packets = [
            stream(1, true, (0.0, 10.0), 10.0, 150),
            stream(1, false, (0.0, 10.0), 130.0, 90),
            stream(2, false, (0.0, 10.0), 10.0, 170),
            stream(2, true, (0.0, 10.0), 150.0, 176),
        ]
        .concat();
        mark_voice_over_tcp(&mut packets, 0.0, 10.0);
        assert!(marked(&packets, true, 1) >= 999);
        assert!(marked(&packets, false, 2) >= 999);
        assert_eq!(marked(&packets, false, 1) + marked(&packets, true, 2), 0);
    }

    #[test]
    fn a_way_that_is_left_and_the_silence_of_a_hold_are_told() {
        let mut packets = [
            stream(1, true, (0.0, 4.0), 20.0, 150),
            stream(2, true, (4.0, 8.0), 120.0, 150),
            stream(1, true, (4.0, 8.0), 1_000.0, 90),
            stream(1, false, (0.0, 8.0), 1_000.0, 90),
        ]
        .concat();
        mark_voice_over_tcp(&mut packets, 0.0, 8.0);
        assert!((199..=201).contains(&marked(&packets, true, 1)));
        assert!((33..=34).contains(&marked(&packets, true, 2)));
        assert_eq!(marked(&packets, false, 1), 0);
    }
}
