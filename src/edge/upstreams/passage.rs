//! One attempt's way to the upstream, where it goes in the clear and speaks
//! HTTP/1.1.
//!
//! Pingora's own way costs a task, a timer, two locks and a `getpeername` for
//! each request that a connection is kept open after, and a system call for the
//! head apart from the one for the body. So Pingora is given a connection that
//! is ours ([`Socket`]), and made to believe that each is new: a [`Passage`] is
//! the connector that it asks, once for each attempt, and what the phases of
//! that attempt and its connection have to tell each other.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::ext;
use pingora_core::protocols::l4::socket::SocketAddr as L4Address;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::VirtualSocketStream;
use pingora_error::{Error, ErrorType, OrErr as _, Result};
use tokio::net::TcpStream;

use super::idle::{Idle, Line};
use super::socket::Socket;

/// How long an upstream may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To be connected to.
    pub connect: Duration,
    /// To say something, while it is waited for.
    pub read: Duration,
}

/// The way to an address.
pub struct Passage {
    /// Itself: Pingora lends it, and the connection keeps it.
    me: Weak<Passage>,
    idle: Arc<Idle>,
    timeouts: Timeouts,
    late: AtomicBool,
    taken: AtomicBool,
    reused: AtomicBool,
    part_coming: AtomicBool,
    behind_head: OnceLock<Vec<u8>>,
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passage").field(&self.idle).finish()
    }
}

impl Passage {
    /// A way on one of the connections that wait, or on a new one.
    pub fn new(idle: &Arc<Idle>, timeouts: Timeouts) -> Arc<Self> {
        Arc::new_cyclic(|me| Passage {
            me: Weak::clone(me),
            idle: Arc::clone(idle),
            timeouts,
            late: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            reused: AtomicBool::new(false),
            part_coming: AtomicBool::new(false),
            behind_head: OnceLock::new(),
        })
    }

    /// Whether the attempt has a connection on this way.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether the connection carried a request before: then the upstream may
    /// have closed it while this one was under way, without having seen it.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Whether the upstream said nothing for too long. Pingora sees an error of
    /// reading like any other.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Notes that the upstream said nothing for too long.
    pub(super) fn note_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// How long the upstream may say nothing.
    pub(super) fn read_timeout(&self) -> Duration {
        self.timeouts.read
    }

    /// Has these lines written behind the head: whole lines, of headers that it
    /// has not and that Pingora does not put there afterwards. To be said once,
    /// before the head is written.
    pub fn write_behind_head(&self, lines: Vec<u8>) {
        // Each attempt has a passage of its own and one head. Were this said
        // again, the first lines would stay.
        let _ = self.behind_head.set(lines);
    }

    /// The lines to be written behind the head.
    pub(super) fn behind_head(&self) -> &[u8] {
        self.behind_head.get().map_or(&[], Vec::as_slice)
    }

    /// A part of the body, or its end, will be written before anything is
    /// waited for. To be said only by who puts it there next, in one go.
    pub fn announce_part(&self) {
        self.part_coming.store(true, Ordering::Relaxed);
    }

    /// Whether a part was announced; asked again, it was not.
    pub(super) fn take_announcement(&self) -> bool {
        self.part_coming.load(Ordering::Relaxed) && self.part_coming.swap(false, Ordering::Relaxed)
    }

    /// Keeps a connection for a later request.
    pub(super) fn keep(&self, line: Line) {
        self.idle.put(line);
    }

    async fn dial(&self, address: &SocketAddr) -> Result<TcpStream> {
        let dialling = tokio::time::timeout(self.timeouts.connect, ext::connect(address, None));
        let Ok(dialled) = dialling.await else {
            return Error::e_explain(
                ErrorType::ConnectTimedout,
                format!(
                    "connecting to {address} took longer than {:?}",
                    self.timeouts.connect
                ),
            );
        };
        let stream = dialled.map_err(|error| match error.etype() {
            ErrorType::SocketError | ErrorType::BindError => Error::because(
                ErrorType::InternalError,
                format!("no socket to connect to {address}"),
                error,
            ),
            _ => error,
        })?;
        stream
            .set_nodelay(true)
            .or_err(ErrorType::ConnectError, "the socket cannot be set up")?;
        Ok(stream)
    }
}

#[async_trait]
impl L4Connect for Passage {
    async fn connect(&self, address: &L4Address) -> Result<Stream> {
        let (Some(me), Some(address)) = (self.me.upgrade(), address.as_inet()) else {
            return Error::e_explain(ErrorType::InternalError, "not an address of TCP");
        };
        let line = match self.idle.take() {
            Some(line) => {
                self.reused.store(true, Ordering::Relaxed);
                line
            }
            // On the heap: it is large, and rarely wanted.
            None => Line::new(Box::pin(self.dial(address)).await?),
        };
        self.taken.store(true, Ordering::Relaxed);
        let socket = Box::new(Socket::new(line, me));
        Ok(Stream::from(VirtualSocketStream::new(socket)))
    }
}
