//! One team's book: its balance, its live holds and what is remembered.
//!
//! Plain values that are changed by one call at a time and are told what time
//! it is. Every call either does all of what it says or returns an error and
//! has changed nothing that counts. How live holds change and end is in
//! [`super::ends`].

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::clock::{Millis, millis};
use super::live::{Live, Uses};
use super::remembered::{Ended, Remembered};
use super::statement::{Posting, Statement};
use crate::billing::admission::{Balance, Refusal, Verdict, Wanted, decide_hold};
use crate::billing::credits::Credits;
use crate::billing::hold::{End, Held, HoldId};
use crate::ledger::holds::{
    Answer, Ask, Audit, Expired, GRANTS_REMEMBERED, Granted, Line, LineKind, LiveHold, Outcome,
    Repair, Replay, Standing, Terms, Writer,
};
use crate::ledger::{LedgerError, add_exactly};

/// How many due holds are dropped in one step. Whoever needs more comes back,
/// so that no team keeps its neighbours waiting.
const DROPPED_PER_STEP: usize = 256;

/// What one step came to.
#[derive(Debug)]
pub(super) enum Step<T> {
    /// It is done.
    Done(T),
    /// More holds are due than one step drops: come again.
    Again,
}

/// A team's book.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) balance: Option<Credits>,
    pub(super) live: HashMap<HoldId, Live>,
    pub(super) held: Held,
    pub(super) due: BTreeSet<(Millis, HoldId)>,
    /// Dropped, and nobody was told yet.
    untold: Vec<Expired>,
    pub(super) memory: Remembered,
    statement: Statement,
}

impl Book {
    /// Forgets what is due, along with whatever is done next.
    pub(super) fn forget(&mut self, now: Millis, terms: &Terms) {
        let live = &self.live;
        let remember = millis(terms.remember);
        self.memory
            .forget(now, remember, |hold| live.contains_key(hold));
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.balance.is_none() && self.statement.is_empty() && !self.has_holds()
    }

    /// Whether there are holds in it, or things to be forgotten.
    pub(super) fn has_holds(&self) -> bool {
        !(self.live.is_empty() && self.untold.is_empty() && self.memory.is_empty())
    }

    pub(super) fn hold(
        &mut self,
        ask: &Ask,
        now: Millis,
        terms: &Terms,
    ) -> Result<Step<Answer>, LedgerError> {
        if ask.credits <= Credits::ZERO {
            return Err(refused("a hold sets more than zero credits aside"));
        }
        // Before anything is dropped: an error tells nobody what expired.
        let is_up = self.live.get(&ask.id).is_some_and(|live| live.end <= now);
        if is_up || self.memory.ended(&ask.id, now).is_some() {
            return Err(LedgerError::Outage(
                "the hold was given up before it was made".to_owned(),
            ));
        }
        if !self.drop_due(now, terms) {
            return Ok(Step::Again);
        }
        let outcome = if self.live.contains_key(&ask.id) {
            Outcome::Held
        } else if let Some(repeated) = self.repeated(ask, now, terms) {
            repeated
        } else {
            self.decide(ask, now)
        };
        Ok(Step::Done(Answer {
            outcome,
            held: self.held,
            expired: std::mem::take(&mut self.untold),
        }))
    }

    /// What becomes of a start that repeats another.
    fn repeated(&mut self, ask: &Ask, now: Millis, terms: &Terms) -> Option<Outcome> {
        let replay = ask.replay.as_ref()?;
        let first = self.memory.first(&replay.key)?;
        let hold = first.hold.clone();
        let end = match self.memory.ended(&hold, now) {
            Some(ended) if ended.end == Some(End::Settled) => Some(End::Settled),
            Some(_) => return None,
            None if self.live.contains_key(&hold) => None,
            None => return None,
        };
        if !is_same(&first.replay, replay) {
            return Some(Outcome::Conflict);
        }
        if let Some(live) = self.live.get_mut(&hold)
            && live.uses.add(&ask.id)
        {
            let until = live.end.saturating_add(millis(terms.remember));
            self.memory.remember_shared(&ask.id, hold.clone(), until);
        }
        Some(Outcome::Replayed { hold, end })
    }

    fn decide(&mut self, ask: &Ask, now: Millis) -> Outcome {
        let Some(balance) = self.balance else {
            return Outcome::NoBalance;
        };
        let wanted = Wanted {
            held: self.held.credits,
            hold: ask.credits,
        };
        match decide_hold(Balance::Known(balance), wanted, &ask.rule) {
            Verdict::Admit => {
                self.make(ask, now);
                Outcome::Held
            }
            Verdict::Refuse(refusal) => self.refuse(refusal, balance, now),
            // Never the answer to a known balance; and if it were, nothing is
            // set aside.
            Verdict::AdmitUnknown | Verdict::RefuseUnknown => {
                self.refuse(Refusal::InsufficientCredits, balance, now)
            }
        }
    }

