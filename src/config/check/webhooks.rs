//! Deliveries of Slack and Linear: how they are verified, whose they are, and
//! what a refused one is answered with.

use http::HeaderValue;

use super::super::values::{OneOrMore, Secret, Size, Span};
use super::super::{Config, RefuseWith, Route, Webhook, WebhookKind, WorkspaceToken};
use super::Report;

/// What the key template of a webhook has replaced.
const WORKSPACE: &str = "workspace";

/// The bounds of `max_body` with a webhook. Smaller, and ordinary deliveries
/// would be refused; larger, and few of them would fill the memory, because a
/// delivery is held there until its signature was verified.
const MAX_BODY_MIN: Size = Size::from_kib(64);
const MAX_BODY_MAX: Size = Size::from_kib(16 * 1024);

/// The bounds of `notice_every`.
const NOTICE_EVERY_MIN: Span = Span::from_secs(1);
const NOTICE_EVERY_MAX: Span = Span::from_secs(24 * 60 * 60);

pub fn check(config: &Config, report: &mut Report) {
    for (index, route) in config.routes.iter().enumerate() {
        let at = format!("routes[{index}]");
        refuse_with(&at, route, report);
        let Some(webhook) = &route.webhook else {
            continue;
        };
        beside(&at, webhook, route, report);
        size(&at, route, report);
        let at = format!("{at}.webhook");
        secrets(&at, webhook, report);
        teams(&at, webhook, config, report);
        foreign_keys(&at, webhook, report);
        stop_actions(&at, webhook, report);
        tokens(&at, webhook, report);
        told(&at, webhook, route, report);
    }
}

/// Neither answer is harmless, so that none is the default.
fn refuse_with(at: &str, route: &Route, report: &mut Report) {
    let (key, webhook) = (format!("{at}.refuse_with"), format!("{at}.webhook"));
    let problem = match (route.webhook.as_ref(), route.refuse_with) {
        (None, Some(_)) => {
            let message = "`refuse_with` goes with `webhook`: leave it out, any other start is refused with the 403";
            report.key(&key, &[&key, &webhook], message);
            return;
        }
        (None, None) | (Some(_), Some(_)) => return,
        (Some(webhook), None) => match webhook.kind {
            WebhookKind::Slack => {
                "Slack is told not to try again by x-slack-no-retry, but where more than 95 % of an app's deliveries in an hour fail, Slack switches its events off for all workspaces"
            }
            WebhookKind::Linear => {
                "Linear tries again after 1 minute, 1 hour and 6 hours, so that a run may start six hours later if credits were bought meanwhile, and may then switch the webhook off"
            }
        },
    };
    report.key(
        &key,
        &[&key, &webhook],
        format!("`{webhook}` needs `{key}`, what a refused delivery is answered with: write `refuse_with: message` (status 200: people read why, and nothing comes again), or `refuse_with: problem` (the 403: {problem})"),
    );
}

/// What a route with a webhook is besides.
fn beside(at: &str, webhook: &Webhook, route: &Route, report: &mut Report) {
    let (own, path) = (format!("{at}.webhook"), format!("{at}.team_from"));
    if route.team_from.is_some() {
        let message = "a delivery says itself who pays, by its workspace: leave `team_from` out, or `webhook` if these are not deliveries of Slack or Linear";
        report.key(&path, &[&own, &path], message);
    }
    let start = route.start.as_ref();
    if start.is_some_and(|start| start.method() != "POST") {
        let start = format!("{at}.start");
        report.clash(
            &start,
            &own,
            format!("`{start}` has a `webhook`, and deliveries are POST requests: write POST and the path that they are sent to"),
        );
    }
    let fitting = webhook.trigger();
    let name = match webhook.kind {
        WebhookKind::Slack => "slack",
        WebhookKind::Linear => "linear",
    };
    if route.trigger.is_some_and(|trigger| trigger != fitting) {
        let (key, kind) = (format!("{at}.trigger"), format!("{own}.kind"));
        report.clash(
            &key,
            &kind,
            format!("`{key}` does not go with `{kind}`, which is {name}: write `trigger: {name}`, or leave it out"),
        );
    }
}

