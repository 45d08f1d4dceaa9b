//! Waiting for what will be true soon, with a deadline instead of a sleep.

use std::time::{Duration, Instant};

/// How long something may take that should take milliseconds: generous,
/// because the machine is shared with other tests.
pub const SOON: Duration = Duration::from_secs(10);

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Tries until there is an answer; panics with `claim` after the deadline.
#[track_caller]
pub fn eventually<T>(deadline: Duration, claim: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {claim}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Holds for the whole span: asked again and again, it is never false.
#[track_caller]
pub fn throughout(span: Duration, claim: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < span {
        assert!(holds(), "not throughout {span:?}: {claim}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the work returned, and how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}
