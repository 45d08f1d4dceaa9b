//! Reading a team's statement.

use std::time::{Duration, SystemTime};

use redis::Value;

use super::super::RedisLedger;
use super::super::fault::Fault;
use crate::billing::credits::Credits;
use crate::billing::hold::{HoldId, RunId};
use crate::billing::team::TeamId;
use crate::ledger::LedgerError;
use crate::ledger::holds::{Line, LineKind};

/// How many lines are read with one command.
const PAGE: usize = 1000;

impl RedisLedger {
    pub(super) async fn read_statement(
        &self,
        team: &TeamId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Line>, LedgerError> {
        let mut start = String::from("-");
        if !after.is_empty() {
            if !is_place(after) {
                return Err(LedgerError::Unsupported(
                    "that is not the id of a line: take it from a line that was read before"
                        .to_owned(),
                ));
            }
            start = format!("({after}");
        }
        let mut lines = Vec::new();
        while lines.len() < limit {
            let page = PAGE.min(limit.saturating_sub(lines.len()));
            let mut range = redis::cmd("XRANGE");
            range
                .arg(self.keys.statement.fill(team.as_str()))
                .arg(&start)
                .arg("+")
                .arg("COUNT")
                .arg(page);
            let more = self.read(range, self.reach.until(), lines_of).await?;
            let is_last = more.len() < page;
            lines.extend(more);
            match lines.last() {
                Some(line) if !is_last => start = format!("({}", line.id),
                _ => break,
            }
        }
        Ok(lines)
    }
}

/// Whether this is the id of a stream's entry: `1700000000000-0`.
fn is_place(text: &str) -> bool {
    let is_number = |text: &str| {
        !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split_once('-')
        .is_some_and(|(millis, number)| is_number(millis) && is_number(number))
}

/// A reply to `XRANGE`.
fn lines_of(reply: Value) -> Result<Vec<Line>, Fault> {
    let Value::Array(entries) = reply else {
        return Err(Fault::nonsense());
    };
    entries.into_iter().map(line).collect()
}

/// One line. What is in the stream and no line is an error about the team.
fn line(entry: Value) -> Result<Line, Fault> {
    let Value::Array(halves) = entry else {
        return Err(Fault::nonsense());
    };
    let Ok([Value::BulkString(id), Value::Array(fields)]) = <[Value; 2]>::try_from(halves) else {
        return Err(Fault::nonsense());
    };
    let foreign =
        || Fault::Entry("the statement has a line that tollgate did not write".to_owned());
    let utf8 = |text: Vec<u8>| String::from_utf8(text).map_err(|_| foreign());
    let id = utf8(id)?;
    let (mut kind, mut credits, mut balance) = (None, None, None);
    let (mut reference, mut hold, mut run) = (None, None, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else {
            return Err(Fault::nonsense());
        };
        match name.as_slice() {
            b"kind" => {
                kind = LineKind::ALL
                    .into_iter()
                    .find(|kind| kind.name().as_bytes() == value)
            }
            b"credits" => credits = Credits::parse(&value).ok(),
            b"balance" => balance = Credits::parse(&value).ok(),
            b"reference" => reference = Some(utf8(value)?),
            b"hold" => hold = Some(HoldId::parse(&value).map_err(|_| foreign())?),
            b"run" => run = Some(RunId::parse(&value).map_err(|_| foreign())?),
            // Of a later version.
            _ => {}
        }
    }
    let millis = id.split('-').next().and_then(|millis| millis.parse().ok());
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis.ok_or_else(foreign)?));
    Ok(Line {
        id,
        at: at.ok_or_else(foreign)?,
        kind: kind.ok_or_else(foreign)?,
        credits: credits.ok_or_else(foreign)?,
        balance: balance.ok_or_else(foreign)?,
        reference,
        hold,
        run,
    })
}
