//! Marks: names of what happened, forgotten when their time is up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::clock::Millis;
use crate::ledger::Mark;

/// How many marks are kept. When there are more, those go first whose time is
/// up first: what they were for may then happen again.
const MARKS_MAX: usize = 100_000;

/// How many marks are forgotten along with one that is left: more than come
/// in, so that they do not pile up.
const FORGOTTEN_PER_MARK: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Marks {
    until: HashMap<Arc<str>, Millis>,
    due: BTreeSet<(Millis, Arc<str>)>,
}

impl Marks {
    /// Leaves a mark until then, unless there is one.
    pub(super) fn leave(&mut self, name: &str, until: Millis, now: Millis) -> Mark {
        for _ in 0..FORGOTTEN_PER_MARK {
            match self.due.first() {
                Some((at, _)) if *at <= now => self.forget_first(),
                _ => break,
            }
        }
        if let Some((known, old)) = self.until.get_key_value(name) {
            if now < *old {
                return Mark::Again;
            }
            self.due.remove(&(*old, Arc::clone(known)));
        } else if self.until.len() >= MARKS_MAX {
            self.forget_first();
        }
        let name: Arc<str> = name.into();
        self.until.insert(Arc::clone(&name), until);
        self.due.insert((until, name));
        Mark::First
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

    #[test]
    fn a_mark_lasts_its_time_and_no_longer() {
        let mut marks = Marks::default();
        assert_eq!(marks.leave("a", 10, 0), Mark::First);
        assert_eq!(marks.leave("a", 99, 9), Mark::Again);
        assert_eq!(marks.leave("b", 10, 9), Mark::First);
        assert_eq!(marks.leave("a", 20, 10), Mark::First);
        assert_eq!(marks.leave("a", 20, 19), Mark::Again);
    }

    #[test]
    fn many_that_are_due_are_forgotten_a_few_at_a_time_and_count_for_none() {
        let mut marks = Marks::default();
        for number in 0..100 {
            marks.leave(&number.to_string(), 10, 0);
        }
        assert_eq!(marks.leave("99", 30, 20), Mark::First);
        assert_eq!(marks.until.len(), 96);
        assert_eq!(marks.leave("99", 30, 20), Mark::Again);
        for _ in 0..100 {
            marks.leave("99", 30, 20);
        }
        assert_eq!((marks.until.len(), marks.due.len()), (1, 1));
    }

    #[test]
    fn there_is_room_for_so_many_and_the_first_to_end_goes_first() {
        let mut marks = Marks::default();
        let names: Vec<String> = (0..=MARKS_MAX).map(|number| number.to_string()).collect();
        for (name, until) in names.iter().zip(10..) {
            assert_eq!(marks.leave(name, until, 0), Mark::First);
        }
        assert_eq!(marks.until.len(), MARKS_MAX);
        assert_eq!(marks.due.len(), MARKS_MAX);
        assert_eq!(marks.leave("1", 10, 0), Mark::Again);
        assert_eq!(marks.leave("0", 10, 0), Mark::First);
    }
}
