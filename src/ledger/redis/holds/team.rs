//! What concerns a team as a whole: sweeping, adding up, listing, granting;
//! and finding teams.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};

use super::super::RedisLedger;
use super::super::fault::Fault;
use super::super::keys::{HOLDS, RUN};
use super::super::link::Link;
use super::super::reach::Reach;
use super::super::values::text;
use super::reply::Reply;
use super::{KEYS_OF_HOLDS, millis, script};
use crate::billing::credits::Credits;
use crate::billing::hold::{Held, RunId};
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{
    Audit, Begun, Expired, GRANTS_REMEMBERED, Granted, LiveHold, Noted, Repair, Terms,
};

/// How many holds one call of the script drops, and how much it forgets.
const SWEEP_AT_ONCE: usize = 200;

/// How many holds or keys are read with one command.
const PAGE: usize = 1000;

/// Room for a note whose run it is, so that it is allocated once.
const NOTE_BYTES: usize = 128;

/// What a sweep found.
struct Swept {
    held: Held,
    expired: Vec<Expired>,
    is_more: bool,
}

impl RedisLedger {
    pub(super) async fn sweep_team(
        &self,
        terms: &Terms,
        team: &TeamId,
    ) -> Result<(Held, Vec<Expired>), LedgerError> {
        let mut telling = self.untold.collect(team);
        let swept = self
            .sweep_once(terms, team, self.reach.until().into_std())
            .await?;
        telling.add(swept.expired);
        Ok((swept.held, telling.tell()))
    }

    async fn sweep_once(
        &self,
        terms: &Terms,
        team: &TeamId,
        until: Instant,
    ) -> Result<Swept, LedgerError> {
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_of_holds(command, team.as_str());
            command.arg(millis(terms.remember)).arg(SWEEP_AT_ONCE);
        };
        let read = |mut reply: Reply| {
            if reply.word() != "swept" {
                return reply.refusal().map(Err);
            }
            let swept = Swept {
                held: reply.held()?,
                expired: reply.expired()?,
                is_more: reply.int()? == 1,
            };
            reply.end()?;
            Ok(Ok(swept))
        };
        self.call(&script::SWEEP, team, until, fill, read).await?
    }

    pub(super) async fn list_holds(
        &self,
        terms: &Terms,
        team: &TeamId,
        limit: usize,
    ) -> Result<Vec<LiveHold>, LedgerError> {
        let mut holds: Vec<LiveHold> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut after = Some(0);
        while let Some(at) = after
            && holds.len() < limit
        {
            let (page, next) = self.list_page(terms, team, PAGE.min(limit), at).await?;
            // One that was extended between two pages comes again.
            let fresh = page
                .into_iter()
                .filter(|hold| seen.insert(hold.hold.clone()));
            holds.extend(fresh);
            after = next;
        }
        holds.truncate(limit);
        Ok(holds)
    }

    async fn list_page(
        &self,
        terms: &Terms,
        team: &TeamId,
        limit: usize,
        after: i64,
    ) -> Result<(Vec<LiveHold>, Option<i64>), LedgerError> {
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_of_holds(command, team.as_str());
            command.arg(millis(terms.remember)).arg(limit).arg(after);
        };
        let read = |mut reply: Reply| {
            if reply.word() != "holds" {
                return reply.refusal().map(Err);
            }
            let next = reply.moment()?;
            let mut holds = Vec::new();
            while reply.has_more() {
                holds.push(LiveHold {
                    hold: reply.hold()?,
                    run: reply.run()?,
                    credits: reply.credits()?,
                    ends_in: reply.millis()?,
                });
            }
            Ok(Ok((holds, next)))
        };
        let until = self.reach.until().into_std();
        self.call(&script::LIST, team, until, fill, read).await?
    }

    pub(super) async fn audit_team(
        &self,
        terms: &Terms,
        team: &TeamId,
        repair: Repair,
    ) -> Result<Audit, LedgerError> {
        let patient = || after(Instant::now(), self.reach.connect_timeout());
        let mut telling = self.untold.collect(team);
        loop {
            let swept = self.sweep_once(terms, team, patient()).await?;
            telling.add(swept.expired);
            if !swept.is_more {
                break;
            }
        }
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_of_holds(command, team.as_str());
            command.arg(millis(terms.remember)).arg(match repair {
                Repair::Report => "report",
                Repair::Repair => "repair",
            });
        };
        let read = |mut reply: Reply| {
            if reply.word() != "audited" {
                return reply.refusal().map(Err);
            }
            let counted = reply.held()?;
            let summed = reply.held()?;
            let strays = u64::try_from(reply.int()?).map_err(|_| Fault::nonsense())?;
            reply.end()?;
            Ok(Ok((counted, summed, strays)))
        };
        let (counted, summed, strays) = self
            .call(&script::AUDIT, team, patient(), fill, read)
            .await??;
        let mut audit = Audit {
            counted,
            summed,
            strays,
            repaired: false,
            expired: telling.tell(),
        };
        audit.repaired = repair == Repair::Repair && !audit.is_sound();
        Ok(audit)
    }

    pub(super) async fn grant_by_id(
        &self,
        terms: &Terms,
        team: &TeamId,
        credits: Credits,
        id: &str,
    ) -> Result<Granted, LedgerError> {
        let canary = self.canary.as_deref();
        let fill = |command: &mut Cmd, _: &_| {
            self.keys_with_balance(command, KEYS_OF_HOLDS, team.as_str(), terms, canary);
            command
                .arg(millis(terms.remember))
                .arg(credits.micro())
                .arg(id)
                .arg(millis(GRANTS_REMEMBERED));
            self.terms_of_balance(command, team.as_str(), terms, canary);
        };
        let read = |mut reply: Reply| {
            let granted = match reply.word() {
                "done" => Granted::Done(reply.credits()?),
                "again" => Granted::Again(reply.credits()?),
                "conflict" => Granted::Conflict(reply.credits()?),
                _ => return reply.refusal().map(Err),
            };
            reply.end()?;
            Ok(Ok(granted))
        };
        let until = self.reach.until().into_std();
        self.call(&script::GRANT_ONCE, team, until, fill, read)
            .await?
    }

    pub(super) async fn all_teams(&self) -> Result<Vec<TeamId>, LedgerError> {
        let masters = self.reach.masters(self.reach.until()).await;
        let mut teams = BTreeSet::new();
        for master in masters.map_err(|fault| self.not_read(fault))? {
            let mut cursor = b"0".to_vec();
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor)
                    .arg("MATCH")
                    .arg(HOLDS.replace("<team>", "*"))
                    .arg("COUNT")
                    .arg(PAGE);
                let page = master.ask(&scan, self.reach.until(), page_of_keys).await;
                let (next, keys) = page.map_err(|fault| match fault {
                    Fault::Forbidden(why) => LedgerError::Unsupported(format!(
                        "the teams that have holds cannot be listed: {why}"
                    )),
                    fault => self.not_read(fault),
                })?;
                teams.extend(keys.iter().filter_map(|key| team_of_key(key)));
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(teams.into_iter().collect())
    }

    pub(super) async fn write_run(
        &self,
        run: &RunId,
        team: &TeamId,
        for_: Duration,
    ) -> Result<Noted, LedgerError> {
        let set = |condition| {
            let set = set_run(run, team, for_, condition);
            self.write(set, self.reach.until(), is_set)
        };
        if set("NX").await? {
            return Ok(Noted::Done);
        }
        let made = match self.read_run(run).await? {
            // Only its own team makes it last longer.
            Some(known) if known == *team => set("XX").await?,
            Some(_) | None => false,
        };
        // It was forgotten in between, or is another team's.
        let made = made || set("NX").await?;
        Ok(if made { Noted::Done } else { Noted::Taken })
    }

    /// Notes many with one write.
    pub(super) async fn write_runs(&self, begun: &[Begun<'_>]) -> Vec<Result<Noted, LedgerError>> {
        let commands = |_: &Link| {
            let mut commands = Pipeline::with_capacity(begun.len());
            for one in begun {
                commands.add_command(set_run(one.run, one.team, one.note_for, "NX"));
            }
            commands
        };
        let shape = |_: &Link, _, reply| is_set(reply);
        let replies = match &self.reach {
            Reach::One(core) if begun.len() > 1 => {
                core.together(begun.len(), self.reach.until(), commands, shape)
                    .await
            }
            Reach::One(_) | Reach::Many(_) => Vec::new(),
        };
        let mut replies = replies.into_iter();
        let mut noted = Vec::with_capacity(begun.len());
        for one in begun {
            noted.push(match replies.next() {
                Some(Ok(true)) => Ok(Noted::Done),
                Some(Err(fault)) => Err(self.not_written(fault)),
                // There is a note: whose run it is, is looked at.
                Some(Ok(false)) | None => self.write_run(one.run, one.team, one.note_for).await,
            });
        }
        noted
    }

    pub(super) async fn read_run(&self, run: &RunId) -> Result<Option<TeamId>, LedgerError> {
        let mut get = redis::cmd("GET");
        get.arg(format!("{RUN}{run}"));
        let team = self.read(get, self.reach.until(), text).await?;
        team.map(|team| {
            TeamId::parse(&team)
                .map_err(|error| LedgerError::Corrupt(format!("a run with a team that is {error}")))
        })
        .transpose()
    }
}