fn size(at: &str, route: &Route, report: &mut Report) {
    let bounds = MAX_BODY_MIN..=MAX_BODY_MAX;
    if route.max_body.is_some_and(|size| !bounds.contains(&size)) {
        let at = format!("{at}.max_body");
        report.value(
            &at,
            format!("`{at}` must be between {MAX_BODY_MIN} and {MAX_BODY_MAX} with `webhook`: a delivery is held in memory until its signature was verified; leave it out for 1MiB"),
        );
    }
}

fn secrets(at: &str, webhook: &Webhook, report: &mut Report) {
    let advice = "nothing could be verified; write the secret that deliveries are signed with, as ${VAR} or ${file:PATH}";
    report.not_empty(&format!("{at}.secret"), webhook.secret.as_slice(), advice);
    let each = named(format!("{at}.secret"), &webhook.secret);
    let padded = |secret: &Secret| secret.expose().trim() != secret.expose();
    for (at, _) in each.iter().filter(|(_, secret)| padded(secret)) {
        report.value(
            at,
            format!("`{at}` begins or ends with a blank or a line break, so that no signature would fit: leave that out, in a Kubernetes secret for example with `echo -n`"),
        );
    }
    let OneOrMore::More(secrets) = &webhook.secret else {
        return;
    };
    for (place, secret) in secrets.iter().enumerate() {
        if let Some(first) = secrets.iter().take(place).position(|other| other == secret) {
            let (at, other) = (
                format!("{at}.secret[{place}]"),
                format!("{at}.secret[{first}]"),
            );
            report.clash(
                &at,
                &other,
                format!("`{at}` is the same as `{other}`: keep one of them"),
            );
        }
    }
}

/// Secrets, each with its path.
fn named(at: String, secrets: &OneOrMore<Secret>) -> Vec<(String, &Secret)> {
    match secrets {
        OneOrMore::One(secret) => vec![(at, secret)],
        OneOrMore::More(secrets) => {
            let all = secrets.iter().enumerate();
            all.map(|(place, secret)| (format!("{at}[{place}]"), secret))
                .collect()
        }
    }
}

fn teams(at: &str, webhook: &Webhook, config: &Config, report: &mut Report) {
    let (teams, key) = (format!("{at}.teams"), format!("{at}.team_key"));
    let Some(template) = &webhook.team_key else {
        if webhook.teams.is_empty() {
            report.key(
                at,
                &[&teams, &key],
                format!("`{at}` does not say whose a workspace is: write `team_key: \"slack:<workspace>\"`, a key in Redis, or `teams: {{T0123ABCD: acme}}`, or both"),
            );
        }
        return;
    };
    if template.placeholder() != WORKSPACE {
        let message = "does not name the workspace: write the key with <workspace> where its id stands, such as slack:<workspace>";
        report.shown(&key, template.to_string(), message);
    }
    super::needs_redis(
        &key,
        config,
        "workspaces are looked up in Redis: write `balances.redis` instead of `balances.memory`, or `teams` here",
        report,
    );
}

/// Keys that the other kind has.
fn foreign_keys(at: &str, webhook: &Webhook, report: &mut Report) {
    let of_slack = [
        ("stop_actions", webhook.stop_actions.is_some()),
        ("bot_token", webhook.bot_token.is_some()),
    ];
    let of_linear = [("api_token", webhook.api_token.is_some())];
    let (foreign, other, advice) = match webhook.kind {
        WebhookKind::Slack => (
            of_linear.as_slice(),
            "Linear",
            "Slack's people are told with `bot_token`",
        ),
        WebhookKind::Linear => (
            of_slack.as_slice(),
            "Slack",
            "Linear's people are told with `api_token`, and a stop always passes",
        ),
    };
    for (key, _) in foreign.iter().filter(|(_, written)| *written) {
        let (key_at, kind) = (format!("{at}.{key}"), format!("{at}.kind"));
        report.key(
            &key_at,
            &[&key_at, &kind],
            format!("`{key}` is about {other}: leave it out here; {advice}"),
        );
    }
}

