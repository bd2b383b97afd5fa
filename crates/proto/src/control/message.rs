//! Checks of what the control messages carry.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::{
    clock::UnixTime,
    identity::{NameKey, NodeId},
    wire::v1::{Hello, SocketAddress, hello::Role},
};

/// Most addresses taken from one message. Chosen; see `host_cache::REPORT_MAX`.
pub const ADDRESSES_MAX: usize = 50;
/// Longest program version kept, in characters.
const PROGRAM_VERSION_MAX: usize = 64;

/// A message breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// An identifier of the wrong length.
    #[error("{0} has a wrong length")]
    Length(&'static str),
    /// The role is not one of this version.
    #[error("unknown role")]
    Role,
    /// No version in common.
    #[error("the peer speaks version {theirs} of the control protocol, this program speaks {ours}")]
    Version {
        /// Of the peer.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// A port above 65535.
    #[error("port {0} does not exist")]
    Port(u32),
}

/// What the sender of a Hello wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Attach me.
    Ordinary,
    /// I am a super node too.
    SuperNode,
}

/// A checked Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the sender wants to be.
    pub role: NodeRole,
    /// Program and version, for people.
    pub program_version: String,
    /// Our address as the sender sees it.
    pub observed_address: Option<SocketAddr>,
    /// Port on which the sender listens.
    pub listening_port: Option<u16>,
    /// The sender's wall clock.
    pub unix: UnixTime,
}

impl Greeting {
    /// Checks a Hello.
    pub fn from_wire(hello: &Hello) -> Result<Self, MessageError> {
        if hello.version < super::VERSION {
            return Err(MessageError::Version { theirs: hello.version, ours: super::VERSION });
        }
        let role = match hello.role() {
            Role::OrdinaryNode => NodeRole::Ordinary,
            Role::SuperNode => NodeRole::SuperNode,
            Role::Unspecified => return Err(MessageError::Role),
        };
        let port = u16::try_from(hello.listening_port)
            .map_err(|_| MessageError::Port(hello.listening_port))?;
        Ok(Self {
            role,
            program_version: printable(&hello.program_version),
            observed_address: hello.observed_address.as_ref().and_then(address_from_wire),
            listening_port: (port != 0).then_some(port),
            unix: UnixTime(hello.unix_ms),
        })
    }

    /// The message that carries it.
    pub fn to_wire(&self) -> Hello {
        let role = match self.role {
            NodeRole::Ordinary => Role::OrdinaryNode,
            NodeRole::SuperNode => Role::SuperNode,
        };
        Hello {
            role: role.into(),
            version: super::VERSION,
            program_version: self.program_version.clone(),
            observed_address: self.observed_address.map(address_to_wire),
            listening_port: self.listening_port.map_or(0, u32::from),
            unix_ms: self.unix.0,
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(PROGRAM_VERSION_MAX).collect()
}

/// The address, unless it is malformed.
pub fn address_from_wire(address: &SocketAddress) -> Option<SocketAddr> {
    let ip = match *address.ip {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::try_from(address.port).ok()?))
}

/// The address as a message.
pub fn address_to_wire(address: SocketAddr) -> SocketAddress {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    };
    SocketAddress { ip, port: u32::from(address.port()) }
}

/// The well-formed ones of the first [`ADDRESSES_MAX`] addresses.
pub fn addresses_from_wire(addresses: &[SocketAddress]) -> Vec<SocketAddr> {
    addresses.iter().take(ADDRESSES_MAX).filter_map(address_from_wire).collect()
}

/// At most [`ADDRESSES_MAX`] addresses as messages.
pub fn addresses_to_wire(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddress> {
    addresses.into_iter().take(ADDRESSES_MAX).map(address_to_wire).collect()
}

/// A node identifier.
pub fn node_id(bytes: &[u8]) -> Result<NodeId, MessageError> {
    NodeId::from_slice(bytes).ok_or(MessageError::Length("node identifier"))
}

/// A node identifier that may be absent.
pub fn optional_node_id(bytes: &[u8]) -> Result<Option<NodeId>, MessageError> {
    if bytes.is_empty() { Ok(None) } else { node_id(bytes).map(Some) }
}

/// A name key.
pub fn name_key(bytes: &[u8]) -> Result<NameKey, MessageError> {
    NameKey::from_slice(bytes).ok_or(MessageError::Length("name key"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::v1::ControlMessage;

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    fn any_greeting() -> impl Strategy<Value = Greeting> {
        let role = prop_oneof![Just(NodeRole::Ordinary), Just(NodeRole::SuperNode)];
        (role, "[ -~]{0,40}", any::<Option<u16>>(), any::<u64>(), prop::option::of(any_address()))
            .prop_map(|(role, program_version, port, unix, observed_address)| Greeting {
                role,
                program_version,
                observed_address,
                listening_port: port.filter(|port| *port != 0),
                unix: UnixTime(unix),
            })
    }

    proptest! {
        #[test]
        fn a_greeting_survives_the_wire(greeting in any_greeting()) {
            let bytes = greeting.to_wire().encode_to_vec();
            let decoded = Hello::decode(&*bytes).unwrap();
            prop_assert_eq!(Greeting::from_wire(&decoded), Ok(greeting));
        }

        #[test]
        fn truncation_and_bit_flips_never_panic(
            greeting in any_greeting(), cut in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut bytes = greeting.to_wire().encode_to_vec();
            let at = cut.index(bytes.len());
            if let Ok(hello) = Hello::decode(&bytes[..at]) {
                let _ = Greeting::from_wire(&hello);
            }
            bytes[at] ^= 1 << bit;
            if let Ok(hello) = Hello::decode(&*bytes) {
                let _ = Greeting::from_wire(&hello);
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = ControlMessage::decode(&*bytes);
            let _ = (node_id(&bytes), optional_node_id(&bytes), name_key(&bytes));
            let _ = address_from_wire(&SocketAddress { ip: bytes.into(), port: 70_000 });
        }
    }

    #[test]
    fn an_older_version_is_refused_and_a_newer_one_is_not() {
        let mut hello = Greeting {
            role: NodeRole::Ordinary,
            program_version: String::new(),
            observed_address: None,
            listening_port: None,
            unix: UnixTime(0),
        }
        .to_wire();
        hello.version = 0;
        assert_eq!(Greeting::from_wire(&hello), Err(MessageError::Version { theirs: 0, ours: 1 }));
        hello.version = 9;
        assert!(Greeting::from_wire(&hello).is_ok());
    }
}
