//! The metrics of token issuers' keys.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::registered;

/// Requests for keys. Clones count together.
#[derive(Clone, Debug)]
pub struct RefreshMetrics {
    /// `tollgate_jwks_refreshes_total{result="ok"}`.
    pub ok: IntCounter,
    /// `tollgate_jwks_refreshes_total{result="failed"}`.
    pub failed: IntCounter,
}

/// The metrics of token issuers' keys.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    /// `tollgate_jwks_refreshes_total`.
    pub refreshes: RefreshMetrics,
    age: GaugeVec,
}

impl TokenMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refreshes = IntCounterVec::new(
            Opts::new(
                "tollgate_jwks_refreshes_total",
                "Requests for a token issuer's keys, by result.",
            ),
            &["result"],
        );
        let refreshes = registered(registry, refreshes)?;
        let age = GaugeVec::new(
            Opts::new(
                "tollgate_jwks_age_seconds",
                "Seconds since a token issuer last said what its keys are; if it never did, since it was first asked.",
            ),
            &["issuer"],
        );
        Ok(TokenMetrics {
            refreshes: RefreshMetrics {
                ok: refreshes.with_label_values(&["ok"]),
                failed: refreshes.with_label_values(&["failed"]),
            },
            age: registered(registry, age)?,
        })
    }

    /// Tells the age of each issuer's keys, in seconds. Issuers that are
    /// configured no more are told no more.
    pub fn set_ages<'a>(&self, ages: impl Iterator<Item = (&'a str, f64)>) {
        self.age.reset();
        for (issuer, seconds) in ages {
            self.age.with_label_values(&[issuer]).set(seconds);
        }
    }
}
