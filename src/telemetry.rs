//! Every metric and every log field that the gateway has, by name.
//!
//! Dashboards depend on these names. Counters that are touched per request are
//! looked up once, when the configuration is taken over ([`RouteMetrics`]), so
//! a request pays an atomic add and no label look-up. No team, key, path or
//! client address is ever a label: their number is not bounded.
//! The access log is in [`access`]; how logs are set up in [`logging`]; the
//! metrics of hold mode in [`holds`], those of notices in [`notices`], those of
//! issuers' keys in [`tokens`], those of the memory of refusals in [`memory`].

pub mod access;
pub mod holds;
pub mod json;
pub mod logging;
pub mod memory;
pub mod notices;
pub mod stamp;
pub mod tokens;

use std::sync::Arc;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::billing::admission::Refusal;
use crate::billing::trigger::Trigger;
use holds::HoldMetrics;
use memory::MemoryMetrics;
use notices::NoticeMetrics;
use tokens::TokenMetrics;

/// Upper bounds of `tollgate_ledger_seconds`, in seconds: fine around the
/// tenths of a millisecond that Redis takes, up to past the default deadline.
const LEDGER_BUCKETS_SECONDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// What became of a start request, as `tollgate_requests_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded: the team has credits.
    Admitted,
    /// Answered: the team has none.
    Refused,
    /// Forwarded in shadow mode, would have been refused.
    WouldRefuse,
    /// Forwarded although nobody knows.
    UnknownAdmitted,
    /// Answered 503 because nobody knows.
    UnknownRefused,
    /// Answered for another reason: no credentials, not theirs, not understood.
    Invalid,
    /// Forwarded: a delivery that starts nothing.
    Passed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 7] = [
        Outcome::Admitted,
        Outcome::Refused,
        Outcome::WouldRefuse,
        Outcome::UnknownAdmitted,
        Outcome::UnknownRefused,
        Outcome::Invalid,
        Outcome::Passed,
    ];

    /// The value of the label `verdict`, and of the log field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Admitted => "admitted",
            Outcome::Refused => "refused",
            Outcome::WouldRefuse => "would_refuse",
            Outcome::UnknownAdmitted => "unknown_admitted",
            Outcome::UnknownRefused => "unknown_refused",
            Outcome::Invalid => "invalid",
            Outcome::Passed => "passed",
        }
    }
}

/// How a reload ended, as `tollgate_config_reloads_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// All of it was taken over.
    Ok,
    /// It was taken over, but for keys that need a restart.
    NeedsRestart,
    /// It has mistakes; nothing changed.
    Rejected,
}

impl Reload {
    const fn name(self) -> &'static str {
        match self {
            Reload::Ok => "ok",
            Reload::NeedsRestart => "needs_restart",
            Reload::Rejected => "rejected",
        }
    }
}

/// Counters that are told apart by labels.
struct ByLabel {
    requests: IntCounterVec,
    refusals: IntCounterVec,
    would_refusals: IntCounterVec,
    redeliveries: IntCounterVec,
    turned_away: IntCounterVec,
    reloads: IntCounterVec,
}

