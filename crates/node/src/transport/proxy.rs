//! HTTP CONNECT proxy (RFC 9110 section 9.3.6), from the configuration or the environment.

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::TransportError;

/// Longest answer that a proxy may give before the tunnel, in bytes. Chosen.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// One HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    authority: String,
    /// `user:password`, if the URL carried them.
    user_info: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Proxy").field(&self.authority).finish()
    }
}

impl Proxy {
    /// Parses `[http://][user:password@]host[:port]`; the port defaults to 8080.
    pub fn parse(url: &str) -> Result<Self, TransportError> {
        let bad = || {
            TransportError::Proxy(format!(
                "proxy address `{}` is not understood; \
             write http://host:port",
                strip_secret(url)
            ))
        };
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(bad()),
            None => url,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (user_info, host) = match rest.rsplit_once('@') {
            Some((user_info, host)) => (Some(percent_decoded(user_info)), host),
            None => (None, rest),
        };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { host.to_owned() } else { format!("{host}:8080") };
        let valid = !host.is_empty()
            && !host.starts_with(':')
            && host.is_ascii()
            && !host.contains(|c: char| c.is_whitespace() || c.is_control());
        if valid { Ok(Self { authority, user_info }) } else { Err(bad()) }
    }

    /// Opens a tunnel through the proxy.
    pub(super) async fn connect(&self, to: SocketAddr) -> Result<TcpStream, TransportError> {
        let proxy_error =
            |text: String| TransportError::Proxy(format!("{}: {text}", self.authority));
        let mut stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|error| proxy_error(format!("cannot be reached: {error}")))?;
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some(user_info) = &self.user_info {
            let encoded = base64::engine::general_purpose::STANDARD.encode(user_info);
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the empty line already belongs to the tunnel.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_BYTES_MAX {
                return Err(proxy_error("its answer is too long".into()));
            }
            answer.push(stream.read_u8().await.map_err(|_| {
                proxy_error("it closed the connection instead of answering".into())
            })?);
        }
        match status_of(&answer) {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(proxy_error("it wants a user and password (407)".into())),
            Some(status) => Err(proxy_error(format!("it refused the connection ({status})"))),
            None => Err(proxy_error("its answer is not HTTP".into())),
        }
    }
}

/// Status code of an HTTP/1.x answer.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

fn strip_secret(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Which connections go through a proxy.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    proxy: Option<Proxy>,
    exceptions: Vec<String>,
}

impl ProxyConfig {
    /// No proxy at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Always this proxy, except towards `exceptions` (as in `NO_PROXY`).
    pub fn fixed(proxy: Proxy, exceptions: &str) -> Self {
        Self { proxy: Some(proxy), exceptions: split_exceptions(exceptions) }
    }

    /// `HTTPS_PROXY` or `ALL_PROXY`, with `NO_PROXY`; lower-case names win, as with curl. `lookup`
    /// reads a variable.
    pub fn from_environment(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TransportError> {
        let variable = |name: &str| {
            lookup(&name.to_ascii_lowercase())
                .or_else(|| lookup(name))
                .filter(|value| !value.is_empty())
        };
        let Some(url) = variable("HTTPS_PROXY").or_else(|| variable("ALL_PROXY")) else {
            return Ok(Self::none());
        };
        let exceptions = variable("NO_PROXY").unwrap_or_default();
        Ok(Self::fixed(Proxy::parse(&url)?, &exceptions))
    }

    /// The proxy for a connection to `to`, if any. Loopback is always reached directly unless the
    /// proxy itself is on loopback.
    pub fn proxy_for(&self, to: SocketAddr) -> Option<&Proxy> {
        let excepted = self.exceptions.iter().any(|pattern| matches(pattern, to.ip()));
        self.proxy.as_ref().filter(|_| !excepted)
    }
}

fn split_exceptions(list: &str) -> Vec<String> {
    list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Whether a `NO_PROXY` item (`*`, an address, `address/bits`) covers the address.
fn matches(pattern: &str, ip: IpAddr) -> bool {
    if pattern == "*" {
        return true;
    }
    let (network, bits) = match pattern.split_once('/') {
        Some((network, bits)) => (network, bits.parse::<u32>().ok()),
        None => (pattern, Some(128)),
    };
    let Some(bits) = bits else { return false };
    match (network.parse::<IpAddr>(), ip) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(ip)) => {
            let shift = 32 - bits.min(32);
            (u64::from(network.to_bits()) >> shift) == (u64::from(ip.to_bits()) >> shift)
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            network.to_bits() & mask == ip.to_bits() & mask
        }
        _ => pattern == "localhost" && ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> ProxyConfig {
        ProxyConfig::from_environment(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap()
    }

    #[test]
    fn the_environment_names_the_proxy_and_its_exceptions() {
        let config = config(&[
            ("ALL_PROXY", "http://all:1"),
            ("HTTPS_PROXY", "http://us%40er:pw@proxy.example:3128/"),
            ("NO_PROXY", "10.0.0.0/8, 192.0.2.7,::1"),
        ]);
        let proxy = config.proxy_for("198.51.100.1:443".parse().unwrap()).unwrap();
        assert_eq!(proxy.authority, "proxy.example:3128");
        assert_eq!(proxy.user_info.as_deref(), Some("us@er:pw"));
        for excepted in ["10.200.1.1:1", "192.0.2.7:1", "[::1]:1"] {
            assert_eq!(config.proxy_for(excepted.parse().unwrap()), None, "{excepted}");
        }
    }

    #[test]
    fn without_variables_nothing_goes_through_a_proxy() {
        assert_eq!(config(&[]).proxy_for("198.51.100.1:443".parse().unwrap()), None);
    }

    #[test]
    fn an_error_about_a_proxy_does_not_show_its_password() {
        let error = Proxy::parse("socks5://me:secret@host").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_proxy_or_an_error(
            url in ".{0,60}", answer in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = Proxy::parse(&url);
            let _ = status_of(&answer);
            let _ = matches(&url, IpAddr::from([127, 0, 0, 1]));
        }
    }
}
