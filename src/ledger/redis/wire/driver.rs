//! [`Driver`]: moves what is asked and what is replied over the stream, and
//! watches the deadlines.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use redis::Value;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Shared;
use crate::ledger::redis::fault::{Fault, clean};
use crate::ledger::redis::resp::Inbox;
use crate::ledger::redis::transport::Stream;

/// Moves a wire, until the connection is of no use any more. Dropped before, it
/// tells those who wait.
pub(in crate::ledger::redis) struct Driver {
    shared: Arc<Shared>,
    stream: Box<dyn Stream>,
    inbox: Inbox,
    /// Replies of one read.
    replies: Vec<Value>,
    /// What is being written, and how much of it was.
    writing: Vec<u8>,
    written: usize,
    /// Whether something was written that may stand in a buffer of the stream.
    unflushed: Flush,
    /// Rings at the first deadline.
    alarm: Option<(Instant, Pin<Box<Sleep>>)>,
    wake: Vec<Waker>,
}

/// Whether a stream has to be flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Needed,
    Done,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.finish(&Fault::Lost(
            "the connection to redis was closed".to_owned(),
        ));
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let fault = match driver.go_on(cx) {
            Poll::Ready(Err(fault)) => fault,
            Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
        };
        driver.finish(&fault);
        Poll::Ready(())
    }
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, stream: Box<dyn Stream>) -> Self {
        Driver {
            shared,
            stream,
            inbox: Inbox::new(),
            replies: Vec::new(),
            writing: Vec::new(),
            written: 0,
            unflushed: Flush::Done,
            alarm: None,
            wake: Vec::new(),
        }
    }

    /// Does all that can be done now. It is ready only with a fault.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        // Reading comes first: a peer that waits until it is read from takes
        // nothing.
        if let Poll::Ready(Err(fault)) = self.read(cx) {
            return Poll::Ready(Err(fault));
        }
        loop {
            let written = self.write(cx);
            if let Poll::Ready(Err(error)) = written {
                return Poll::Ready(Err(lost(&error)));
            }
            let due = self.shared.queue().rest(cx.waker());
            self.set_alarm(due.earliest);
            if written.is_pending() || !due.unsent {
                break;
            }
        }
        self.watch_deadlines(cx);
        Poll::Pending
    }

    /// Reads and hands out, until there is nothing more to read.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let stream = Pin::new(&mut *self.stream);
            match ready!(self.inbox.poll_fill(stream, cx)) {
                Ok(0) => {
                    let end = "redis closed the connection".to_owned();
                    return Poll::Ready(Err(Fault::Lost(end)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(lost(&error))),
            }
            let read = loop {
                match self.inbox.take() {
                    Ok(Some(reply)) => self.replies.push(reply),
                    Ok(None) => break Ok(()),
                    Err(fault) => break Err(fault),
                }
            };
            let replies = self.replies.drain(..);
            let handed_out = self.shared.queue().hand_out(replies, &mut self.wake);
            self.wake_all();
            if let Err(fault) = handed_out.and(read) {
                return Poll::Ready(Err(fault));
            }
        }
    }

    /// Writes what there is, once taken out of the queue.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written == self.writing.len() {
            self.written = 0;
            self.shared.queue().unsent(&mut self.writing);
        }
        while let Some(rest) = self.writing.get(self.written..)
            && !rest.is_empty()
        {
            let stream = Pin::new(&mut *self.stream);
            let written = ready!(stream.poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(written);
            self.unflushed = Flush::Needed;
        }
        if self.unflushed == Flush::Needed {
            ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
            self.unflushed = Flush::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Sees to it that the alarm rings at this moment.
    fn set_alarm(&mut self, earliest: Option<Instant>) {
        match (&mut self.alarm, earliest) {
            (Some((set, _)), Some(earliest)) if *set == earliest => {}
            (Some((set, alarm)), Some(earliest)) => {
                *set = earliest;
                alarm.as_mut().reset(earliest);
            }
            (none, Some(earliest)) => *none = Some((earliest, Box::pin(sleep_until(earliest)))),
            (alarm, None) => *alarm = None,
        }
    }

    /// Tells those whose time is up.
    fn watch_deadlines(&mut self, cx: &mut Context<'_>) {
        while let Some((_, alarm)) = &mut self.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            let now = Instant::now();
            let earliest = self.shared.queue().sweep(now, &mut self.wake);
            self.set_alarm(earliest);
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        for waker in self.wake.drain(..) {
            waker.wake();
        }
    }

    /// Tells everybody that nothing more will come.
    fn finish(&mut self, fault: &Fault) {
        self.shared.queue().finish(fault, &mut self.wake);
        self.wake_all();
    }
}

/// What an error of the stream says.
fn lost(error: &io::Error) -> Fault {
    Fault::Lost(clean(&error.to_string()))
}
