//! [`Wire`]: commands to Redis and their replies, over one connection.
//!
//! Whoever asks puts a command into a queue and waits for its reply; a driver
//! of the connection writes what is there and hands out what comes. It runs when
//! those that are ready to ask have asked, so that what is asked at the same
//! moment leaves in one write, and nobody waits for company. Each command is one
//! of its own: what is wrong with a key, or with the patience of one who asks,
//! is nobody else's trouble.
//!
//! The driver watches the deadlines of all, with one timer: a request costs no
//! timer of its own. So they are kept by the thread that runs the driver: while
//! that one is kept from running, those who wait are told of their deadlines
//! late, unless something else wakes them. Who gives up leaves behind a reply
//! that is owed and will be dropped, or a command that is dropped, not sent, as
//! far as it has not been put into the buffer that is written next.
//!
//! redis-rs makes the commands and their values. Its own connection costs a
//! request three times as much: a channel, a parser that can do everything, and
//! a timer for each command.

mod driver;
mod queue;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

pub(super) use self::driver::Driver;
use self::queue::Queue;
use super::fault::Fault;
use super::transport::Stream;

/// What can be sent.
pub(super) trait Pack {
    /// Writes it as it goes over the wire.
    fn pack(&self, out: &mut Vec<u8>);

    /// How many replies there will be.
    fn replies(&self) -> usize;
}

impl Pack for Cmd {
    fn pack(&self, out: &mut Vec<u8>) {
        self.write_packed_command(out);
    }

    fn replies(&self) -> usize {
        1
    }
}

impl Pack for Pipeline {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.get_packed_pipeline());
    }

    fn replies(&self) -> usize {
        self.len()
    }
}

/// Commands that are written down already.
pub(super) struct Written<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
}

impl Pack for Written<'_> {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes);
    }

    fn replies(&self) -> usize {
        self.count
    }
}

/// The replies to what was sent at once, in order. Errors of single commands
/// stand in their places.
#[derive(Debug)]
pub(super) enum Replies {
    /// To one command.
    One(Value),
    /// To any number.
    All(Vec<Value>),
}

impl Replies {
    /// The reply to the one command that was sent.
    pub(super) fn only(self) -> Result<Value, Fault> {
        match self {
            Replies::One(Value::ServerError(error)) => Err(Fault::from_server(&error)),
            Replies::One(value) => Ok(value),
            Replies::All(_) => Err(Fault::nonsense()),
        }
    }

    /// The replies to all that was sent.
    pub(super) fn all(self) -> Vec<Value> {
        match self {
            Replies::One(value) => vec![value],
            Replies::All(values) => values,
        }
    }
}

/// The end of a connection at which is asked.
#[derive(Clone)]
pub(super) struct Wire(Arc<Shared>);

struct Shared(Mutex<Queue>);

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// A wire, and what moves it: to be run by the runtime that the stream
    /// belongs to.
    pub(super) fn new(stream: Box<dyn Stream>) -> (Self, Driver) {
        let shared = Arc::new(Shared(Mutex::new(Queue::new())));
        let wire = Wire(Arc::clone(&shared));
        (wire, Driver::new(shared, stream))
    }

    /// Sends something when it is first polled, and waits for the replies until
    /// then, if there is an end to it. What is polled after that, for whatever
    /// reason, does not wait on. Nothing is sent if there will be no replies.
    ///
    /// # Errors
    /// [`Fault::Silent`] when the time is up, [`Fault::Lost`] if the connection
    /// is gone.
    pub(super) fn ask<'a, P: Pack + ?Sized>(
        &'a self,
        what: &'a P,
        until: Option<Instant>,
    ) -> Asking<'a, P> {
        Asking {
            shared: &self.0,
            step: Step::Begin(what, until),
        }
    }
}

/// Somebody asks.
pub(super) struct Asking<'a, P: ?Sized> {
    shared: &'a Shared,
    step: Step<'a, P>,
}

