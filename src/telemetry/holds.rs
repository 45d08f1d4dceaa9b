//! The metrics of hold mode.
//!
//! Gauges cover the teams that this gateway has seen lately, as it last saw
//! them: another gateway's view of the same team is the same hold again, so
//! they must not be added up over gateways.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered;
use crate::billing::hold::End;

/// Why an answer that should tell of a run was not understood, as
/// `tollgate_run_answers_unread_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It says that it is something other than JSON.
    NotJson,
    /// It is larger than is looked into, compressed or not.
    TooLarge,
    /// It is compressed in a way that is not known here.
    Encoding,
    /// It is not what it says it is.
    Malformed,
    /// What the pointer points to is not there, or of another kind.
    Absent,
    /// It ended before it was complete.
    Cut,
    /// Too many others were being looked into.
    Busy,
}

impl Unread {
    /// Every reason.
    pub const ALL: [Unread; 7] = [
        Unread::NotJson,
        Unread::TooLarge,
        Unread::Encoding,
        Unread::Malformed,
        Unread::Absent,
        Unread::Cut,
        Unread::Busy,
    ];

    /// The value of the label `why`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Unread::NotJson => "not_json",
            Unread::TooLarge => "too_large",
            Unread::Encoding => "encoding",
            Unread::Malformed => "malformed",
            Unread::Absent => "absent",
            Unread::Cut => "cut",
            Unread::Busy => "busy",
        }
    }
}

/// The metrics of hold mode. Clones count together.
#[derive(Clone, Debug)]
pub struct HoldMetrics {
    /// `tollgate_holds{state="live"}`.
    pub live: IntGauge,
    /// `tollgate_held_credits`.
    pub credits: Gauge,
    /// `tollgate_holds_made_total`.
    pub made: IntCounter,
    /// `tollgate_keeper_dropped_total`.
    pub dropped: IntCounter,
    /// `tollgate_keeper_queue`.
    pub queue: IntGauge,
    /// `tollgate_hold_drift_credits`.
    pub drift: Gauge,
    /// `tollgate_hold_events_dropped_total`.
    pub events_dropped: IntCounter,
    /// `tollgate_run_ends_unknown_total`.
    pub ends_unknown: IntCounter,
    /// `tollgate_run_collisions_total`.
    pub run_collisions: IntCounter,
    ends: IntCounterVec,
    unread: IntCounterVec,
}

impl HoldMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, label: &str| {
            registered(
                registry,
                IntCounterVec::new(Opts::new(name, help), &[label]),
            )
        };
        let states = IntGaugeVec::new(
            Opts::new(
                "tollgate_holds",
                "Holds of the teams that this gateway has seen lately, by state.",
            ),
            &["state"],
        );
        let metrics = HoldMetrics {
            live: registered(registry, states)?.with_label_values(&["live"]),
            credits: registered(
                registry,
                Gauge::new(
                    "tollgate_held_credits",
                    "Credits set aside for the teams that this gateway has seen lately.",
                ),
            )?,
            made: counter("tollgate_holds_made_total", "Holds made by this gateway.")?,
            dropped: counter(
                "tollgate_keeper_dropped_total",
                "Changes of holds that were given up because there were too many or the ledger was away too long: those holds expire.",
            )?,
            queue: registered(
                registry,
                IntGauge::new(
                    "tollgate_keeper_queue",
                    "Changes of holds that wait to be carried out.",
                ),
            )?,
            drift: registered(
                registry,
                Gauge::new(
                    "tollgate_hold_drift_credits",
                    "How far what the ledger counts as held is from the sum of the holds, over the teams that this gateway has seen lately and audited.",
                ),
            )?,
            events_dropped: counter(
                "tollgate_hold_events_dropped_total",
                "Hold events that could not be written.",
            )?,
            ends_unknown: counter(
                "tollgate_run_ends_unknown_total",
                "Ends of runs that were seen and that no hold was known for, after asking for a while: a hold of such a run, if there is one, expires.",
            )?,
            run_collisions: counter(
                "tollgate_run_collisions_total",
                "Runs that another team's run is called like: seen by another gateway, their ends free nothing.",
            )?,
            ends: counters(
                "tollgate_hold_ends_total",
                "Holds that ended, by how, told once by the gateway that noticed.",
                "end",
            )?,
            unread: counters(
                "tollgate_run_answers_unread_total",
                "Answers of the upstream that should tell of a run and could not be looked into, by why.",
                "why",
            )?,
        };
        metrics.show_all_labels();
        Ok(metrics)
    }

    fn show_all_labels(&self) {
        // There from the start, so that a first one shows as an increase.
        for end in End::ALL {
            self.ends.with_label_values(&[end.name()]);
        }
        for why in Unread::ALL {
            self.unread.with_label_values(&[why.name()]);
        }
    }

    /// Counts the end of a hold.
    pub fn count_end(&self, end: End) {
        self.ends.with_label_values(&[end.name()]).inc();
    }

    /// Counts an answer that could not be looked into.
    pub fn count_unread(&self, why: Unread) {
        self.unread.with_label_values(&[why.name()]).inc();
    }

    /// How many holds ended so.
    #[must_use]
    pub fn ended(&self, end: End) -> u64 {
        self.ends.with_label_values(&[end.name()]).get()
    }
}
