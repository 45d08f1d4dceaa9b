//! What the YAML may say: one type per block, one field per key.
//!
//! The doc comment of a field is its entry in `docs/configuration.md` and in
//! the JSON Schema; both come from these types. `x-reload: restart` marks a
//! key that a running gateway does not take over on SIGHUP.
//! The blocks that are larger have modules of their own below this one.
//! How a file becomes a [`Config`] is in [`load`]; the forms of single values
//! are in [`values`]; what must hold between keys is in [`check`].

pub mod admission;
pub mod balances;
pub mod check;
mod fill;
pub mod load;
pub mod pattern;
pub mod reference;
pub mod reload;
pub mod routes;
pub mod schema;
pub mod server;
mod shape;
pub mod tokens;
pub mod upstream;
pub mod values;
mod walk;
pub mod webhooks;
mod yaml;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pattern::StartPattern;
use values::{Cidr, HeaderField, HeaderText, Origin, Span, Url};

pub use admission::{Admission, Hold, HoldHeader, Idempotency, Mode, OnOutage};
pub use balances::{Balances, Missing, Redis, Sentinel, Statement, WhenFull, Writer};
pub use fill::read_bounded;
pub use routes::{Route, RouteKind, Trigger};
pub use server::{Admin, ClientAuth, Limits, Server, ServerTls, Shutdown};
pub use tokens::{CertificateField, JwtIdentity, MtlsIdentity};
pub use upstream::{Dns, HealthCheck, Upstream, UpstreamTls};
pub use webhooks::{
    Otherwise, RefuseWith, TeamFrom, TriggerFrom, Webhook, WebhookKind, WorkspaceToken,
    WorkspaceTokens,
};

/// The whole configuration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the gateway listens, and its limits.
    pub server: Server,
    /// The service that runs are started at.
    pub upstream: Upstream,
    /// Where balances are kept and what they mean.
    pub balances: Balances,
    /// How a start is decided.
    #[serde(default)]
    pub admission: Admission,
    /// Who pays: tried in order, the first that applies decides. May be left
    /// out where every start route says so itself (`webhook`, `team_from`
    /// without `else`).
    #[serde(default)]
    pub identity: Vec<Identity>,
    /// The requests that start runs, and in hold mode those that tell of them
    /// later; everything else passes.
    pub routes: Vec<Route>,
    /// What answers made at the edge look like.
    #[serde(default)]
    pub problem: Problem,
    /// The refusal events on the Redis stream `tollgate:refusals`.
    #[serde(default)]
    pub refusals: EventStream,
    /// Hold mode: what becomes of holds, on the Redis stream
    /// `tollgate:events`. No effect in lookup mode.
    #[serde(default)]
    pub events: EventStream,
    /// HTTPS requests that the gateway makes itself: notices to Slack and
    /// Linear, keys of token issuers.
    #[serde(default)]
    pub egress: Egress,
    /// Logs.
    #[serde(default)]
    pub log: Log,
}

impl Config {
    /// The routes that start runs, each with its pattern, in their order.
    /// Whoever numbers start routes counts these alone.
    pub fn starts(&self) -> impl Iterator<Item = (&StartPattern, &Route)> {
        self.routes
            .iter()
            .filter_map(|route| Some((route.start.as_ref()?, route)))
    }
}

/// One way to find out who pays.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The bearer token, looked up in Redis.
    ApiKey(ApiKeyIdentity),
    /// A header that your own auth proxy sets.
    Header(HeaderIdentity),
    /// A JSON Web Token as bearer token.
    Jwt(JwtIdentity),
    /// A TLS client certificate, where the listener asks for one.
    Mtls(MtlsIdentity),
}

