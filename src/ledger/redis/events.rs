//! [`EventLink`]: a connection for what may wait, apart from the one for money.
//!
//! It connects when it has something to send, keeps the connection while it is
//! good, and throws it away at the first fault.

use std::time::Duration;

use redis::{Pipeline, Value};
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

    /// Sends commands in one write, connecting first if need be. Errors of
    /// single commands stand in their places.
    ///
    /// # Errors
    /// [`LedgerError::Outage`] if nothing was sent,
    /// [`LedgerError::OutcomeUnknown`] if the replies did not come.
    pub async fn send(&mut self, commands: &Pipeline) -> Result<Vec<Value>, LedgerError> {
        let place = match &mut self.way {
            Way::Many(courier) => return courier.send(commands, self.patience).await,
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
        match timeout(self.patience, link.ask_all(commands)).await {
            Ok(Ok(replies)) => {
                // A server that refuses everything may be one that was demoted
                // or wants a new introduction.
                let is_error = |reply: &Value| matches!(reply, Value::ServerError(_));
                if !replies.iter().all(is_error) {
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
