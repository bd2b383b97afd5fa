//! The prober against real relay machines through modelled NATs, in virtual time.
#![allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Now, UnixTime},
    relay::{ClientId, RelayConfig, RelayOutput, RelaySecret, RelayServer, partner_response},
};

const FIRST: ([u8; 4], u16) = ([198, 41, 0, 4], 3478);
const PARTNER: ([u8; 4], u16) = ([192, 33, 4, 12], 443);
const ALTERNATE_PORT: u16 = 9000;
const INSIDE: [u8; 4] = [192, 168, 1, 2];
const OUTSIDE: [u8; 4] = [9, 9, 9, 9];

/// A NAT of RFC 4787, or none, or a wall.
struct Nat {
    translates: bool,
    mapping: Mapping,
    filtering: Filtering,
    hairpin: bool,
    mappings: BTreeMap<(SocketAddr, String), SocketAddr>,
    sent: Vec<(SocketAddr, SocketAddr)>,
}

impl Nat {
    fn outbound(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let key = match self.mapping {
            Mapping::EndpointIndependent => String::new(),
            Mapping::AddressDependent => to.ip().to_string(),
            Mapping::AddressAndPortDependent => to.to_string(),
        };
        let next = SocketAddr::from((OUTSIDE, 40_000 + self.mappings.len() as u16));
        let mapped = match self.translates {
            true => *self.mappings.entry((from, key)).or_insert(next),
            false => from,
        };
        self.sent.push((mapped, to));
        mapped
    }

    fn inbound(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let open = self.sent.iter().any(|(mapped, remote)| {
            *mapped == to
                && match self.filtering {
                    Filtering::EndpointIndependent => true,
                    Filtering::AddressDependent => remote.ip() == from.ip(),
                    Filtering::AddressAndPortDependent => *remote == from,
                }
        });
        let inside = self.mappings.iter().find(|(_, mapped)| **mapped == to).map(|((i, _), _)| *i);
        let inside = if self.translates { inside } else { Some(to) };
        inside.filter(|_| open)
    }
}

fn server(partner: bool) -> RelayServer {
    let config = RelayConfig {
        alternate_port: Some(ALTERNATE_PORT),
        partner: partner.then(|| PARTNER.into()),
        ..RelayConfig::default()
    };
    RelayServer::new(config, RelaySecret::new([1; 32]), [2; 32])
}

struct World {
    nat: Nat,
    first: RelayServer,
    other: RelayServer,
    reachable: bool,
}

impl World {
    fn new(mapping: Mapping, filtering: Filtering, hairpin: bool, translates: bool) -> Self {
        let (mappings, sent) = (BTreeMap::new(), Vec::new());
        let nat = Nat { translates, mapping, filtering, hairpin, mappings, sent };
        Self { nat, first: server(true), other: server(false), reachable: true }
    }

    fn main(&self) -> SocketAddr {
        (if self.nat.translates { INSIDE } else { OUTSIDE }, 5000).into()
    }

    /// Datagrams that come out of the Internet for one that went in.
    fn internet(
        &mut self,
        now: Now,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        if self.nat.hairpin && to.ip() == SocketAddr::from((OUTSIDE, 0)).ip() {
            return vec![(from, to, bytes.to_vec())];
        }
        let first = SocketAddr::from(FIRST);
        let alternate = SocketAddr::new(first.ip(), ALTERNATE_PORT);
        let server = match to {
            to if to == first || to == alternate => &mut self.first,
            to if to == PARTNER.into() => &mut self.other,
            _ => return Vec::new(),
        };
        server.handle_message(now, ClientId::Udp { remote: from, socket: 0 }, None, bytes);
        let mut out = Vec::new();
        while let Some(output) = server.poll_output() {
            out.extend(match output {
                RelayOutput::Transmit { client, bytes, .. } => Some((to, client.remote(), bytes)),
                RelayOutput::TransmitAlternate { remote, bytes } => {
                    Some((alternate, remote, bytes))
                }
                RelayOutput::AskPartner { mapped, transaction, change_port } => {
                    assert!(change_port);
                    let from = (PARTNER.0, 9001).into();
                    Some((from, mapped, partner_response(mapped, transaction)))
                }
                _ => None,
            });
        }
        out
    }

