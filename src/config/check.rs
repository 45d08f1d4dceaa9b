//! What must hold between keys, and what a single key's form cannot say.
//!
//! The checks see a [`Config`] whose values are each valid. They name keys by
//! dotted path; the loader knows where those stand. Nothing here opens a
//! socket; certificate files are read.

mod answers;
mod egress;
mod files;
mod holds;
mod identity;
mod jwks;
mod ledger;
mod redis;
mod refusals;
mod routes;
mod server;
mod team_from;
mod tokens;
mod trigger_from;
mod upstream;
mod webhooks;

pub use super::reload::needs_restart;

use super::Config;
use super::values::{HeaderField, Span};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The dotted path of the key to point at.
    pub at: String,
    /// Whether to point at its name or its value.
    pub side: Side,
    /// Every key the rule looked at; if one of them is mistaken itself, the
    /// finding means nothing.
    pub about: Vec<String>,
    /// The value in question, to be shown before the message unless it was
    /// filled in.
    pub value: Option<String>,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// What of a key to point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Its name.
    Key,
    /// Its value.
    Value,
    /// Its name, where it is written: that its default holds is no mistake.
    Written,
}

/// Checks what must hold between keys. Empty: all of it does.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut report = Report::default();
    server::check(&config.server, &mut report);
    upstream::check(&config.upstream, &config.server, &mut report);
    ledger::check(config, &mut report);
    holds::check(config, &mut report);
    refusals::check(config, &mut report);
    identity::check(config, &mut report);
    tokens::check(config, &mut report);
    routes::check(&config.routes, &mut report);
    webhooks::check(config, &mut report);
    team_from::check(config, &mut report);
    trigger_from::check(config, &mut report);
    egress::check(&config.egress, &mut report);
    answers::check(&config.problem, &mut report);
    report.findings
}

/// Collects findings.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Points at a key's name: something about it being there, or not.
    fn key(&mut self, at: &str, about: &[&str], message: impl Into<String>) {
        self.push(at, Side::Key, about, message.into());
    }

    /// Points at the name of a key that has no effect, if it is written.
    fn idle(&mut self, at: &str, about: &[&str], message: impl Into<String>) {
        self.push(at, Side::Written, about, message.into());
    }

    /// Points at a key's value.
    fn value(&mut self, at: &str, message: impl Into<String>) {
        self.push(at, Side::Value, &[at], message.into());
    }

    /// Points at a key's value that does not go with another one.
    fn clash(&mut self, at: &str, other: &str, message: impl Into<String>) {
        self.push(at, Side::Value, &[at, other], message.into());
    }

    /// Points at a key's value, which goes before the message.
    fn shown(&mut self, at: &str, value: String, message: impl Into<String>) {
        self.value(at, message);
        if let Some(last) = self.findings.last_mut() {
            last.value = Some(value);
        }
    }

    fn push(&mut self, at: &str, side: Side, about: &[&str], message: String) {
        self.findings.push(Finding {
            at: at.to_owned(),
            side,
            about: about.iter().map(|path| (*path).to_owned()).collect(),
            value: None,
            message,
        });
    }

    /// A wait that must not be zero: it would fail at once, or never end.
    fn positive(&mut self, at: &str, span: Span) {
        if span.is_zero() {
            self.value(
                at,
                format!("`{at}` must be longer than 0s: write for example 1s"),
            );
        }
    }

    /// A list that must not be empty.
    fn not_empty<T>(&mut self, at: &str, list: &[T], advice: &str) {
        if list.is_empty() {
            self.value(at, format!("`{at}` is empty: {advice}"));
        }
    }
}

/// Points at a key that looks something up in Redis, where there is none.
fn needs_redis(at: &str, config: &Config, message: &str, report: &mut Report) {
    if config.balances.memory.is_some() && config.balances.redis.is_none() {
        report.key(at, &[at, "balances.memory", "balances.redis"], message);
    }
}

/// Whether a header belongs to the protocol or to the gateway itself.
fn is_reserved_header(name: &str) -> bool {
    const RESERVED: [&str; 13] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    RESERVED.contains(&name) || name.starts_with("x-tollgate-")
}

/// Headers that mean something else than who pays.
const OTHER_MEANINGS: [&str; 12] = [
    "accept",
    "authorization",
    "content-type",
    "cookie",
    "forwarded",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether a request header means something already, so that it cannot also
/// say who pays or how much.
fn has_another_meaning(header: &HeaderField) -> bool {
    let name = header.name().as_str();
    is_reserved_header(name) || OTHER_MEANINGS.contains(&name)
}
