//! What the scripts reply, read strictly: what is not exactly of the form that
//! is due is no reply.

use std::borrow::Cow;
use std::time::Duration;

use redis::Value;

use super::super::fault::Fault;
use super::super::values::parse_balance;
use crate::billing::credits::Credits;
use crate::billing::hold::{End, Held, HoldId, RunId};
use crate::ledger::LedgerError;
use crate::ledger::holds::{Entry, Expired};

/// A script's reply: a word, Redis's clock, and what else belongs to the word.
#[derive(Debug)]
pub(super) struct Reply {
    word: Box<str>,
    /// Redis's clock in microseconds.
    pub(super) clock_us: i64,
    rest: Rest,
}

/// What is left of a reply.
#[derive(Debug)]
enum Rest {
    /// Of an array.
    Values(std::vec::IntoIter<Value>),
    /// Of one text, whose parts have a blank between each two.
    Text(Parts),
}

/// A text, part by part.
#[derive(Debug)]
struct Parts {
    text: String,
    /// Where the next part begins, if there is one.
    next: Option<usize>,
}

impl Parts {
    fn next(&mut self) -> Option<&str> {
        let rest = self.text.get(self.next?..)?;
        let (part, after) = match rest.split_once(' ') {
            Some((part, after)) => (part, Some(self.text.len().saturating_sub(after.len()))),
            None => (rest, None),
        };
        self.next = after;
        Some(part)
    }
}

impl Reply {
    /// Takes the reply apart.
    pub(super) fn read(value: Value) -> Result<Self, Fault> {
        let (word, rest) = match value {
            Value::Array(values) => {
                let mut rest = values.into_iter();
                let Some(Value::BulkString(word)) = rest.next() else {
                    return Err(Fault::nonsense());
                };
                (text_of(word)?.into(), Rest::Values(rest))
            }
            Value::BulkString(text) => {
                let text = text_of(text)?;
                let mut parts = Parts {
                    text,
                    next: Some(0),
                };
                let word = parts.next().ok_or_else(Fault::nonsense)?.into();
                (word, Rest::Text(parts))
            }
            _ => return Err(Fault::nonsense()),
        };
        let mut reply = Reply {
            word,
            clock_us: 0,
            rest,
        };
        reply.clock_us = reply.int()?;
        if reply.clock_us <= 0 {
            return Err(Fault::nonsense());
        }
        if &*reply.word == "canary" {
            return Err(Fault::CanaryMissing);
        }
        Ok(reply)
    }

    /// The word that says what the reply is.
    pub(super) fn word(&self) -> &str {
        &self.word
    }

    /// A time in milliseconds, or -1 for none.
    pub(super) fn moment(&mut self) -> Result<Option<i64>, Fault> {
        match self.int()? {
            -1 => Ok(None),
            at if at >= 0 => Ok(Some(at)),
            _ => Err(Fault::nonsense()),
        }
    }

    /// A whole number.
    pub(super) fn int(&mut self) -> Result<i64, Fault> {
        let number = match &mut self.rest {
            Rest::Values(values) => match values.next() {
                Some(Value::Int(number)) => Some(number),
                _ => None,
            },
            Rest::Text(parts) => parts.next().and_then(|part| part.parse().ok()),
        };
        number.ok_or_else(Fault::nonsense)
    }

