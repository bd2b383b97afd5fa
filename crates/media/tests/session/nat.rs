//! The NAT kinds of the virtual network (RFC 4787 terms), without time-outs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatKind {
    /// The host is public.
    None,
    /// Endpoint-independent mapping, address- and port-dependent filtering.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering.
    Symmetric,
}

pub(crate) struct Nat {
    pub(crate) kind: NatKind,
    pub(crate) public: IpAddr,
    /// No UDP passes at all.
    pub(crate) udp_blocked: bool,
    mappings: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    allowed: BTreeSet<(u16, SocketAddr)>,
    next_port: u16,
}

impl Nat {
    pub(crate) fn new(kind: NatKind, public: IpAddr) -> Self {
        Self {
            kind,
            public,
            udp_blocked: false,
            mappings: BTreeMap::new(),
            allowed: BTreeSet::new(),
            next_port: 20_000,
        }
    }

    pub(crate) fn outward(&mut self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.udp_blocked {
            return None;
        }
        let key = match self.kind {
            NatKind::None => return Some(from),
            NatKind::PortRestricted => (from, None),
            NatKind::Symmetric => (from, Some(to)),
        };
        let next_port = &mut self.next_port;
        let port = *self.mappings.entry(key).or_insert_with(|| {
            *next_port += 1;
            *next_port
        });
        self.allowed.insert((port, to));
        Some(SocketAddr::new(self.public, port))
    }

    pub(crate) fn inward(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.udp_blocked || to.ip() != self.public {
            return None;
        }
        if self.kind == NatKind::None {
            return Some(to);
        }
        if !self.allowed.contains(&(to.port(), from)) {
            return None;
        }
        self.mappings.iter().find(|(_, port)| **port == to.port()).map(|((base, _), _)| *base)
    }
}
