//! Paths that say who pays.

use super::super::pattern::Segment;
use super::super::{Config, TeamFrom};
use super::Report;

pub fn check(config: &Config, report: &mut Report) {
    for (index, route) in config.routes.iter().enumerate() {
        let (Some(team_from), Some(start)) = (&route.team_from, &route.start) else {
            continue;
        };
        let at = format!("routes[{index}].team_from");
        let is_parameter = |name: &str| {
            let mut segments = start.segments().iter();
            segments.any(|segment| matches!(segment, Segment::Parameter(own) if own == name))
        };
        let start = format!("routes[{index}].start");
        for (key, name) in names(team_from) {
            if !is_parameter(name) {
                let at = format!("{at}.{key}");
                report.clash(
                    &at,
                    &start,
                    format!("`{at}` names no parameter of `{start}` that stands for one segment: write the name of one of its {{…}}"),
                );
            }
        }
        distinct(&at, team_from, report);
        let key = format!("{at}.team_key");
        if team_from.team_key.placeholder() != team_from.path {
            let path = format!("{at}.path");
            report.clash(
                &key,
                &path,
                format!("`{key}` does not name the parameter of `{path}`: write that one in angle brackets where its value stands, as in webhook:<uid> for `path: uid`"),
            );
        }
        super::needs_redis(
            &key,
            config,
            "what the path says is looked up in Redis: write `balances.redis` instead of `balances.memory`, or leave `team_from` out",
            report,
        );
    }
}

/// The keys that name parameters, with those names.
fn names(team_from: &TeamFrom) -> impl Iterator<Item = (&'static str, &str)> {
    let token = team_from.token.as_deref().map(|token| ("token", token));
    std::iter::once(("path", team_from.path.as_str())).chain(token)
}

/// The id is no secret, and the token is one.
fn distinct(at: &str, team_from: &TeamFrom, report: &mut Report) {
    if team_from.token.as_ref() == Some(&team_from.path) {
        let (token, path) = (format!("{at}.token"), format!("{at}.path"));
        report.clash(
            &token,
            &path,
            format!("`{token}` is the parameter of `{path}`: write another one, or leave `token` out where the path has no secret"),
        );
    }
}
