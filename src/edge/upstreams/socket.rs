//! A connection to the upstream that gathers what belongs together, and knows
//! when it may carry another request.
//!
//! **Gathering.** Pingora writes and flushes a head, and then the body part by
//! part. What is small is kept here and sent with what follows: a head with the
//! part of the body that is here already, a chunk with its length. Nothing
//! waits for what may not come:
//!
//! - the flush of a head is put off; a later one is not, but for the one by
//!   which Pingora takes leave of a connection: it sends nothing;
//! - Pingora reads the answer from the moment that the head is written, and a
//!   read first sends what is there, so that the head leaves in the same turn of
//!   the task, unless a part of the body was announced
//!   ([`Passage::announce_part`]): that part is in a queue which the same turn
//!   looks at, and it is waited for that once.
//!
//! **Using it again.** Pingora keeps connections apart by the numbers of their
//! sockets. This one shows none, so it must not get into Pingora's pool, and
//! does not: before Pingora puts a connection there, and only once the exchange
//! ended such that another may follow on it, it tries whether one byte can be
//! read, without waiting. To that read alone this says that the connection has
//! ended. Pingora lets go of it, and what is dropped here goes to [`Idle`]. An
//! exchange that ended in any other way gets no such read, and its connection
//! is closed.
//!
//! [`Idle`]: super::idle::Idle

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::clock::Clock;
use super::idle::Line;
use super::passage::Passage;

/// The most bytes of a body that are copied to be sent with others; more go out
/// from where they are.
const GATHER_MAX: usize = 8 * 1024;

/// What a buffer may have grown to and still be kept with its connection.
const BUFFER_MAX: usize = 4 * 1024;

/// How far the exchange on a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was written.
    Fresh,
    /// The head was written and not flushed.
    Head,
    /// The flush of the head was put off, or more was written.
    Body,
    /// The exchange is over and another may follow.
    Over,
}

/// A connection, for one exchange.
#[derive(Debug)]
pub struct Socket {
    /// Gone only while it is dropped.
    stream: Option<TcpStream>,
    /// What was written and not sent yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    progress: Progress,
    /// Why nothing can be sent any more.
    fault: Option<Fault>,
    /// Something could not be sent at once.
    had_to_wait: bool,
    clock: Clock,
    passage: Arc<Passage>,
}

/// An error that can be told again.
#[derive(Clone, Copy, Debug)]
enum Fault {
    System(i32),
    Other(io::ErrorKind),
    /// The exchange was given up on this side: no answer is waited for.
    GivenUp(io::ErrorKind),
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        let code = error.raw_os_error();
        code.map_or(Fault::Other(error.kind()), Fault::System)
    }

    fn error(self) -> io::Error {
        match self {
            Fault::System(code) => io::Error::from_raw_os_error(code),
            Fault::Other(kind) | Fault::GivenUp(kind) => kind.into(),
        }
    }
}

