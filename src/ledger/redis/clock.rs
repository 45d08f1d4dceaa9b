//! [`Clock`]: what time it is at Redis, as seen from here.
//!
//! A hold must not be made after its request was given up on, and only Redis
//! can tell: so a request's deadline is translated into Redis's time. Each
//! reply says what time it was there, at some moment between when the command
//! was sent and when the reply came. That bounds how far the clocks are apart
//! from below and from above. While Redis's clock runs evenly the estimate errs
//! on the early side, by no more than a round trip: a hold may be refused as
//! late that was not, and none is made late.
//!
//! Clocks are set and drift. A reply that contradicts the estimate replaces it,
//! and an estimate that is a few seconds old is replaced by any reply. When
//! Redis's clock is set back, the estimate is too late by as much until the next
//! reply; after it, and for those few seconds, by no more than the quickest
//! command since then took to reach Redis. A hold can be made late by that
//! much.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// No reply has been seen yet. Of no clock that counts from 1970.
const UNKNOWN: i64 = i64::MIN;

/// For how long an estimate is kept that no reply contradicts, in microseconds.
const KEPT_FOR_US: i64 = 5_000_000;

/// How far Redis's clock is ahead of this process's.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// Redis's time at the origin, in microseconds; not later than it was.
    at_origin_us: AtomicI64,
    /// When the reply came that this is from, in microseconds after the origin.
    learned_us: AtomicI64,
}

/// Between what Redis's time at the origin was.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    earliest_us: i64,
    latest_us: i64,
}

impl Bounds {
    /// Whether what is seen now is better than the estimate so far: because
    /// that is too early, or contradicted.
    const fn replaces(self, before_us: i64) -> bool {
        before_us < self.earliest_us || before_us > self.latest_us
    }
}

impl Clock {
    /// A clock that knows nothing yet.
    pub(super) fn new() -> Self {
        Clock {
            origin: Instant::now(),
            at_origin_us: AtomicI64::new(UNKNOWN),
            learned_us: AtomicI64::new(0),
        }
    }

    /// Learns from a reply.
    pub(super) fn learn(&self, sent: Instant, received: Instant, redis_us: i64) {
        let received_us = self.since_origin(received);
        let bounds = Bounds {
            earliest_us: redis_us.saturating_sub(received_us),
            latest_us: redis_us.saturating_sub(self.since_origin(sent)),
        };
        // Most replies teach nothing, and a store would take the cache line
        // away from the other threads.
        let before = self.at_origin_us.load(Ordering::Relaxed);
        let age_us = received_us.saturating_sub(self.learned_us.load(Ordering::Relaxed));
        if bounds.replaces(before) || age_us > KEPT_FOR_US {
            // Of two that learn at once, either is right.
            self.at_origin_us
                .store(bounds.earliest_us, Ordering::Relaxed);
            self.learned_us.store(received_us, Ordering::Relaxed);
        }
    }

    /// Redis's time at that moment, in microseconds: not later than it is, if
    /// Redis's clock runs evenly. Long past if nothing is known.
    pub(super) fn at(&self, moment: Instant) -> i64 {
        match self.at_origin_us.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            us => us.saturating_add(self.since_origin(moment)).max(0),
        }
    }

    fn since_origin(&self, moment: Instant) -> i64 {
        let since = moment.saturating_duration_since(self.origin).as_micros();
        i64::try_from(since).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const EPOCH_US: i64 = 1_700_000_000_000_000;

    fn after(clock: &Clock, us: i64) -> Instant {
        clock.origin + Duration::from_micros(u64::try_from(us).unwrap())
    }

    /// A command sent then, with Redis looking at its clock after `there` and
    /// the reply coming after `back`, while Redis's clock is so far ahead.
    fn reply(clock: &Clock, sent: i64, there: i64, back: i64, ahead: i64) {
        let redis_us = sent + there + ahead;
        clock.learn(
            after(clock, sent),
            after(clock, sent + there + back),
            redis_us,
        );
    }

    #[test]
    fn without_a_reply_everything_is_late() {
        let clock = Clock::new();
        assert_eq!(clock.at(after(&clock, 1_000_000)), 0);
    }

    #[test]
    fn the_tightest_reply_counts() {
        let clock = Clock::new();
        reply(&clock, 0, 100, 5_000, EPOCH_US);
        assert_eq!(clock.at(after(&clock, 0)), EPOCH_US - 5_000);
        reply(&clock, 10_000, 100, 50, EPOCH_US);
        reply(&clock, 20_000, 100, 900, EPOCH_US);
        assert_eq!(clock.at(after(&clock, 30_000)), EPOCH_US + 30_000 - 50);
    }

    #[test]
    fn a_clock_that_is_set_is_followed_with_the_next_reply() {
        let clock = Clock::new();
        reply(&clock, 0, 100, 100, EPOCH_US);
        for ahead in [EPOCH_US + 3_600_000_000, EPOCH_US - 3_600_000_000] {
            reply(&clock, 1_000, 100, 100, ahead);
            assert_eq!(clock.at(after(&clock, 0)), ahead - 100);
        }
    }

    #[test]
    fn a_clock_that_goes_back_by_little_is_followed_within_seconds() {
        let clock = Clock::new();
        reply(&clock, 0, 100, 100, EPOCH_US);
        // By less than the way there takes: nothing contradicts the estimate.
        let ahead = EPOCH_US - 20_000;
        reply(&clock, 1_000_000, 30_000, 100, ahead);
        assert_eq!(clock.at(after(&clock, 0)), EPOCH_US - 100);
        reply(&clock, 2_000_000, 5_000, 100, ahead);
        assert_eq!(clock.at(after(&clock, 0)), ahead - 100);

        let less = ahead - 4_000;
        for sent in [3_000_000, 5_000_000, 7_000_000] {
            reply(&clock, sent, 5_000, 100, less);
            assert_eq!(clock.at(after(&clock, 0)), ahead - 100);
        }
        reply(&clock, 8_000_000, 5_000, 100, less);
        assert_eq!(clock.at(after(&clock, 0)), less - 100);
    }

    proptest! {
        #[test]
        fn a_steady_clock_is_never_thought_to_be_later_than_it_is(
            replies in proptest::collection::vec((0_i64..1_000_000, 0_i64..50_000, 0_i64..50_000), 1..50),
        ) {
            let clock = Clock::new();
            let mut least = i64::MAX;
            for (sent, there, back) in replies {
                reply(&clock, sent, there, back, EPOCH_US);
                least = least.min(back);
                let estimate = clock.at(after(&clock, 0));
                prop_assert!(estimate <= EPOCH_US);
                prop_assert_eq!(estimate, EPOCH_US - least);
            }
        }

        #[test]
        fn a_drifting_clock_is_missed_by_a_round_trip_at_most(
            replies in proptest::collection::vec((0_i64..20_000, 0_i64..20_000, -3_000_i64..3_000), 1..50),
        ) {
            let clock = Clock::new();
            let mut ahead = EPOCH_US;
            for (n, (there, back, drift)) in (0_i64..).zip(replies) {
                ahead += drift;
                reply(&clock, n * 100_000, there, back, ahead);
                let estimate = clock.at(after(&clock, 0));
                prop_assert!((ahead - back..=ahead + there).contains(&estimate));
            }
        }
    }
}
