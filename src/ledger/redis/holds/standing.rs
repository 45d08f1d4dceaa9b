//! A team's standing: the balance, and what is set aside without what is due.
//!
//! What is due is added up a part at a time, so that no call keeps others
//! waiting. It is not dropped: whoever drops it has to tell of it.

use std::time::Instant;

use redis::Cmd;

use super::super::RedisLedger;
use super::super::values::parse_balance;
use super::reply::Reply;
use super::{KEYS_OF_HOLDS, millis, script};
use crate::billing::credits::Credits;
use crate::billing::hold::Held;
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Standing, Terms};

/// How many holds that are due are looked at with one call.
const PART: usize = 200;

/// Before every time that can be in the index.
const FROM_THE_FIRST: i64 = -1;

/// What one call showed.
struct Part {
    balance: Option<Vec<u8>>,
    /// The totals as they stand in Redis.
    totals: Option<Vec<u8>>,
    /// The same, read.
    held: Held,
    /// What is due in this part.
    due: Held,
    /// Where the next part begins.
    next: Option<i64>,
}

impl RedisLedger {
    /// As [`crate::ledger::holds::Holds::standing`].
    pub(super) async fn team_standing(
        &self,
        terms: &Terms,
        team: &TeamId,
    ) -> Result<Standing, LedgerError> {
        let begun = Instant::now();
        let until = self.reach.until().into_std();
        // The last call needs time, too.
        let whole = until.saturating_duration_since(begun);
        let (mut after, mut due) = (FROM_THE_FIRST, Held::default());
        let mut totals = None;
        loop {
            let part = self.standing_part(terms, team, until, after).await?;
            let is_out_of_time = begun.elapsed().saturating_mul(2) >= whole;
            if after != FROM_THE_FIRST && part.totals != totals {
                // What was added up may have been dropped since.
                (after, due) = (FROM_THE_FIRST, Held::default());
                if !is_out_of_time {
                    continue;
                }
            } else {
                due = plus(due, part.due);
            }
            match part.next {
                Some(next) if !is_out_of_time => after = next,
                _ => return standing(&part, due),
            }
            totals = part.totals;
        }
    }

    async fn standing_part(
        &self,
        terms: &Terms,
        team: &TeamId,
        until: Instant,
        after: i64,
    ) -> Result<Part, LedgerError> {
        let canary = self.canary.as_deref();
        let fill = |command: &mut Cmd, _: &_| {
            let keys = KEYS_OF_HOLDS.saturating_add(1);
            command.arg(keys.saturating_add(canary.iter().len()));
            self.hold_keys(command, team.as_str());
            command
                .arg(self.balance.fill(team.as_str()))
                .arg(canary)
                .arg(millis(terms.remember));
            self.place_of_balance(command, team.as_str());
            command.arg(PART).arg(after);
        };
        let read = |mut reply: Reply| {
            if reply.word() != "standing" {
                return reply.refusal().map(Err);
            }
            let part = Part {
                balance: reply.optional_text()?,
                totals: reply.optional_text()?,
                held: reply.held()?,
                due: reply.held()?,
                next: reply.moment()?,
            };
            reply.end()?;
            Ok(Ok(part))
        };
        self.call(&script::STANDING, team, until, fill, read)
            .await?
    }
}

fn plus(one: Held, other: Held) -> Held {
    Held {
        credits: one.credits.saturating_add(other.credits),
        live: one.live.saturating_add(other.live),
    }
}

/// What is left when what is due does not count.
fn standing(part: &Part, due: Held) -> Result<Standing, LedgerError> {
    let balance = part.balance.as_deref().map(parse_balance).transpose()?;
    let credits = part.held.credits.saturating_sub(due.credits);
    Ok(Standing {
        balance,
        held: Held {
            credits: credits.max(Credits::ZERO),
            live: part.held.live.saturating_sub(due.live),
        },
    })
}
