//! Paths as they may be shown: in `instance`, in the log, in events.
//!
//! A webhook's token stands in its path. Wherever a path leaves the gateway
//! other than to the upstream, the segments that the route calls secret are
//! replaced by their names. A path that is such a route only by way of another
//! reading cannot be cut up with certainty, so the route is shown instead.

use std::borrow::Cow;

use super::route::{Found, Table, received_path};
use crate::config;
use crate::config::pattern::{Segment, StartPattern};

/// The routes with secrets in their paths.
pub struct SecretPaths {
    table: Table,
    routes: Vec<(StartPattern, Vec<String>)>,
}

impl SecretPaths {
    /// Takes the routes as configured.
    #[must_use]
    pub fn new(routes: &[config::Route]) -> Self {
        let routes = routes.iter().filter_map(|route| {
            let names = route.secrets();
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let (_, pattern) = route.kinds().next()?;
            (!names.is_empty()).then(|| (pattern.clone(), names))
        });
        let routes: Vec<_> = routes.collect();
        let table = Table::with_prefixes(routes.iter().map(|(pattern, _)| pattern));
        SecretPaths { table, routes }
    }

    /// The path of a target as it may be shown, without its query.
    ///
    /// Whatever the method: a GET of a webhook's address shows its token too.
    #[must_use]
    pub fn shown<'a>(&self, target: &'a [u8]) -> Cow<'a, str> {
        let received = received_path(target);
        if self.routes.is_empty() {
            return received;
        }
        match self.table.find_path(target) {
            Found::Passes => received,
            Found::Start(index) => match self.routes.get(index) {
                Some((pattern, names)) => Cow::Owned(masked(&received, pattern, names)),
                None => received,
            },
            // One reading or another may hold a secret.
            Found::Ambiguous => Cow::Borrowed("/…"),
        }
    }
}

/// The path with its secret segments replaced by their names.
fn masked(received: &str, pattern: &StartPattern, names: &[String]) -> String {
    let path = received.strip_prefix('/').unwrap_or(received);
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut parts = path.split('/');
    let mut shown = String::with_capacity(received.len());
    for segment in pattern.segments() {
        let Some(part) = parts.next() else {
            return pattern.path();
        };
        let is_secret = |name: &str| names.iter().any(|secret| secret == name);
        let as_written = match segment {
            Segment::Literal(text) => part.eq_ignore_ascii_case(text),
            Segment::Parameter(_) | Segment::CatchAll(_) => true,
        };
        if !as_written {
            return pattern.path();
        }
        shown.push('/');
        match segment {
            Segment::CatchAll(name) if is_secret(name) => {
                shown.push_str(&segment.to_string());
                return shown;
            }
            Segment::Parameter(name) if is_secret(name) => shown.push_str(&segment.to_string()),
            _ => shown.push_str(part),
        }
    }
    // What follows a secret is no business of a log either.
    if parts.next().is_some() {
        shown.push_str("/…");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown_however_the_path_is_spelled() {
        let yaml = "POST /webhooks/w/{uid}/{token}";
        let pattern: StartPattern = yaml.parse().unwrap();
        let paths = SecretPaths {
            table: Table::with_prefixes([&pattern]),
            routes: vec![(pattern, vec!["token".to_owned()])],
        };
        for (target, shown) in [
            ("/webhooks/w/u1/s3cret", "/webhooks/w/u1/{token}"),
            ("/webhooks/w/u1/s3cret/", "/webhooks/w/u1/{token}"),
            ("/webhooks/w/u1/s3cret?x=1", "/webhooks/w/u1/{token}"),
            ("/Webhooks/W/u1/s3cret", "/Webhooks/W/u1/{token}"),
            ("//webhooks/w/u1/s3cret", "/webhooks/w/{uid}/{token}"),
            ("/x/../webhooks/w/u1/s3cret", "/webhooks/w/{uid}/{token}"),
            ("/webhooks%2Fw/u1/s3cret", "/webhooks/w/{uid}/{token}"),
            ("http://h/webhooks/w/u1/s3cret", "/webhooks/w/u1/{token}"),
            ("/webhooks/w/u1/s3cret/x/s3cret", "/webhooks/w/u1/{token}/…"),
            ("/webhooks/w/u1", "/webhooks/w/u1"),
            ("/other/w/u1/s3cret", "/other/w/u1/s3cret"),
        ] {
            assert_eq!(paths.shown(target.as_bytes()), shown, "{target}");
        }
    }
}