    /// 0 or 1.
    fn yes(&mut self) -> Result<bool, Fault> {
        match self.int()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::nonsense()),
        }
    }

    /// Text.
    pub(super) fn text(&mut self) -> Result<Vec<u8>, Fault> {
        self.bytes().map(Cow::into_owned)
    }

    /// The same, without a copy where it need not be kept.
    fn bytes(&mut self) -> Result<Cow<'_, [u8]>, Fault> {
        let bytes = match &mut self.rest {
            Rest::Values(values) => match values.next() {
                Some(Value::BulkString(text)) => Some(Cow::Owned(text)),
                _ => None,
            },
            Rest::Text(parts) => parts.next().map(|part| Cow::Borrowed(part.as_bytes())),
        };
        bytes.ok_or_else(Fault::nonsense)
    }

    /// Text or nothing, of an array.
    pub(super) fn optional_text(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match &mut self.rest {
            Rest::Values(values) => match values.next() {
                Some(Value::BulkString(text)) => Ok(Some(text)),
                Some(Value::Nil) => Ok(None),
                _ => Err(Fault::nonsense()),
            },
            Rest::Text(_) => Err(Fault::nonsense()),
        }
    }

    /// Whether anything is left.
    pub(super) fn has_more(&self) -> bool {
        match &self.rest {
            Rest::Values(values) => values.len() > 0,
            Rest::Text(parts) => parts.next.is_some(),
        }
    }

    /// Makes sure that nothing is left.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.has_more() {
            Err(Fault::nonsense())
        } else {
            Ok(())
        }
    }

    /// An amount in micro-credits.
    pub(super) fn credits(&mut self) -> Result<Credits, Fault> {
        let micro = self.int()?;
        let credits = Credits::from_micro(micro);
        if credits.micro() == micro {
            Ok(credits)
        } else {
            Err(Fault::nonsense())
        }
    }

    /// The id of a hold.
    pub(super) fn hold(&mut self) -> Result<HoldId, Fault> {
        HoldId::parse(&self.bytes()?).map_err(|_| Fault::nonsense())
    }

    /// `=run`, or `-` for none.
    pub(super) fn run(&mut self) -> Result<Option<RunId>, Fault> {
        match self.bytes()?.split_first() {
            Some((b'-', [])) => Ok(None),
            Some((b'=', run)) => RunId::parse(run).map(Some).map_err(|_| Fault::nonsense()),
            _ => Err(Fault::nonsense()),
        }
    }

    /// The letter of an end, or nothing.
    pub(super) fn ending(&mut self) -> Result<Option<End>, Fault> {
        match &*self.bytes()? {
            b"" => Ok(None),
            b"R" => Ok(Some(End::Released)),
            b"S" => Ok(Some(End::Settled)),
            b"X" => Ok(Some(End::Expired)),
            _ => Err(Fault::nonsense()),
        }
    }

    /// Milliseconds.
    pub(super) fn millis(&mut self) -> Result<Duration, Fault> {
        let millis = u64::try_from(self.int()?).map_err(|_| Fault::nonsense())?;
        Ok(Duration::from_millis(millis))
    }

    /// What is held, and how many holds are live.
    pub(super) fn held(&mut self) -> Result<Held, Fault> {
        Ok(Held {
            credits: self.credits()?,
            live: u64::try_from(self.int()?).map_err(|_| Fault::nonsense())?,
        })
    }

    /// Holds that expired: id, credits, run of each. In an array they have one
    /// of their own; in a text they are the rest of it.
    pub(super) fn expired(&mut self) -> Result<Vec<Expired>, Fault> {
        let values = match &mut self.rest {
            Rest::Values(values) => values.next(),
            Rest::Text(_) => return self.all_expired(),
        };
        let Some(Value::Array(values)) = values else {
            return Err(Fault::nonsense());
        };
        let mut inner = Reply {
            word: Box::default(),
            clock_us: 0,
            rest: Rest::Values(values.into_iter()),
        };
        inner.all_expired()
    }

    fn all_expired(&mut self) -> Result<Vec<Expired>, Fault> {
        let mut expired = Vec::new();
        while self.has_more() {
            expired.push(Expired {
                hold: self.hold()?,
                credits: self.credits()?,
                run: self.run()?,
            });
        }
        Ok(expired)
    }

    /// What a hold is like after a change; nothing is left behind it.
    pub(super) fn entry(&mut self) -> Result<Entry, Fault> {
        let hold = self.hold()?;
        let run = self.run()?;
        let credits = self.credits()?;
        let figure = self.credits()?;
        let end = self.ending()?;
        let ended_now = self.yes()?;
        let balance = match &*self.bytes()? {
            b"" => None,
            micro => {
                let micro = std::str::from_utf8(micro)
                    .ok()
                    .and_then(|micro| micro.parse().ok());
                Some(Credits::from_micro(micro.ok_or_else(Fault::nonsense)?))
            }
        };
        let has_others = self.yes()?;
        self.end()?;
        Ok(Entry {
            hold,
            run,
            credits,
            figure,
            end,
            ended_now,
            balance,
            has_others,
        })
    }

    /// What any script may reply in place of an answer; anything else is not
    /// what was asked for.
    pub(super) fn refusal(mut self) -> Result<LedgerError, Fault> {
        let error = match &*self.word {
            "layout" => {
                let version = self.text()?;
                LedgerError::Outage(format!(
                    "the holds in redis are of version {}, and this tollgate knows {}: run the version that wrote them",
                    String::from_utf8_lossy(&version).escape_debug(),
                    super::super::keys::SCHEMA_VERSION,
                ))
            }
            "unreadable" => LedgerError::Corrupt(
                "totals of holds that cannot be read: delete the field `totals` of the team's holds and run `tollgate audit --repair`"
                    .to_owned(),
            ),
            "corrupt" => match parse_balance(&self.text()?) {
                Err(error) => error,
                // The script and this program read the same text differently.
                Ok(_) => return Err(Fault::nonsense()),
            },
            "inexact" => LedgerError::Corrupt(
                "a balance that is too large or too fine to be changed exactly: set it instead"
                    .to_owned(),
            ),
            "large" => LedgerError::Unsupported(
                "the balance would become too large to be told exactly, and nothing was changed"
                    .to_owned(),
            ),
            "full" => LedgerError::Full(format!(
                "copy the stream `{}` away and trim it, or raise balances.statement.length",
                String::from_utf8_lossy(&self.text()?).escape_debug(),
            )),
            "gone" => LedgerError::Outage("the hold was given up before it was made".to_owned()),
            _ => return Err(Fault::nonsense()),
        };
        self.end()?;
        Ok(error)
    }
}

fn text_of(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|_| Fault::nonsense())
}
