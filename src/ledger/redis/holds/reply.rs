//! What the scripts reply, read strictly: what is not exactly of the form that
//! is due is no reply.

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
    word: String,
    /// Redis's clock in microseconds.
    pub(super) clock_us: i64,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    /// Takes the reply apart.
    pub(super) fn read(value: Value) -> Result<Self, Fault> {
        let Value::Array(values) = value else {
            return Err(Fault::nonsense());
        };
        let mut rest = values.into_iter();
        let word = match rest.next() {
            Some(Value::BulkString(word)) => {
                String::from_utf8(word).map_err(|_| Fault::nonsense())?
            }
            _ => return Err(Fault::nonsense()),
        };
        let clock_us = match rest.next() {
            Some(Value::Int(us)) if us > 0 => us,
            _ => return Err(Fault::nonsense()),
        };
        if word == "canary" {
            return Err(Fault::CanaryMissing);
        }
        Ok(Reply {
            word,
            clock_us,
            rest,
        })
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
        match self.rest.next() {
            Some(Value::Int(number)) => Ok(number),
            _ => Err(Fault::nonsense()),
        }
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
        match self.rest.next() {
            Some(Value::BulkString(text)) => Ok(text),
            _ => Err(Fault::nonsense()),
        }
    }

    /// Text or nothing.
    pub(super) fn optional_text(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match self.rest.next() {
            Some(Value::BulkString(text)) => Ok(Some(text)),
            Some(Value::Nil) => Ok(None),
            _ => Err(Fault::nonsense()),
        }
    }

    /// How many values are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Makes sure that nothing is left.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest.len() == 0 {
            Ok(())
        } else {
            Err(Fault::nonsense())
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
        HoldId::parse(&self.text()?).map_err(|_| Fault::nonsense())
    }

    /// `=run`, or `-` for none.
    pub(super) fn run(&mut self) -> Result<Option<RunId>, Fault> {
        match self.text()?.split_first() {
            Some((b'-', [])) => Ok(None),
            Some((b'=', run)) => RunId::parse(run).map(Some).map_err(|_| Fault::nonsense()),
            _ => Err(Fault::nonsense()),
        }
    }

    /// The letter of an end, or nothing.
    pub(super) fn ending(&mut self) -> Result<Option<End>, Fault> {
        match self.text()?.as_slice() {
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

    /// Holds that expired: id, credits, run of each.
    pub(super) fn expired(&mut self) -> Result<Vec<Expired>, Fault> {
        let Some(Value::Array(values)) = self.rest.next() else {
            return Err(Fault::nonsense());
        };
        let mut inner = Reply {
            word: String::new(),
            clock_us: 0,
            rest: values.into_iter(),
        };
        let mut expired = Vec::new();
        while inner.left() > 0 {
            expired.push(Expired {
                hold: inner.hold()?,
                credits: inner.credits()?,
                run: inner.run()?,
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
        let balance = match self.rest.next() {
            Some(Value::Int(micro)) => Some(Credits::from_micro(micro)),
            Some(Value::BulkString(text)) if text.is_empty() => None,
            _ => return Err(Fault::nonsense()),
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
        let error = match self.word.as_str() {
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
