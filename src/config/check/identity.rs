//! Who pays.

use super::super::values::{HeaderField, Span};
use super::super::{ApiKeyIdentity, Config, HeaderIdentity, Identity, Route};
use super::{Report, has_another_meaning};

/// The longest time that what a key stands for may be remembered: a key that
/// was taken away must stop working soon.
const KEY_CACHE_MAX: Span = Span::from_secs(2);

pub fn check(config: &Config, report: &mut Report) {
    somebody(config, report);
    let mut names: Vec<(String, &HeaderField)> = Vec::new();
    for (index, identity) in config.identity.iter().enumerate() {
        let header = match identity {
            Identity::ApiKey(api_key) => self::api_key(
                &format!("identity[{index}].api_key"),
                api_key,
                config,
                report,
            ),
            Identity::Jwt(_) | Identity::Mtls(_) => None,
            Identity::Header(header) => Some(self::header(
                &format!("identity[{index}].header"),
                header,
                report,
            )),
        };
        let Some((at, name)) = header else { continue };
        if has_another_meaning(name) {
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

/// A route that does not say itself who pays needs somebody to ask.
fn somebody(config: &Config, report: &mut Report) {
    let asks = |route: &Route| {
        let by_path = route.team_from.as_ref();
        let otherwise = by_path.is_none_or(|from| from.otherwise.is_some());
        route.start.is_some() && route.webhook.is_none() && otherwise
    };
    if !config.identity.is_empty() {
        return;
    }
    let Some(index) = config.routes.iter().position(asks) else {
        return;
    };
    let at = format!("routes[{index}].start");
    let message = format!(
        "`{at}` asks `identity` who pays, and nobody is there: write at least one way to find out: `api_key`, `header`, `jwt` or `mtls`"
    );
    report.clash("identity", &at, message);
}

fn api_key<'a>(
    at: &str,
    api_key: &'a ApiKeyIdentity,
    config: &Config,
    report: &mut Report,
) -> Option<(String, &'a HeaderField)> {
    super::needs_redis(
        at,
        config,
        "API keys are kept in Redis: write `balances.redis` instead of `balances.memory`, or identify by `header`",
        report,
    );
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

/// The path of the key that makes a header decide who pays, if one does.
pub fn header_of(config: &Config, name: &HeaderField) -> Option<String> {
    let mut identities = config.identity.iter().enumerate();
    identities.find_map(|(index, identity)| match identity {
        Identity::ApiKey(api_key) if api_key.team_header.as_ref() == Some(name) => {
            Some(format!("identity[{index}].api_key.team_header"))
        }
        Identity::Header(header) if header.name == *name => {
            Some(format!("identity[{index}].header.name"))
        }
        _ => None,
    })
}
