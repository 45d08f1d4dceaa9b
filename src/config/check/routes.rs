//! Which requests start runs, and which tell of them later.

use super::super::pattern::{Segment, StartPattern};
use super::super::{Route, RouteKind};
use super::Report;

/// The parameter of a path that is the id of a run.
const RUN: &str = "run";

/// What an entry is, where that is said, and which requests it matches.
type Said<'a> = (String, RouteKind, &'a StartPattern);

pub fn check(routes: &[Route], report: &mut Report) {
    if !routes.iter().any(|route| route.start.is_some()) {
        let advice = "nothing would be metered; write at least one `- start: POST /…`";
        if routes.is_empty() {
            report.not_empty("routes", routes, advice);
        } else if let Some(about) = only_other_kinds(routes) {
            let about: Vec<&str> = about.iter().map(String::as_str).collect();
            report.key(
                "routes",
                &about,
                format!("`routes` names no start route: {advice}"),
            );
        }
    }
    let said = routes.iter().enumerate().flat_map(|(index, route)| {
        let at = move |kind: RouteKind| format!("routes[{index}].{}", kind.key());
        let kinds = route.kinds();
        kinds.map(move |(kind, pattern)| (at(kind), kind, pattern))
    });
    let said: Vec<Said<'_>> = said.collect();
    for (index, route) in routes.iter().enumerate() {
        let at = format!("routes[{index}]");
        if let Some((kind, pattern)) = kind(&at, route, report) {
            method(&at, kind, pattern, report);
            parameters(&at, kind, pattern, report);
            foreign_keys(&at, kind, route, report);
            overlap(&at, kind, pattern, &said, report);
        }
        secrets(&at, route, report);
        if let Some(span) = route.read_timeout {
            report.positive(&format!("{at}.read_timeout"), span);
        }
    }
}

/// Every key that would make an entry a start route, if all entries say that
/// they are of another kind.
fn only_other_kinds(routes: &[Route]) -> Option<Vec<String>> {
    let says = routes.iter().all(|route| route.kinds().next().is_some());
    let keys = (0..routes.len()).map(|index| format!("routes[{index}].start"));
    says.then(|| keys.collect())
}

/// What an entry is; `None` if it is nothing, or more than one thing.
fn kind<'a>(
    at: &str,
    route: &'a Route,
    report: &mut Report,
) -> Option<(RouteKind, &'a StartPattern)> {
    let keys = ["start", "ends", "watch"].map(|key| format!("{at}.{key}"));
    let mut kinds = route.kinds();
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => Some(kind),
        (None, _) => {
            let about: Vec<&str> = keys.iter().map(String::as_str).collect();
            report.key(
                at,
                &about,
                format!("`{at}` says not which requests it is about: write `start: POST /…`, or `ends: …` or `watch: …` for those that tell of a run"),
            );
            None
        }
        (Some((first, _)), Some((second, _))) => {
            let (first, second) = (first.key(), second.key());
            report.key(
                &format!("{at}.{second}"),
                &[&format!("{at}.{first}"), &format!("{at}.{second}")],
                format!(
                    "`{at}` is `{first}` already: begin a list item of its own (`- {second}: …`)"
                ),
            );
            None
        }
    }
}

fn method(at: &str, kind: RouteKind, pattern: &StartPattern, report: &mut Report) {
    let method = pattern.method();
    let mistake = match (kind, method) {
        (RouteKind::Start, "CONNECT" | "HEAD" | "OPTIONS" | "TRACE") => {
            format!("{method} requests never start a run: write the method that does, such as POST")
        }
        (RouteKind::Ends, "CONNECT" | "GET" | "HEAD" | "OPTIONS" | "TRACE") => format!(
            "{method} requests never end a run: write the method that does, such as POST, or `watch` for a request that shows it"
        ),
        (RouteKind::Watch, method) if method != "GET" => format!(
            "the answer to {method} shows no run: write GET, or `ends` for a request whose success ends it"
        ),
        _ => return,
    };
    report.value(&format!("{at}.{}", kind.key()), mistake);
}