    fn refuse(&self, refusal: Refusal, balance: Credits, now: Millis) -> Outcome {
        let next_end = self.due.first();
        Outcome::Refused {
            refusal,
            balance,
            next_end: next_end.map(|(end, _)| Duration::from_millis(end.saturating_sub(now))),
        }
    }

    fn make(&mut self, ask: &Ask, now: Millis) {
        self.memory.make_way(&ask.id);
        let hold_for = millis(ask.hold_for);
        let live = Live {
            credits: ask.credits,
            hold_for,
            end: now.saturating_add(hold_for),
            run: None,
            key: ask.replay.as_ref().map(|replay| replay.key),
            uses: Uses::new(),
        };
        self.due.insert((live.end, ask.id.clone()));
        self.held.credits = self.held.credits.saturating_add(live.credits);
        self.held.live = self.held.live.saturating_add(1);
        self.live.insert(ask.id.clone(), live);
        if let Some(replay) = &ask.replay {
            self.memory.remember_first(ask.id.clone(), replay.clone());
        }
    }

    /// Drops what is due, as much as belongs to one step. Whether it was all.
    fn drop_due(&mut self, now: Millis, terms: &Terms) -> bool {
        for _ in 0..DROPPED_PER_STEP {
            match self.due.first() {
                Some((end, hold)) if *end <= now => {
                    let hold = hold.clone();
                    let expired = self.end(&hold, End::Expired, now, terms);
                    self.untold.extend(expired);
                }
                _ => return true,
            }
        }
        self.due.first().is_none_or(|(end, _)| *end > now)
    }

    /// Ends a live hold, and remembers it.
    pub(super) fn end(
        &mut self,
        hold: &HoldId,
        end: End,
        now: Millis,
        terms: &Terms,
    ) -> Option<Expired> {
        let live = self.live.remove(hold)?;
        self.due.remove(&(live.end, hold.clone()));
        self.held.credits = self.held.credits.saturating_sub(live.credits);
        self.held.live = self.held.live.saturating_sub(1);
        let ended = Ended::new(end, live.credits, live.run.clone(), live.key);
        // When it is forgotten does not depend on when somebody notices.
        let over_since = if end == End::Expired { live.end } else { now };
        let until = over_since.saturating_add(millis(terms.remember));
        self.memory.remember_ended(hold, ended, until);
        Some(Expired {
            hold: hold.clone(),
            credits: live.credits,
            run: live.run,
        })
    }

    /// Changes the balance and writes its line. Nothing is changed if either
    /// cannot be done.
    pub(super) fn post(
        &mut self,
        posting: Posting<'_>,
        now: Millis,
        terms: &Terms,
    ) -> Result<Credits, LedgerError> {
        let balance = add_exactly(self.balance.unwrap_or_default(), posting.credits)?;
        self.note(posting, balance, now, terms)?;
        Ok(balance)
    }

    fn note(
        &mut self,
        posting: Posting<'_>,
        balance: Credits,
        now: Millis,
        terms: &Terms,
    ) -> Result<(), LedgerError> {
        if terms.writer == Writer::Tollgate {
            self.statement.has_room(terms)?;
            self.statement.write(posting, balance, now, terms);
        }
        self.balance = Some(balance);
        Ok(())
    }

    pub(super) fn set_balance(
        &mut self,
        credits: Credits,
        now: Millis,
        terms: &Terms,
    ) -> Result<(), LedgerError> {
        let before = self.balance.unwrap_or_default();
        let posting = Posting {
            kind: LineKind::Set,
            credits: credits.saturating_sub(before),
            reference: None,
            hold: None,
            run: None,
        };
        self.note(posting, credits, now, terms)
    }

    pub(super) fn grant(
        &mut self,
        credits: Credits,
        id: Option<&str>,
        now: Millis,
        terms: &Terms,
    ) -> Result<Credits, LedgerError> {
        let posting = Posting {
            kind: LineKind::Grant,
            credits,
            reference: id,
            hold: None,
            run: None,
        };
        self.post(posting, now, terms)
    }

    pub(super) fn grant_once(
        &mut self,
        credits: Credits,
        id: &str,
        now: Millis,
        terms: &Terms,
    ) -> Result<Granted, LedgerError> {
        check_id(id)?;
        match self.memory.granted(id, now) {
            Some(granted) if granted == credits => {
                Ok(Granted::Again(self.balance.unwrap_or_default()))
            }
            Some(granted) => Ok(Granted::Conflict(granted)),
            None => {
                let balance = self.grant(credits, Some(id), now, terms)?;
                let until = now.saturating_add(millis(GRANTS_REMEMBERED));
                self.memory.remember_grant(id, credits, until);
                Ok(Granted::Done(balance))
            }
        }
    }

