//! What the ledger knows of a team, as JSON: the same members in the answers
//! of the admin listener and in what the commands print with `--json`.
//!
//! Credits are the text of a decimal, because a reader's binary float would
//! round them. What is not there is null.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_millis;
use serde_json::{Map, Value, json};

use crate::billing::credits::Credits;
use crate::billing::hold::End;
use crate::billing::team::TeamId;
use crate::events::holds as events;
use crate::ledger::holds::{Audit, Entry, Granted, Line, LiveHold, Standing};

/// The end of the year 9999, after which RFC 3339 has no form for a time.
const LAST_TIME: Duration = Duration::from_secs(253_402_300_799);

/// What a hold is changed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is ended with what its run cost.
    Settle,
    /// A part of what its run costs is charged.
    Charge,
    /// It is ended without a cost.
    Release,
}

impl Act {
    /// What was done, in the past: the member that holds the figure.
    #[must_use]
    pub const fn done(self) -> &'static str {
        match self {
            Act::Settle => "settled",
            Act::Charge => "charged",
            Act::Release => "released",
        }
    }

    /// Its name, as in paths and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Act::Settle => "settle",
            Act::Charge => "charge",
            Act::Release => "release",
        }
    }

    /// As events tell of it.
    #[must_use]
    pub const fn told(self) -> events::Act {
        match self {
            Act::Settle => events::Act::Settle,
            Act::Charge => events::Act::Charge,
            Act::Release => events::Act::ByHand,
        }
    }
}

/// Whether a change was made by this request or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// By this one.
    Now,
    /// Before.
    Before,
}

fn text(credits: Option<Credits>) -> Value {
    credits.map_or(Value::Null, |credits| credits.to_string().into())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// A hold after a change.
#[must_use]
pub fn changed(team: &TeamId, act: Act, entry: &Entry, when: When) -> Map<String, Value> {
    let mut facts = hold(team, entry);
    if act != Act::Release {
        let figure = entry.figure.to_string().into();
        facts.insert(act.done().to_owned(), figure);
    }
    facts.insert("balance".to_owned(), text(entry.balance));
    facts.insert("replayed".to_owned(), (when == When::Before).into());
    facts
}

/// A hold that could not be changed, with the figure that was given before.
#[must_use]
pub fn conflicting(team: &TeamId, entry: &Entry) -> Map<String, Value> {
    let mut facts = hold(team, entry);
    let figure = entry.figure.to_string().into();
    facts.insert("earlier".to_owned(), figure);
    facts
}

fn hold(team: &TeamId, entry: &Entry) -> Map<String, Value> {
    // What an ended hold had set aside is held no longer.
    let held = match entry.end {
        None => entry.credits,
        Some(_) => Credits::ZERO,
    };
    object(json!({
        "team": team.as_str(),
        "hold": entry.hold.as_str(),
        "run": entry.run.as_ref().map(|run| run.as_str()),
        "end": entry.end.map(|end| end.name()),
        "credits": held.to_string(),
    }))
}

/// Why a hold could not be changed, for people.
#[must_use]
pub fn why_not(act: Act, entry: &Entry) -> String {
    let end = entry.end.map_or("live", |end| end.name());
    let hold = &entry.hold;
    match (act, entry.end) {
        (Act::Release, _) => format!(
            "hold {hold} is {end}, and what ended otherwise is not released: there is nothing left to do"
        ),
        (Act::Settle, _) => format!(
            "hold {hold} was given the figure {} before and is {end}: if that is wrong, correct the balance by a grant with an id of its own (below zero to take more), not by a second settlement",
            entry.figure
        ),
        (Act::Charge, Some(End::Settled)) => format!(
            "hold {hold} is settled, which was the last part: if more is due, take it by a grant below zero with an id of its own"
        ),
        (Act::Charge, _) => format!(
            "this id was used before, for {} credits or for another hold (now {end}): give each charge an id of its own",
            entry.figure
        ),
    }
}

/// A team's credits.
#[must_use]
pub fn standing(team: &TeamId, standing: &Standing) -> Value {
    json!({
        "team": team.as_str(),
        "balance": text(standing.balance),
        "held": standing.held.credits.to_string(),
        "spendable": text(standing.spendable()),
        "live_holds": standing.held.live,
    })
}

/// A balance alone, as lookup mode knows it.
#[must_use]
pub fn balance(team: &TeamId, credits: Option<Credits>) -> Value {
    json!({"team": team.as_str(), "balance": text(credits)})
}

/// A grant that was made, now or before.
#[must_use]
pub fn granted(team: &TeamId, credits: Credits, balance: Credits, when: When) -> Value {
    json!({
        "team": team.as_str(),
        "granted": credits.to_string(),
        "balance": balance.to_string(),
        "replayed": when == When::Before,
    })
}

/// The balance and the time of a grant, or the figure that was granted under
/// its id before.
///
/// # Errors
/// The earlier figure.
pub fn grant_outcome(granted: Granted) -> Result<(Credits, When), Credits> {
    match granted {
        Granted::Done(balance) => Ok((balance, When::Now)),
        Granted::Again(balance) => Ok((balance, When::Before)),
        Granted::Conflict(earlier) => Err(earlier),
    }
}

/// Live holds.
#[must_use]
pub fn holds(team: &TeamId, holds: &[LiveHold]) -> Value {
    let holds = holds.iter().map(|hold| {
        json!({
            "hold": hold.hold.as_str(),
            "run": hold.run.as_ref().map(|run| run.as_str()),
            "credits": hold.credits.to_string(),
            "ends_in_ms": u64::try_from(hold.ends_in.as_millis()).unwrap_or(u64::MAX),
        })
    });
    json!({"team": team.as_str(), "holds": holds.collect::<Vec<_>>()})
}

/// Lines of a statement. `next` is what to read on after.
#[must_use]
pub fn statement(team: &TeamId, lines: &[Line]) -> Value {
    let shown = lines.iter().map(|line| {
        json!({
            "id": line.id,
            "at": time(line.at),
            "kind": line.kind.name(),
            "credits": line.credits.to_string(),
            "balance": line.balance.to_string(),
            "reference": line.reference,
            "hold": line.hold.as_ref().map(|hold| hold.as_str()),
            "run": line.run.as_ref().map(|run| run.as_str()),
        })
    });
    json!({
        "team": team.as_str(),
        "lines": shown.collect::<Vec<_>>(),
        "next": lines.last().map(|line| line.id.as_str()),
    })
}

/// A time in RFC 3339, if it has that form: formatting any other would panic.
#[must_use]
pub fn time(at: SystemTime) -> Option<String> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since < LAST_TIME).then(|| format_rfc3339_millis(at).to_string())
}

/// What adding up again showed.
#[must_use]
pub fn audit(team: &TeamId, audit: &Audit) -> Value {
    json!({
        "team": team.as_str(),
        "sound": audit.is_sound(),
        "counted": {"credits": audit.counted.credits.to_string(), "live": audit.counted.live},
        "summed": {"credits": audit.summed.credits.to_string(), "live": audit.summed.live},
        "drift": audit.drift().to_string(),
        "strays": audit.strays,
        "repaired": audit.repaired,
        "expired": audit.expired.len(),
    })
}
