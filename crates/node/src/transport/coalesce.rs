//! Small frames that are written one after the other leave in one TLS record and one packet.
//!
//! yamux writes and flushes frame by frame; opening a stream and asking something on it are four of
//! them, which as packets of their own cost more headers than words. Here a flush first lets
//! everything else that is ready be written: it is put off to the next time that the task is
//! polled, and is done then.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait: one TLS record (RFC 8446 section 5.1). More is written at once.
const BUFFER_BYTES_MAX: usize = 16_384;

/// A stream that joins small writes.
#[derive(Debug)]
pub(super) struct Coalesce<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of the buffer is written already.
    written: usize,
    /// The flush was put off, and nothing was written since.
    is_put_off: bool,
}

impl<S> Coalesce<S> {
    /// Joins what is written to `stream`.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), written: 0, is_put_off: false }
    }
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        // An idle connection keeps no buffer.
        self.buffer = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() + bytes.len() > BUFFER_BYTES_MAX {
            ready!(this.poll_drain(cx))?;
        }
        if bytes.len() > BUFFER_BYTES_MAX {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        this.buffer.extend_from_slice(bytes);
        this.is_put_off = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.buffer.is_empty() && !this.is_put_off {
            this.is_put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Counts the writes that reach it.
    #[derive(Default)]
    struct Counted {
        writes: Vec<usize>,
        bytes: Vec<u8>,
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            // A writer may take less than it is offered.
            let taken = bytes.len().min(10_000);
            this.writes.push(taken);
            this.bytes.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_large_ones_in_order() {
        let mut stream = Coalesce::new(Counted::default());
        for word in ["one ", "two ", "three"] {
            stream.write_all(word.as_bytes()).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.writes, [13]);
        stream.write_all(b"small").await.unwrap();
        stream.write_all(&[7; 40_000]).await.unwrap();
        stream.write_all(b"end").await.unwrap();
        stream.shutdown().await.unwrap();
        let wanted = [&b"one two threesmall"[..], &[7; 40_000], b"end"].concat();
        assert!(stream.stream.bytes == wanted);
    }

    #[tokio::test]
    async fn what_is_flushed_arrives_though_nothing_else_is_written() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Coalesce::new(near);
        let sends = tokio::spawn(async move {
            stream.write_all(&[3; 1_000]).await.unwrap();
            stream.flush().await.unwrap();
            stream
        });
        let mut heard = vec![0; 1_000];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [3; 1_000]);
        drop(sends.await.unwrap());
    }
}
