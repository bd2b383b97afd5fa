//! Invitations: the one line that a newcomer needs to join a network.
//!
//! `cooee:<root key>?name=Example&login=host:port&sn=host:port&code=…` with the root key in
//! lower-case base32 (RFC 4648, no padding), any number of `login` and `sn` up to the bounds, and
//! percent-encoding (RFC 3986) in `name` and `code`. Unknown parameters are skipped.

use std::{
    fmt::{self, Write},
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use data_encoding::{Encoding, Specification};

use super::NetworkRoot;

/// Longest invitation, in bytes (chosen: still one readable QR code).
pub const INVITATION_BYTES_MAX: usize = 2000;
/// Most login-server addresses in an invitation (chosen).
pub const LOGIN_SERVERS_MAX: usize = 8;
/// Most super nodes in an invitation (chosen: enough that all being gone is unlikely).
pub const SUPER_NODES_MAX: usize = 16;

const SCHEME: &str = "cooee:";
const TEXT_BYTES_MAX: usize = 100;

/// Why a text is not an invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// It does not start with `cooee:`.
    #[error("an invitation starts with \"{SCHEME}\": copy the whole line")]
    Scheme,
    /// The root key is not 32 bytes of base32.
    #[error("the key in the invitation is damaged: copy the whole line again")]
    Key,
    /// An address is not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
    /// A bound of this module was exceeded, or a percent-encoding is broken.
    #[error("the invitation is damaged or too long: {0}")]
    Damaged(&'static str),
}

/// A host name or IP address, with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Checks and keeps a host (a name of letters, digits, '-', '.', or an IP address) and a port.
    pub fn new(host: &str, port: u16) -> Result<Self, InvitationError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let named = !host.is_empty() && host.len() <= 253 && host.chars().all(legal);
        if port == 0 || !(named || host.parse::<Ipv6Addr>().is_ok()) {
            return Err(InvitationError::Address(format!("{host}:{port}")));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IP address, if the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvitationError::Address(text.chars().take(TEXT_BYTES_MAX).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(wrong());
        }
        let port = port.parse().map_err(|_| wrong())?;
        Self::new(bracketed.unwrap_or(host), port).map_err(|_| wrong())
    }
}

impl From<std::net::SocketAddr> for HostPort {
    fn from(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// What a newcomer needs to know of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The root key: all that must be trusted.
    pub root: NetworkRoot,
    /// Addresses of login servers, at most [`LOGIN_SERVERS_MAX`].
    pub login_servers: Vec<HostPort>,
    /// Addresses of super nodes to start from, at most [`SUPER_NODES_MAX`].
    pub super_nodes: Vec<HostPort>,
    /// What people call the network.
    pub name: Option<String>,
    /// Code that the registration asks for, where it does.
    pub code: Option<String>,
}

impl Invitation {
    /// An invitation with nothing but the root key.
    pub fn new(root: NetworkRoot) -> Self {
        let (login_servers, super_nodes) = (Vec::new(), Vec::new());
        Self { root, login_servers, super_nodes, name: None, code: None }
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", base32().encode(&self.root.0.0))?;
        let mut separator = '?';
        let mut parameter = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            let done = write!(f, "{separator}{key}={value}");
            separator = '&';
            done
        };
        if let Some(name) = &self.name {
            parameter(f, "name", &percent_encode(name))?;
        }
        for address in &self.login_servers {
            parameter(f, "login", &address.to_string())?;
        }
        for address in &self.super_nodes {
            parameter(f, "sn", &address.to_string())?;
        }
        if let Some(code) = &self.code {
            parameter(f, "code", &percent_encode(code))?;
        }
        Ok(())
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > INVITATION_BYTES_MAX {
            return Err(InvitationError::Damaged("too long"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvitationError::Scheme)?;
        let (key, query) = rest.split_once('?').unwrap_or((rest, ""));
        let key = base32().decode(key.to_ascii_lowercase().as_bytes());
        let key = key.map_err(|_| InvitationError::Key)?;
        let root = NetworkRoot::from_slice(&key).ok_or(InvitationError::Key)?;
        let mut invitation = Self::new(root);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "login" => invitation.login_servers.push(value.parse()?),
                "sn" => invitation.super_nodes.push(value.parse()?),
                "name" => invitation.name = Some(percent_decode(value)?),
                "code" => invitation.code = Some(percent_decode(value)?),
                _ => {}
            }
        }
        if invitation.login_servers.len() > LOGIN_SERVERS_MAX
            || invitation.super_nodes.len() > SUPER_NODES_MAX
        {
            return Err(InvitationError::Damaged("too many addresses"));
        }
        Ok(invitation)
    }
}

fn base32() -> Encoding {
    let mut alphabet = Specification::new();
    alphabet.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    alphabet.encoding().expect("a fixed and legal alphabet")
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String grows as needed");
        }
        out
    })
}

fn percent_decode(text: &str) -> Result<String, InvitationError> {
    const BROKEN: InvitationError = InvitationError::Damaged("broken percent-encoding");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit().ok_or(BROKEN)?, digit().ok_or(BROKEN)?);
            bytes.push(u8::try_from(high << 4 | low).expect("two hexadecimal digits"));
        } else {
            bytes.push(byte);
        }
    }
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(InvitationError::Damaged("name or code too long"));
    }
    String::from_utf8(bytes).map_err(|_| BROKEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::NodePublicKey;

    fn any_address() -> impl Strategy<Value = HostPort> {
        let host = prop_oneof![
            "[a-z][a-z0-9-]{0,20}(\\.[a-z]{2,5})?",
            any::<[u8; 4]>().prop_map(|b| IpAddr::from(b).to_string()),
            any::<[u8; 16]>().prop_map(|b| Ipv6Addr::from(b).to_string()),
        ];
        (host, 1_u16..).prop_map(|(host, port)| HostPort::new(&host, port).unwrap())
    }

    proptest! {
        #[test]
        fn an_invitation_survives_text(
            key: [u8; 32],
            login_servers in prop::collection::vec(any_address(), 0..=LOGIN_SERVERS_MAX),
            super_nodes in prop::collection::vec(any_address(), 0..=SUPER_NODES_MAX),
            name in prop::option::of("\\PC{0,20}"), code in prop::option::of("[A-Z0-9]{1,20}"),
        ) {
            let root = NetworkRoot(NodePublicKey(key));
            let invitation = Invitation { root, login_servers, super_nodes, name, code };
            let text = invitation.to_string();
            prop_assert!(text.len() <= INVITATION_BYTES_MAX);
            prop_assert_eq!(text.parse(), Ok(invitation));
        }

        #[test]
        fn any_text_gives_an_invitation_or_an_error(text in "(cooee:)?[a-z2-7]{0,60}\\PC{0,80}") {
            let _ = text.parse::<Invitation>();
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let key = "a".repeat(52);
        let parse = |text: String| text.parse::<Invitation>().unwrap_err();
        assert_eq!(parse("http://example".into()), InvitationError::Scheme);
        assert_eq!(parse(format!("cooee:{}", &key[1..])), InvitationError::Key);
        assert_eq!(
            parse(format!("cooee:{key}?login=here")),
            InvitationError::Address("here".into())
        );
        assert!(matches!(
            parse(format!("cooee:{key}?name=%4")),
            InvitationError::Damaged("broken percent-encoding")
        ));
        assert!(format!("  cooee:{key}?new=1&sn=[::1]:5 \n").parse::<Invitation>().is_ok());
    }
}
