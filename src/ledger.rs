//! The store of balances and holds: what it promises, whatever it is made of.
//!
//! Two ledgers keep the promises of [`Ledger`] and [`holds::Holds`]: [`memory`] for demos and
//! trials in one process, [`redis`] for everything else. `tests/ledger.rs`
//! runs one contract suite against both. Teams that were just refused may be
//! remembered for a moment ([`refused`]). What a balance means is the business
//! of [`crate::billing`]; this floor only finds it out, within a deadline.

pub mod holds;
pub mod memory;
pub mod redis;
pub mod refused;

use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::billing::credits::Credits;
use crate::billing::team::{Principal, TeamId};

/// Why the ledger gave no answer. Each variant says what may be assumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The ledger does not answer: it concerns every team, and may pass.
    /// Nothing is known, nothing was changed by a read.
    #[error("the ledger does not answer: {0}")]
    Outage(String),
    /// The ledger answered, but what it holds for this one team or key is not
    /// what it should be. It concerns no other team.
    #[error("the ledger has no usable entry for this one: {0}")]
    Corrupt(String),
    /// A change was sent and no reply came: it may or may not have happened.
    #[error("the ledger was told and did not reply: {0}")]
    OutcomeUnknown(String),
    /// The team's statement is full and may not be trimmed: nothing was
    /// changed, and nothing will be until somebody makes room as it says.
    #[error("the team's statement is full, and nothing was changed: {0}")]
    Full(String),
    /// This ledger cannot do that at all.
    #[error("{0}")]
    Unsupported(String),
}

/// What an API key stands for (`apikey:<sha256>`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFact {
    /// The team that pays unless the request picks another.
    pub team: Option<TeamId>,
    /// The teams that a personal key may pick from; `None` for an agent key.
    pub teams: Option<Vec<TeamId>>,
    /// Who holds the key.
    pub principal: Option<Principal>,
}

/// Whose something is that a path or a delivery names (`team_key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamFact {
    /// The team that pays.
    pub team: TeamId,
    /// What else has to be shown for it.
    pub proof: Proof,
}

/// What has to be shown before a [`TeamFact`] counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the ledger holds a plain string.
    Nothing,
    /// The ledger holds a hash without `token_sha256`: nothing, where no token
    /// is asked for.
    NotSaid,
    /// A token with this SHA-256, lower-case hex.
    TokenSha256(String),
}

/// What leaving a mark found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// There was none.
    First,
    /// There was one already.
    Again,
}

/// Whether the ledger can be relied on just now, for `/readyz` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It does not, and why.
    Down(String),
}

/// A store of balances.
///
/// Every call returns within the configured deadline plus a few milliseconds,
/// unless the thread that serves the connection to Redis is kept from running.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The team's balance, read now; `None` if the ledger holds none.
    ///
    /// # Errors
    /// [`LedgerError::Outage`] or [`LedgerError::Corrupt`]. Never a made-up
    /// zero.
    async fn balance_by(
        &self,
        team: &TeamId,
        until: Instant,
    ) -> Result<Option<Credits>, LedgerError>;

    /// When a request that begins now has to be answered.
    fn until(&self) -> Instant;

    /// As [`Ledger::balance_by`], with a deadline of its own.
    ///
    /// # Errors
    /// As for [`Ledger::balance_by`].
    async fn balance(&self, team: &TeamId) -> Result<Option<Credits>, LedgerError> {
        self.balance_by(team, self.until()).await
    }

    /// As [`Ledger::key_fact_by`], with a deadline of its own.
    ///
    /// # Errors
    /// As for [`Ledger::key_fact_by`].
    async fn key_fact(&self, sha256: &str) -> Result<Option<KeyFact>, LedgerError> {
        self.key_fact_by(sha256, self.until()).await
    }

    /// What an API key stands for, by the lower-case hex SHA-256 of the key;
    /// `None` if the ledger does not know the key.
    ///
    /// # Errors
    /// [`LedgerError::Outage`] or [`LedgerError::Corrupt`].
    async fn key_fact_by(
        &self,
        sha256: &str,
        until: Instant,
    ) -> Result<Option<KeyFact>, LedgerError>;

    /// Whose the thing is that this key stands for; `None` if the ledger does
    /// not know it. The key is a string that holds a team, or a hash with
    /// `team` and perhaps `token_sha256`.
    ///
    /// # Errors
    /// [`LedgerError::Outage`] or [`LedgerError::Corrupt`].
    async fn team_fact_by(
        &self,
        key: &str,
        until: Instant,
    ) -> Result<Option<TeamFact>, LedgerError>;

    /// Leaves a mark that lasts this long, and tells whether it is the first
    /// of its name in that time, by whichever gateway. For what must happen
    /// once, and is no money.
    ///
    /// # Errors
    /// As for [`Ledger::set_balance`].
    async fn mark_by(
        &self,
        name: &str,
        lasting: Duration,
        until: Instant,
    ) -> Result<Mark, LedgerError>;

    /// Sets the team's balance.
    ///
    /// # Errors
    /// As for [`Ledger::balance`]; [`LedgerError::OutcomeUnknown`] if it was
    /// sent and not answered.
    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError>;

    /// Adds to the team's balance (a missing one counts as zero) and returns
    /// the new balance. Concurrent grants all count.
    ///
    /// # Errors
    /// As for [`Ledger::set_balance`].
    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError>;

    /// Whether the ledger answers, as last seen. Does not wait.
    fn health(&self) -> Health;
}

/// The sum, if it can be held exactly.
///
/// # Errors
/// [`LedgerError::Unsupported`] if it is beyond what [`Credits`] tells apart:
/// what is written must not be the bound in place of the sum.
fn add_exactly(before: Credits, added: Credits) -> Result<Credits, LedgerError> {
    let sum = before.saturating_add(added);
    let exact = before.micro().checked_add(added.micro());
    if exact == Some(sum.micro()) {
        Ok(sum)
    } else {
        Err(LedgerError::Unsupported(
            "the balance would become too large to be told exactly, and nothing was added"
                .to_owned(),
        ))
    }
}
