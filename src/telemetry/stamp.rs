//! [`Stamp`]: the time of day as text, of which most is the same for a second.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the date and the time to the second are, without what follows.
const SECOND_BYTES: usize = "2025-11-24T16:00:00".len();

/// Writes times as RFC 3339 in UTC, to the millisecond.
#[derive(Debug, Default)]
pub struct Stamp {
    /// The second that was written last, since 1970.
    second: Option<u64>,
    /// That second, and room for the rest.
    text: String,
}

impl Stamp {
    /// The time as text. A time before 1970 becomes its first instant.
    pub fn rfc3339(&mut self, time: SystemTime) -> &str {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text.clear();
            let whole = Duration::from_secs(since.as_secs());
            let second = UNIX_EPOCH.checked_add(whole).unwrap_or(UNIX_EPOCH);
            // Beyond the year 9999 there is no such form.
            let _ = write!(self.text, "{}", humantime::format_rfc3339_seconds(second));
        }
        self.text.truncate(SECOND_BYTES);
        let millis = since.subsec_millis();
        self.text.push('.');
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            self.text.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
        self.text.push('Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_to_the_millisecond() {
        let mut stamp = Stamp::default();
        for (millis, text) in [
            (1_764_000_000_042, "2025-11-24T16:00:00.042Z"),
            (1_764_000_000_999, "2025-11-24T16:00:00.999Z"),
            (1_764_000_001_000, "2025-11-24T16:00:01.000Z"),
            (1_764_000_000_500, "2025-11-24T16:00:00.500Z"),
            (0, "1970-01-01T00:00:00.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(stamp.rfc3339(time), text);
            assert_eq!(
                humantime::format_rfc3339_millis(time).to_string(),
                text,
                "the slow way"
            );
        }
    }

    #[test]
    fn a_clock_that_is_wrong_breaks_nothing() {
        let mut stamp = Stamp::default();
        let before = UNIX_EPOCH.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(stamp.rfc3339(before), "1970-01-01T00:00:00.000Z");
        let never = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(stamp.rfc3339(never), ".000Z");
    }
}
