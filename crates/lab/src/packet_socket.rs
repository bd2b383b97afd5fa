//! A packet socket (packet(7)) in a namespace: every IP packet that passes, both ways.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::namespace::inside;

/// What the kernel may hold until it is read: seconds of the laboratory's traffic.
const BUFFER_BYTES: usize = 32 << 20;

/// Longest packet: offloading joins segments up to this.
const PACKET_BYTES_MAX: usize = 1 << 17;

/// How long a read waits, so that its reader can look whether it shall end.
const WAIT: Duration = Duration::from_millis(20);

/// An open socket and the buffer that it reads into.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// Opens one in a namespace.
    pub(crate) fn open(namespace: &str) -> Result<Self> {
        let fd = inside(namespace, || {
            let all = SockProtocol::EthAll;
            let flags = SockFlag::SOCK_CLOEXEC;
            let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, all)
                .context("no packet socket: the laboratory needs its own network namespace")?;
            // Root may exceed the limit; without the privilege the kernel's own size has to do.
            if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
                let _ = setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES);
            }
            let wait_ms = i64::try_from(WAIT.as_millis()).unwrap_or(1);
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(wait_ms))?;
            Ok(fd)
        })?;
        Ok(Self { fd, buffer: vec![0; PACKET_BYTES_MAX] })
    }

    /// The next packet from its IP header on, and where the kernel saw it; `None` if none came
    /// within 20 ms.
    pub(crate) fn read(&mut self) -> Result<Option<(&[u8], LinkAddr)>> {
        match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
            Ok((length, Some(from))) => Ok(Some((&self.buffer[..length], from))),
            Ok((_, None)) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error).context("reading packets"),
        }
    }
}
