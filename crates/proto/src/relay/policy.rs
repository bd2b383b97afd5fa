//! Which peers a relay may send to: public unicast addresses only, unless the operator adds more.
//!
//! Without this a relay is a door into the network it stands in (RFC 8656 section 21.4).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A range of addresses, as `192.0.2.0/24`; without `/` one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    base: IpAddr,
    prefix_bits: u8,
}

/// Text that is no [`AddressBlock`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address block like 192.0.2.0/24: {0}")]
pub struct AddressBlockError(String);

impl AddressBlock {
    const fn v4(a: u8, b: u8, c: u8, prefix_bits: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix_bits }
    }

    const fn v6(first: u16, second: u16, prefix_bits: u8) -> Self {
        let base = IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0));
        Self { base, prefix_bits }
    }

    /// Whether `ip` lies in it. Families never mix: a mapped address is not IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (base, ip, width) = match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (u128::from(base.to_bits()), u128::from(ip.to_bits()), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => (base.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let host_bits = width - u32::from(self.prefix_bits);
        base.checked_shr(host_bits).unwrap_or(0) == ip.checked_shr(host_bits).unwrap_or(0)
    }
}

impl FromStr for AddressBlock {
    type Err = AddressBlockError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressBlockError(text.into());
        let (base, prefix) = text.split_once('/').map_or((text, None), |(b, p)| (b, Some(p)));
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(Ok(width), str::parse).map_err(|_| wrong())?;
        if prefix_bits > width { Err(wrong()) } else { Ok(Self { base, prefix_bits }) }
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

/// IPv4 that is not public unicast (IANA special-purpose registry, RFC 6890).
const FORBIDDEN_V4: [AddressBlock; 15] = [
    AddressBlock::v4(0, 0, 0, 8),
    AddressBlock::v4(10, 0, 0, 8),
    AddressBlock::v4(100, 64, 0, 10),
    AddressBlock::v4(127, 0, 0, 8),
    AddressBlock::v4(169, 254, 0, 16),
    AddressBlock::v4(172, 16, 0, 12),
    AddressBlock::v4(192, 0, 0, 24),
    AddressBlock::v4(192, 0, 2, 24),
    AddressBlock::v4(192, 88, 99, 24),
    AddressBlock::v4(192, 168, 0, 16),
    AddressBlock::v4(198, 18, 0, 15),
    AddressBlock::v4(198, 51, 100, 24),
    AddressBlock::v4(203, 0, 113, 24),
    AddressBlock::v4(224, 0, 0, 4),
    AddressBlock::v4(240, 0, 0, 4),
];

/// The only IPv6 space assigned as global unicast: mapped, local, link-local, unique local,
/// translated and multicast addresses all lie outside.
const GLOBAL_V6: AddressBlock = AddressBlock::v6(0x2000, 0, 3);
/// Inside it: what embeds IPv4 addresses (6to4, Teredo) and documentation.
const FORBIDDEN_V6: [AddressBlock; 3] = [
    AddressBlock::v6(0x2001, 0, 32),
    AddressBlock::v6(0x2001, 0x0db8, 32),
    AddressBlock::v6(0x2002, 0, 16),
];

/// Decides about peers. The default allows public unicast addresses and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Allowed besides, for laboratories and networks without Internet.
    pub allowed: Vec<AddressBlock>,
    /// Refused in any case: what is public by address but belongs to the operator's own side.
    pub refused: Vec<AddressBlock>,
}

impl PeerPolicy {
    /// Whether the relay may send to `peer`.
    pub fn permits(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        let within = |blocks: &[AddressBlock]| blocks.iter().any(|block| block.contains(ip));
        if peer.port() == 0 || within(&self.refused) {
            return false;
        }
        within(&self.allowed)
            || match ip {
                IpAddr::V4(_) => !within(&FORBIDDEN_V4),
                IpAddr::V6(_) => GLOBAL_V6.contains(ip) && !within(&FORBIDDEN_V6),
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permits(policy: &PeerPolicy, ip: &str) -> bool {
        policy.permits(SocketAddr::new(ip.parse().unwrap(), 4000))
    }

    #[test]
    fn the_default_forbids_everything_that_is_not_public() {
        let policy = PeerPolicy::default();
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::8.8.8.8",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001:0:a00:1::1",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!permits(&policy, ip), "{ip}");
        }
        for ip in ["8.8.8.8", "100.63.0.1", "172.32.0.1", "2600::1", "2a00:1450::1"] {
            assert!(permits(&policy, ip), "{ip}");
        }
        assert!(!policy.permits("8.8.8.8:0".parse().unwrap()));
    }

    #[test]
    fn the_operator_adds_and_refuses() {
        let policy = PeerPolicy {
            allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            refused: vec!["127.0.0.53".parse().unwrap(), "8.8.0.0/16".parse().unwrap()],
        };
        assert!(permits(&policy, "127.0.0.1") && permits(&policy, "::1"));
        assert!(!permits(&policy, "127.0.0.53") && !permits(&policy, "8.8.8.8"));
        assert!(!permits(&policy, "::ffff:127.0.0.1") && !permits(&policy, "10.0.0.1"));
    }

    proptest! {
        #[test]
        fn blocks_survive_print_and_parse(
            bits in any::<u128>(), v4 in any::<bool>(), p in 0_u8..=32,
        ) {
            let base = if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            };
            let block = AddressBlock { base, prefix_bits: p };
            prop_assert_eq!(block.to_string().parse::<AddressBlock>().unwrap(), block);
            prop_assert!(block.contains(base));
        }

        #[test]
        fn any_text_is_a_block_or_an_error(text in ".{0,40}") {
            let _ = text.parse::<AddressBlock>();
        }
    }
}