/// The command that notes whose run it is, on this condition.
fn set_run(run: &RunId, team: &TeamId, for_: Duration, condition: &str) -> Cmd {
    let mut set = Cmd::with_capacity(6, NOTE_BYTES);
    set.arg("SET")
        .arg(format!("{RUN}{run}"))
        .arg(team.as_str())
        .arg("PX")
        .arg(millis(for_).max(1))
        .arg(condition);
    set
}

/// Whether the note was made.
fn is_set(reply: Value) -> Result<bool, Fault> {
    match reply {
        Value::Okay => Ok(true),
        Value::Nil => Ok(false),
        _ => Err(Fault::nonsense()),
    }
}

/// So much later, as far as the clock goes.
fn after(moment: Instant, pause: Duration) -> Instant {
    moment.checked_add(pause).unwrap_or(moment)
}

/// The team of a key of holds; none if somebody else named it.
fn team_of_key(key: &[u8]) -> Option<TeamId> {
    let (head, tail) = HOLDS.split_once("<team>")?;
    let team = key
        .strip_prefix(head.as_bytes())?
        .strip_suffix(tail.as_bytes())?;
    TeamId::parse(team).ok()
}

/// A reply to `SCAN`.
fn page_of_keys(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
    let Value::Array(halves) = reply else {
        return Err(Fault::nonsense());
    };
    let Ok([Value::BulkString(cursor), Value::Array(keys)]) = <[Value; 2]>::try_from(halves) else {
        return Err(Fault::nonsense());
    };
    let keys = keys.into_iter().map(|key| match key {
        Value::BulkString(key) => Ok(key),
        _ => Err(Fault::nonsense()),
    });
    Ok((cursor, keys.collect::<Result<_, _>>()?))
}
