//! Address blocks: what one party can plausibly hold many addresses of.

use std::net::{IpAddr, Ipv4Addr};

/// The block of an address: IPv4 /16, IPv6 /32 (what a provider is commonly given).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressBlock {
    /// First 16 bits of an IPv4 address.
    V4([u8; 2]),
    /// First 32 bits of an IPv6 address.
    V6([u8; 4]),
}

impl AddressBlock {
    /// The block that `ip` lies in. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self::V4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::V6([a, b, c, d])
            }
        }
    }

    /// Whether the block is loopback, private (RFC 1918, RFC 4193) or link-local.
    pub fn is_private(self) -> bool {
        match self {
            Self::V4([a, b]) => {
                let ip = Ipv4Addr::new(a, b, 1, 1);
                ip.is_loopback() || ip.is_private() || ip.is_link_local()
            }
            Self::V6([a, b, ..]) => {
                a & 0xfe == 0xfc || (a, b & 0xc0) == (0xfe, 0x80) || (a, b) == (0, 0)
            }
        }
    }
}
