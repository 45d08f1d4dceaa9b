//! One client connection: its buffer, and the clock that it is under.
//!
//! Pingora bounds neither how long a connection may idle nor how long a
//! request head may drip in, nor answers a head that it cannot parse in a form
//! that API clients read. This wrapper stands between it and the socket and
//! knows what the connection is doing ([`Phase`]):
//!
//! - *idle*: no byte of the next request is there. After `idle_timeout` it ends.
//! - *head*: some of a head is there. After `header_timeout` it ends; when the
//!   head passes `header_size`, it is answered with 431, read away and ended;
//!   and what Pingora writes is its bare answer to a head it refused, so the
//!   problem is written in its place.
//! - *busy*: a request is being handled, which has bounds of its own.
//!
//! In every phase, a client whose socket takes nothing of what is written to it
//! for `write_timeout` loses the connection. (An HTTP/2 stream can stall while
//! the socket takes other things; that is bounded per request.) Timers are lazy: a connection that
//! keeps moving never touches one, and a head that comes in one piece no clock.
//!
//! Pingora's session is large, so an idle connection has none: it is made when
//! the first bytes of a request are there ([`Connection::begin`]).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::problem::Problem;
use super::problem::style::bare_http1;

/// Gathers an answer's header and body into one write.
const WRITE_BUFFER_BYTES: usize = 4096;

/// The most that is read of a request before there is a session for it: as
/// much as that reads at first.
const BEGIN_BYTES: usize = 4096;

/// How long, and how much of, an oversized head is read away so that the
/// client gets to read the answer.
const DISCARD_MAX: Duration = Duration::from_secs(2);
const DISCARD_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of an HTTP/2 connection's preface (RFC 9113, section 3.4); with them
/// the head phase of such a connection is over.
const H2_PREFACE_BYTES: usize = 24;

/// Bounds on what a connection may do between requests.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long it may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a head may take from its first byte to its last.
    pub header_timeout: Duration,
    /// The largest head, in bytes.
    pub header_size: usize,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// What a problem's `type` begins with.
    pub type_base: String,
    /// Where heads that were refused here are counted.
    pub refused_heads: RefusedHeads,
}

/// Counts heads that were refused before they became requests.
#[derive(Clone, Debug)]
pub struct RefusedHeads {
    /// Those that Pingora could not accept.
    pub malformed: IntCounter,
    /// Those that were too large.
    pub too_large: IntCounter,
}

/// What a connection is doing. Shared with the request that it carries.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const REFUSING: u8 = 3;

impl Phase {
    /// The head is read: the request's own bounds hold from here.
    pub fn set_busy(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// The request is over: the next one may begin.
    pub fn set_idle(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }
}

/// Tells a connection that the head of a request on it is read.
///
/// For applications that are no proxy; the proxy is told by Pingora.
pub fn begin_request(session: &mut ServerSession) {
    let phase = session.take_connection_user_context();
    if let Some(Ok(phase)) = phase.map(|phase| phase.downcast::<Arc<Phase>>()) {
        phase.set_busy();
    }
}

/// A client connection.
pub struct Connection<S> {
    io: BufWriter<S>,
    protocol: Option<ALPN>,
    phase: Arc<Phase>,
    bounds: Arc<Bounds>,
    /// The phase that the fields below are about.
    seen: u8,
    /// When that phase ends, if it is bounded; `None`: not yet known.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Who is woken by that timer.
    waker: Option<Waker>,
    /// What was read of a request before anybody asked for it.
    begun: Bytes,
    /// Armed while the client takes nothing.
    write_timer: Option<Pin<Box<Sleep>>>,
    head_bytes: usize,
    discarded: usize,
    answered: bool,
}

impl<S: IO> Connection<S> {
    /// Wraps an established stream that speaks `protocol`, or what it
    /// negotiated itself.
    pub fn new(io: S, protocol: Option<ALPN>, phase: Arc<Phase>, bounds: Arc<Bounds>) -> Self {
        Connection {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, io),
            protocol,
            phase,
            bounds,
            seen: IDLE,
            deadline: None,
            timer: None,
            waker: None,
            begun: Bytes::new(),
            write_timer: None,
            head_bytes: 0,
            discarded: 0,
            answered: false,
        }
    }

