//! How two places reach each other by the NAT models: ICE's connectivity checks (RFC 8445) in
//! miniature, packet by packet through each side's gateways.
//!
//! Each side learns its mapped address from a public server and checks the other's; a check that
//! arrives shows the address that it came from, which is checked too. The path is direct when a
//! check and its answer got through.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    nat::Gateway,
    place::{Nat, Outcome, Place},
};

/// Rounds of checks; each lets a side learn from the one before.
const ROUNDS: u32 = 6;

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(50);

/// Life of a UDP binding, unless the place says otherwise.
const BINDING: Duration = Duration::from_secs(120);

/// A public server that tells callers their mapped address.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3478);

/// The same for those without IPv4.
const SERVER_IPV6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)), 3478);

struct Side {
    own: SocketAddr,
    /// The gateway next to the user first.
    gateways: Vec<Gateway>,
    /// Addresses of the other side that are worth a check.
    known: BTreeSet<SocketAddr>,
}

impl Side {
    fn new(place: &Place, number: u8) -> Self {
        let binding =
            place.udp_binding_s.map_or(BINDING, |seconds| Duration::from_secs(seconds.into()));
        let kinds = [Some(place.nat), place.outer_nat].into_iter().flatten();
        let kinds: Vec<Nat> = kinds.filter(|nat| *nat != Nat::None).collect();
        let last = kinds.len().saturating_sub(1);
        let public = |number: u8| match place.ipv6_only {
            true => IpAddr::from([0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, 2]),
            false => IpAddr::from([198, 51, 100, number]),
        };
        let outer = |index| match index == last {
            true => public(number),
            false => IpAddr::from([10, number, 0, 2]),
        };
        let inside = IpAddr::from([192, 168, number, 2]);
        let own = if kinds.is_empty() { public(number) } else { inside };
        let gateways = kinds
            .iter()
            .enumerate()
            .map(|(index, nat)| Gateway::new(*nat, outer(index), false, binding))
            .collect();
        Self { own: SocketAddr::from((own, 5000)), gateways, known: BTreeSet::new() }
    }

    /// The address that a packet to `to` leaves the outermost gateway with.
    fn send(&mut self, now: Instant, to: SocketAddr) -> Option<SocketAddr> {
        // Nothing here translates between the families.
        if to.is_ipv4() != self.own.is_ipv4() {
            return None;
        }
        self.gateways.iter_mut().try_fold(self.own, |from, gateway| gateway.outbound(now, from, to))
    }

    /// Whether a packet to `at` gets in to the user.
    fn receives(&mut self, now: Instant, from: SocketAddr, at: SocketAddr) -> bool {
        let inner = self
            .gateways
            .iter_mut()
            .rev()
            .try_fold(at, |at, gateway| gateway.inbound(now, from, at));
        inner == Some(self.own)
    }
}

/// How a call between these places travels by the models, from `start` on.
pub fn reach(one: &Place, other: &Place, start: Instant) -> Outcome {
    if !one.has_udp() || !other.has_udp() {
        return Outcome::Tcp;
    }
    let mut sides = [Side::new(one, 1), Side::new(other, 2)];
    for from in 0..2 {
        let server = if sides[from].own.is_ipv4() { SERVER } else { SERVER_IPV6 };
        let mapped = sides[from].send(start, server);
        sides[1 - from].known.extend(mapped);
    }
    for round in 1..=ROUNDS {
        let now = start + ROUND * round;
        for from in 0..2 {
            for to in sides[from].known.clone() {
                if check(&mut sides, now, from, to) {
                    return Outcome::Direct;
                }
            }
        }
    }
    Outcome::RelayedUdp
}

/// Sends a check from one side to an address; whether its answer came back.
fn check(sides: &mut [Side; 2], now: Instant, from: usize, to: SocketAddr) -> bool {
    let Some(source) = sides[from].send(now, to) else { return false };
    if !sides[1 - from].receives(now, source, to) {
        return false;
    }
    sides[1 - from].known.insert(source);
    let answered_from = sides[1 - from].send(now, source);
    // An answer from elsewhere than where the check went is not accepted (RFC 8445, 7.2.5.2.1).
    answered_from == Some(to) && sides[from].receives(now, to, source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{PLACES, outcome};

    #[test]
    fn the_models_reach_each_other_as_the_oracle_says() {
        let start = Instant::now();
        for one in &PLACES {
            for other in &PLACES {
                assert_eq!(reach(one, other, start), outcome(one, other), "{one:?} {other:?}");
            }
        }
    }
}
