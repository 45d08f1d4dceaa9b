//! Where balances are kept, and the mode of admission.

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::super::values::{CreditAmount, KeyTemplate, Span};
use super::super::{Balances, Config, Mode, Redis, Writer};
use super::{Report, files};
use crate::billing::credits::Credits;

/// The bounds of `balances.redis.deadline`. Longer, and an outage would cost
/// requests what it must not cost.
const DEADLINE_MIN: Span = Span::from_millis(1);
const DEADLINE_MAX: Span = Span::from_secs(5);

pub fn check(config: &Config, report: &mut Report) {
    let balances = &config.balances;
    match (&balances.redis, &balances.memory) {
        (Some(redis), None) => self::redis(redis, report),
        (None, Some(_)) => memory(balances, report),
        (Some(redis), Some(_)) => {
            report.key(
                "balances.memory",
                &["balances.memory", "balances.redis"],
                "balances are kept in one place: write either `redis` or `memory`, not both",
            );
            self::redis(redis, report);
        }
        (None, None) => report.key(
            "balances",
            &["balances.memory", "balances.redis"],
            "`balances` says not where they are kept: write `redis: {url: \"redis://127.0.0.1:6379\"}`, or `memory: {acme: 100}` for a trial",
        ),
    }
    templates(balances, report);
    mode(config, report);
}

fn redis(redis: &Redis, report: &mut Report) {
    let url = redis.url.expose();
    let addr = url
        .into_connection_info()
        .ok()
        .filter(|info| info.redis_settings().db() >= 0);
    let is_tls = match addr.as_ref().map(redis::ConnectionInfo::addr) {
        None => {
            report.value(
                "balances.redis.url",
                "`balances.redis.url` is not a Redis URL: write redis://user:password@host:6379/0, rediss://… for TLS or redis+unix:///path/to/redis.sock, and percent-encode what is not a letter or digit in the password",
            );
            None
        }
        Some(ConnectionAddr::TcpTls { insecure: true, .. }) => {
            report.value(
                "balances.redis.url",
                "`#insecure` would not check the certificate of Redis: leave it out and name the CA in `balances.redis.ca`",
            );
            None
        }
        Some(ConnectionAddr::TcpTls { .. }) => Some(Tls::Yes),
        Some(_) => Some(Tls::No),
    };
    tls_files(redis, is_tls, report);
    if !(DEADLINE_MIN..=DEADLINE_MAX).contains(&redis.deadline) {
        report.value(
            "balances.redis.deadline",
            format!("`balances.redis.deadline` must be between {DEADLINE_MIN} and {DEADLINE_MAX}: every start waits up to that long while Redis is slow"),
        );
    }
    report.positive("balances.redis.connect_timeout", redis.connect_timeout);
    report.positive("balances.redis.probe_interval", redis.probe_interval);
}

/// Whether a Redis URL asks for TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Yes,
    No,
}

/// Certificates are for `rediss://` alone: elsewhere they would be ignored,
/// and the operator would believe in TLS that is not there.
fn tls_files(redis: &Redis, tls: Option<Tls>, report: &mut Report) {
    if tls == Some(Tls::No) {
        for (name, path) in [
            ("ca", &redis.ca),
            ("cert", &redis.cert),
            ("key", &redis.key),
        ] {
            if path.is_some() {
                let at = format!("balances.redis.{name}");
                let message = format!(
                    "`{at}` needs TLS: write the URL with rediss://, or leave `{name}` out"
                );
                report.key(&at, &[&at, "balances.redis.url"], message);
            }
        }
        return;
    }
    if let Some(ca) = &redis.ca {
        files::authorities("balances.redis.ca", ca, report);
    }
    files::optional_pair(
        "balances.redis",
        redis.cert.as_deref(),
        redis.key.as_deref(),
        report,
    );
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

fn mode(config: &Config, report: &mut Report) {
    if config.admission.mode == Mode::Hold {
        report.value(
            "admission.mode",
            "hold mode is not in this version: write `lookup`",
        );
    }
    if config.balances.writer == Writer::Tollgate {
        report.value(
            "balances.writer",
            "`writer: tollgate` needs hold mode, which is not in this version: write `billing`",
        );
    }
    hold(
        "admission",
        config.admission.hold,
        config.admission.hold_for,
        report,
    );
    for (index, route) in config.routes.iter().enumerate() {
        hold(
            &format!("routes[{index}]"),
            route.hold,
            route.hold_for,
            report,
        );
    }
}

/// Without effect in lookup mode, but a slip here must not wait for hold mode.
fn hold(block: &str, hold: Option<CreditAmount>, hold_for: Option<Span>, report: &mut Report) {
    if hold.is_some_and(|hold| hold.credits() <= Credits::ZERO) {
        let at = format!("{block}.hold");
        report.value(
            &at,
            format!("`{at}` must be more than 0 credits: write for example 20"),
        );
    }
    if let Some(span) = hold_for {
        report.positive(&format!("{block}.hold_for"), span);
    }
}
