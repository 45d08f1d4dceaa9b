//! Where Redis is: one server, a cluster or what sentinels name.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::super::values::{Secret, Span};
use super::super::{Config, Mode, Redis, Sentinel};
use super::{Report, files};

/// The bounds of `balances.redis.deadline`. Longer, and an outage would cost
/// requests what it must not cost.
const DEADLINE_MIN: Span = Span::from_millis(1);
const DEADLINE_MAX: Span = Span::from_secs(5);

/// What keeps all keys of a team in one slot of a cluster.
const TAG: &str = "<team>";

pub fn check(redis: &Redis, config: &Config, report: &mut Report) {
    let tls = place(redis, config, report);
    tls_files(redis, tls, report);
    if !(DEADLINE_MIN..=DEADLINE_MAX).contains(&redis.deadline) {
        report.value(
            "balances.redis.deadline",
            format!("`balances.redis.deadline` must be between {DEADLINE_MIN} and {DEADLINE_MAX}: every start waits up to that long while Redis is slow"),
        );
    }
    report.positive("balances.redis.connect_timeout", redis.connect_timeout);
    report.positive("balances.redis.probe_interval", redis.probe_interval);
}

/// Whether Redis is spoken to over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Yes,
    No,
}

/// Exactly one of the three says where Redis is. `None`: it cannot be told
/// whether TLS is meant.
fn place(redis: &Redis, config: &Config, report: &mut Report) -> Option<Tls> {
    match (&redis.url, &redis.cluster, &redis.sentinel) {
        (Some(url), None, None) => one(url, report),
        (None, Some(nodes), None) => cluster(nodes, config, report),
        (None, None, Some(sentinel)) => self::sentinel(sentinel, report),
        (None, None, None) => {
            report.key(
                "balances.redis",
                &["balances.redis"],
                "`balances.redis` says not where it is: write `url: \"redis://127.0.0.1:6379\"`, `cluster: [\"redis://10.0.0.1:6379\"]` or `sentinel: {nodes: [\"redis://10.0.0.1:26379\"], service: NAME}`",
            );
            None
        }
        (url, ..) => {
            let (at, other) = match url {
                Some(_) if redis.cluster.is_some() => ("balances.redis.cluster", "url"),
                Some(_) => ("balances.redis.sentinel", "url"),
                None => ("balances.redis.sentinel", "cluster"),
            };
            report.key(
                at,
                &[at, &format!("balances.redis.{other}")],
                format!("`{at}` and `balances.redis.{other}` both say where Redis is: write one of `url`, `cluster` and `sentinel`"),
            );
            None
        }
    }
}

fn one(url: &Secret, report: &mut Report) -> Option<Tls> {
    let info = url
        .expose()
        .into_connection_info()
        .ok()
        .filter(|info| info.redis_settings().db() >= 0);
    match info.as_ref().map(ConnectionInfo::addr) {
        None => {
            report.value(
                "balances.redis.url",
                "`balances.redis.url` is not a Redis URL: write redis://user:password@host:6379/0, rediss://… for TLS or redis+unix:///path/to/redis.sock, and percent-encode what is not a letter or digit in the password",
            );
            None
        }
        Some(ConnectionAddr::TcpTls { insecure: true, .. }) => {
            insecure("balances.redis.url", report);
            None
        }
        Some(ConnectionAddr::TcpTls { .. }) => Some(Tls::Yes),
        Some(_) => Some(Tls::No),
    }
}

fn insecure(at: &str, report: &mut Report) {
    report.value(
        at,
        "`#insecure` would not check the certificate of Redis: leave it out and name the CA in `balances.redis.ca`",
    );
}

/// A server of several: over the network, and without a database number.
fn server(at: &str, url: &Secret, report: &mut Report) -> Option<(ConnectionInfo, Tls)> {
    let found = url.expose().into_connection_info();
    let info = found.ok().filter(|info| info.redis_settings().db() == 0);
    let tls = match info.as_ref().map(ConnectionInfo::addr) {
        Some(ConnectionAddr::Tcp(..)) => Tls::No,
        Some(ConnectionAddr::TcpTls { insecure, .. }) if !insecure => Tls::Yes,
        Some(ConnectionAddr::TcpTls { .. }) => {
            self::insecure(at, report);
            return None;
        }
        _ => {
            report.value(
                at,
                format!("`{at}` is not the URL of such a server: write redis://user:password@host:6379 or rediss://… for TLS, without a database number, and percent-encode what is not a letter or digit in the password"),
            );
            return None;
        }
    };
    info.map(|info| (info, tls))
}

