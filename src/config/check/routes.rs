//! Who pays, and which requests start runs.

use super::super::pattern::{Segment, StartPattern};
use super::super::values::{HeaderField, Span};
use super::super::{ApiKeyIdentity, Config, HeaderIdentity, Identity, Route};
use super::{Report, is_reserved_header};

/// The longest time that what a key stands for may be remembered: a key that
/// was taken away must stop working soon.
const KEY_CACHE_MAX: Span = Span::from_secs(2);

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

/// Methods that never start a run: they read, or belong to the protocol.
const NEVER_START: [&str; 4] = ["CONNECT", "HEAD", "OPTIONS", "TRACE"];

pub fn check_identity(config: &Config, report: &mut Report) {
    let advice = "write at least one way to find out who pays, `header` or `api_key`";
    report.not_empty("identity", &config.identity, advice);
    let mut names: Vec<(String, &HeaderField)> = Vec::new();
    for (index, identity) in config.identity.iter().enumerate() {
        let header = match identity {
            Identity::ApiKey(api_key) => self::api_key(
                &format!("identity[{index}].api_key"),
                api_key,
                config,
                report,
            ),
            Identity::Header(header) => Some(self::header(
                &format!("identity[{index}].header"),
                header,
                report,
            )),
        };
        let Some((at, name)) = header else { continue };
        if is_reserved_header(name.name().as_str())
            || OTHER_MEANINGS.contains(&name.name().as_str())
        {
            let message = "has a meaning of its own: write a header that is for the team alone, such as x-team-id";
            report.shown(&at, name.to_string(), message);
        }
        if let Some((other, _)) = names.iter().find(|(_, taken)| *taken == name) {
            let message = format!(
                "`{at}` is the header of `{other}` already: give each its own, or put all peers into one `from`"
            );
            report.clash(&at, other, message);
        }
        names.push((at, name));
    }
}

fn api_key<'a>(
    at: &str,
    api_key: &'a ApiKeyIdentity,
    config: &Config,
    report: &mut Report,
) -> Option<(String, &'a HeaderField)> {
    if config.balances.memory.is_some() && config.balances.redis.is_none() {
        report.key(
            at,
            &[at, "balances.memory", "balances.redis"],
            "API keys are kept in Redis: write `balances.redis` instead of `balances.memory`, or identify by `header`",
        );
    }
    if api_key.cache > KEY_CACHE_MAX {
        let at = format!("{at}.cache");
        let message = format!(
            "`{at}` must be at most {KEY_CACHE_MAX}: a key that was taken away must stop working soon"
        );
        report.value(&at, message);
    }
    api_key
        .team_header
        .as_ref()
        .map(|name| (format!("{at}.team_header"), name))
}

fn header<'a>(
    at: &str,
    header: &'a HeaderIdentity,
    report: &mut Report,
) -> (String, &'a HeaderField) {
    let advice =
        "nobody would be believed; write the addresses of your auth proxy, such as \"10.0.0.0/8\"";
    report.not_empty(&format!("{at}.from"), &header.from, advice);
    (format!("{at}.name"), &header.name)
}

pub fn check_routes(routes: &[Route], report: &mut Report) {
    let advice = "nothing would be metered; write at least one `- start: POST /…`";
    report.not_empty("routes", routes, advice);
    for (index, route) in routes.iter().enumerate() {
        let at = format!("routes[{index}].start");
        let method = route.start.method();
        if NEVER_START.contains(&method) {
            report.value(
                &at,
                format!(
                    "{method} requests never start a run: write the method that does, such as POST"
                ),
            );
        }
        let same = |other: &Route| shape(&other.start) == shape(&route.start);
        if let Some(first) = routes.iter().take(index).position(same) {
            let other = format!("routes[{first}].start");
            report.clash(
                &at,
                &other,
                format!("`{at}` matches the same requests as `{other}`: keep one of them"),
            );
        }
        for (place, name) in route.secret_in_path.iter().flatten().enumerate() {
            let mut names = route.start.segments().iter().filter_map(Segment::name);
            if !names.any(|known| known == name) {
                let at = format!("routes[{index}].secret_in_path[{place}]");
                let advice = "is no parameter of the route's path: name one of its {…}";
                report.shown(&at, name.clone(), advice);
            }
        }
        if let Some(span) = route.read_timeout {
            report.positive(&format!("routes[{index}].read_timeout"), span);
        }
    }
}

/// What of a pattern decides which requests it matches: names of parameters
/// and the case of letters do not.
fn shape(pattern: &StartPattern) -> (&str, Vec<Option<String>>, usize) {
    let segments = pattern.segments();
    let literal = |segment: &Segment| match segment {
        Segment::Literal(text) => Some(text.to_ascii_lowercase()),
        Segment::Parameter(_) | Segment::CatchAll(_) => None,
    };
    let catch_alls = segments
        .iter()
        .filter(|segment| matches!(segment, Segment::CatchAll(_)))
        .count();
    (
        pattern.method(),
        segments.iter().map(literal).collect(),
        catch_alls,
    )
}
