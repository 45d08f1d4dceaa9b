//! Holds in Redis.
//!
//! Each change is one script (`scripts/`), which Redis runs in one step and on
//! one team's keys. What they keep, and under which names, is described at the
//! top of `scripts/base.lua`; which script is put together from which parts, in
//! `holds/script.rs`. Here they are called and their replies are read.
//!
//! A script that Redis does not know (it was restarted, or is another one) is
//! sent in full, within the same deadline. Nothing else is sent twice: a
//! change whose reply is lost is [`LedgerError::OutcomeUnknown`], and making
//! it again with the same id is for the caller to decide.

mod change;
mod hold;
mod reply;
pub(super) mod script;
mod standing;
mod statement;
mod team;
mod untold;
mod words;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::Cmd;

use self::change::Debit;
use self::hold::check_positive;
use self::reply::Reply;
use self::script::Script;
pub(super) use self::untold::Untold;
use self::words::Words;
use super::RedisLedger;
use super::fault::Fault;
use super::link::{Form, Link};
use super::reach::Reach;
use crate::billing::credits::Credits;
use crate::billing::hold::{Held, HoldId, RunId};
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{
    Answer, Ask, Audit, Begun, Change, Expired, Granted, Holds, Line, LiveHold, Noted, Release,
    Repair, Standing, Terms, WhenFull, Which, Writer,
};

/// How many keys a script is given of a team's holds.
const KEYS_OF_HOLDS: usize = 3;

/// The longest time that a script is given: the numbers of a script are
/// doubles, and what is kept until then has to be a time.
const MILLIS_MAX: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// How many runs are bound with one write. Redis takes about a millisecond for
/// so many, and everybody else waits meanwhile.
const BOUND_AT_ONCE: usize = 64;

/// The most bytes of the id of a grant or a charge.
const ID_MAX_BYTES: usize = 64;

/// A time in milliseconds, no longer than the scripts take.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis())
        .unwrap_or(MILLIS_MAX)
        .min(MILLIS_MAX)
}

impl RedisLedger {
    fn terms(&self) -> Result<&Terms, LedgerError> {
        self.holds.as_ref().ok_or_else(|| {
            LedgerError::Unsupported("holds are kept in `admission.mode: hold` alone".to_owned())
        })
    }

    /// Runs a script on a team's keys. `fill` adds the number of keys, the keys and the
    /// arguments; `read` takes a reply that the script can have, and nothing
    /// else.
    async fn call<T>(
        &self,
        script: &'static Script,
        team: &TeamId,
        until: Instant,
        fill: impl Fn(&mut Cmd, &Link),
        read: impl FnOnce(Reply) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let make = |link: &Link, form| {
            let mut command = match form {
                Form::ByName => script.by_name(),
                Form::InFull => script.by_text(),
            };
            fill(&mut command, link);
            command
        };
        let shape = |link: &Link, sent, reply| {
            let reply = Reply::read(reply)?;
            // What time it is there.
            link.clock.learn(sent, Instant::now(), reply.clock_us);
            read(reply)
        };
        self.reach
            .call(self.balance.fill(team.as_str()), until.into(), make, shape)
            .await
            .map_err(|fault| self.not_written(fault))
    }

    /// A team's keys, in the order in which every script expects them.
    fn hold_keys(&self, command: &mut impl Words, team: &str) {
        command
            .key(self.keys.holds.fill(team))
            .key(self.keys.due.fill(team))
            .key(self.keys.done.fill(team));
    }

    /// Those and the canary, if there is one: the keys of a script that needs
    /// no more.
    fn keys_of_holds(&self, command: &mut Cmd, team: &str) {
        let canary = self.canary.as_deref();
        command.arg(KEYS_OF_HOLDS.saturating_add(canary.iter().len()));
        self.hold_keys(command, team);
        command.arg(canary);
    }

    /// A team's keys, if there are any, the keys of what is written with a
    /// debit or grant, and the canary, if it is looked at.
    fn keys_with_balance(
        &self,
        command: &mut Cmd,
        of_holds: usize,
        team: &str,
        terms: &Terms,
        canary: Option<&str>,
    ) {
        let is_writer = terms.writer == Writer::Tollgate;
        let number = of_holds
            .saturating_add(if is_writer { 2 } else { 1 })
            .saturating_add(canary.iter().len());
        command.arg(number);
        if of_holds > 0 {
            self.hold_keys(command, team);
        }
        command.arg(self.balance.fill(team));
        if is_writer {
            command.arg(self.keys.statement.fill(team));
        }
        command.arg(canary);
    }

    /// Where in its key the balance is.
    fn place_of_balance(&self, command: &mut impl Words, team: &str) {
        match &self.field {
            None => command.arg("key").arg(""),
            Some(field) => command.arg("field").key(field.fill(team)),
        };
    }

    /// How a debit or grant is written: the last arguments of its script.
    fn terms_of_balance(&self, command: &mut Cmd, team: &str, terms: &Terms, canary: Option<&str>) {
        self.place_of_balance(command, team);
        command
            .arg(match terms.writer {
                Writer::Billing => "billing",
                Writer::Tollgate => "tollgate",
            })
            .arg(terms.statement_length.max(1))
            .arg(match terms.when_full {
                WhenFull::Trim => "trim",
                WhenFull::Refuse => "refuse",
            })
            .arg(canary.map_or("", |_| "canary"));
    }

