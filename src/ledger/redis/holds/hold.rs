//! Asking for a hold: the loop around the script, and what it replies.

use std::time::{Duration, Instant};

use redis::Cmd;

use super::super::RedisLedger;
use super::super::fault::Fault;
use super::super::link::Link;
use super::super::reach::Reach;
use super::super::supervisor::Core;
use super::super::wire::Replies;
use super::reply::Reply;
use super::words::{Packed, Words};
use super::{millis, script};
use crate::billing::admission::{Balance, Refusal, Verdict, Wanted, decide_hold};
use crate::billing::credits::Credits;
use crate::billing::hold::{End, Held};
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Answer, Ask, Expired, Outcome, Terms};

/// How often the script is run again because it said that it was too late
/// while it was not: once, with what that taught about Redis's clock.
const SECOND_TRIES: u32 = 1;

/// How many holds that are due the first call of the script drops. Each
/// further call drops twice as many, up to [`DROP_AT_ONCE`]: most teams have
/// few, and with many the round trips should be few.
const DROP_AT_FIRST: usize = 64;

/// How many holds one call drops at the most: it keeps everybody else waiting.
const DROP_AT_ONCE: usize = 256;

/// How many holds are put into a lost index with one call.
const INDEX_AT_ONCE: usize = 250;

/// What is known of an ask from one call of the script to the next.
struct Try<'a> {
    ask: &'a Ask,
    until: Instant,
    /// How many holds are dropped.
    drop: usize,
    /// The index was made anew for it.
    is_indexed: bool,
}

/// One step towards an answer.
enum Step {
    Answered(Outcome, Held, Vec<Expired>),
    /// More holds are due than one call drops.
    More(Vec<Expired>),
    /// The index of live holds is lost.
    Lost(Vec<Expired>),
    /// Redis thinks that it is too late.
    Late,
    Failed(LedgerError),
}

impl RedisLedger {
    /// As [`crate::ledger::holds::Holds::hold_by`].
    pub(super) async fn ask_for_hold(
        &self,
        terms: &Terms,
        ask: &Ask,
        until: Instant,
    ) -> Result<Answer, LedgerError> {
        let mut telling = self.untold.collect(&ask.team);
        let mut late: u32 = 0;
        let mut this = Try {
            ask,
            until,
            drop: DROP_AT_FIRST,
            is_indexed: false,
        };
        let mut why = TOO_LATE;
        // The script does a bounded part of the work; the deadline bounds the
        // whole of it.
        let mut needed = Duration::ZERO;
        loop {
            let begun = Instant::now();
            if until.saturating_duration_since(begun) <= needed {
                return Err(LedgerError::Outage(why.to_owned()));
            }
            let step = self.ask_once(terms, &this).await?;
            match step {
                Step::Answered(outcome, held, more) => {
                    telling.add(more);
                    return Ok(Answer {
                        outcome,
                        held,
                        expired: telling.tell(),
                    });
                }
                Step::More(more) => {
                    telling.add(more);
                    this.drop = this.drop.saturating_mul(2).min(DROP_AT_ONCE);
                    why = TOO_MUCH_DUE;
                    // If time ran out over it, nobody would be told of those
                    // that it dropped.
                    needed = begun.elapsed().saturating_mul(2);
                }
                Step::Lost(more) => {
                    telling.add(more);
                    self.make_index(terms, &ask.team, until).await?;
                    this.is_indexed = true;
                    why = TOO_MUCH_DUE;
                }
                Step::Late if late < SECOND_TRIES => late = late.saturating_add(1),
                Step::Late => return Err(LedgerError::Outage(why.to_owned())),
                Step::Failed(error) => return Err(error),
            }
        }
    }

    /// Runs the script.
    async fn ask_once(&self, terms: &Terms, this: &Try<'_>) -> Result<Step, LedgerError> {
        if let Reach::One(core) = &self.reach {
            let outcome = self.ask_one(core, terms, this).await;
            match outcome {
                // It is sent in full.
                Err(fault) if fault.is_unknown_script() => {}
                outcome => return outcome.map_err(|fault| self.not_written(fault)),
            }
        }
        let fill = |run: &mut Cmd, link: &Link| self.hold_arguments(run, link, terms, this);
        let read = |reply| step(reply, this.ask);
        let (team, until) = (&this.ask.team, this.until);
        self.call(&script::HOLD, team, until, fill, read).await
    }

    /// Runs the script by its name where there is one server: what nearly
    /// every start needs.
    async fn ask_one(&self, core: &Core, terms: &Terms, this: &Try<'_>) -> Result<Step, Fault> {
        let link = core.link()?;
        link.mark_used();
        let mut call = Packed::new(&script::HOLD);
        self.hold_arguments(&mut call, &link, terms, this);
        let sent = Instant::now();
        let reply = match link
            .send(&call, Some(this.until.into()))
            .await
            .and_then(Replies::only)
        {
            Err(Fault::Slot(text)) => Err(Fault::Refusing(text)),
            // Nothing is wrong with the server.
            Err(fault) if fault.is_unknown_script() => return Err(fault),
            reply => reply,
        };
        let outcome = reply.and_then(Reply::read).and_then(|reply| {
            link.clock.learn(sent, Instant::now(), reply.clock_us);
            step(reply, this.ask)
        });
        core.conclude(&link, outcome)
    }

