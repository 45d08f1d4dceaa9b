//! What the ledger would be asked, and what it says if it is.
//!
//! Nothing is ever written: whoever rehearses only reads.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::billing::credits::Credits;
use crate::billing::team::TeamId;
use crate::config::{Config, Identity};
use crate::ledger::holds::{Holds as _, Standing};
use crate::ledger::redis::RedisLedger;
use crate::ledger::{Health, KeyFact, Ledger, LedgerError, Mark, TeamFact};

/// A ledger that keeps what it is asked, and asks another one if there is one.
pub struct Questions<'a> {
    ledger: Option<&'a RedisLedger>,
    config: &'a Config,
    asked: Mutex<Vec<String>>,
}

impl<'a> Questions<'a> {
    /// Asks this ledger, or nobody.
    pub fn new(config: &'a Config, ledger: Option<&'a RedisLedger>) -> Self {
        Questions {
            ledger,
            config,
            asked: Mutex::default(),
        }
    }

    /// Whether somebody answers.
    pub fn is_asked(&self) -> bool {
        self.ledger.is_some()
    }

    /// The keys since the last time, in order.
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a team has, and in hold mode what is set aside.
    ///
    /// # Errors
    /// Nobody answers, or what the ledger says.
    pub async fn standing(&self, team: &TeamId) -> Result<Standing, LedgerError> {
        self.note(self.config.balances.key.render(team));
        self.inner()?.standing(team).await
    }

    fn note(&self, key: String) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(key);
    }

    fn inner(&self) -> Result<&'a RedisLedger, LedgerError> {
        self.ledger
            .ok_or_else(|| LedgerError::Unsupported("the ledger is not asked".to_owned()))
    }
}

#[async_trait]
impl Ledger for Questions<'_> {
    async fn balance_by(
        &self,
        team: &TeamId,
        until: Instant,
    ) -> Result<Option<Credits>, LedgerError> {
        self.note(self.config.balances.key.render(team));
        self.inner()?.balance_by(team, until).await
    }

    fn until(&self) -> Instant {
        self.ledger
            .map_or_else(Instant::now, |ledger| ledger.until())
    }

    async fn key_fact_by(
        &self,
        sha256: &str,
        until: Instant,
    ) -> Result<Option<KeyFact>, LedgerError> {
        let templates = self
            .config
            .identity
            .iter()
            .filter_map(|identity| match identity {
                Identity::ApiKey(key) => Some(key.key.render(sha256)),
                _ => None,
            });
        // One template counts: that of the first.
        templates.take(1).for_each(|key| self.note(key));
        self.inner()?.key_fact_by(sha256, until).await
    }

    async fn team_fact_by(
        &self,
        key: &str,
        until: Instant,
    ) -> Result<Option<TeamFact>, LedgerError> {
        self.note(key.to_owned());
        self.inner()?.team_fact_by(key, until).await
    }

    async fn mark_by(&self, _: &str, _: Duration, _: Instant) -> Result<Mark, LedgerError> {
        Err(read_only())
    }

    async fn set_balance(&self, _: &TeamId, _: Credits) -> Result<(), LedgerError> {
        Err(read_only())
    }

    async fn grant(&self, _: &TeamId, _: Credits) -> Result<Credits, LedgerError> {
        Err(read_only())
    }

    fn health(&self) -> Health {
        Health::Up
    }
}

fn read_only() -> LedgerError {
    LedgerError::Unsupported("a rehearsal changes nothing".to_owned())
}