/// The bearer token, looked up in Redis.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyIdentity {
    /// The Redis hash of a key; `<sha256>` is replaced by the lower-case hex
    /// SHA-256 of the token. Fields: `team`, or `teams` (blank separated) and
    /// an optional default `team`; optionally `principal`.
    #[serde(default = "defaults::api_key")]
    pub key: values::ApiKeyTemplate,
    /// The header with which a personal key picks one of its teams. Ignored
    /// for agent keys.
    pub team_header: Option<HeaderField>,
    /// How long what a key stands for is remembered, at most 2s; 0s: never.
    #[serde(default = "defaults::key_cache")]
    pub cache: Span,
}

/// A header that your own auth proxy sets.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct HeaderIdentity {
    /// The header with the team's id.
    pub name: HeaderField,
    /// The TCP peers (CIDR) it is believed from. From any other it counts as
    /// absent and is not forwarded on start routes.
    pub from: Vec<Cidr>,
}

/// What answers made at the edge look like.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Problem {
    /// What the problem's `type` begins with; the code follows.
    pub type_base: HeaderText,
    /// Where credits can be bought: sent as `Link` with rel="help".
    pub billing_url: Option<Url>,
    /// Headers added to every answer made at the edge.
    #[schemars(extend("propertyNames" = {"format": "header-name"}))]
    pub headers: BTreeMap<HeaderField, HeaderText>,
    /// Lets browsers read those answers, and answers preflights on start routes.
    pub cors: Option<Cors>,
    /// Hold mode: whether a refusal because credits are held (`credits_held`)
    /// says in `retry-after` when the earliest hold ends by itself.
    pub held_retry_after: bool,
}

impl Default for Problem {
    fn default() -> Self {
        Problem {
            type_base: defaults::type_base(),
            billing_url: None,
            headers: BTreeMap::new(),
            cors: None,
            held_retry_after: true,
        }
    }
}

/// Cross-origin reading of answers made at the edge.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins that may read them: `https://app.example.com`, or `*`.
    pub origins: Vec<Origin>,
    /// How long a browser may remember a preflight.
    #[serde(default = "defaults::cors_max_age")]
    pub max_age: Span,
}

/// A stream of events in Redis: written off the request path, and bounded.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EventStream {
    /// About how many events the stream keeps; older ones go.
    pub stream_length: std::num::NonZeroUsize,
    /// How many events may wait to be written; more are dropped and counted.
    pub queue: std::num::NonZeroUsize,
}

impl Default for EventStream {
    fn default() -> Self {
        EventStream {
            stream_length: values::at_least_one(100_000),
            queue: values::at_least_one(10_000),
        }
    }
}

/// HTTPS requests that the gateway makes itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// The HTTP proxy that they go through. Left out: none, whatever the
    /// environment says.
    pub proxy: Option<Url>,
    /// The certificate authorities (PEM file) that are believed beside the
    /// system's.
    #[schemars(extend("format" = "path"))]
    pub ca: Option<std::path::PathBuf>,
}

/// Logs.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `auto` is text on a terminal and JSON elsewhere.
    #[schemars(extend("x-reload" = "restart"))]
    pub format: LogFormat,
    /// The least important level that is logged.
    #[schemars(extend("x-reload" = "restart"))]
    pub level: LogLevel,
    /// Which requests get an access-log line.
    #[schemars(extend("x-reload" = "restart"))]
    pub access: AccessLog,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// The least important level that is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something needs a look.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
}

/// Which requests get an access-log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// Every request.
    #[default]
    All,
    /// Starts only.
    Starts,
    /// None.
    Off,
}

/// Values of keys that are left out.
mod defaults {
    use super::values::{ApiKeyTemplate, HeaderText, Span};

    pub fn api_key() -> ApiKeyTemplate {
        ApiKeyTemplate::default()
    }
    pub fn key_cache() -> Span {
        Span::from_secs(2)
    }
    pub fn type_base() -> HeaderText {
        HeaderText::constant("/reference/api-and-sdk/troubleshooting/errors/")
    }
    pub fn cors_max_age() -> Span {
        Span::from_secs(600)
    }
}
