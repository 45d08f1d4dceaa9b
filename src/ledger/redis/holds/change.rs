//! Changing one hold: binding, extending, releasing, settling, charging.

use std::time::Instant;

use redis::{Cmd, Pipeline};

use super::super::RedisLedger;
use super::super::fault::Fault;
use super::super::link::Link;
use super::super::reach::Reach;
use super::reply::Reply;
use super::script::Script;
use super::{KEYS_OF_HOLDS, millis, script};
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Begun, Change, Release, Terms, Which};

/// What a debit takes from the balance.
pub(super) struct Debit<'a> {
    /// `settle` or `charge`, as the script calls it.
    pub(super) kind: &'static str,
    pub(super) credits: Credits,
    /// The id of a charge; nothing for a settlement.
    pub(super) id: &'a str,
}

impl RedisLedger {
    pub(super) async fn bind_run(
        &self,
        terms: &Terms,
        team: &TeamId,
        hold: &HoldId,
        run: &RunId,
    ) -> Result<Change, LedgerError> {
        self.change(&script::BIND, terms, team, |command| {
            command.arg(hold.as_str()).arg(run.as_str());
        })
        .await
    }

    /// Binds many with one write.
    pub(super) async fn bind_runs(
        &self,
        terms: &Terms,
        begun: &[Begun<'_>],
    ) -> Vec<Result<Change, LedgerError>> {
        let until = self.reach.until();
        let commands = |_: &Link| {
            let mut commands = Pipeline::with_capacity(begun.len());
            for one in begun {
                let mut command = script::BIND.by_name();
                self.keys_of_holds(&mut command, one.team.as_str());
                command
                    .arg(millis(terms.remember))
                    .arg(one.hold.as_str())
                    .arg(one.run.as_str());
                commands.add_command(command);
            }
            commands
        };
        let shape = |link: &Link, sent, reply| {
            let reply = Reply::read(reply)?;
            link.clock.learn(sent, Instant::now(), reply.clock_us);
            read_change(reply)
        };
        let replies = match &self.reach {
            Reach::One(core) if begun.len() > 1 => {
                core.together(begun.len(), until, commands, shape).await
            }
            Reach::One(_) | Reach::Many(_) => Vec::new(),
        };
        let mut replies = replies.into_iter();
        let mut changes = Vec::with_capacity(begun.len());
        for one in begun {
            changes.push(match replies.next() {
                Some(Ok(change)) => change,
                Some(Err(fault)) if !fault.is_unknown_script() => Err(self.not_written(fault)),
                // The script is sent in full.
                Some(Err(_)) | None => self.bind_run(terms, one.team, one.hold, one.run).await,
            });
        }
        changes
    }

    pub(super) async fn live_of_run(
        &self,
        terms: &Terms,
        team: &TeamId,
        run: &RunId,
    ) -> Result<Vec<HoldId>, LedgerError> {
        let until = self.reach.until().into_std();
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_of_holds(command, team.as_str());
            command.arg(millis(terms.remember)).arg(run.as_str());
        };
        let read = |mut reply: Reply| {
            if reply.word() != "holds" {
                return reply.refusal().map(Err);
            }
            let mut holds = Vec::new();
            while reply.has_more() {
                holds.push(reply.hold()?);
            }
            Ok(Ok(holds))
        };
        self.call(&script::OF_RUN, team, until, fill, read).await?
    }

    pub(super) async fn extend_hold(
        &self,
        terms: &Terms,
        team: &TeamId,
        which: &Which,
    ) -> Result<Change, LedgerError> {
        self.change(&script::EXTEND, terms, team, |command| {
            name(command, which);
        })
        .await
    }

    pub(super) async fn release_hold(
        &self,
        terms: &Terms,
        team: &TeamId,
        which: &Which,
        why: &Release,
    ) -> Result<Change, LedgerError> {
        self.change(&script::RELEASE, terms, team, |command| {
            name(command, which);
            match why {
                Release::Over => command.arg("over").arg(""),
                Release::NotStarted(ask) => command.arg("not_started").arg(ask.as_str()),
            };
        })
        .await
    }

    pub(super) async fn debit(
        &self,
        terms: &Terms,
        team: &TeamId,
        which: &Which,
        debit: &Debit<'_>,
    ) -> Result<Change, LedgerError> {
        let until = self.reach.until().into_std();
        let canary = self.canary.as_deref();
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_with_balance(command, KEYS_OF_HOLDS, team.as_str(), terms, canary);
            command.arg(millis(terms.remember));
            name(command, which);
            command
                .arg(debit.kind)
                .arg(debit.credits.micro())
                .arg(debit.id);
            self.terms_of_balance(command, team.as_str(), terms, canary);
        };
        self.call(&script::DEBIT, team, until, fill, read_change)
            .await?
    }

    async fn change(
        &self,
        script: &'static Script,
        terms: &Terms,
        team: &TeamId,
        arguments: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Change, LedgerError> {
        let until = self.reach.until().into_std();
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_of_holds(command, team.as_str());
            command.arg(millis(terms.remember));
            arguments(command);
        };
        self.call(script, team, until, fill, read_change).await?
    }
}

/// Says which hold is meant.
fn name(command: &mut Cmd, which: &Which) {
    match which {
        Which::Hold(hold) => command.arg("hold").arg(hold.as_str()),
        Which::Run(run) => command.arg("run").arg(run.as_str()),
        Which::Either(either) => command.arg("either").arg(&**either),
    };
}

/// Reads what a script replied that changes one hold.
fn read_change(mut reply: Reply) -> Result<Result<Change, LedgerError>, Fault> {
    let change = match reply.word() {
        "done" => Change::Done(reply.entry()?),
        "again" => Change::Again(reply.entry()?),
        "conflict" => Change::Conflict(reply.entry()?),
        "unknown" => {
            reply.end()?;
            Change::Unknown
        }
        _ => return reply.refusal().map(Err),
    };
    Ok(Ok(change))
}
