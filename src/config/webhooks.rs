//! Who pays where a request itself says so: deliveries of Slack and Linear,
//! and ids in paths. And what set a run off, where a header says that.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::routes::Trigger;
use super::values::{
    Cidr, HeaderField, HeaderText, LookupKey, OneOrMore, Secret, Span, TeamName, WorkspaceId,
};

/// Deliveries of an integration: whose they are, and who is told.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Who delivers.
    pub kind: WebhookKind,
    /// The secret that deliveries are signed with: Slack's signing secret,
    /// the Linear webhook's secret. Several while one replaces another.
    pub secret: OneOrMore<Secret>,
    /// The Redis string, or hash with a field `team`, that holds the team of
    /// `<workspace>`: the workspace's id or, where a delivery has none, the
    /// enterprise's. Asked where `teams` does not know it.
    pub team_key: Option<LookupKey>,
    /// Teams by workspace.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"format": "workspace-id"}))]
    pub teams: BTreeMap<WorkspaceId, TeamName>,
    /// Slack: actions that stop or close something, by their `action_id`; a
    /// `*` at either end stands for anything. They always pass. Left out:
    /// stop, cancel, close and dismiss, alone or as a word at either end.
    pub stop_actions: Option<Vec<String>>,
    /// Slack: the bot token with which people are told of a refusal in their
    /// thread. One, or one for each workspace.
    pub bot_token: Option<WorkspaceToken>,
    /// Linear: the token with which a refusal is told on the agent session. One,
    /// or one for each workspace.
    pub api_token: Option<WorkspaceToken>,
    /// Slack: for how long one notice in a thread stands for all that follow.
    #[serde(default = "notice_every")]
    pub notice_every: Span,
}

impl Webhook {
    /// What its deliveries set a run off as.
    #[must_use]
    pub const fn trigger(&self) -> Trigger {
        match self.kind {
            WebhookKind::Slack => Trigger::Slack,
            WebhookKind::Linear => Trigger::Linear,
        }
    }
}

fn notice_every() -> Span {
    Span::from_secs(10 * 60)
}

/// Who delivers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WebhookKind {
    /// Slack: events, slash commands, interactivity.
    Slack,
    /// Linear.
    Linear,
}

/// What people are told with.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(untagged)]
pub enum WorkspaceToken {
    /// The same for every workspace.
    One(Secret),
    /// By workspace; the others have none.
    Each(WorkspaceTokens),
}

/// One token for each workspace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(transparent)]
#[schemars(extend("propertyNames" = {"format": "workspace-id"}))]
pub struct WorkspaceTokens(pub BTreeMap<WorkspaceId, Secret>);

/// What a refused delivery is answered with.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum RefuseWith {
    /// The 403 that API clients get. The sender counts it as a failed
    /// delivery.
    Problem,
    /// 200, and what people can read where they look.
    Message,
}

/// The path says who pays.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TeamFrom {
    /// The parameter of the path that says whose it is.
    pub path: String,
    /// The Redis string with its team, or a hash with `team` and
    /// `token_sha256`; the parameter's name in angle brackets is replaced.
    pub team_key: LookupKey,
    /// The parameter of the path that has to match `token_sha256`. It is never
    /// shown.
    pub token: Option<String>,
    /// Who pays where Redis does not know. Left out: nobody, and the answer is
    /// 401.
    #[serde(rename = "else")]
    pub otherwise: Option<Otherwise>,
}

/// Who pays where the path does not say.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// Whoever `identity` finds.
    Identity,
}

/// What set a run off, as a listed peer says.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TriggerFrom {
    /// The header.
    pub header: HeaderField,
    /// The TCP peers (CIDR) it is believed from.
    pub from: Vec<Cidr>,
    /// What its values mean. Any other leaves the route's own trigger.
    #[schemars(extend("propertyNames" = {"format": "header-value"}))]
    pub map: BTreeMap<HeaderText, Trigger>,
}