/// The metrics of the process.
pub struct Metrics {
    registry: Registry,
    by_label: ByLabel,
    /// `tollgate_ledger_seconds`: one look-up of a balance.
    pub ledger_seconds: Histogram,
    /// `tollgate_ledger_up`: 1 while the ledger answers.
    pub ledger_up: IntGauge,
    /// `tollgate_refusal_events_dropped_total`.
    pub events_dropped: IntCounter,
    /// `tollgate_access_log_dropped_total`.
    pub log_lines_dropped: IntCounter,
    /// `tollgate_connections`: client connections open now.
    pub connections: IntGauge,
    /// `tollgate_connections_refused_total`: over the bound.
    pub connections_refused: IntCounter,
    /// `tollgate_tls_handshakes_failed_total`: clients that were not let in, or
    /// did not come in; there is no request and no line in the access log.
    pub handshakes_failed: IntCounter,
    /// `tollgate_requests_in_flight`.
    pub in_flight: IntGauge,
    /// `tollgate_unlisted_writes_total`: writes that no route lists, passed.
    pub unlisted_writes: IntCounter,
    /// `tollgate_identity_unknown_admitted_total`: starts admitted in an
    /// outage with the team unknown.
    pub identity_unknown_admitted: IntCounter,
    /// `tollgate_upstream_faults_total`: requests that the upstream failed.
    pub upstream_faults: IntCounter,
    /// `tollgate_upstream_addresses`: addresses known now.
    pub upstream_addresses: IntGauge,
    /// `tollgate_upstream_addresses_healthy`: those of them in use.
    pub upstream_addresses_healthy: IntGauge,
    /// What is told of holds.
    pub holds: HoldMetrics,
    /// What is told of token issuers' keys.
    pub tokens: TokenMetrics,
    /// What became of notices.
    pub notices: NoticeMetrics,
    /// What is told of the memory of refusals.
    pub memory: MemoryMetrics,
}

/// The counters of one start route.
#[derive(Clone)]
pub struct RouteMetrics {
    outcomes: Arc<[IntCounter; 7]>,
    /// By the triggers that its starts can have, of which there are few.
    refusals: Arc<[(Trigger, [IntCounter; 4])]>,
    redeliveries: IntCounter,
}

impl RouteMetrics {
    /// Counts a request of this route.
    pub fn count(&self, outcome: Outcome) {
        for (known, counter) in Outcome::ALL.iter().zip(self.outcomes.iter()) {
            if *known == outcome {
                counter.inc();
            }
        }
    }

    /// Counts a delivery that came again and is in no other count.
    pub fn count_redelivery(&self) {
        self.redeliveries.inc();
    }
}

