//! What Redis holds, read: replies into text, text into balances and key
//! facts. What cannot be read is an error, never a zero and never nothing.

use redis::Value;

use super::fault::Fault;
use crate::billing::credits::Credits;
use crate::billing::team::{Principal, TeamId};
use crate::ledger::{KeyFact, LedgerError};

/// The most bytes of a balance. The largest amount that counts has 18; what is
/// longer than this was not written by a billing system.
const BALANCE_MAX_BYTES: usize = 128;

/// The most bytes of a key's list of teams.
const TEAMS_MAX_BYTES: usize = 64 * 1024;

/// A reply that is text or nothing.
pub(super) fn text(reply: Value) -> Result<Option<Vec<u8>>, Fault> {
    match reply {
        Value::Nil => Ok(None),
        Value::BulkString(text) => Ok(Some(text)),
        _ => Err(Fault::nonsense()),
    }
}

/// A reply that is three times text or nothing.
pub(super) fn texts(reply: Value) -> Result<[Option<Vec<u8>>; 3], Fault> {
    let Value::Array(fields) = reply else {
        return Err(Fault::nonsense());
    };
    let [first, second, third] = <[Value; 3]>::try_from(fields).map_err(|_| Fault::nonsense())?;
    Ok([text(first)?, text(second)?, text(third)?])
}

/// Reads a balance. What it holds is not repeated in the error.
pub(super) fn parse_balance(text: &[u8]) -> Result<Credits, LedgerError> {
    if text.len() > BALANCE_MAX_BYTES {
        return Err(LedgerError::Corrupt(format!(
            "a balance of {} bytes, at most {BALANCE_MAX_BYTES} are read",
            text.len()
        )));
    }
    Credits::parse(text).map_err(|error| LedgerError::Corrupt(format!("a balance that is {error}")))
}

/// Reads what a key stands for. A hash without any of the fields, like one
/// that does not exist, is no key.
pub(super) fn parse_key_fact(
    team: Option<Vec<u8>>,
    teams: Option<Vec<u8>>,
    principal: Option<Vec<u8>>,
) -> Result<Option<KeyFact>, LedgerError> {
    if team.is_none() && teams.is_none() && principal.is_none() {
        return Ok(None);
    }
    let length = teams.as_ref().map_or(0, Vec::len);
    if length > TEAMS_MAX_BYTES {
        return Err(LedgerError::Corrupt(format!(
            "an api key with {length} bytes of teams, at most {TEAMS_MAX_BYTES} are read"
        )));
    }
    let team_id = |text: &[u8]| {
        TeamId::parse(text).map_err(|error| {
            LedgerError::Corrupt(format!("an api key with a team that is {error}"))
        })
    };
    Ok(Some(KeyFact {
        team: team.as_deref().map(team_id).transpose()?,
        teams: teams
            .map(|teams| {
                teams
                    .split(|byte| *byte == b' ')
                    .filter(|name| !name.is_empty())
                    .map(team_id)
                    .collect::<Result<_, _>>()
            })
            .transpose()?,
        principal: principal.map(|name| Principal::new(&String::from_utf8_lossy(&name))),
    }))
}
