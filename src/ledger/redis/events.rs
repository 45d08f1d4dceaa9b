//! [`EventLink`]: a connection for what may wait, apart from the one for money.
//!
//! It connects when it has something to send, keeps the connection while it is
//! good, and throws it away at the first fault.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::timeout;

use super::cluster::Courier;
use super::link::Link;
use super::place::Place;
use super::{RedisSettings, Servers, SettingsError};
use crate::ledger::LedgerError;

/// A connection for events.
#[derive(Debug)]
pub struct EventLink {
    way: Way,
    /// For one attempt to connect, and for the replies to what was sent.
    patience: Duration,
    link: Option<Link>,
    attempts: usize,
}

/// How the servers are reached.
#[derive(Debug)]
enum Way {
    /// One server at a time.
    One(Place),
    /// The masters of a cluster.
    Many(Courier),
}

/// What Redis said to commands that were sent together.
#[derive(Debug, Default)]
pub struct Replies {
    /// How many replies there were.
    pub count: usize,
    /// The commands that were answered with an error, by their places, and the
    /// codes of the errors.
    pub errors: Vec<(usize, String)>,
}

impl EventLink {
    /// Reads the certificate files, opens no socket.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: &RedisSettings) -> Result<Self, SettingsError> {
        let way = match (&settings.servers, Place::new(settings)?) {
            (Servers::Cluster(nodes), _) => Way::Many(Courier::new(settings, nodes)?),
            (_, Some(place)) => Way::One(place),
            (_, None) => return Err(SettingsError::Servers("no server is named".to_owned())),
        };
        Ok(EventLink {
            way,
            patience: settings.connect_timeout,
            link: None,
            attempts: 0,
        })
    }

    /// Sends so many commands in one write, connecting first if need be. They
    /// are as they go over the wire.
    ///
    /// # Errors
    /// [`LedgerError::Outage`] if nothing was sent,
    /// [`LedgerError::OutcomeUnknown`] if the replies did not come.
    pub async fn send(&mut self, commands: &[u8], count: usize) -> Result<Replies, LedgerError> {
        let place = match &mut self.way {
            Way::Many(courier) => return deliver(courier, commands, count, self.patience).await,
            Way::One(place) => place,
        };
        // Taken out, so that being abandoned half-way throws it away too.
        let link = match self.link.take().filter(|link| !link.is_over()) {
            Some(link) => link,
            None => {
                self.attempts = self.attempts.wrapping_add(1);
                place
                    .open(self.attempts, self.patience)
                    .await
                    .map_err(LedgerError::Outage)?
            }
        };
        match timeout(self.patience, link.ask_written(commands, count)).await {
            Ok(Ok(values)) => {
                let replies = Replies::of(&values);
                // A server that refuses everything may be one that was demoted
                // or wants a new introduction.
                if replies.errors.len() < count {
                    self.link = Some(link);
                }
                Ok(replies)
            }
            Ok(Err(fault)) => Err(LedgerError::OutcomeUnknown(fault.to_string())),
            Err(_) => Err(LedgerError::OutcomeUnknown(format!(
                "no reply within {:?}",
                self.patience
            ))),
        }
    }
}

impl Replies {
    fn of(values: &[Value]) -> Self {
        let code = |(place, reply): (usize, &Value)| match reply {
            Value::ServerError(error) => Some((place, error.code().to_owned())),
            _ => None,
        };
        Replies {
            count: values.len(),
            errors: values.iter().enumerate().filter_map(code).collect(),
        }
    }
}

/// Sends commands to a cluster: each to the master of its key, as redis-rs
/// writes it, because it may have to be sent on.
async fn deliver(
    courier: &mut Courier,
    commands: &[u8],
    count: usize,
    patience: Duration,
) -> Result<Replies, LedgerError> {
    let mut pipeline = Pipeline::with_capacity(count);
    let mut rest = commands;
    while let Some((words, after)) = words_of(rest) {
        let mut command = Cmd::with_capacity(words.len(), rest.len().saturating_sub(after.len()));
        command.arg(words);
        pipeline.add_command(command);
        rest = after;
    }
    Ok(Replies::of(&courier.send(&pipeline, patience).await?))
}

/// The words of the first of some commands, and the commands after it; `None`
/// if there is none.
fn words_of(bytes: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let (line, mut bytes) = line_of(bytes)?;
    let count = number(line.strip_prefix(b"*")?)?;
    let mut words = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let (line, after) = line_of(bytes)?;
        let (word, after) = text_of(after, number(line.strip_prefix(b"$")?)?)?;
        words.push(word);
        bytes = after;
    }
    Some((words, bytes))
}

/// A line without its end, and what follows it.
fn line_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((line, rest.strip_prefix(b"\r\n")?))
}

/// A text of this length, and what follows it.
fn text_of(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(length)?;
    Some((text, rest.strip_prefix(b"\r\n")?))
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_apart_again() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nPING\r\n";
        let (words, rest) = words_of(bytes).unwrap();
        assert_eq!(words, [&b"GET"[..], b"a\r\nb"]);
        let (words, rest) = words_of(rest).unwrap();
        assert_eq!(words, [b"PING"]);
        assert!(words_of(rest).is_none());
    }
}
