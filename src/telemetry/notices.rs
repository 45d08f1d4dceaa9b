//! The metrics of notices.

use prometheus::{IntCounterVec, Opts, Registry};

use super::registered;

/// Through whom people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Slack.
    Slack,
    /// Linear.
    Linear,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 2] = [Kind::Slack, Kind::Linear];

    /// The value of the label `kind`, and of the log field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Slack => "slack",
            Kind::Linear => "linear",
        }
    }
}

/// What became of a notice, as `tollgate_notices_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was taken.
    Sent,
    /// It was refused, or nobody knows whether it was taken.
    Failed,
    /// Nobody knows whom to tell or where, or there is nothing to tell them with.
    Untold,
    /// They were told the same a while ago.
    Repeated,
    /// There were too many, or the gateway ended first.
    Dropped,
    /// It would have come too late.
    Late,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Fate; 6] = [
        Fate::Sent,
        Fate::Failed,
        Fate::Untold,
        Fate::Repeated,
        Fate::Dropped,
        Fate::Late,
    ];

    /// The value of the label `result`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Sent => "sent",
            Fate::Failed => "failed",
            Fate::Untold => "untold",
            Fate::Repeated => "repeated",
            Fate::Dropped => "dropped",
            Fate::Late => "late",
        }
    }
}

/// The metrics of notices. Clones count together.
#[derive(Clone, Debug)]
pub struct NoticeMetrics {
    /// `tollgate_notices_total`.
    fates: IntCounterVec,
}

impl NoticeMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let fates = IntCounterVec::new(
            Opts::new(
                "tollgate_notices_total",
                "Notices of refusals to people in Slack and Linear, by what became of them.",
            ),
            &["kind", "result"],
        );
        let fates = registered(registry, fates)?;
        // There from the start, so that a first one shows as an increase.
        for kind in Kind::ALL {
            for fate in Fate::ALL {
                fates.with_label_values(&[kind.name(), fate.name()]);
            }
        }
        Ok(NoticeMetrics { fates })
    }

    /// Counts a notice.
    pub fn count(&self, kind: Kind, fate: Fate) {
        self.counter(kind, fate).inc();
    }

    /// How many notices fared so.
    #[must_use]
    pub fn fared(&self, kind: Kind, fate: Fate) -> u64 {
        self.counter(kind, fate).get()
    }

    fn counter(&self, kind: Kind, fate: Fate) -> prometheus::IntCounter {
        self.fates.with_label_values(&[kind.name(), fate.name()])
    }
}
