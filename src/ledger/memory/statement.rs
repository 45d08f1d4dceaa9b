//! A team's statement: what was added to its balance, line by line.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use super::clock::Millis;
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};
use crate::ledger::LedgerError;
use crate::ledger::holds::{Line, LineKind, Terms, WhenFull};

/// A change of the balance that is about to be made.
#[derive(Clone, Debug)]
pub(super) struct Posting<'a> {
    pub(super) kind: LineKind,
    /// What is added; a debit is below zero.
    pub(super) credits: Credits,
    pub(super) reference: Option<&'a str>,
    pub(super) hold: Option<HoldId>,
    pub(super) run: Option<RunId>,
}

/// The place of a line: when it was written, and which of that millisecond's
/// lines it is. Written like the ids of a Redis stream.
type Place = (Millis, u64);

#[derive(Debug, Default)]
pub(super) struct Statement {
    lines: VecDeque<(Place, Line)>,
    last: Place,
}

impl Statement {
    /// Whether one more line may be written.
    ///
    /// # Errors
    /// [`LedgerError::Full`] if it is full and nothing may be dropped.
    pub(super) fn has_room(&self, terms: &Terms) -> Result<(), LedgerError> {
        match terms.when_full {
            WhenFull::Refuse if self.lines.len() >= terms.statement_length => {
                Err(LedgerError::Full(format!(
                    "raise balances.statement.length above {}, or let it trim itself with when_full: trim",
                    terms.statement_length
                )))
            }
            WhenFull::Refuse | WhenFull::Trim => Ok(()),
        }
    }

    /// Writes a line; drops the oldest if there are too many.
    pub(super) fn write(
        &mut self,
        posting: Posting<'_>,
        balance: Credits,
        now: Millis,
        terms: &Terms,
    ) {
        let place = match self.last {
            (at, nth) if at >= now && !self.lines.is_empty() => (at, nth.saturating_add(1)),
            _ => (now, 0),
        };
        self.last = place;
        let line = Line {
            id: format!("{}-{}", place.0, place.1),
            at: UNIX_EPOCH
                .checked_add(Duration::from_millis(place.0))
                .unwrap_or(UNIX_EPOCH),
            kind: posting.kind,
            credits: posting.credits,
            balance,
            reference: posting.reference.map(str::to_owned),
            hold: posting.hold,
            run: posting.run,
        };
        self.lines.push_back((place, line));
        while self.lines.len() > terms.statement_length {
            self.lines.pop_front();
        }
    }

    /// Lines after a place, at most so many.
    ///
    /// # Errors
    /// [`LedgerError::Unsupported`] if it is no place.
    pub(super) fn read(&self, after: &str, limit: usize) -> Result<Vec<Line>, LedgerError> {
        let first = if after.is_empty() {
            0
        } else {
            let after = place(after)?;
            self.lines.partition_point(|(place, _)| *place <= after)
        };
        let lines = self.lines.iter().skip(first).take(limit);
        Ok(lines.map(|(_, line)| line.clone()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Reads a place.
fn place(text: &str) -> Result<Place, LedgerError> {
    let halves = text.split_once('-');
    let place = halves.and_then(|(at, nth)| Some((at.parse().ok()?, nth.parse().ok()?)));
    place.ok_or_else(|| {
        LedgerError::Unsupported(
            "not a place in a statement: give the id of one of its lines".to_owned(),
        )
    })
}