/// With what people are told, by key.
fn told_with(webhook: &Webhook) -> impl Iterator<Item = (&'static str, &WorkspaceToken)> {
    let tokens = [
        ("bot_token", &webhook.bot_token),
        ("api_token", &webhook.api_token),
    ];
    tokens
        .into_iter()
        .filter_map(|(key, token)| Some((key, token.as_ref()?)))
}

/// What no header can say cannot be sent, which is better known now than when
/// the first refusal is to be told.
fn tokens(at: &str, webhook: &Webhook, report: &mut Report) {
    let mut tokens: Vec<(String, &Secret)> = Vec::new();
    for (key, token) in told_with(webhook) {
        let at = format!("{at}.{key}");
        match token {
            WorkspaceToken::One(token) => tokens.push((at, token)),
            WorkspaceToken::Each(each) => {
                let each = each.0.iter();
                tokens.extend(each.map(|(workspace, token)| (format!("{at}.{workspace}"), token)));
            }
        }
    }
    let unfit = |token: &Secret| {
        let text = token.expose();
        text.trim() != text || HeaderValue::from_str(text).is_err()
    };
    for (at, _) in tokens.iter().filter(|(_, token)| unfit(token)) {
        report.value(
            at,
            format!("`{at}` has letters that no token has, a line break or a blank perhaps, so that nobody would be told: write the token alone"),
        );
    }
}

/// A pattern is what an id is, begins with, ends with or holds.
fn stop_actions(at: &str, webhook: &Webhook, report: &mut Report) {
    for (place, pattern) in webhook.stop_actions.iter().flatten().enumerate() {
        let inner = pattern.strip_prefix('*').unwrap_or(pattern);
        let inner = inner.strip_suffix('*').unwrap_or(inner);
        let message = if inner.is_empty() {
            "stands for every action, so that all of them would be free: write what those have in common that stop something, such as stop_*"
        } else if inner.contains('*') {
            "has a * in the middle: write it at either end, such as stop_* or *_cancel"
        } else {
            continue;
        };
        report.shown(
            &format!("{at}.stop_actions[{place}]"),
            pattern.clone(),
            message,
        );
    }
}

/// With what people are told, and how often.
fn told(at: &str, webhook: &Webhook, route: &Route, report: &mut Report) {
    let every = format!("{at}.notice_every");
    if !(NOTICE_EVERY_MIN..=NOTICE_EVERY_MAX).contains(&webhook.notice_every) {
        report.value(
            &every,
            format!("`{every}` must be between {NOTICE_EVERY_MIN} and {NOTICE_EVERY_MAX}: write for example 10m"),
        );
    }
    let is_empty = |token: &WorkspaceToken| matches!(token, WorkspaceToken::Each(tokens) if tokens.0.is_empty());
    for (key, _) in told_with(webhook).filter(|(_, token)| is_empty(token)) {
        let at = format!("{at}.{key}");
        let such_as = match webhook.kind {
            WebhookKind::Slack => "T0123ABCD: \"${SLACK_BOT_TOKEN}\"",
            WebhookKind::Linear => "9a1f2f0e-5d2c-4f5e-8f4f-5f9d3c1f7a10: \"${LINEAR_API_TOKEN}\"",
        };
        report.value(
            &at,
            format!("`{at}` is empty: write a token for each workspace, such as `{such_as}`, one token for all of them, or leave it out"),
        );
    }
    if webhook.kind == WebhookKind::Linear {
        report.idle(
            &every,
            &[&every, &format!("{at}.kind")],
            "`notice_every` is about Slack: leave it out here; on a session of Linear each prompt gets its answer",
        );
    }
    if route.refuse_with == Some(RefuseWith::Problem) {
        let refuse_with = format!("{}.refuse_with", at.trim_end_matches(".webhook"));
        for key in ["bot_token", "api_token", "notice_every"] {
            let at = format!("{at}.{key}");
            report.idle(
                &at,
                &[&at, &refuse_with],
                format!("`{key}` is for telling people of a refusal, which `refuse_with: problem` does not do: write `refuse_with: message`, or leave `{key}` out"),
            );
        }
    }
}