fn cluster(nodes: &[Secret], config: &Config, report: &mut Report) -> Option<Tls> {
    report.not_empty(
        "balances.redis.cluster",
        nodes,
        "name some of its nodes, such as [\"redis://10.0.0.1:6379\", \"redis://10.0.0.2:6379\"]",
    );
    let mut first: Option<(ConnectionInfo, Tls)> = None;
    for (index, url) in nodes.iter().enumerate() {
        let at = format!("balances.redis.cluster[{index}]");
        let Some(found) = server(&at, url, report) else {
            continue;
        };
        match &first {
            None => first = Some(found),
            Some(first) if is_spoken_to_alike(first, &found) => {}
            Some(_) => report.value(
                &at,
                format!("`{at}` has another user, password or scheme than the nodes before it: all nodes of a cluster are spoken to alike"),
            ),
        }
    }
    if config.balances.canary.is_some() {
        report.key(
            "balances.canary",
            &["balances.canary", "balances.redis.cluster"],
            "`balances.canary` is one key on one master of the cluster and says nothing of the others: leave it out with `balances.redis.cluster`",
        );
    }
    let key = config.balances.key.as_str();
    if config.admission.mode == Mode::Hold && tag_of(key) != Some(TAG) {
        report.clash(
            "balances.key",
            "balances.redis.cluster",
            "`balances.key` puts a team's balance in another slot of the cluster than its holds: write {<team>} as its first part in braces, such as credits:{<team>}",
        );
    }
    first.map(|(_, tls)| tls)
}

fn is_spoken_to_alike(one: &(ConnectionInfo, Tls), other: &(ConnectionInfo, Tls)) -> bool {
    let (one, other) = (
        (one.0.redis_settings(), one.1),
        (other.0.redis_settings(), other.1),
    );
    one.0.username() == other.0.username()
        && one.0.password() == other.0.password()
        && one.1 == other.1
}

/// What a cluster takes the slot of a key from, if not from all of it.
fn tag_of(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

fn sentinel(sentinel: &Sentinel, report: &mut Report) -> Option<Tls> {
    report.not_empty(
        "balances.redis.sentinel.nodes",
        &sentinel.nodes,
        "name every sentinel, such as [\"redis://10.0.0.1:26379\", \"redis://10.0.0.2:26379\"]",
    );
    let mut tls = match sentinel.tls {
        true => Tls::Yes,
        false => Tls::No,
    };
    for (index, url) in sentinel.nodes.iter().enumerate() {
        let at = format!("balances.redis.sentinel.nodes[{index}]");
        if let Some((_, Tls::Yes)) = server(&at, url, report) {
            tls = Tls::Yes;
        }
    }
    if sentinel.user.is_some() && sentinel.password.is_none() {
        report.key(
            "balances.redis.sentinel.user",
            &[
                "balances.redis.sentinel.user",
                "balances.redis.sentinel.password",
            ],
            "`balances.redis.sentinel.user` has no password: write `password` beside it",
        );
    }
    Some(tls)
}

/// Certificates are for TLS alone: elsewhere they would be ignored, and the
/// operator would believe in TLS that is not there.
fn tls_files(redis: &Redis, tls: Option<Tls>, report: &mut Report) {
    if tls == Some(Tls::No) {
        for (name, path) in [
            ("ca", &redis.ca),
            ("cert", &redis.cert),
            ("key", &redis.key),
        ] {
            if path.is_some() {
                let at = format!("balances.redis.{name}");
                let advice = match redis.sentinel {
                    Some(_) => "write `tls: true` in `sentinel`",
                    None => "write the URL with rediss://",
                };
                let message = format!("`{at}` needs TLS: {advice}, or leave `{name}` out");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_in_braces_decides_the_slot() {
        for (key, tag) in [
            ("credits:{<team>}", Some("<team>")),
            ("{<team>}:{x}", Some("<team>")),
            ("{x}:{<team>}", Some("x")),
            ("credits:<team>", None),
            ("credits:{}{<team>}", None),
            ("credits:{<team>", None),
        ] {
            assert_eq!(tag_of(key), tag, "{key}");
        }
    }
}
