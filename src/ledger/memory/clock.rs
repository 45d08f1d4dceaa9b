//! What time it is for a ledger in this process.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that a ledger goes by.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time since the Unix epoch; of it, whole milliseconds count.
    fn now(&self) -> Duration;
}

/// The machine's clock, read once at the start and counted on from there: a
/// hold must not end early because somebody sets the date.
#[derive(Debug)]
pub struct SteadyClock {
    epoch: Duration,
    start: Instant,
}

impl Default for SteadyClock {
    fn default() -> Self {
        SteadyClock {
            // A date before 1970 is no date: counting from zero does as well.
            epoch: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            start: Instant::now(),
        }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Duration {
        self.epoch.saturating_add(self.start.elapsed())
    }
}

/// A moment or a length of time in milliseconds.
pub(super) type Millis = u64;

/// Whole milliseconds; what is too long for them is for ever.
pub(super) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}