enum Step<'a, P: ?Sized> {
    /// Nothing was sent.
    Begin(&'a P, Option<Instant>),
    /// It is in the queue; the replies will be in this place, or nobody waits
    /// any more.
    Sent(usize, Option<Instant>),
    /// They were there, or came too late.
    Over,
}

impl<P: Pack + ?Sized> Future for Asking<'_, P> {
    type Output = Result<Replies, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.step {
            // It would take the reply to another one.
            Step::Begin(what, _) if what.replies() == 0 => {
                self.step = Step::Over;
                Poll::Ready(Ok(Replies::All(Vec::new())))
            }
            Step::Begin(what, until) => {
                let (place, driver) = self.shared.queue().push(what, until, cx.waker())?;
                self.step = Step::Sent(place, until);
                if let Some(driver) = driver {
                    driver.wake();
                }
                Poll::Pending
            }
            Step::Sent(place, until) => {
                let outcome = self.shared.queue().take(place, cx.waker());
                if outcome.is_ready() {
                    self.step = Step::Over;
                } else if until.is_some_and(|until| until <= Instant::now()) {
                    self.shared.queue().give_up(place);
                    self.step = Step::Over;
                    return Poll::Ready(Err(Fault::Silent));
                }
                outcome
            }
            Step::Over => Poll::Ready(Err(Fault::nonsense())),
        }
    }
}

impl<P: ?Sized> Drop for Asking<'_, P> {
    fn drop(&mut self) {
        if let Step::Sent(place, _) = self.step {
            self.shared.queue().give_up(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Waker;
    use std::time::Duration;

    fn poll<F: Future>(asking: Pin<&mut F>) -> Poll<F::Output> {
        asking.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn asking<'a, P: Pack>(
        shared: &'a Shared,
        what: &'a P,
        until: Option<Instant>,
    ) -> Asking<'a, P> {
        Asking {
            shared,
            step: Step::Begin(what, until),
        }
    }

    #[test]
    fn what_has_no_reply_takes_none_from_others() {
        let shared = Shared(Mutex::new(Queue::new()));
        let nothing = Written {
            bytes: b"",
            count: 0,
        };
        let mut none = pin!(asking(&shared, &nothing, None));
        let Poll::Ready(Ok(Replies::All(replies))) = poll(none.as_mut()) else {
            panic!("it waits");
        };
        assert!(replies.is_empty());
        let ping = redis::cmd("PING");
        let mut asks = pin!(asking(&shared, &ping, None));
        assert!(poll(asks.as_mut()).is_pending());
        let reply = std::iter::once(Value::Okay);
        let handed_out = shared.queue().hand_out(reply, &mut Vec::new());
        assert_eq!(handed_out, Ok(()));
        let reply = poll(asks.as_mut());
        assert!(matches!(reply, Poll::Ready(Ok(Replies::One(Value::Okay)))));
    }

    #[test]
    fn whoever_is_polled_after_its_deadline_does_not_wait_on() {
        let shared = Shared(Mutex::new(Queue::new()));
        let now = Instant::now();
        let later = now.checked_add(Duration::from_secs(600));
        let ping = redis::cmd("PING");
        let mut late = pin!(asking(&shared, &ping, Some(now)));
        let mut patient = pin!(asking(&shared, &ping, later));
        assert!(poll(late.as_mut()).is_pending());
        assert!(poll(patient.as_mut()).is_pending());
        // Nobody runs a driver.
        let outcome = poll(late.as_mut());
        assert!(matches!(outcome, Poll::Ready(Err(Fault::Silent))));
        assert!(poll(patient.as_mut()).is_pending());
        // Its reply is still owed, and nobody else's.
        let replies = [Value::Int(1), Value::Int(2)].into_iter();
        let handed_out = shared.queue().hand_out(replies, &mut Vec::new());
        assert_eq!(handed_out, Ok(()));
        let reply = poll(patient.as_mut());
        assert!(matches!(
            reply,
            Poll::Ready(Ok(Replies::One(Value::Int(2))))
        ));
    }
}