    /// Adds to the balance or sets it, in one step with the statement's line.
    /// `kind` is `grant` or `set`, as the script calls it.
    pub(super) async fn enter(
        &self,
        kind: &'static str,
        team: &TeamId,
        credits: Credits,
    ) -> Result<Credits, LedgerError> {
        let terms = self.holds.unwrap_or_default();
        // What was lost is restored by setting it, and the canary comes last.
        let canary = self.canary.as_deref().filter(|_| kind != "set");
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_with_balance(command, 0, team.as_str(), &terms, canary);
            command.arg(kind).arg(credits.micro());
            self.terms_of_balance(command, team.as_str(), &terms, canary);
        };
        let read = |mut reply: Reply| {
            if reply.word() != "done" {
                return reply.refusal().map(Err);
            }
            let balance = reply.credits()?;
            reply.end()?;
            Ok(Ok(balance))
        };
        let until = self.reach.until().into_std();
        self.call(&script::BALANCE, team, until, fill, read).await?
    }
}

/// Makes sure that the id of a grant or charge can be kept.
fn check_id(id: &str) -> Result<(), LedgerError> {
    if (1..=ID_MAX_BYTES).contains(&id.len()) {
        Ok(())
    } else {
        Err(LedgerError::Unsupported(format!(
            "an id has 1 to {ID_MAX_BYTES} bytes"
        )))
    }
}

#[async_trait]
impl Holds for RedisLedger {
    async fn hold_by(&self, ask: &Ask, until: Instant) -> Result<Answer, LedgerError> {
        check_positive(ask.credits)?;
        self.ask_for_hold(self.terms()?, ask, until).await
    }

    async fn bind(&self, team: &TeamId, hold: &HoldId, run: &RunId) -> Result<Change, LedgerError> {
        self.bind_run(self.terms()?, team, hold, run).await
    }

    fn bound_at_once(&self) -> usize {
        match &self.reach {
            Reach::One(_) => BOUND_AT_ONCE,
            // Each is in a slot of its own.
            Reach::Many(_) => 1,
        }
    }

    async fn bind_all(&self, begun: &[Begun<'_>]) -> Vec<Result<Change, LedgerError>> {
        match self.terms() {
            Ok(terms) => self.bind_runs(terms, begun).await,
            Err(error) => begun.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn of_run(&self, team: &TeamId, run: &RunId) -> Result<Vec<HoldId>, LedgerError> {
        self.live_of_run(self.terms()?, team, run).await
    }

    async fn extend(&self, team: &TeamId, which: &Which) -> Result<Change, LedgerError> {
        self.extend_hold(self.terms()?, team, which).await
    }

    async fn release(
        &self,
        team: &TeamId,
        which: &Which,
        why: &Release,
    ) -> Result<Change, LedgerError> {
        self.release_hold(self.terms()?, team, which, why).await
    }

    async fn settle(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
    ) -> Result<Change, LedgerError> {
        if credits < Credits::ZERO {
            return Err(LedgerError::Unsupported(
                "what a run cost cannot be below zero".to_owned(),
            ));
        }
        let debit = Debit {
            kind: "settle",
            credits,
            id: "",
        };
        self.debit(self.terms()?, team, which, &debit).await
    }

    async fn charge(
        &self,
        team: &TeamId,
        which: &Which,
        credits: Credits,
        id: &str,
    ) -> Result<Change, LedgerError> {
        check_positive(credits)?;
        check_id(id)?;
        let debit = Debit {
            kind: "charge",
            credits,
            id,
        };
        self.debit(self.terms()?, team, which, &debit).await
    }

    async fn grant_once(
        &self,
        team: &TeamId,
        credits: Credits,
        id: &str,
    ) -> Result<Granted, LedgerError> {
        check_id(id)?;
        self.grant_by_id(self.terms()?, team, credits, id).await
    }

    async fn standing(&self, team: &TeamId) -> Result<Standing, LedgerError> {
        self.team_standing(self.terms()?, team).await
    }

    async fn list(&self, team: &TeamId, limit: usize) -> Result<Vec<LiveHold>, LedgerError> {
        self.list_holds(self.terms()?, team, limit).await
    }

    async fn sweep(&self, team: &TeamId) -> Result<(Held, Vec<Expired>), LedgerError> {
        self.sweep_team(self.terms()?, team).await
    }

    async fn audit(&self, team: &TeamId, repair: Repair) -> Result<Audit, LedgerError> {
        self.audit_team(self.terms()?, team, repair).await
    }

    async fn teams(&self) -> Result<Vec<TeamId>, LedgerError> {
        self.terms()?;
        self.all_teams().await
    }

    async fn statement(
        &self,
        team: &TeamId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Line>, LedgerError> {
        self.terms()?;
        self.read_statement(team, after, limit).await
    }

    async fn note_run(
        &self,
        run: &RunId,
        team: &TeamId,
        for_: Duration,
    ) -> Result<Noted, LedgerError> {
        self.terms()?;
        self.write_run(run, team, for_).await
    }

    async fn note_all(&self, begun: &[Begun<'_>]) -> Vec<Result<Noted, LedgerError>> {
        match self.terms() {
            Ok(_) => self.write_runs(begun).await,
            Err(error) => begun.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn team_of(&self, run: &RunId) -> Result<Option<TeamId>, LedgerError> {
        self.terms()?;
        self.read_run(run).await
    }
}