    fn run(&mut self) -> Reachability {
        let unix = UnixTime::from_seconds(1_800_000_000);
        let mut now = Now { instant: Instant::now(), unix };
        let second = SocketAddr::new(self.main().ip(), 5001);
        let servers = [FIRST.into(), PARTNER.into()];
        let config = ProberConfig { servers, local: self.main() };
        let mut prober = Prober::new(now, config, [7; 32]);
        for _ in 0..1000 {
            while let Some(output) = prober.poll_output() {
                let (socket, to, bytes) = match output {
                    ProbeOutput::Finished(result) => return result,
                    ProbeOutput::Transmit { socket, to, bytes } => (socket, to, bytes),
                };
                let from = if socket == ProbeSocket::Main { self.main() } else { second };
                let outside = self.nat.outbound(from, to);
                if !self.reachable {
                    continue;
                }
                for (from, to, bytes) in self.internet(now, outside, to, &bytes) {
                    let Some(inside) = self.nat.inbound(from, to) else { continue };
                    let main = inside == self.main();
                    let socket = if main { ProbeSocket::Main } else { ProbeSocket::Second };
                    prober.handle_datagram(now, socket, from, &bytes);
                }
            }
            let at = prober.poll_timeout().expect("neither finished nor waiting");
            now = now.plus(at.saturating_duration_since(now.instant));
            prober.handle_timeout(now);
        }
        panic!("never finished");
    }
}

#[test]
fn every_kind_of_nat_is_told_apart() {
    use Filtering as F;
    use Mapping as M;
    let mappings = [M::EndpointIndependent, M::AddressDependent, M::AddressAndPortDependent];
    let filters = [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent];
    for mapping in mappings {
        for filtering in filters {
            for hairpin in [true, false] {
                let result = World::new(mapping, filtering, hairpin, true).run();
                assert!(result.udp);
                assert_eq!(result.translated, Some(true));
                assert_eq!(result.mapping, Some(mapping), "{result}");
                assert_eq!(result.filtering, Some(filtering), "{result}");
                if filtering == F::EndpointIndependent || !hairpin {
                    assert_eq!(result.hairpin, Some(hairpin), "{result}");
                }
                assert!(result.sentences()[0].contains("9.9.9.9:4"), "{:?}", result.sentences());
            }
        }
    }
}

#[test]
fn a_public_host_is_public_and_a_firewall_before_it_is_seen() {
    let mut open =
        World::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, false, false);
    assert!(open.run().is_public());
    let mut walled =
        World::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, false, false);
    let result = walled.run();
    assert_eq!((result.translated, result.is_public()), (Some(false), false));
    assert_eq!(result.filtering, Some(Filtering::AddressAndPortDependent));
}

#[test]
fn blocked_udp_is_said_within_five_seconds_of_virtual_time() {
    let mut world =
        World::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, false, true);
    world.reachable = false;
    let result = world.run();
    assert!(!result.udp);
    assert!(result.measured.since(UnixTime::from_seconds(1_800_000_000)) < Duration::from_secs(5));
    assert!(result.sentences()[0].contains("UDP is blocked"));
}

#[test]
fn without_a_partner_filtering_stays_open_unless_nothing_comes_from_another_port() {
    for (filtering, expected) in [
        (Filtering::EndpointIndependent, None),
        (Filtering::AddressDependent, None),
        (Filtering::AddressAndPortDependent, Some(Filtering::AddressAndPortDependent)),
    ] {
        let mut world = World::new(Mapping::EndpointIndependent, filtering, false, true);
        world.first = server(false);
        assert_eq!(world.run().filtering, expected);
    }
}

proptest! {
    #[test]
    fn a_result_survives_print_and_parse(
        udp in any::<bool>(), ip in any::<Option<u32>>(), port in any::<u16>(),
        flags in any::<(Option<bool>, Option<bool>)>(),
        kinds in (0_usize..4, 0_usize..4), at in any::<u64>(),
    ) {
        use Filtering as F;
        use Mapping as M;
        let result = Reachability {
            udp,
            mapped: ip.map(|ip| (std::net::Ipv4Addr::from_bits(ip), port).into()),
            translated: flags.0,
            hairpin: flags.1,
            mapping: [None, Some(M::EndpointIndependent), Some(M::AddressDependent),
                Some(M::AddressAndPortDependent)][kinds.0],
            filtering: [None, Some(F::EndpointIndependent), Some(F::AddressDependent),
                Some(F::AddressAndPortDependent)][kinds.1],
            measured: UnixTime(at),
        };
        prop_assert_eq!(result.to_string().parse::<Reachability>().unwrap(), result);
        prop_assert!(!result.sentences().is_empty());
    }

    #[test]
    fn any_text_is_a_result_or_an_error(text in "[1 a-z0-9.:-]{0,60}") {
        let _ = text.parse::<Reachability>();
    }

    #[test]
    fn any_datagram_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let now = Now { instant: Instant::now(), unix: UnixTime(0) };
        let servers = [FIRST.into(), PARTNER.into()];
        let config = ProberConfig { servers, local: (INSIDE, 5000).into() };
        let mut prober = Prober::new(now, config, [7; 32]);
        prober.handle_datagram(now, ProbeSocket::Main, FIRST.into(), &bytes);
        prober.handle_datagram(now, ProbeSocket::Second, PARTNER.into(), &bytes);
    }
}