    /// Waits for the first bytes of a request, and keeps them for whoever reads
    /// next. False: the client has gone.
    ///
    /// # Errors
    /// If the connection broke, or was idle for too long.
    pub async fn begin(&mut self) -> io::Result<bool> {
        poll_fn(|cx| self.poll_begin(cx)).await
    }

    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut room = [const { MaybeUninit::uninit() }; BEGIN_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *self).poll_read(cx, &mut read))?;
        self.begun = Bytes::copy_from_slice(read.filled());
        Poll::Ready(Ok(!self.begun.is_empty()))
    }

    fn is_h2(&self) -> bool {
        matches!(self.protocol, Some(ALPN::H2))
    }

    /// Forgets what was about a phase that is over: the request on the
    /// connection moves on without telling it.
    fn follow_phase(&mut self) {
        let phase = self.phase.get();
        if phase != self.seen {
            self.seen = phase;
            self.deadline = None;
            self.head_bytes = 0;
        }
    }

    /// Notes what a read brought.
    fn note_read(&mut self, bytes: usize) {
        match self.phase.get() {
            IDLE if bytes > 0 => {
                self.seen = HEAD;
                self.phase.set(HEAD);
                self.head_bytes = bytes;
                // It has no clock before more of it has to be waited for.
                self.deadline = None;
            }
            HEAD => {
                self.head_bytes = self.head_bytes.saturating_add(bytes);
                self.deadline();
            }
            _ => {}
        }
        if self.is_h2() && self.head_bytes >= H2_PREFACE_BYTES {
            self.phase.set_busy();
        }
    }

    /// When the current phase ends; its clock starts with the first question.
    fn deadline(&mut self) -> Instant {
        let patience = match self.phase.get() {
            HEAD => self.bounds.header_timeout,
            _ => self.bounds.idle_timeout,
        };
        *self.deadline.get_or_insert_with(|| {
            let now = Instant::now();
            now.checked_add(patience).unwrap_or(now)
        })
    }

    /// Ready once the current phase has lasted too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase.get() == BUSY {
            return Poll::Pending;
        }
        let deadline = self.deadline();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let is_known = self
            .waker
            .as_ref()
            .is_some_and(|it| it.will_wake(cx.waker()));
        if is_known && !timer.is_elapsed() && timer.deadline() <= deadline {
            return Poll::Pending;
        }
        if !is_known {
            self.waker = Some(cx.waker().clone());
        }
        // Armed for later than this phase ends, or fired for one that is over.
        if timer.deadline() > deadline || timer.is_elapsed() {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Answers an oversized head and reads the rest of it away.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.answered {
            ready!(self.poll_answer(cx, &Problem::head_too_large()))?;
            self.bounds.refused_heads.too_large.inc();
            self.deadline = Instant::now().checked_add(DISCARD_MAX);
        }
        let _ = Pin::new(&mut self.io).poll_flush(cx);
        let mut scratch = [0_u8; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.discarded = self.discarded.saturating_add(buffer.filled().len());
                    if self.discarded > DISCARD_MAX_BYTES {
                        break;
                    }
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    break;
                }
            }
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the request head is too large",
        )))
    }

    /// Writes a problem; it fits into the empty write buffer.
    fn poll_answer(&mut self, cx: &mut Context<'_>, problem: &Problem) -> Poll<io::Result<()>> {
        let answer = bare_http1(problem, &self.bounds.type_base);
        ready!(Pin::new(&mut self.io).poll_write(cx, &answer))?;
        self.answered = true;
        Poll::Ready(Ok(()))
    }

    /// Bounds how long a client may take nothing of what is written to it.
    fn poll_taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.write_timer = None;
            return taken;
        }
        let patience = self.bounds.write_timeout;
        let timer = self
            .write_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether what is written now is Pingora's own answer to a head that it
    /// could not accept: no request has begun.
    fn writes_bare_answer(&self) -> bool {
        self.phase.get() == HEAD && !self.is_h2()
    }
}

impl<S: IO> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.begun.is_empty() {
            let count = this.begun.len().min(buf.remaining());
            buf.put_slice(&this.begun.split_to(count));
            return Poll::Ready(Ok(()));
        }
        this.follow_phase();
        match this.phase.get() {
            REFUSING => return this.poll_refuse(cx),
            HEAD if this.head_bytes > this.bounds.header_size && !this.is_h2() => {
                this.phase.set(REFUSING);
                this.seen = REFUSING;
                return this.poll_refuse(cx);
            }
            _ => {}
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.note_read(buf.filled().len().saturating_sub(before));
                let late = this.phase.get() == HEAD
                    && this
                        .deadline
                        .is_some_and(|deadline| Instant::now() > deadline);
                if late {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(this.poll_deadline(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: IO> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.writes_bare_answer() {
            if !self.answered {
                let problem = Problem::invalid("the request head is malformed or not supported");
                ready!(self.poll_answer(cx, &problem))?;
                self.bounds.refused_heads.malformed.inc();
            }
            return Poll::Ready(Ok(buf.len()));
        }
        let taken = Pin::new(&mut self.io).poll_write(cx, buf);
        self.poll_taken(cx, taken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_taken(cx, taken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.io).poll_shutdown(cx);
        self.poll_taken(cx, taken)
    }
}

impl<S: IO> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: IO> Shutdown for Connection<S> {
    async fn shutdown(&mut self) {
        let patience = self.bounds.write_timeout;
        let last = async {
            if let Err(error) = tokio::io::AsyncWriteExt::flush(&mut self.io).await {
                tracing::debug!(%error, "the client is gone");
            }
            self.io.get_mut().shutdown().await;
        };
        // Whether it took the last bytes or not, this is the end.
        drop(tokio::time::timeout(patience, last).await);
    }
}

#[async_trait]
impl<S: IO> Peek for Connection<S> {}

impl<S: IO> UniqueID for Connection<S> {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().id()
    }
}

impl<S: IO> Ssl for Connection<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.protocol.clone()
    }
}

impl<S: IO> GetTimingDigest for Connection<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_ref().get_timing_digest()
    }
}

impl<S: IO> GetProxyDigest for Connection<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_ref().get_proxy_digest()
    }
}

impl<S: IO> GetSocketDigest for Connection<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_ref().get_socket_digest()
    }
}