impl Metrics {
    /// Creates and registers every metric.
    ///
    /// # Errors
    /// If two share a name, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let ledger_seconds = HistogramOpts::new(
            "tollgate_ledger_seconds",
            "Seconds one look-up of a balance took.",
        )
        .buckets(LEDGER_BUCKETS_SECONDS.to_vec());
        Ok(Metrics {
            by_label: ByLabel::new(&registry)?,
            ledger_seconds: registered(&registry, Histogram::with_opts(ledger_seconds))?,
            ledger_up: gauge("tollgate_ledger_up", "1 while the ledger answers.")?,
            events_dropped: counter(
                "tollgate_refusal_events_dropped_total",
                "Refusal events that could not be written.",
            )?,
            log_lines_dropped: counter(
                "tollgate_access_log_dropped_total",
                "Access-log lines that could not be written in time.",
            )?,
            connections: gauge("tollgate_connections", "Client connections open now.")?,
            connections_refused: counter(
                "tollgate_connections_refused_total",
                "Client connections answered 503 because there were too many.",
            )?,
            handshakes_failed: counter(
                "tollgate_tls_handshakes_failed_total",
                "TLS handshakes of clients that came to nothing: a bad client certificate shows here.",
            )?,
            in_flight: gauge("tollgate_requests_in_flight", "Requests in flight now.")?,
            unlisted_writes: counter(
                "tollgate_unlisted_writes_total",
                "Writes that no route lists and that passed: a forgotten start route shows here.",
            )?,
            identity_unknown_admitted: counter(
                "tollgate_identity_unknown_admitted_total",
                "Starts admitted in an outage with the team unknown.",
            )?,
            upstream_addresses: gauge(
                "tollgate_upstream_addresses",
                "Upstream addresses known now.",
            )?,
            upstream_addresses_healthy: gauge(
                "tollgate_upstream_addresses_healthy",
                "Upstream addresses in use now.",
            )?,
            upstream_faults: counter(
                "tollgate_upstream_faults_total",
                "Requests that the upstream failed.",
            )?,
            holds: HoldMetrics::new(&registry)?,
            tokens: TokenMetrics::new(&registry)?,
            notices: NoticeMetrics::new(&registry)?,
            memory: MemoryMetrics::new(&registry)?,
            registry,
        })
    }

    /// The counters of a start route, by its name as configured and the
    /// triggers that its starts can have.
    #[must_use]
    pub fn route(&self, route: &str, triggers: &[Trigger]) -> RouteMetrics {
        let counter = |outcome: Outcome| {
            self.by_label
                .requests
                .with_label_values(&[route, outcome.name()])
        };
        let refusals = |trigger: &Trigger| {
            let counter = |refusal: Refusal| {
                let labels = [refusal.reason(), trigger.name()];
                self.by_label.refusals.with_label_values(&labels)
            };
            (*trigger, Refusal::ALL.map(counter))
        };
        RouteMetrics {
            outcomes: Arc::new(Outcome::ALL.map(counter)),
            refusals: triggers.iter().map(refusals).collect(),
            redeliveries: self.by_label.redeliveries.with_label_values(&[route]),
        }
    }

    /// Counts a start that was answered at the edge.
    pub fn count_refusal(&self, route: &RouteMetrics, reason: &str, trigger: Trigger) {
        let of_trigger = route.refusals.iter().find(|(known, _)| *known == trigger);
        let counters = of_trigger.iter().flat_map(|(_, counters)| counters);
        let mut known = Refusal::ALL.iter().zip(counters);
        match known.find(|(refusal, _)| refusal.reason() == reason) {
            Some((_, counter)) => counter.inc(),
            None => self
                .by_label
                .refusals
                .with_label_values(&[reason, trigger.name()])
                .inc(),
        }
    }

    /// Counts a start that was forwarded in shadow mode and would be answered.
    pub fn count_would_refuse(&self, reason: &str, trigger: Trigger) {
        self.by_label
            .would_refusals
            .with_label_values(&[reason, trigger.name()])
            .inc();
    }

    /// The counter of requests that were answered before their route was known,
    /// for this reason.
    #[must_use]
    pub fn turned_away(&self, reason: &str) -> IntCounter {
        self.by_label.turned_away.with_label_values(&[reason])
    }

    /// Counts a reload.
    pub fn count_reload(&self, reload: Reload) {
        self.by_label
            .reloads
            .with_label_values(&[reload.name()])
            .inc();
    }

    /// The Prometheus text form.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        text
    }
}

impl ByLabel {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let by_label = ByLabel {
            requests: counters(
                "tollgate_requests_total",
                "Start requests by route and verdict.",
                &["route", "verdict"],
            )?,
            refusals: counters(
                "tollgate_refusals_total",
                "Start requests answered at the edge, by reason and trigger.",
                &["reason", "trigger"],
            )?,
            would_refusals: counters(
                "tollgate_would_refusals_total",
                "Start requests forwarded in shadow mode that would be answered at the edge, by reason and trigger.",
                &["reason", "trigger"],
            )?,
            redeliveries: counters(
                "tollgate_redeliveries_total",
                "Deliveries that came again with the same verdict, and are in no other count.",
                &["route"],
            )?,
            turned_away: counters(
                "tollgate_turned_away_total",
                "Requests answered at the edge before it was known whether they are a start, by reason.",
                &["reason"],
            )?,
            reloads: counters(
                "tollgate_config_reloads_total",
                "Reloads of the configuration by result.",
                &["result"],
            )?,
        };
        // There from the start, so that a first one shows as an increase.
        for reload in [Reload::Ok, Reload::NeedsRestart, Reload::Rejected] {
            by_label.reloads.with_label_values(&[reload.name()]);
        }
        Ok(by_label)
    }
}

/// Registers a metric.
fn registered<M>(registry: &Registry, metric: prometheus::Result<M>) -> prometheus::Result<M>
where
    M: Collector + Clone + 'static,
{
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