    /// Puts the live holds into the index again, as many as there is time for.
    /// What is left out shows when those that are in it have ended.
    async fn make_index(
        &self,
        terms: &Terms,
        team: &TeamId,
        until: Instant,
    ) -> Result<(), LedgerError> {
        tracing::warn!(
            team = team.as_str(),
            "the index of the team's holds is lost, as after an eviction: it is made anew"
        );
        let mut cursor = b"0".to_vec();
        while Instant::now() < until {
            let fill = |command: &mut Cmd, _: &_| {
                self.keys_of_holds(command, team.as_str());
                command.arg(millis(terms.remember)).arg(&cursor);
                command.arg(INDEX_AT_ONCE);
            };
            let read = |mut reply: Reply| {
                if reply.word() != "indexed" {
                    return reply.refusal().map(Err);
                }
                let cursor = reply.text()?;
                reply.end()?;
                Ok(Ok(cursor))
            };
            cursor = self.call(&script::INDEX, team, until, fill, read).await??;
            if cursor == b"0" {
                break;
            }
        }
        Ok(())
    }

    fn hold_arguments(&self, run: &mut impl Words, link: &Link, terms: &Terms, this: &Try<'_>) {
        let ask = this.ask;
        let team = ask.team.as_str();
        run.arg(if self.canary.is_some() { 5 } else { 4 });
        self.hold_keys(run, team);
        run.key(self.balance.fill(team));
        if let Some(canary) = &self.canary {
            run.arg(canary);
        }
        run.arg(millis(terms.remember))
            .arg(link.clock.at(this.until))
            // The name under which it is kept.
            .parts(["h:", ask.id.as_str()])
            .arg(ask.credits.micro())
            .arg(millis(ask.hold_for))
            .arg(ask.rule.refuse_at_or_below.micro())
            .arg(this.drop);
        // What is empty at the end is left out: most often, all of it.
        let is_field = self.field.is_some();
        if is_field || ask.replay.is_some() || this.is_indexed {
            self.place_of_balance(run, team);
        }
        match &ask.replay {
            None if this.is_indexed => run.arg("").arg("").arg(""),
            None => run,
            Some(replay) => run
                .arg(hex(&replay.key))
                .arg(hex(&replay.route))
                .arg(replay.body.as_ref().map(hex).unwrap_or_default()),
        };
        if this.is_indexed {
            run.arg("indexed");
        }
    }
}

/// Why a hold is not made that Redis came to after its time.
const TOO_LATE: &str = "redis came to the hold too late, and did not make it";

/// Why a hold is not made while it is not known what else still counts.
const TOO_MUCH_DUE: &str = "so many of the team's holds are due that the time ran out before all were dropped, and the hold was not made: ask again";

/// Lower-case hexadecimal.
fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Reads what the script replied.
fn step(mut reply: Reply, ask: &Ask) -> Result<Step, Fault> {
    match reply.word() {
        "late" => {
            reply.end()?;
            return Ok(Step::Late);
        }
        "held" | "replayed" | "refused" | "none" | "conflict" | "more" | "lost" => {}
        _ => return reply.refusal().map(Step::Failed),
    }
    let held = reply.held()?;
    let expired = reply.expired()?;
    let outcome = match reply.word() {
        "held" => Outcome::Held,
        "replayed" => Outcome::Replayed {
            hold: reply.hold()?,
            end: match reply.ending()? {
                end @ (None | Some(End::Settled)) => end,
                Some(_) => return Err(Fault::nonsense()),
            },
        },
        "refused" => {
            let why = reply.text()?;
            let balance = reply.credits()?;
            Outcome::Refused {
                refusal: match why.as_slice() {
                    b"held" => Refusal::CreditsHeld,
                    b"short" => too_few(balance, held, ask)?,
                    _ => return Err(Fault::nonsense()),
                },
                balance,
                next_end: next_end(reply.int()?)?,
            }
        }
        "none" => Outcome::NoBalance,
        "conflict" => Outcome::Conflict,
        word => {
            let is_lost = word == "lost";
            reply.end()?;
            return Ok(if is_lost {
                Step::Lost(expired)
            } else {
                Step::More(expired)
            });
        }
    };
    reply.end()?;
    Ok(Step::Answered(outcome, held, expired))
}

/// Which of the refusals that do not go away by waiting: the script does not
/// tell them apart.
fn too_few(balance: Credits, held: Held, ask: &Ask) -> Result<Refusal, Fault> {
    let wanted = Wanted {
        held: held.credits,
        hold: ask.credits,
    };
    match decide_hold(Balance::Known(balance), wanted, &ask.rule) {
        Verdict::Refuse(why @ (Refusal::BelowHold | Refusal::InsufficientCredits)) => Ok(why),
        // The script and this program go by different rules.
        _ => Err(Fault::nonsense()),
    }
}

/// Milliseconds, or -1 for none.
fn next_end(millis: i64) -> Result<Option<Duration>, Fault> {
    if millis == -1 {
        return Ok(None);
    }
    let millis = u64::try_from(millis).map_err(|_| Fault::nonsense())?;
    Ok(Some(Duration::from_millis(millis)))
}

/// What a hold needs of its credits: more than nothing.
pub(super) fn check_positive(credits: Credits) -> Result<(), LedgerError> {
    if credits > Credits::ZERO {
        Ok(())
    } else {
        Err(LedgerError::Unsupported(
            "the credits have to be more than zero".to_owned(),
        ))
    }
}
