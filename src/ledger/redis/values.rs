//! What Redis holds, read: replies into text, text into balances and key
//! facts. What cannot be read is an error, never a zero and never nothing.

use redis::Value;

use super::fault::Fault;
use crate::billing::credits::Credits;
use crate::billing::team::{Principal, TeamId};
use crate::ledger::{KeyFact, LedgerError, Mark, Proof, TeamFact};

/// The most bytes of a balance. The largest amount that counts has 18; what is
/// longer than this was not written by a billing system.
const BALANCE_MAX_BYTES: usize = 128;

/// The hex digits of a SHA-256.
const DIGEST_DIGITS: usize = 64;

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

/// What a key that may be a string or a hash holds.
#[derive(Debug)]
pub(super) enum Entry {
    /// Nothing is there.
    Nothing,
    /// A string.
    Text(Vec<u8>),
    /// A hash, and its fields `team` and `token_sha256`.
    Hash(Option<Vec<u8>>, Option<Vec<u8>>),
    /// Something of another type.
    Other,
}

/// The replies to `GETRANGE` from the beginning to one byte more than a team
/// has, and to `HMGET` of two fields, of one key. They were not given in the
/// same instant: where both found something, the later one counts. The first
/// is empty both for nothing and for a string that is; the second one tells.
pub(super) fn entry(reply: Value) -> Result<Entry, Fault> {
    let Value::Array(replies) = reply else {
        return Err(Fault::nonsense());
    };
    let [string, hash] = <[Value; 2]>::try_from(replies).map_err(|_| Fault::nonsense())?;
    let string = match string {
        Value::ServerError(_) => None,
        reply => Some(text(reply)?.filter(|text| !text.is_empty())),
    };
    let hash = match hash {
        Value::ServerError(_) => None,
        Value::Array(fields) => {
            let pair = <[Value; 2]>::try_from(fields).map_err(|_| Fault::nonsense())?;
            let [team, digest] = pair;
            Some((text(team)?, text(digest)?))
        }
        _ => return Err(Fault::nonsense()),
    };
    Ok(match (string, hash) {
        (None, None) => Entry::Other,
        (Some(None), Some((None, None))) => Entry::Nothing,
        (_, Some((team, digest))) if team.is_some() || digest.is_some() => {
            Entry::Hash(team, digest)
        }
        (Some(Some(text)), _) => Entry::Text(text),
        (None, Some((team, digest))) => Entry::Hash(team, digest),
        (Some(None), _) => Entry::Other,
    })
}

/// The reply to `SET … NX`.
pub(super) fn mark(reply: Value) -> Result<Mark, Fault> {
    match reply {
        Value::Okay => Ok(Mark::First),
        Value::Nil => Ok(Mark::Again),
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

/// Reads whose something is. What it holds is not repeated in the error.
pub(super) fn parse_team_fact(entry: Entry) -> Result<Option<TeamFact>, LedgerError> {
    let corrupt = |what: &str| Err(LedgerError::Corrupt(what.to_owned()));
    let (team, proof) = match entry {
        Entry::Nothing => return Ok(None),
        Entry::Text(team) => (team, Proof::Nothing),
        Entry::Hash(Some(team), None) => (team, Proof::NotSaid),
        Entry::Hash(Some(team), Some(digest)) => match digest_text(&digest) {
            Some(digest) => (team, Proof::TokenSha256(digest)),
            None => return corrupt("a token_sha256 that is not 64 hex digits"),
        },
        Entry::Hash(None, _) => return corrupt("a hash without a field team"),
        Entry::Other => return corrupt("neither a string with a team nor a hash"),
    };
    match TeamId::parse(&team) {
        Ok(team) => Ok(Some(TeamFact { team, proof })),
        Err(error) => corrupt(&format!("a team that is {error}")),
    }
}

/// A SHA-256 in hex, in lower case.
fn digest_text(digest: &[u8]) -> Option<String> {
    let is_hex = digest.len() == DIGEST_DIGITS && digest.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digest).ok().filter(|_| is_hex)?;
    Some(text.to_ascii_lowercase())
}
