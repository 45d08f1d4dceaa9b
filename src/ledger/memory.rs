//! Balances in this process: for demos and single-process trials.
//!
//! Promises what [`Ledger`] promises, and always answers. Nothing is kept
//! across a restart, and there are no API keys: who pays comes from a header.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use std::time::Instant;

use async_trait::async_trait;

use super::{Health, KeyFact, Ledger, LedgerError, add_exactly};
use crate::billing::credits::Credits;
use crate::billing::team::TeamId;

/// Balances in this process.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    balances: RwLock<BTreeMap<TeamId, Credits>>,
}

impl MemoryLedger {
    /// A ledger that begins with these balances.
    #[must_use]
    pub fn new(balances: BTreeMap<TeamId, Credits>) -> Self {
        MemoryLedger {
            balances: RwLock::new(balances),
        }
    }
}

// A poisoned lock is taken all the same: every change is a single insert, so
// a thread that panicked has left no half-made one behind.
#[async_trait]
impl Ledger for MemoryLedger {
    fn until(&self) -> Instant {
        // It answers at once, whatever it is given.
        Instant::now()
    }

    async fn balance_by(&self, team: &TeamId, _: Instant) -> Result<Option<Credits>, LedgerError> {
        let balances = self.balances.read().unwrap_or_else(PoisonError::into_inner);
        Ok(balances.get(team).copied())
    }

    async fn key_fact_by(&self, _: &str, _: Instant) -> Result<Option<KeyFact>, LedgerError> {
        Ok(None)
    }

    async fn set_balance(&self, team: &TeamId, credits: Credits) -> Result<(), LedgerError> {
        let mut balances = self
            .balances
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        balances.insert(team.clone(), credits);
        Ok(())
    }

    async fn grant(&self, team: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
        let mut balances = self
            .balances
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = balances.get(team).copied().unwrap_or_default();
        let after = add_exactly(before, credits)?;
        balances.insert(team.clone(), after);
        Ok(after)
    }

    fn health(&self) -> Health {
        Health::Up
    }
}
