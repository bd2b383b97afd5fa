//! A small HTTP CONNECT proxy (RFC 9110 section 9.3.6) for gateways from which nothing else gets
//! out: numeric addresses only, no authentication, ports 443 and 80 as proxies commonly allow.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::namespace::inside;

/// Most tunnels at once; further clients are turned away.
const TUNNELS_MAX: usize = 64;

/// Longest line and most lines of a request's head.
const LINE_BYTES_MAX: u64 = 1024;
const LINES_MAX: usize = 64;

/// How long the proxy tries to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Ports that it connects to.
const PORTS: [u16; 2] = [443, 80];

/// Starts a proxy in the namespace called `namespace`, on `port` of all its addresses. It runs
/// until the process ends.
pub fn start(namespace: &str, port: u16) -> Result<()> {
    inside(namespace, || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let tunnels = Arc::new(AtomicUsize::new(0));
        // Threads inherit the network namespace of the one that starts them.
        thread::Builder::new().name("CONNECT proxy".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                let guard = Tunnel::new(&tunnels);
                let serve = move || {
                    if let Some(_guard) = guard
                        && let Err(error) = tunnel(client)
                    {
                        tracing::debug!(%error, "a proxy tunnel ended");
                    }
                };
                if thread::Builder::new().name("proxy tunnel".to_owned()).spawn(serve).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    })
}

/// Counts a tunnel for as long as it lives.
struct Tunnel(Arc<AtomicUsize>);

impl Tunnel {
    fn new(count: &Arc<AtomicUsize>) -> Option<Self> {
        let guard = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < TUNNELS_MAX).then_some(guard)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn tunnel(client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let server = match read_target(&mut reader)? {
        Some(to) if PORTS.contains(&to.port()) => TcpStream::connect_timeout(&to, CONNECT_PATIENCE),
        Some(_) => return client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        None => return client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    };
    let Ok(mut server) = server else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    };
    server.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    server.write_all(reader.buffer())?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = thread::Builder::new().name("proxy tunnel back".to_owned()).spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    })?;
    let _ = io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Both);
    let _ = back.join();
    Ok(())
}

/// The address that the request's head asks for; none: not a request that this proxy takes.
fn read_target(reader: &mut impl BufRead) -> io::Result<Option<SocketAddr>> {
    let mut target = None;
    for number in 0..LINES_MAX {
        let mut line = String::new();
        reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        let line = line.trim_end();
        if number == 0 {
            let mut words = line.split(' ');
            if words.next() == Some("CONNECT") {
                target = words.next().and_then(|word| word.parse().ok());
            }
        } else if line.is_empty() {
            return Ok(target);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Option<SocketAddr> {
        read_target(&mut text.as_bytes()).unwrap()
    }

    #[test]
    fn only_connect_to_a_numeric_address_is_understood() {
        let to = target("CONNECT 198.18.1.2:443 HTTP/1.1\r\nHost: x\r\n\r\nmore");
        assert_eq!(to, Some("198.18.1.2:443".parse().unwrap()));
        assert_eq!(target("GET / HTTP/1.1\r\n\r\n"), None);
        assert_eq!(target("CONNECT example.org:443 HTTP/1.1\r\n\r\n"), None);
        assert_eq!(target(&"x".repeat(100_000)), None);
    }
}
