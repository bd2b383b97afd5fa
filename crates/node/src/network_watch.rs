//! Tells at once when this machine's addresses or ways out change: another Wi-Fi, a cable pulled,
//! mobile instead of both.
//!
//! Linux says so on a routing netlink socket (rtnetlink(7)); what exactly changed is not read from
//! it, since everybody here compares the addresses anyway. Where the socket cannot be had, nobody
//! is told and the slow looks of the others have to do.

use std::{collections::BTreeSet, future::pending, net::IpAddr, os::fd::AsRawFd, time::Duration};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
};
use tokio::{net::UdpSocket, time::timeout};

/// Links, addresses of both families and IPv4 routes. IPv6 routes change with every router
/// advertisement.
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE;

/// A change comes in several messages; this much silence ends it. Chosen.
const SETTLED: Duration = Duration::from_millis(20);

/// Messages that one change may have at most; then it is told although more come. Chosen.
const MESSAGES_MAX: usize = 64;

/// Longest message read; the rest of a longer one is dropped by the system.
const MESSAGE_BYTES_MAX: usize = 8192;

/// The watch; drop it to stop.
#[derive(Debug)]
pub struct NetworkWatch {
    socket: Option<UdpSocket>,
}

impl NetworkWatch {
    /// Watches from now on. Needs a running runtime.
    pub fn new() -> Self {
        let socket = open()
            .inspect_err(|error| tracing::warn!(%error, "changes of the network cannot be watched"))
            .ok();
        Self { socket }
    }

    /// Resolves after something changed. Cancel safe up to the rest of a burst.
    pub async fn changed(&mut self) {
        let Some(socket) = &self.socket else { return pending().await };
        if read(socket).await.is_err() {
            self.socket = None;
            return;
        }
        for _ in 0..MESSAGES_MAX {
            match timeout(SETTLED, read(socket)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Addresses of this machine's interfaces that are up, loopback among them only if there is nothing
/// else.
pub fn addresses() -> BTreeSet<IpAddr> {
    crate::media::host_addresses(false)
}

fn open() -> std::io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkRoute;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.unsigned_abs()))?;
    // Not UDP, but a datagram socket all the same: only `recv` is called on it.
    UdpSocket::from_std(std::net::UdpSocket::from(fd))
}

/// Reads one message and forgets it.
async fn read(socket: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    match socket.recv(&mut buffer).await {
        // Messages were lost: something changed, that is all anybody asks.
        Err(error) if error.raw_os_error() != Some(Errno::ENOBUFS as i32) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_changes_by_itself() {
        let mut watch = NetworkWatch::new();
        assert!(watch.socket.is_some());
        // Whatever else this machine does may change its addresses: only that it does not fail.
        let _ = timeout(SETTLED, watch.changed()).await;
        assert!(watch.socket.is_some());
        assert!(!addresses().is_empty());
    }
}