/// Whoever tells of a run names it in the path.
fn parameters(at: &str, kind: RouteKind, pattern: &StartPattern, report: &mut Report) {
    let is_run = |segment: &Segment| matches!(segment, Segment::Parameter(name) if name == RUN);
    if kind == RouteKind::Start || pattern.segments().iter().any(is_run) {
        return;
    }
    let at = format!("{at}.{}", kind.key());
    let mut parameters = pattern
        .segments()
        .iter()
        .filter(|segment| segment.name().is_some());
    let advice = match (parameters.next(), parameters.next()) {
        (Some(only), None) => format!("write {{{RUN}}} instead of {only} if that is the run's id"),
        _ => format!("write {{{RUN}}} where its id stands, such as /api/v1/agent/runs/{{{RUN}}}"),
    };
    report.value(&at, format!("`{at}` does not say which run: {advice}"));
}

/// Keys that an entry of this kind does nothing with: whoever wrote them
/// believes that they do something.
fn foreign_keys(at: &str, kind: RouteKind, route: &Route, report: &mut Report) {
    let start = [
        ("trigger", route.trigger.is_some()),
        ("hold", route.hold.is_some()),
        ("hold_for", route.hold_for.is_some()),
        ("release_on", route.release_on.is_some()),
        ("run_id", route.run_id.is_some()),
        ("settle_from", route.settle_from.is_some()),
        ("idempotency", route.idempotency.is_some()),
        ("on_outage", route.on_outage.is_some()),
        ("enforce", route.enforce.is_some()),
        ("webhook", route.webhook.is_some()),
        ("team_from", route.team_from.is_some()),
        ("trigger_from", route.trigger_from.is_some()),
        ("max_body", route.max_body.is_some()),
        ("read_timeout", route.read_timeout.is_some()),
    ];
    let watch = [
        ("state", route.state.is_some()),
        ("end_states", route.end_states.is_some()),
    ];
    let of = |owner: RouteKind, keys: &[(&'static str, bool)]| {
        let written = keys.iter().filter(|(_, written)| *written && owner != kind);
        written.map(|(key, _)| (*key, owner)).collect::<Vec<_>>()
    };
    for (key, owner) in [of(RouteKind::Start, &start), of(RouteKind::Watch, &watch)].concat() {
        let (this, owner) = (kind.key(), owner.key());
        let at = format!("{at}.{key}");
        report.key(
            &at,
            &[&at],
            format!(
                "`{key}` goes with `{owner}` and says nothing about `{this}`: leave it out here"
            ),
        );
    }
}

/// Entries before this one, and start routes wherever they stand, that take
/// its requests.
fn overlap(
    at: &str,
    kind: RouteKind,
    pattern: &StartPattern,
    others: &[Said<'_>],
    report: &mut Report,
) {
    let at = format!("{at}.{}", kind.key());
    let metered = others.iter().find(|(_, other, of_other)| {
        kind != RouteKind::Start && *other == RouteKind::Start && covers(of_other, pattern)
    });
    if let Some((other, ..)) = metered {
        report.clash(
            &at,
            other,
            format!("every request of `{at}` is a start by `{other}`, and a start needs credits: make that one narrower, or take one of them out"),
        );
        return;
    }
    let before = others.iter().take_while(|(other, ..)| *other != at);
    let mut same = before.filter(|(_, other, of_other)| {
        let comparable = (*other == RouteKind::Start) == (kind == RouteKind::Start);
        comparable && shape(of_other) == shape(pattern)
    });
    if let Some((other, ..)) = same.next() {
        report.clash(
            &at,
            other,
            format!("`{at}` matches the same requests as `{other}`: keep one of them"),
        );
    }
}

/// Whether every request of one pattern is one of the other's.
fn covers(wide: &StartPattern, narrow: &StartPattern) -> bool {
    let mut narrow_segments = narrow.segments().iter();
    let mut wide_segments = wide.segments().iter();
    if wide.method() != narrow.method() {
        return false;
    }
    loop {
        match (wide_segments.next(), narrow_segments.next()) {
            (None, None) | (Some(Segment::CatchAll(_)), Some(_)) => return true,
            (Some(Segment::Parameter(_)), Some(Segment::Literal(_) | Segment::Parameter(_))) => {}
            (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a.eq_ignore_ascii_case(b) => {
            }
            _ => return false,
        }
    }
}

fn secrets(at: &str, route: &Route, report: &mut Report) {
    for (place, name) in route.secret_in_path.iter().flatten().enumerate() {
        let segments = route.kinds().flat_map(|(_, pattern)| pattern.segments());
        if !segments
            .filter_map(Segment::name)
            .any(|known| known == name)
        {
            let at = format!("{at}.secret_in_path[{place}]");
            let advice = "is no parameter of the route's path: name one of its {…}";
            report.shown(&at, name.clone(), advice);
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
