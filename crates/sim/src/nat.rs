//! The NAT model: which address a packet leaves with, and whether one that arrives is let in.
//!
//! RFC 4787 behaviour by [`Nat`] kind. The laboratory's gateways behave the same by nftables; its
//! matrix checks one against the other.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::place::Nat;

/// Most mappings at once; a new flow above it is refused, as a real gateway does.
const MAPPINGS_MAX: usize = 16_384;

/// Bindings may live this much longer than stated. Chosen: far below the shortest binding (30 s).
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// First port handed out to a flow that cannot keep its own.
const FIRST_PORT: u16 = 20_000;

/// One gateway.
#[derive(Debug)]
pub struct Gateway {
    nat: Nat,
    outer: IpAddr,
    hairpin: bool,
    binding: Duration,
    /// Inner address, and destination where the mapping depends on it → outer port.
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    mappings: BTreeMap<u16, Mapping>,
    next_port: u16,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Mapping {
    inner: SocketAddr,
    to: Option<SocketAddr>,
    /// Peers sent to, and when last.
    asked: BTreeMap<SocketAddr, Instant>,
    last_sent: Instant,
}

impl Gateway {
    /// A gateway with one outer address and bindings that live `binding` after the last packet
    /// out.
    pub fn new(nat: Nat, outer: IpAddr, hairpin: bool, binding: Duration) -> Self {
        Self {
            nat,
            outer,
            hairpin,
            binding,
            ports: BTreeMap::new(),
            mappings: BTreeMap::new(),
            next_port: FIRST_PORT,
            swept: None,
        }
    }

    /// The address that a packet from `inner` to `to` leaves with; `None` when the table is full.
    pub fn outbound(
        &mut self,
        now: Instant,
        inner: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        if self.nat == Nat::None {
            return Some(inner);
        }
        self.expire(now);
        let key = (inner, (!self.nat.maps_endpoint_independently()).then_some(to));
        let port = match self.ports.get(&key) {
            Some(port) => *port,
            None => self.allocate(now, key)?,
        };
        let mapping = self.mappings.get_mut(&port)?;
        mapping.last_sent = now;
        mapping.asked.insert(to, now);
        Some(SocketAddr::new(self.outer, port))
    }

    /// The inner address that a packet from `from` to `at` is forwarded to, if it is let in.
    pub fn inbound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        at: SocketAddr,
    ) -> Option<SocketAddr> {
        if self.nat == Nat::None {
            return Some(at);
        }
        self.expire(now);
        let mapping = self.mappings.get(&at.port()).filter(|_| at.ip() == self.outer)?;
        let is_known = if self.nat.lets_in_strangers() {
            true
        } else if self.nat.lets_in_other_ports() {
            mapping.asked.keys().any(|peer| peer.ip() == from.ip())
        } else {
            mapping.asked.contains_key(&from)
        };
        is_known.then_some(mapping.inner)
    }

    /// Whether a packet from inside to this gateway's outer address is turned back inside.
    pub fn hairpins(&self) -> bool {
        self.hairpin
    }

    /// Forgets every mapping, as after a restart.
    pub fn forget(&mut self) {
        self.ports.clear();
        self.mappings.clear();
    }

    fn allocate(&mut self, now: Instant, key: (SocketAddr, Option<SocketAddr>)) -> Option<u16> {
        if self.mappings.len() >= MAPPINGS_MAX {
            return None;
        }
        // Like the kernel: keep the inner port while it is free, unless mappings are per peer.
        let own = key.0.port();
        let port = if key.1.is_none() && !self.mappings.contains_key(&own) {
            own
        } else {
            while self.mappings.contains_key(&self.next_port) {
                self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            }
            self.next_port
        };
        self.ports.insert(key, port);
        let mapping = Mapping { inner: key.0, to: key.1, asked: BTreeMap::new(), last_sent: now };
        self.mappings.insert(port, mapping);
        Some(port)
    }

    /// Forgets what has expired; at most once a second, for it walks the whole table.
    fn expire(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let binding = self.binding;
        let ports = &mut self.ports;
        self.mappings.retain(|_, mapping| {
            let lives = now.saturating_duration_since(mapping.last_sent) < binding;
            if lives {
                mapping.asked.retain(|_, at| now.saturating_duration_since(*at) < binding);
            } else {
                ports.remove(&(mapping.inner, mapping.to));
            }
            lives
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn gateway(nat: Nat) -> Gateway {
        Gateway::new(nat, "198.18.1.2".parse().unwrap(), false, Duration::from_secs(120))
    }

    /// Same mapping to another peer; stranger let in; other port of an asked peer let in.
    fn behaviour(nat: Nat) -> (bool, bool, bool) {
        let now = Instant::now();
        let mut gateway = gateway(nat);
        let inner = address("192.168.1.2:5000");
        let mapped = gateway.outbound(now, inner, address("1.0.0.1:1000")).unwrap();
        assert_eq!(gateway.inbound(now, address("1.0.0.1:1000"), mapped), Some(inner));
        let stranger = gateway.inbound(now, address("2.0.0.2:1000"), mapped).is_some();
        let other_port = gateway.inbound(now, address("1.0.0.1:1001"), mapped).is_some();
        let second = gateway.outbound(now, inner, address("2.0.0.2:1000")).unwrap();
        (second == mapped, stranger, other_port)
    }

    #[test]
    fn each_kind_maps_and_filters_as_rfc_4787_says() {
        assert_eq!(behaviour(Nat::FullCone), (true, true, true));
        assert_eq!(behaviour(Nat::AddressRestricted), (true, false, true));
        assert_eq!(behaviour(Nat::PortRestricted), (true, false, false));
        assert_eq!(behaviour(Nat::Symmetric), (false, false, false));
    }

    #[test]
    fn a_binding_ends_after_its_life_without_packets_out() {
        let start = Instant::now();
        let mut gateway = gateway(Nat::PortRestricted);
        let peer = address("1.0.0.1:1000");
        let mapped = gateway.outbound(start, address("192.168.1.2:5000"), peer).unwrap();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(gateway.inbound(later(119), peer, mapped).is_some());
        assert!(gateway.inbound(later(121), peer, mapped).is_none());
    }

    #[test]
    fn two_hosts_with_one_port_get_two_mappings() {
        let now = Instant::now();
        let mut gateway = gateway(Nat::FullCone);
        let peer = address("1.0.0.1:1000");
        let one = gateway.outbound(now, address("192.168.1.2:5000"), peer).unwrap();
        let two = gateway.outbound(now, address("192.168.2.2:5000"), peer).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Instant::now();
        let mut gateway = gateway(Nat::Symmetric);
        let inner = address("192.168.1.2:5000");
        for index in 0..MAPPINGS_MAX {
            let ip = std::net::Ipv4Addr::from(0x0100_0000 + index as u32);
            assert!(gateway.outbound(now, inner, (ip, 9).into()).is_some());
        }
        assert_eq!(gateway.outbound(now, inner, address("9.9.9.9:9")), None);
    }
}
