//! A ledger that is the embedded one, and away when it is told to be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::{Held, HoldId, RunId};
use tollgate::billing::team::TeamId;
use tollgate::ledger::holds::{
    Answer, Ask, Audit, Begun, Change, Expired, Granted, Holds, Line, LiveHold, Noted, Release,
    Repair, Standing, Terms, Which,
};
use tollgate::ledger::memory::{Clock, MemoryLedger};
use tollgate::ledger::{Health, KeyFact, Ledger, LedgerError, Mark, TeamFact};

/// A clock that only moves when it is told to.
#[derive(Debug)]
pub struct StillClock(Mutex<Duration>);

impl StillClock {
    pub fn step(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for StillClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// The embedded ledger with moods.
pub struct Moody {
    pub ledger: MemoryLedger,
    pub clock: Arc<StillClock>,
    /// Nothing is answered.
    pub away: AtomicBool,
    /// These are not swept.
    pub away_teams: Vec<TeamId>,
    /// So many changes are made and not answered.
    pub lost_replies: AtomicU32,
    /// What entries are said to be corrupt.
    pub corrupt: AtomicBool,
    /// How far every audit says that it is off.
    pub drift: Mutex<Credits>,
    /// A change waits for a permit of this, if it is there.
    pub gate: Option<Semaphore>,
    /// How many runs are bound at once.
    pub at_once: usize,
    /// Runs that are being bound together, and the most there were.
    pub telling: AtomicUsize,
    pub most_telling: AtomicUsize,
    pub calls: Mutex<Vec<String>>,
    pub under_way: AtomicU32,
    pub most_under_way: AtomicU32,
}

impl Moody {
    pub fn new(teams: &[(&TeamId, &str)], terms: Terms) -> Self {
        let balances: BTreeMap<_, _> = teams
            .iter()
            .map(|(team, credits)| (TeamId::clone(team), credits.parse().unwrap()))
            .collect();
        let clock = Arc::new(StillClock(Mutex::new(Duration::from_secs(1_764_000_000))));
        let ledger = MemoryLedger::new(balances)
            .with_terms(terms)
            .with_clock(Arc::<StillClock>::clone(&clock));
        Moody {
            ledger,
            clock,
            away: AtomicBool::default(),
            away_teams: Vec::new(),
            lost_replies: AtomicU32::default(),
            corrupt: AtomicBool::default(),
            drift: Mutex::default(),
            gate: None,
            at_once: 1,
            telling: AtomicUsize::default(),
            most_telling: AtomicUsize::default(),
            calls: Mutex::default(),
            under_way: AtomicU32::default(),
            most_under_way: AtomicU32::default(),
        }
    }

    pub fn gated(mut self) -> Self {
        self.gate = Some(Semaphore::new(0));
        self
    }

    pub fn calls(&self, name: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.starts_with(name)).count()
    }

    async fn change<T>(
        &self,
        call: String,
        made: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.calls.lock().unwrap().push(call);
        if self.away.load(Ordering::SeqCst) {
            return Err(LedgerError::Outage("it is away".to_owned()));
        }
        if self.corrupt.load(Ordering::SeqCst) {
            return Err(LedgerError::Corrupt("it is nonsense".to_owned()));
        }
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let made = made.await;
        let lose = |left: u32| left.checked_sub(1);
        let lost = &self.lost_replies;
        match lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose) {
            Ok(_) => Err(LedgerError::OutcomeUnknown("the reply was lost".to_owned())),
            Err(_) => made,
        }
    }
}

#[async_trait]
impl Ledger for Moody {
    async fn balance_by(
        &self,
        team: &TeamId,
        until: Instant,
    ) -> Result<Option<Credits>, LedgerError> {
        self.ledger.balance_by(team, until).await
    }

    fn until(&self) -> Instant {
        self.ledger.until()
    }

    async fn key_fact_by(
        &self,
        sha256: &str,
        until: Instant,
    ) -> Result<Option<KeyFact>, LedgerError> {
        self.ledger.key_fact_by(sha256, until).await
    }

    async fn team_fact_by(&self, _: &str, _: Instant) -> Result<Option<TeamFact>, LedgerError> {
        Ok(None)
    }

