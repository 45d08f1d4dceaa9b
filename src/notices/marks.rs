//! [`Marks`]: which conversations this gateway has told, for when the ledger
//! cannot say it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::Mark;

/// How many conversations are remembered. With more, those that are over
/// soonest are forgotten, and may be told once more: people told twice are
/// better than a gateway without memory.
const KEPT_MAX: usize = 10_000;

/// Which conversations this gateway has told.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    until: HashMap<String, Instant>,
    due: BTreeSet<(Instant, String)>,
}

impl Marks {
    /// Leaves a mark, unless there is one.
    pub(super) fn mark(&self, name: &str, lasting: Duration, now: Instant) -> Mark {
        let mut kept = self.kept();
        kept.forget_before(now);
        if kept.until.contains_key(name) {
            return Mark::Again;
        }
        // Only a clock at its very end has no such time.
        let until = now.checked_add(lasting).unwrap_or(now);
        kept.until.insert(name.to_owned(), until);
        kept.due.insert((until, name.to_owned()));
        if kept.until.len() > KEPT_MAX {
            kept.forget_first();
        }
        Mark::First
    }

    /// Takes a mark away.
    pub(super) fn unmark(&self, name: &str) {
        let mut kept = self.kept();
        if let Some(until) = kept.until.remove(name) {
            kept.due.remove(&(until, name.to_owned()));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every step leaves it in order, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_before(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, name)) = self.due.pop_first() {
            self.until.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(60);

    #[test]
    fn a_mark_lasts_as_long_as_it_was_left_for() {
        let marks = Marks::default();
        let now = Instant::now();
        assert_eq!(marks.mark("a", LASTING, now), Mark::First);
        assert_eq!(marks.mark("a", LASTING, now), Mark::Again);
        assert_eq!(marks.mark("b", LASTING, now), Mark::First);
        let almost = now + LASTING - Duration::from_millis(1);
        assert_eq!(marks.mark("a", LASTING, almost), Mark::Again);
        assert_eq!(marks.mark("a", LASTING, now + LASTING), Mark::First);
    }

    #[test]
    fn a_mark_that_was_taken_away_can_be_left_again() {
        let marks = Marks::default();
        let now = Instant::now();
        assert_eq!(marks.mark("a", LASTING, now), Mark::First);
        marks.unmark("a");
        marks.unmark("b");
        assert_eq!(marks.mark("a", LASTING, now), Mark::First);
    }

    #[test]
    fn only_so_many_are_kept_and_the_newest_are_among_them() {
        let marks = Marks::default();
        let now = Instant::now();
        for number in 0..KEPT_MAX + 10 {
            let at = now + Duration::from_micros(u64::try_from(number).unwrap());
            assert_eq!(marks.mark(&number.to_string(), LASTING, at), Mark::First);
        }
        let kept = marks.kept();
        assert_eq!(kept.until.len(), KEPT_MAX);
        assert_eq!(kept.due.len(), KEPT_MAX);
        assert!(kept.until.contains_key(&(KEPT_MAX + 9).to_string()));
        assert!(!kept.until.contains_key("0"));
    }
}
