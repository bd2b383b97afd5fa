//! The addresses of this machine that may become host candidates, and datagrams of low TTL.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _},
};

use nix::{
    ifaddrs::getifaddrs,
    libc,
    net::if_::InterfaceFlags,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};

/// Host addresses at most (chosen: an interface for each of wire, Wi-Fi, mobile and two VPNs, with
/// IPv4 and IPv6).
const ADDRESSES_MAX: usize = 8;

/// Addresses of interfaces that are up, without link-local ones; loopback only if there is nothing
/// else or it is asked for. A failure of the system gives none.
pub(crate) fn host_addresses(loopback: bool) -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return BTreeSet::new() };
    let up = interfaces.filter(|one| one.flags.contains(InterfaceFlags::IFF_UP));
    let all: BTreeSet<IpAddr> = up
        .filter_map(|one| {
            let storage = one.address?;
            let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified(),
        })
        .collect();
    let far = all.iter().filter(|ip| loopback || !ip.is_loopback());
    let far: BTreeSet<_> = far.take(ADDRESSES_MAX).copied().collect();
    if far.is_empty() { all } else { far }
}

/// Sends one datagram with its own time to live, from `local` on a socket bound to all addresses,
/// without touching the socket's options: others send on it at the same time.
pub(super) fn send_with_ttl(
    socket: impl AsFd,
    to: SocketAddr,
    local: IpAddr,
    bytes: &[u8],
    ttl: u8,
) -> io::Result<()> {
    let hops = libc::c_int::from(ttl);
    let slices = [IoSlice::new(bytes)];
    let address = SockaddrStorage::from(to);
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    match local {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4Ttl(&hops), ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &slices, &control, flags, Some(&address))?;
        }
        IpAddr::V6(_) => {
            let control = [ControlMessage::Ipv6HopLimit(&hops)];
            sendmsg(fd, &slices, &control, flags, Some(&address))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_an_address() {
        assert!(!host_addresses(true).is_empty());
    }

    #[test]
    fn a_datagram_of_low_ttl_arrives_on_the_same_machine() {
        let sender = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let to = receiver.local_addr().unwrap();
        send_with_ttl(&sender, to, [127, 0, 0, 1].into(), b"opener", 2).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"opener");
        assert_eq!(from.port(), sender.local_addr().unwrap().port());
    }
}
