//! From a configuration to the memory of refusals, and what vouches for it.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime;

use super::LedgerPart;
use crate::billing::admission::{Missing, OnOutage, Rule};
use crate::config::Config;
use crate::ledger::redis::{Keys, RedisLedger};
use crate::ledger::refused::{Refused, Tally};

impl LedgerPart {
    /// The memory of refusals, if there is one. What is in this process needs
    /// none.
    #[must_use]
    pub fn refused(&self) -> Option<Arc<Refused>> {
        match self {
            LedgerPart::Memory(_) => None,
            LedgerPart::Redis(ledger) => ledger.refused().map(Arc::clone),
        }
    }

    /// What an operator is told of it.
    #[must_use]
    pub fn remembered(&self) -> Tally {
        let refused = self.refused();
        refused.map(|refused| refused.tally()).unwrap_or_default()
    }
}

/// Gives the ledger a memory of refusals, if one is configured.
pub fn remembering(config: &Config, keys: &Keys, ledger: RedisLedger) -> RedisLedger {
    let Some(lasting) = config.admission.remember_refusals else {
        return ledger;
    };
    let rule = Rule {
        refuse_at_or_below: config.balances.refuse_at_or_below.credits(),
        // A configuration that was checked says no other.
        missing: Missing::Refuse,
        // Nothing is remembered of a balance that cannot be read.
        on_outage: OnOutage::Refuse,
    };
    ledger.remembering(keys, rule, lasting.duration())
}

/// Begins to vouch for the memory of refusals, if there is one, until the
/// ledger is dropped.
///
/// It has a thread of its own: what is heard behind thousands of requests is
/// heard too late, and in a storm the memory would fail when it is needed.
pub fn begin(ledger: &RedisLedger) {
    let Some(watching) = ledger.watch() else {
        return;
    };
    let begun = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| {
            let thread = thread::Builder::new().name("refusals".to_owned());
            thread.spawn(move || runtime.block_on(watching)).map(drop)
        });
    if let Err(error) = begun {
        not_begun(&error);
    }
}

/// Without it nothing is remembered, and every start asks.
fn not_begun(error: &io::Error) {
    tracing::warn!(%error, "refusals are not remembered: the system gives no thread for it");
}