    /// What is due does not count, though it is left for somebody who can
    /// tell that it expired.
    pub(super) fn standing(&self, now: Millis) -> Standing {
        let mut held = self.held;
        for (_, hold) in self.due.iter().take_while(|(end, _)| *end <= now) {
            let credits = self.live.get(hold).map(|live| live.credits);
            held.credits = held.credits.saturating_sub(credits.unwrap_or_default());
            held.live = held.live.saturating_sub(1);
        }
        Standing {
            balance: self.balance,
            held,
        }
    }

    pub(super) fn list(&self, limit: usize, now: Millis) -> Vec<LiveHold> {
        let live = self.due.iter().skip_while(|(end, _)| *end <= now);
        live.take(limit)
            .filter_map(|(end, hold)| {
                let live = self.live.get(hold)?;
                Some(LiveHold {
                    hold: hold.clone(),
                    run: live.run.clone(),
                    credits: live.credits,
                    ends_in: Duration::from_millis(end.saturating_sub(now)),
                })
            })
            .collect()
    }

    pub(super) fn sweep(&mut self, now: Millis, terms: &Terms) -> (Held, Vec<Expired>) {
        self.drop_due(now, terms);
        (self.standing(now).held, std::mem::take(&mut self.untold))
    }

    pub(super) fn audit(&mut self, repair: Repair, now: Millis, terms: &Terms) -> Step<Audit> {
        if !self.drop_due(now, terms) {
            return Step::Again;
        }
        let counted = self.held;
        let mut summed = Held::default();
        let mut index = BTreeSet::new();
        for (hold, live) in &self.live {
            summed.credits = summed.credits.saturating_add(live.credits);
            summed.live = summed.live.saturating_add(1);
            index.insert((live.end, hold.clone()));
        }
        let strays = self.due.symmetric_difference(&index).count();
        let mut audit = Audit {
            counted,
            summed,
            strays: u64::try_from(strays).unwrap_or(u64::MAX),
            repaired: false,
            expired: std::mem::take(&mut self.untold),
        };
        if repair == Repair::Repair && !audit.is_sound() {
            self.held = summed;
            self.due = index;
            audit.repaired = true;
        }
        Step::Done(audit)
    }

    pub(super) fn lines(&self, after: &str, limit: usize) -> Result<Vec<Line>, LedgerError> {
        self.statement.read(after, limit)
    }
}

/// Whether two starts with the same key are the same start. A body that was
/// not looked at is no reason to think otherwise.
fn is_same(first: &Replay, other: &Replay) -> bool {
    let same_body = match (first.body, other.body) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    first.route == other.route && same_body
}

/// The id of a charge or grant: 1 to 64 bytes.
pub(super) fn check_id(id: &str) -> Result<(), LedgerError> {
    if (1..=64).contains(&id.len()) {
        Ok(())
    } else {
        Err(refused("the id of a charge or grant has 1 to 64 bytes"))
    }
}

pub(super) fn refused(why: &str) -> LedgerError {
    LedgerError::Unsupported(format!("{why}: nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::team::TeamId;

    const NOW: Millis = 1_000;

    fn with_two_holds() -> Book {
        let terms = Terms::default();
        let mut book = Book {
            balance: Some(Credits::MAX),
            ..Book::default()
        };
        for id in ["a", "b"] {
            let ask = Ask {
                team: TeamId::parse(b"acme").unwrap(),
                id: HoldId::parse(id.as_bytes()).unwrap(),
                credits: Credits::from_micro(5),
                hold_for: Duration::from_secs(1),
                rule: crate::billing::admission::Rule::default(),
                replay: None,
            };
            book.hold(&ask, NOW, &terms).unwrap();
        }
        book
    }

    fn audit(book: &mut Book, repair: Repair) -> Audit {
        match book.audit(repair, NOW, &Terms::default()) {
            Step::Done(audit) => audit,
            Step::Again => panic!("nothing is due"),
        }
    }

    #[test]
    fn an_audit_finds_drift_and_puts_it_right() {
        let mut book = with_two_holds();
        assert!(audit(&mut book, Repair::Report).is_sound());
        book.held.credits = Credits::from_micro(17);
        let found = audit(&mut book, Repair::Report);
        assert!(!found.is_sound() && !found.repaired);
        assert_eq!(found.drift(), Credits::from_micro(7));
        assert!(audit(&mut book, Repair::Repair).repaired);
        assert!(audit(&mut book, Repair::Report).is_sound());
        assert_eq!(book.held.credits, Credits::from_micro(10));
    }

    #[test]
    fn an_audit_finds_what_the_index_has_wrong() {
        let mut book = with_two_holds();
        // A hold that would never expire, and a place of none.
        book.due.pop_first();
        let stranger = HoldId::parse(b"c").unwrap();
        book.due.insert((NOW * 9, stranger));
        assert_eq!(audit(&mut book, Repair::Report).strays, 2);
        assert!(audit(&mut book, Repair::Repair).repaired);
        assert!(audit(&mut book, Repair::Report).is_sound());
    }
}
