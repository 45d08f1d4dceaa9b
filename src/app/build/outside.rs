//! From a configuration to what speaks with the world outside by itself: the
//! client of HTTPS requests, and the notices that it sends.

use std::time::Duration;

use super::{BuildError, LedgerPart, Shared};
use crate::config::{self, Config};
use crate::egress::{Egress, Settings};
use crate::notices::{Means, Notices, Worker};
use crate::telemetry::Metrics;

/// How long notices that wait may take at the end: as long as it takes to tell
/// somebody something, where all is well.
pub const FLUSH_MAX: Duration = Duration::from_secs(2);

/// What speaks with the world outside.
#[derive(Clone)]
pub struct Outside {
    /// Makes requests.
    pub egress: Egress,
    /// Tells people of refusals.
    pub notices: Notices,
}

/// Builds it, and what sends the notices.
///
/// # Errors
/// [`BuildError::Egress`].
pub fn outside(
    config: &Config,
    ledger: &LedgerPart,
    metrics: &Metrics,
) -> Result<(Outside, Worker), BuildError> {
    let egress = client(config)?;
    let means = Means {
        egress: egress.clone(),
        ledger: ledger.ledger(),
    };
    let (notices, worker) = Notices::new(means, metrics.notices.clone());
    Ok((Outside { egress, notices }, worker))
}

/// The client of HTTPS requests.
///
/// # Errors
/// [`BuildError::Egress`].
pub fn client(config: &Config) -> Result<Egress, BuildError> {
    Ok(Egress::new(&settings(&config.egress))?)
}

/// The client of another configuration: the same one where that says the same.
///
/// # Errors
/// [`BuildError::Egress`].
pub fn egress(old: &Config, new: &Config, before: &Egress) -> Result<Egress, BuildError> {
    // The file may have changed under a name that did not.
    if old.egress == new.egress && new.egress.ca.is_none() {
        return Ok(before.clone());
    }
    client(new)
}

/// From now on notices are sent as another configuration says. The worker goes
/// on: what waits is sent like that too.
pub fn take_over(next: &Shared) {
    next.outside.notices.work_with(Means {
        egress: next.outside.egress.clone(),
        ledger: next.ledger.ledger(),
    });
}

fn settings(egress: &config::Egress) -> Settings {
    Settings {
        proxy: egress.proxy.as_ref().map(|proxy| proxy.as_str().to_owned()),
        ca: egress.ca.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{build, rebuild};
    use super::*;
    use crate::config::load::load_str;

    const DEMO: &str = include_str!("../../../config/demo.yaml");

    #[test]
    fn authorities_that_cannot_be_read_stop_a_start_and_a_reload() {
        let good = load_str("demo.yaml", DEMO, &|_| None).unwrap();
        let mut bad = good.clone();
        bad.egress.ca = Some("/nonexistent/ca.pem".into());
        let metrics = Metrics::new().unwrap();
        let said = |error: Option<BuildError>| error.unwrap().to_string();
        let start = said(build(&bad, &metrics).err());
        assert!(
            start.starts_with("egress: ca: /nonexistent/ca.pem: "),
            "{start}"
        );
        let (shared, _) = build(&good, &metrics).unwrap();
        assert_eq!(said(rebuild(&good, &bad, &shared, &metrics).err()), start);
        assert!(rebuild(&good, &good, &shared, &metrics).is_ok());
    }
}
