//! [`Trigger`]: what set a run off.

/// What set a run off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A call of the API.
    #[default]
    Api,
    /// A schedule.
    Schedule,
    /// Slack.
    Slack,
    /// Linear.
    Linear,
    /// Another webhook.
    Webhook,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Trigger; 5] = [
        Trigger::Api,
        Trigger::Schedule,
        Trigger::Slack,
        Trigger::Linear,
        Trigger::Webhook,
    ];

    /// Its name in configuration, metrics, events and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Api => "api",
            Trigger::Schedule => "schedule",
            Trigger::Slack => "slack",
            Trigger::Linear => "linear",
            Trigger::Webhook => "webhook",
        }
    }
}
