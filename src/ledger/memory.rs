//! Balances and holds in this process: for demos and single-process trials.
//!
//! Promises what [`Ledger`] and [`Holds`] promise, and always answers, at
//! once: no request of its own ever comes too late. Nothing is kept across a
//! restart, and there are no API keys and nothing that is looked up for a path
//! or a workspace: who pays comes from a header.
//!
//! Each team has a book (`memory/book.rs`) of plain values. Books lie in
//! shards, each behind a lock that is held for one bounded step at a time.

mod book;
mod clock;
mod ends;
mod hints;
mod live;
mod marks;
mod remembered;
mod statement;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;

pub use clock::{Clock, SteadyClock};

use self::book::{Book, Step};
use self::clock::{Millis, millis};
use self::hints::Hints;
use self::marks::Marks;
use super::holds::{
    Answer, Ask, Audit, Change, Expired, Granted, Holds, Line, LiveHold, Noted, Release, Repair,
    Standing, Terms, Which,
};
use super::{Health, KeyFact, Ledger, LedgerError, Mark, TeamFact};
use crate::billing::credits::Credits;
use crate::billing::hold::{Held, HoldId, RunId};
use crate::billing::team::TeamId;
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// How many locks the teams share: enough that two busy ones rarely meet.
const SHARDS: usize = 64;

type Shard = BTreeMap<TeamId, Book>;

/// Balances and holds in this process.
#[derive(Debug)]
pub struct MemoryLedger {
    shards: Vec<Mutex<Shard>>,
    hints: Mutex<Hints>,
    marks: Mutex<Marks>,
    terms: Terms,
    clock: Arc<dyn Clock>,
    latest: AtomicU64,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        MemoryLedger::new(BTreeMap::new())
    }
}

impl MemoryLedger {
    /// A ledger that begins with these balances.
    #[must_use]
    pub fn new(balances: BTreeMap<TeamId, Credits>) -> Self {
        let mut shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::new()).collect();
        for (team, credits) in balances {
            if let Some(shard) = shards.get_mut(place(&team)) {
                shard.entry(team).or_default().balance = Some(credits);
            }
        }
        MemoryLedger {
            shards: shards.into_iter().map(Mutex::new).collect(),
            hints: Mutex::default(),
            marks: Mutex::default(),
            terms: Terms::default(),
            clock: Arc::new(SteadyClock::default()),
            latest: AtomicU64::new(0),
        }
    }

    /// The same ledger, keeping holds on these terms.
    #[must_use]
    pub fn with_terms(self, terms: Terms) -> Self {
        MemoryLedger { terms, ..self }
    }

    /// The same ledger, going by this clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        let latest = AtomicU64::new(0);
        MemoryLedger {
            clock,
            latest,
            ..self
        }
    }

    /// What time it is. It never goes back, whatever the clock does: what was
    /// found to be over must not come to life.
    fn now(&self) -> Millis {
        let now = millis(self.clock.now());
        self.latest.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// Does one step on a team's book. A book that nothing is in is not kept:
    /// who asks for a team that is not there leaves nothing behind.
    fn step<T>(&self, team: &TeamId, step: impl FnOnce(&mut Book, Millis) -> T) -> T {
        let Some(shard) = self.shards.get(place(team)) else {
            return step(&mut Book::default(), self.now());
        };
        let mut shard = lock(shard);
        let mut fresh = Book::default();
        let known = shard.get_mut(team);
        let is_known = known.is_some();
        let book = known.unwrap_or(&mut fresh);
        // Read under the lock, so that steps and their times have one order.
        let now = self.now();
        book.forget(now, &self.terms);
        let done = step(book, now);
        match (is_known, book.is_empty()) {
            (true, true) => drop(shard.remove(team)),
            (false, false) => drop(shard.insert(team.clone(), fresh)),
            (true, false) | (false, true) => {}
        }
        done
    }
}

/// Which shard a team's book lies in (FNV-1a).
fn place(team: &TeamId) -> usize {
    let hash = team
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let shards = u64::try_from(SHARDS).unwrap_or(1);
    usize::try_from(hash.checked_rem(shards).unwrap_or_default()).unwrap_or_default()
}