    async fn mark_by(&self, _: &str, _: Duration, _: Instant) -> Result<Mark, LedgerError> {
        Ok(Mark::First)
    }

    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError> {
        self.ledger.set_balance(team, credits).await
    }

    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
        self.ledger.grant(team, credits).await
    }

    fn health(&self) -> Health {
        self.ledger.health()
    }
}

#[async_trait]
impl Holds for Moody {
    async fn hold_by(&self, ask: &Ask, until: Instant) -> Result<Answer, LedgerError> {
        self.ledger.hold_by(ask, until).await
    }

    async fn bind(&self, team: &TeamId, hold: &HoldId, run: &RunId) -> Result<Change, LedgerError> {
        self.change(format!("bind {run}"), self.ledger.bind(team, hold, run))
            .await
    }

    fn bound_at_once(&self) -> usize {
        self.at_once
    }

    async fn bind_all(&self, begun: &[Begun<'_>]) -> Vec<Result<Change, LedgerError>> {
        let call = format!("together {}", begun.len());
        self.calls.lock().unwrap().push(call);
        let now = self.telling.fetch_add(begun.len(), Ordering::SeqCst) + begun.len();
        self.most_telling.fetch_max(now, Ordering::SeqCst);
        let mut changes = Vec::new();
        for one in begun {
            changes.push(self.bind(one.team, one.hold, one.run).await);
        }
        self.telling.fetch_sub(begun.len(), Ordering::SeqCst);
        changes
    }

    async fn of_run(&self, team: &TeamId, run: &RunId) -> Result<Vec<HoldId>, LedgerError> {
        self.ledger.of_run(team, run).await
    }

    async fn extend(&self, team: &TeamId, which: &Which) -> Result<Change, LedgerError> {
        self.change(format!("extend {which:?}"), self.ledger.extend(team, which))
            .await
    }

    async fn release(
        &self,
        team: &TeamId,
        which: &Which,
        why: &Release,
    ) -> Result<Change, LedgerError> {
        self.change(
            format!("release {which:?} {why:?}"),
            self.ledger.release(team, which, why),
        )
        .await
    }

    async fn settle(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
    ) -> Result<Change, LedgerError> {
        self.change(
            format!("settle {which:?} {credits}"),
            self.ledger.settle(team, which, credits),
        )
        .await
    }

    async fn charge(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
        id: &str,
    ) -> Result<Change, LedgerError> {
        self.ledger.charge(team, which, credits, id).await
    }

    async fn grant_once(
        &self,
        team: &TeamId,
        credits: Credits,
        id: &str,
    ) -> Result<Granted, LedgerError> {
        self.ledger.grant_once(team, credits, id).await
    }

    async fn standing(&self, team: &TeamId) -> Result<Standing, LedgerError> {
        self.ledger.standing(team).await
    }

    async fn list(&self, team: &TeamId, limit: usize) -> Result<Vec<LiveHold>, LedgerError> {
        self.ledger.list(team, limit).await
    }

    async fn sweep(&self, team: &TeamId) -> Result<(Held, Vec<Expired>), LedgerError> {
        self.calls.lock().unwrap().push(format!("sweep {team}"));
        if self.away.load(Ordering::SeqCst) || self.away_teams.contains(team) {
            return Err(LedgerError::Outage("it is away".to_owned()));
        }
        self.ledger.sweep(team).await
    }

    async fn audit(&self, team: &TeamId, repair: Repair) -> Result<Audit, LedgerError> {
        if self.away_teams.contains(team) {
            return Err(LedgerError::Outage("it is away".to_owned()));
        }
        let mut audit = self.ledger.audit(team, repair).await?;
        let drift = *self.drift.lock().unwrap();
        audit.counted.credits = audit.counted.credits.saturating_add(drift);
        Ok(audit)
    }

    async fn teams(&self) -> Result<Vec<TeamId>, LedgerError> {
        self.ledger.teams().await
    }

    async fn statement(
        &self,
        team: &TeamId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Line>, LedgerError> {
        self.ledger.statement(team, after, limit).await
    }

    async fn note_run(
        &self,
        run: &RunId,
        team: &TeamId,
        for_: Duration,
    ) -> Result<Noted, LedgerError> {
        self.change(format!("note {run}"), self.ledger.note_run(run, team, for_))
            .await
    }

    async fn team_of(&self, run: &RunId) -> Result<Option<TeamId>, LedgerError> {
        self.change(format!("whose {run}"), self.ledger.team_of(run))
            .await
    }
}
