//! How long an answer may take to come, and to go on.
//!
//! A timer costs more to set than to leave alone, and answers come long before
//! it is over. So each connection has one, which goes on from one exchange to
//! the next: when it goes off, it is looked at whether the time is really up,
//! and set again if not.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The clock of a connection.
#[derive(Debug, Default)]
pub struct Clock {
    timer: Option<Pin<Box<Sleep>>>,
    /// When the time is up, while somebody waits.
    until: Option<Instant>,
}

impl Clock {
    /// Something went on: who waits next has the whole time again.
    pub fn stop(&mut self) {
        self.until = None;
    }

    /// Ready once somebody has waited for `timeout`; wakes the task then.
    pub fn poll_late(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let until = match self.until {
            Some(until) => until,
            None => {
                let now = Instant::now();
                let Some(until) = now.checked_add(timeout) else {
                    return Poll::Pending;
                };
                *self.until.insert(until)
            }
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// How long it takes until the clock says that it is late.
    async fn waited(clock: &mut Clock, timeout: Duration) -> Duration {
        let begin = Instant::now();
        poll_fn(|cx| clock.poll_late(cx, timeout)).await;
        begin.elapsed()
    }

    async fn look(clock: &mut Clock, timeout: Duration) -> bool {
        poll_fn(|cx| Poll::Ready(clock.poll_late(cx, timeout).is_ready())).await
    }

    #[tokio::test]
    async fn the_time_is_up_once_and_counted_from_the_last_that_went_on() {
        tokio::time::pause();
        let mut clock = Clock::default();
        assert!(!look(&mut clock, MINUTE).await);
        tokio::time::advance(MINUTE / 2).await;
        // Looking does not put it off.
        assert!(!look(&mut clock, MINUTE).await);
        let left = waited(&mut clock, MINUTE).await;
        assert!(left <= MINUTE / 2 + Duration::from_millis(2), "{left:?}");
        clock.stop();
        let whole = waited(&mut clock, MINUTE).await;
        assert!(whole >= MINUTE, "{whole:?}");
    }

    #[tokio::test]
    async fn a_timer_set_for_another_exchange_neither_cuts_short_nor_puts_off() {
        tokio::time::pause();
        let mut clock = Clock::default();
        assert!(!look(&mut clock, MINUTE).await);
        clock.stop();
        let short = waited(&mut clock, Duration::from_secs(1)).await;
        assert!(short < Duration::from_secs(2), "{short:?}");
        clock.stop();
        assert!(!look(&mut clock, Duration::from_secs(1)).await);
        clock.stop();
        let long = waited(&mut clock, MINUTE).await;
        assert!(long >= MINUTE, "{long:?}");
    }
}
