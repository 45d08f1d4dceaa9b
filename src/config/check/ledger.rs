//! Where balances are kept, and the mode of admission.

use super::super::values::KeyTemplate;
use super::super::{Balances, Config, Identity};
use super::{Report, redis};

pub fn check(config: &Config, report: &mut Report) {
    let balances = &config.balances;
    match (&balances.redis, &balances.memory) {
        (Some(redis), None) => redis::check(redis, config, report),
        (None, Some(_)) => memory(balances, report),
        (Some(redis), Some(_)) => {
            report.key(
                "balances.memory",
                &["balances.memory", "balances.redis"],
                "balances are kept in one place: write either `redis` or `memory`, not both",
            );
            redis::check(redis, config, report);
        }
        (None, None) => report.key(
            "balances",
            &["balances.memory", "balances.redis"],
            "`balances` says not where they are kept: write `redis: {url: \"redis://127.0.0.1:6379\"}`, or `memory: {acme: 100}` for a trial",
        ),
    }
    templates(balances, report);
    own_keys(config, report);
}

/// With balances in memory, what only Redis has must not be configured.
fn memory(balances: &Balances, report: &mut Report) {
    for (at, is_there) in [
        ("balances.field", balances.field.is_some()),
        ("balances.canary", balances.canary.is_some()),
    ] {
        if is_there {
            let message =
                format!("`{at}` is about a Redis key: leave it out with `balances.memory`");
            report.key(at, &[at, "balances.memory"], message);
        }
    }
}

/// Keys that begin so are tollgate's own.
const OWN: &str = "tollgate:";

/// What is looked up must be nobody's but the operator's: a balance that lies
/// on holds would be misread, and written over.
fn own_keys(config: &Config, report: &mut Report) {
    let balances = &config.balances;
    let mut keys = vec![(
        "balances.key".to_owned(),
        balances.key.as_str(),
        "credits:{<team>}",
    )];
    if let Some(canary) = &balances.canary {
        keys.push((
            "balances.canary".to_owned(),
            canary.as_str(),
            "credits:canary",
        ));
    }
    for (index, identity) in config.identity.iter().enumerate() {
        if let Identity::ApiKey(api_key) = identity {
            let at = format!("identity[{index}].api_key.key");
            keys.push((at, api_key.key.as_str(), "apikey:<sha256>"));
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        let webhook = route.webhook.as_ref().and_then(|it| it.team_key.as_ref());
        let path = route.team_from.as_ref().map(|it| &it.team_key);
        let found = [
            ("webhook", webhook, "slack:<workspace>"),
            ("team_from", path, "webhook:<uid>"),
        ];
        let found = found.into_iter().filter_map(|(block, key, example)| {
            let at = format!("routes[{index}].{block}.team_key");
            Some((at, key?.as_str(), example))
        });
        keys.extend(found);
    }
    apart(&keys, report);
    for (at, key, example) in &keys {
        if key.starts_with(OWN) {
            report.value(
                at,
                format!("`{at}` begins with {OWN}, where tollgate keeps what is its own: write another, such as {example}"),
            );
        }
    }
}

/// What a request says may only ever complete keys that are there for it: it
/// could name somebody's balance or key otherwise, and that be read as a team.
fn apart(keys: &[(String, &str, &str)], report: &mut Report) {
    let asked = |at: &str| at.ends_with(".team_key");
    // Of those among our own, that is said already.
    let to_check = |(at, key, _): &&(String, &str, &str)| asked(at) && !key.starts_with(OWN);
    for (at, key, example) in keys.iter().filter(to_check) {
        let head = key.split('<').next().unwrap_or_default();
        let others = keys.iter().filter(|(other, ..)| !asked(other));
        let others = others.map(|(other, key, _)| (format!("`{other}`"), *key));
        let own = [("what tollgate keeps".to_owned(), OWN)];
        if let Some((other, _)) = others.chain(own).find(|(_, key)| key.starts_with(head)) {
            report.value(
                at,
                format!("a request could name {other} by `{at}`: begin it with something of its own, as {example} does"),
            );
        }
    }
}

fn templates(balances: &Balances, report: &mut Report) {
    let field_names_team = balances.field.as_ref().is_some_and(KeyTemplate::names_team);
    if !balances.key.names_team() && !field_names_team {
        report.clash(
            "balances.key",
            "balances.field",
            "`balances.key` is the same for every team: write <team> where the team's id stands, such as credits:{<team>}, or in `balances.field`",
        );
    }
}
