//! What a super node says about itself, signed: where it listens, what it runs, what it can carry.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::{
    identity::{NodeId, NodePublicKey},
    wire::v1,
};

/// Longest certificate that a statement may carry, in bytes (measured: 329 for an Ed25519 one).
pub const CERTIFICATE_BYTES_MAX: usize = 900;

/// The part of the address space that one operator is likely to own: IPv4 /16, IPv6 /32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressBlock(pub u64);

impl AddressBlock {
    /// The block that holds `ip`.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(u32::from(v4) >> 16)),
            IpAddr::V6(v6) => Self((1 << 40) | (u128::from(v6) >> 96) as u64),
        }
    }
}

/// A super node as the membership knows it: a checked statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperNode {
    /// Who.
    pub node: NodeId,
    /// Its device key, for sealed datagrams.
    pub public_key: NodePublicKey,
    /// Where it listens, TCP and UDP.
    pub address: SocketAddr,
    /// When it signed this, milliseconds since 1970; a higher one replaces a lower one.
    pub incarnation: u64,
    /// Program version: major << 16 | minor << 8 | patch.
    pub program_version: u32,
    /// Attached devices that it can carry.
    pub capacity: u32,
    /// It is about to go.
    pub leaving: bool,
    /// Its certificate, for those who have not met it.
    pub certificate: Bytes,
    /// Its signature.
    pub signature: Bytes,
    /// What lets it serve, if its certificate does not.
    pub admission: Option<v1::Admission>,
}

impl SuperNode {
    /// Reads a statement whose certificate and signature the caller has checked.
    pub fn from_wire(
        node: NodeId,
        public_key: NodePublicKey,
        wire: &v1::SuperNodeStatement,
    ) -> Option<Self> {
        let claims_to_be = NodeId::from_slice(&wire.node)?;
        if claims_to_be != node
            || wire.certificate.len() > CERTIFICATE_BYTES_MAX
            || wire.signature.len() > 64
        {
            return None;
        }
        let (mut certificate, mut signature) = (wire.certificate.clone(), wire.signature.clone());
        crate::index::compact([&mut certificate, &mut signature]);
        Some(Self {
            node,
            public_key,
            address: socket_address(&wire.ip, wire.port)?,
            incarnation: wire.incarnation,
            program_version: wire.program_version,
            capacity: wire.capacity,
            leaving: wire.leaving,
            certificate,
            signature,
            admission: wire.admission.clone(),
        })
    }

    /// The statement as it crosses the network.
    pub fn to_wire(&self) -> v1::SuperNodeStatement {
        v1::SuperNodeStatement {
            certificate: self.certificate.clone(),
            ip: ip_bytes(self.address.ip()),
            port: u32::from(self.address.port()),
            incarnation: self.incarnation,
            program_version: self.program_version,
            capacity: self.capacity,
            leaving: self.leaving,
            signature: self.signature.clone(),
            admission: self.admission.clone(),
            node: Bytes::copy_from_slice(&self.node.0),
        }
    }

    /// The address block, for diversity.
    pub fn block(&self) -> AddressBlock {
        AddressBlock::of(self.address.ip())
    }
}

/// What the signature of a statement covers.
pub fn statement_signed_part(node: NodeId, wire: &v1::SuperNodeStatement) -> Vec<u8> {
    let mut part = Vec::with_capacity(80);
    part.extend_from_slice(b"cooee super node v1");
    part.extend_from_slice(&node.0);
    part.push(wire.ip.len() as u8);
    part.extend_from_slice(&wire.ip);
    part.extend_from_slice(&wire.port.to_be_bytes());
    part.extend_from_slice(&wire.incarnation.to_be_bytes());
    part.extend_from_slice(&wire.program_version.to_be_bytes());
    part.extend_from_slice(&wire.capacity.to_be_bytes());
    part.push(u8::from(wire.leaving));
    part
}

/// The 4 or 16 bytes of an address.
pub fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

fn socket_address(ip: &[u8], port: u32) -> Option<SocketAddr> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