impl Socket {
    /// A connection on which nothing is under way.
    pub fn new(line: Line, passage: Arc<Passage>) -> Self {
        let mut clock = line.clock;
        clock.stop();
        Socket {
            clock,
            stream: Some(line.stream),
            unsent: line.buffer,
            sent: 0,
            progress: Progress::Fresh,
            fault: None,
            had_to_wait: false,
            passage,
        }
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Sends what was kept, and `more`; says how much of `more`.
    fn poll_send(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(fault) = self.fault {
            return Poll::Ready(Err(fault.error()));
        }
        let sent = self.poll_send_on(cx, more);
        match &sent {
            Poll::Pending => self.had_to_wait = true,
            Poll::Ready(Err(error)) => self.fault = Some(Fault::of(error)),
            Poll::Ready(Ok(_)) => {}
        }
        sent
    }

    fn poll_send_on(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut stream = Pin::new(stream);
        loop {
            let kept = self.unsent.get(self.sent..).unwrap_or_default();
            let sent = match (kept, more) {
                ([], []) => return Poll::Ready(Ok(0)),
                (kept, []) => stream.as_mut().poll_write(cx, kept),
                ([], more) => stream.as_mut().poll_write(cx, more),
                (kept, more) => {
                    let both = [IoSlice::new(kept), IoSlice::new(more)];
                    stream.as_mut().poll_write_vectored(cx, &both)
                }
            };
            let sent = ready!(sent)?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_more = sent.saturating_sub(kept.len());
            self.sent = self.sent.saturating_add(sent.saturating_sub(of_more));
            if self.sent >= self.unsent.len() {
                self.unsent.clear();
                self.sent = 0;
            }
            if of_more > 0 {
                return Poll::Ready(Ok(of_more));
            }
        }
    }

    /// Keeps a head, with what is to be written behind it.
    fn keep_head(&mut self, head: &[u8]) -> io::Result<()> {
        let Some(open) = head.strip_suffix(b"\r\n").filter(|h| h.ends_with(b"\r\n")) else {
            // What should stand behind it may say who pays.
            self.fault = Some(Fault::GivenUp(io::ErrorKind::InvalidData));
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a head was not written as one",
            ));
        };
        for part in [open, self.passage.behind_head(), b"\r\n"] {
            self.unsent.extend_from_slice(part);
        }
        Ok(())
    }

    /// Waits, unless the upstream has said nothing for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timeout = self.passage.read_timeout();
        ready!(self.clock.poll_late(cx, timeout));
        self.passage.note_late();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The exchange is over; whether another may follow shows when the
    /// connection is dropped.
    fn end(&mut self) {
        if self.progress == Progress::Body && !self.has_unsent() && self.fault.is_none() {
            self.progress = Progress::Over;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if is_final(cx) && buffer.remaining() == 1 {
            this.end();
            return Poll::Ready(Ok(()));
        }
        if this.has_unsent() && this.fault.is_none() {
            // Only the clock wakes the task for this read, and it need not: the
            // part is in the queue that this turn of the task looks at. Behind a
            // write that had to wait the parts pile up, and nobody knows any
            // more which of them was announced: then nothing is put off. (To
            // wake the task would cost every request a turn of it.)
            if this.passage.take_announcement() && !this.had_to_wait {
                return this.poll_late(cx);
            }
            this.progress = Progress::Body;
            // Told below, unless there is an answer all the same.
            let _ = this.poll_send(cx, &[]);
        }
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let filled = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        match (this.fault, &read) {
            (Some(fault @ Fault::GivenUp(_)), Poll::Pending) => Poll::Ready(Err(fault.error())),
            // An answer may be there of which the runtime has not heard. What
            // cannot be written to any more becomes readable, or is late.
            (_, Poll::Pending) => this.poll_late(cx),
            (Some(fault), Poll::Ready(_)) if buffer.filled().len() == filled => {
                Poll::Ready(Err(fault.error()))
            }
            _ => {
                this.clock.stop();
                read
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        part: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.progress == Progress::Fresh {
            this.progress = Progress::Head;
            let kept = this.keep_head(part);
            return Poll::Ready(kept.map(|()| part.len()));
        }
        this.progress = Progress::Body;
        this.clock.stop();
        this.passage.take_announcement();
        let gathered = this.unsent.len().saturating_add(part.len());
        if this.fault.is_none() && gathered <= GATHER_MAX {
            this.unsent.extend_from_slice(part);
            return Poll::Ready(Ok(part.len()));
        }
        this.poll_send(cx, part)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.progress == Progress::Head {
            this.progress = Progress::Body;
            return Poll::Ready(Ok(()));
        }
        // What is flushed at the very end belongs to an exchange that was given
        // up: it is not begun now.
        if is_final(cx) {
            return Poll::Ready(Ok(()));
        }
        this.passage.take_announcement();
        // Pingora sets no time for the one that ends a request.
        let Poll::Ready(sent) = this.poll_send(cx, &[]) else {
            return this.poll_late(cx);
        };
        this.clock.stop();
        Poll::Ready(sent.map(|_| ()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.fault = Some(Fault::GivenUp(io::ErrorKind::NotConnected));
        match &mut this.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl VirtualSocket for Socket {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            // Done when the connection was made.
            VirtualSockOpt::NoDelay => Ok(()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        if self.progress == Progress::Over {
            let mut buffer = std::mem::take(&mut self.unsent);
            if buffer.capacity() > BUFFER_MAX {
                buffer = Vec::new();
            }
            let clock = std::mem::take(&mut self.clock);
            self.passage.keep(Line {
                stream,
                buffer,
                clock,
            });
        }
    }
}

/// Whether the task could not be woken: Pingora tries something once, and lets
/// go of the connection.
fn is_final(cx: &Context<'_>) -> bool {
    // A waker that wakes somebody has to know whom.
    cx.waker().data().is_null()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::idle::{Idle, Room};
    use super::super::passage::Timeouts;
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        connect: Duration::from_secs(1),
        read: Duration::from_secs(60),
    };

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";

    /// A connection, its other end, and where it goes when it is over.
    async fn pair() -> (Socket, TcpStream, Arc<Idle>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let idle = Idle::new(address, &Room::new(Duration::from_secs(60)));
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let line = Line::new(stream.unwrap());
        let passage = Passage::new(&idle, TIMEOUTS);
        (Socket::new(line, passage), accepted.unwrap().0, idle)
    }

    async fn write(socket: &mut Socket, part: &[u8]) {
        socket.write_all(part).await.unwrap();
        socket.flush().await.unwrap();
    }

    /// Polls a read once, as Pingora does each time that it looks for an answer.
    async fn look(socket: &mut Socket) -> Option<io::Result<Vec<u8>>> {
        let mut bytes = [0; 1024];
        let mut read = Box::pin(socket.read(&mut bytes));
        let polled = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
        drop(read);
        match polled {
            Poll::Ready(read) => Some(read.map(|count| bytes[..count].to_vec())),
            Poll::Pending => None,
        }
    }

    /// What Pingora does with a connection after an exchange that another may
    /// follow.
    fn release(mut socket: Socket) {
        let mut byte = [0; 1];
        let mut read = Box::pin(socket.read(&mut byte));
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        let read_nothing = read.as_mut().poll(&mut nobody);
        assert!(matches!(read_nothing, Poll::Ready(Ok(0))));
        drop(read);
        farewell(socket);
    }

    /// What Pingora does with every connection that it drops.
    fn farewell(mut socket: Socket) {
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        let flushed = Pin::new(&mut socket).poll_flush(&mut nobody);
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
    }

    fn nothing_came(other: &TcpStream) -> bool {
        let peeked = socket2::SockRef::from(other).peek(&mut [std::mem::MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn received(other: &mut TcpStream, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        other.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, expected);
    }

    #[tokio::test]
    async fn a_head_leaves_with_the_part_that_was_announced() {
        let (mut socket, mut other, _) = pair().await;
        write(&mut socket, HEAD).await;
        socket.passage.announce_part();
        assert!(look(&mut socket).await.is_none());
        assert!(nothing_came(&other));
        write(&mut socket, b"body").await;
        received(&mut other, &[HEAD, b"body"].concat()).await;
    }

    #[tokio::test]
    async fn what_is_said_of_a_request_stands_behind_its_head() {
        let (mut socket, mut other, _) = pair().await;
        socket.passage.write_behind_head(b"x-team: t\r\n".to_vec());
        write(&mut socket, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        socket.flush().await.unwrap();
        let whole = b"GET / HTTP/1.1\r\nhost: a\r\nx-team: t\r\n\r\n";
        received(&mut other, whole).await;
        // Nobody knows where a part of a head ends.
        let (mut socket, other, _) = pair().await;
        socket.passage.write_behind_head(b"x-team: t\r\n".to_vec());
        assert!(socket.write_all(b"GET / HTTP/1.1\r\nhost").await.is_err());
        assert!(socket.write_all(b": a\r\n\r\n").await.is_err());
        assert!(nothing_came(&other));
    }

    #[tokio::test]
    async fn nothing_waits_for_what_may_not_come() {
        let (mut socket, mut other, _) = pair().await;
        write(&mut socket, HEAD).await;
        assert!(look(&mut socket).await.is_none());
        received(&mut other, HEAD).await;
        // A part that is announced and does not come is waited for once.
        socket.write_all(b"bo").await.unwrap();
        socket.passage.announce_part();
        assert!(look(&mut socket).await.is_none());
        assert!(nothing_came(&other));
        assert!(look(&mut socket).await.is_none());
        received(&mut other, b"bo").await;
        // A request without a body is ended by a flush.
        let (mut socket, mut other, _) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        received(&mut other, HEAD).await;
    }

    #[tokio::test]
    async fn what_is_too_large_to_be_copied_arrives_in_order() {
        let (mut socket, mut other, _) = pair().await;
        let part: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let all = [HEAD, &part].concat();
        let writing = async {
            write(&mut socket, HEAD).await;
            write(&mut socket, &part).await;
        };
        tokio::join!(writing, received(&mut other, &all));
    }

    #[tokio::test]
    async fn a_connection_whose_exchange_ended_carries_another() {
        let (mut socket, mut other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        write(&mut socket, b"body").await;
        received(&mut other, &[HEAD, b"body"].concat()).await;
        other.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        socket.read_exact(&mut answer).await.unwrap();
        release(socket);
        let line = idle.take().unwrap();
        let passage = Passage::new(&idle, TIMEOUTS);
        let mut socket = Socket::new(line, passage);
        write(&mut socket, HEAD).await;
        assert!(look(&mut socket).await.is_none());
        received(&mut other, HEAD).await;
    }

    #[tokio::test]
    async fn a_connection_whose_exchange_did_not_end_carries_no_other() {
        // It was let go of.
        let (mut socket, _other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        assert!(look(&mut socket).await.is_none());
        farewell(socket);
        assert!(idle.take().is_none());
        // It was shut.
        let (mut socket, _other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        socket.shutdown().await.unwrap();
        release(socket);
        assert!(idle.take().is_none());
        // Something was not sent.
        let (mut socket, _other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        release(socket);
        assert!(idle.take().is_none());
        // Nothing was written at all.
        let (socket, _other, idle) = pair().await;
        release(socket);
        assert!(idle.take().is_none());
        // One byte is read by somebody who waits for it.
        let (mut socket, mut other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        other.write_all(b"a").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'a');
        farewell(socket);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn what_came_unasked_closes_the_connection() {
        let (mut socket, mut other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        other.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let stream = socket.stream.as_ref().unwrap();
        stream.readable().await.unwrap();
        release(socket);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn an_upstream_that_says_nothing_is_late() {
        let (mut socket, _other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        tokio::time::pause();
        assert!(!socket.passage.is_late());
        let late = socket.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(socket.passage.is_late());
        farewell(socket);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn what_was_given_up_is_not_sent() {
        let (mut socket, mut other, _) = pair().await;
        write(&mut socket, HEAD).await;
        farewell(socket);
        let mut bytes = Vec::new();
        other.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"");
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_told_after_an_answer_that_is_there() {
        let (mut socket, mut other, idle) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        received(&mut other, HEAD).await;
        other.write_all(b"no").await.unwrap();
        drop(other);
        socket.stream.as_ref().unwrap().readable().await.unwrap();
        socket.fault = Some(Fault::System(32));
        assert!(socket.write_all(b"body").await.is_err());
        assert_eq!(look(&mut socket).await.unwrap().unwrap(), b"no");
        let told = look(&mut socket).await.unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
        release(socket);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_has_heard_of_yet_is_read_before_the_fault_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, HEAD).unwrap();
        // It is there, and is never read: the connection is reset.
        other.peek(&mut [0]).unwrap();
        std::io::Write::write_all(&mut other, b"no").unwrap();
        drop(other);
        stream.set_nonblocking(true).unwrap();
        let idle = Idle::new(address, &Room::new(Duration::from_secs(60)));
        let passage = Passage::new(&idle, TIMEOUTS);
        let line = Line::new(TcpStream::from_std(stream).unwrap());
        let mut socket = Socket::new(line, passage);
        socket.progress = Progress::Body;
        socket.fault = Some(Fault::System(32));
        assert!(look(&mut socket).await.is_none());
        let mut bytes = [0; 10];
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 2);
        assert_eq!(&bytes[..2], b"no");
        let told = socket.read(&mut bytes).await.unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn no_answer_is_waited_for_after_what_was_given_up() {
        let (mut socket, _other, _) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        socket.shutdown().await.unwrap();
        let told = look(&mut socket).await.unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::NotConnected);
        let (mut socket, _other, _) = pair().await;
        assert!(socket.write_all(b"GET / HT").await.is_err());
        let told = look(&mut socket).await.unwrap().unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::InvalidData);
    }

    /// More than the two buffers of a connection hold after [`narrow`].
    fn much() -> Vec<u8> {
        let long = "a".repeat(2_000_000);
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n").into_bytes()
    }

    fn narrow(socket: &Socket, other: &TcpStream) {
        let ours = socket2::SockRef::from(socket.stream.as_ref().unwrap());
        ours.set_send_buffer_size(4096).unwrap();
        let theirs = socket2::SockRef::from(other);
        theirs.set_recv_buffer_size(4096).unwrap();
    }

    #[tokio::test]
    async fn an_upstream_that_does_not_take_a_head_is_late() {
        let (mut socket, other, idle) = pair().await;
        narrow(&socket, &other);
        write(&mut socket, &much()).await;
        tokio::time::pause();
        let flushed = tokio::time::timeout(10 * TIMEOUTS.read, socket.flush()).await;
        let late = flushed.unwrap().unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(socket.passage.is_late());
        farewell(socket);
        assert!(idle.take().is_none());
    }

    #[tokio::test]
    async fn no_part_is_waited_for_after_one_that_had_to_wait() {
        let (mut socket, mut other, _) = pair().await;
        write(&mut socket, HEAD).await;
        socket.flush().await.unwrap();
        received(&mut other, HEAD).await;
        socket.had_to_wait = true;
        socket.write_all(b"bo").await.unwrap();
        socket.passage.announce_part();
        assert!(look(&mut socket).await.is_none());
        received(&mut other, b"bo").await;
    }
}
