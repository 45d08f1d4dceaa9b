//! [`Metered`]: a bound on how much a server may send without completing a reply.
//!
//! redis-rs's own connection gathers a reply without a limit: a peer that never
//! ends its bulk string would fill the memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::ledger::redis::transport::Stream;

/// The most bytes that may arrive while no reply is completed. Many times what
/// a line is owed; a peer that sends more is no Redis.
const UNANSWERED_MAX_BYTES: usize = 4 * 1024 * 1024;

/// How many bytes have come since a reply was last completed.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicUsize);

impl Meter {
    /// A reply is complete: begin again.
    pub(super) fn replied(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether so many more bytes are still fine.
    fn admits(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= UNANSWERED_MAX_BYTES
    }
}

/// A stream that breaks when the peer sends too much without completing a
/// reply.
pub(super) struct Metered {
    stream: Box<dyn Stream>,
    meter: Arc<Meter>,
}

impl Metered {
    /// The stream with a meter of its own.
    pub(super) fn new(stream: Box<dyn Stream>) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        let metered = Metered {
            stream,
            meter: Arc::clone(&meter),
        };
        (metered, meter)
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        if read > 0 && !self.meter.admits(read) {
            // A kind that redis-rs takes for the end of the connection.
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "redis sent more than a reply may hold",
            )));
        }
        outcome
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
