//! The metrics of the memory of refusals.

use prometheus::{IntCounter, IntGauge, Registry};

use super::registered;
use crate::ledger::refused::Tally;

/// What is told of the memory of refusals. All of it is 0 without one.
#[derive(Clone, Debug)]
pub struct MemoryMetrics {
    /// `tollgate_refusals_remembered_total`: starts decided from memory.
    pub remembered: IntCounter,
    teams: IntGauge,
    up: IntGauge,
    faults: IntCounter,
}

impl MemoryMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        Ok(MemoryMetrics {
            remembered: counter(
                "tollgate_refusals_remembered_total",
                "Starts refused from memory, without asking Redis.",
            )?,
            teams: gauge(
                "tollgate_refusal_memory_teams",
                "Teams whose refusal is remembered now.",
            )?,
            up: gauge(
                "tollgate_refusal_memory_up",
                "1 while every Redis server tells of changed balances, so that refusals are remembered.",
            )?,
            faults: counter(
                "tollgate_refusal_memory_faults_total",
                "Times that a Redis server could not tell of changed balances, or not any longer.",
            )?,
        })
    }

    /// Tells how the memory is.
    pub fn tell(&self, tally: Tally) {
        self.teams.set(tally.teams.try_into().unwrap_or(i64::MAX));
        self.up.set(tally.is_up.into());
        self.faults.inc_by(tally.faults);
    }
}
