//! A TCP connection whose flush waits until the kernel holds next to nothing unsent.
//!
//! A kernel takes megabytes that it cannot send yet, and voice in there can no more be dropped.
//! With `TCP_NOTSENT_LOWAT` it calls the socket writable only while less than half of that is
//! unsent, so whoever flushes after each message and asks for the next one then has the choice
//! until the last moment. Writing looks at no mark: what has begun goes on. Where the mark cannot
//! be set, a flush waits until the socket is writable at all.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// The mark in bytes: writable below half of it, five packets of voice (chosen).
const UNSENT_BYTES: u32 = 2_048;

pub(super) struct LittleUnsent(TcpStream);

impl LittleUnsent {
    pub(super) fn new(stream: TcpStream) -> Self {
        if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
            tracing::debug!(%error, "the kernel keeps what it cannot send yet");
        }
        Self(stream)
    }

    fn is_writable(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.0, PollFlags::OUT)];
        match poll(&mut polled, Some(&Timespec::default()))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            // An error too: the next write tells it.
            _ => Ok(()),
        }
    }
}

impl AsyncRead for LittleUnsent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for LittleUnsent {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            // The kernel tells of the mark's passing only whom it has told to wait: asked like
            // this it has, and the readiness known so far is forgotten.
            match self.0.try_io(Interest::WRITABLE, || self.is_writable()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