/// A poisoned lock is taken all the same: the code under it does not panic,
/// and a gateway that answers nobody because of one team is worse than one
/// team's book as it was left.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Ledger for MemoryLedger {
    fn until(&self) -> Instant {
        // It answers at once, whatever it is given.
        Instant::now()
    }

    async fn balance_by(&self, team: &TeamId, _: Instant) -> Result<Option<Credits>, LedgerError> {
        Ok(self.step(team, |book, _| book.balance))
    }

    async fn key_fact_by(&self, _: &str, _: Instant) -> Result<Option<KeyFact>, LedgerError> {
        Ok(None)
    }

    async fn team_fact_by(&self, _: &str, _: Instant) -> Result<Option<TeamFact>, LedgerError> {
        Ok(None)
    }

    async fn mark_by(
        &self,
        name: &str,
        lasting: Duration,
        _: Instant,
    ) -> Result<Mark, LedgerError> {
        let mut marks = lock(&self.marks);
        // Read under the lock, so that marks and their times have one order.
        let now = self.now();
        // One more: this millisecond may be nearly over, and does not count.
        let until = now.saturating_add(millis(lasting)).saturating_add(1);
        Ok(marks.leave(name, until, now))
    }

    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError> {
        self.step(team, |book, now| {
            book.set_balance(credits, now, &self.terms)
        })
    }

    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
        self.step(team, |book, now| {
            book.grant(credits, None, now, &self.terms)
        })
    }

    fn health(&self) -> Health {
        Health::Up
    }
}

#[async_trait]
impl Holds for MemoryLedger {
    async fn hold_by(&self, ask: &Ask, _: Instant) -> Result<Answer, LedgerError> {
        loop {
            let step = self.step(&ask.team, |book, now| book.hold(ask, now, &self.terms))?;
            if let Step::Done(answer) = step {
                return Ok(answer);
            }
        }
    }

    async fn bind(&self, team: &TeamId, hold: &HoldId, run: &RunId) -> Result<Change, LedgerError> {
        Ok(self.step(team, |book, now| book.bind(hold, run, now, &self.terms)))
    }

    async fn of_run(&self, team: &TeamId, run: &RunId) -> Result<Vec<HoldId>, LedgerError> {
        Ok(self.step(team, |book, now| book.of_run(run, now)))
    }

    async fn extend(&self, team: &TeamId, which: &Which) -> Result<Change, LedgerError> {
        Ok(self.step(team, |book, now| book.extend(which, now, &self.terms)))
    }

    async fn release(
        &self,
        team: &TeamId,
        which: &Which,
        why: &Release,
    ) -> Result<Change, LedgerError> {
        Ok(self.step(team, |book, now| book.release(which, why, now, &self.terms)))
    }

    async fn settle(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
    ) -> Result<Change, LedgerError> {
        self.step(team, |book, now| {
            book.settle(which, credits, now, &self.terms)
        })
    }

    async fn charge(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
        id: &str,
    ) -> Result<Change, LedgerError> {
        self.step(team, |book, now| {
            book.charge(which, credits, id, now, &self.terms)
        })
    }

    async fn grant_once(
        &self,
        team: &TeamId,
        credits: Credits,
        id: &str,
    ) -> Result<Granted, LedgerError> {
        self.step(team, |book, now| {
            book.grant_once(credits, id, now, &self.terms)
        })
    }

    async fn standing(&self, team: &TeamId) -> Result<Standing, LedgerError> {
        Ok(self.step(team, |book, now| book.standing(now)))
    }

    async fn list(&self, team: &TeamId, limit: usize) -> Result<Vec<LiveHold>, LedgerError> {
        Ok(self.step(team, |book, now| book.list(limit, now)))
    }

    async fn sweep(&self, team: &TeamId) -> Result<(Held, Vec<Expired>), LedgerError> {
        Ok(self.step(team, |book, now| book.sweep(now, &self.terms)))
    }

    async fn audit(&self, team: &TeamId, repair: Repair) -> Result<Audit, LedgerError> {
        loop {
            let step = self.step(team, |book, now| book.audit(repair, now, &self.terms));
            if let Step::Done(audit) = step {
                return Ok(audit);
            }
        }
    }

    async fn teams(&self) -> Result<Vec<TeamId>, LedgerError> {
        let mut teams = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let with_holds = shard.iter().filter(|(_, book)| book.has_holds());
            teams.extend(with_holds.map(|(team, _)| team.clone()));
        }
        teams.sort_unstable();
        Ok(teams)
    }

    async fn statement(
        &self,
        team: &TeamId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Line>, LedgerError> {
        self.step(team, |book, _| book.lines(after, limit))
    }

    async fn note_run(
        &self,
        run: &RunId,
        team: &TeamId,
        for_: Duration,
    ) -> Result<Noted, LedgerError> {
        let now = self.now();
        let until = now.saturating_add(millis(for_));
        Ok(lock(&self.hints).note(run, team, until, now))
    }

    async fn team_of(&self, run: &RunId) -> Result<Option<TeamId>, LedgerError> {
        Ok(lock(&self.hints).team_of(run, self.now()))
    }
}
