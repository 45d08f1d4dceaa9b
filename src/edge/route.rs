//! Which route a request is.
//!
//! [`Table::find`] may never be fooled and may never break an innocent
//! client. A path can be read in more than one way, and the gateway does not
//! know which way the upstream reads it, so it works out every reading
//! (`readings`): if any of them is a start route, the request is that start;
//! if they disagree about which, it is [`Found::Ambiguous`]. The target that
//! is forwarded is the target that was received, whatever was read into it.
//! What stands in a path's parameters is found out in the same way
//! ([`Parameters`]). Paths that are spelled as a route is written are found by
//! their bytes (`exact`), with the outcome that they would have had.
//!
//! The form of a route as written in the configuration is in
//! [`crate::config::pattern`].

mod exact;
mod parameters;
mod readings;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::iter;

use http::header::HeaderName;

use crate::config::pattern::{Segment, StartPattern};
use exact::Exact;
pub use parameters::Parameters;
use readings::{Readings, is_plain};

/// Headers with which some frameworks let a client override the method.
pub static METHOD_OVERRIDE_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// The place of a route in the configuration.
pub type RouteIndex = usize;

/// What a request turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No reading is a start route: it passes.
    Passes,
    /// Every reading that is a start route is this one.
    Start(RouteIndex),
    /// Readings disagree about which start route it is.
    Ambiguous,
}

/// The start routes, ready to be matched.
#[derive(Debug, Default)]
pub struct Table {
    methods: Vec<Routes>,
}

/// The start routes of one method.
#[derive(Debug, Default)]
struct Routes {
    method: String,
    root: Node,
    exact: Exact,
}

/// A place in the tree of segments.
#[derive(Debug, Default)]
struct Node {
    /// By the length of their text in lower case, then by that.
    literals: Vec<Literal>,
    parameter: Option<Box<Node>>,
    route: Option<RouteIndex>,
    catch_all: Option<RouteIndex>,
}

/// A literal segment below a node.
#[derive(Debug, Default)]
struct Literal {
    lower: Box<[u8]>,
    written: Box<[u8]>,
    node: Node,
}

/// A route that was found, and whether every literal was spelled as written.
#[derive(Clone, Copy)]
struct Hit {
    route: RouteIndex,
    spelling: Case,
}

/// Whether literals are compared as written or without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Folded,
    AsWritten,
}

impl Table {
    /// Builds the table; a route's index is its place in `patterns`.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a StartPattern>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let mut table = Self::without_exact(&patterns);
        table.work_out_exact(&patterns);
        table
    }

    fn without_exact(patterns: &[&StartPattern]) -> Self {
        let mut table = Table::default();
        for (index, pattern) in patterns.iter().enumerate() {
            let method = pattern.method();
            if !table.methods.iter().any(|known| known.method == method) {
                table.methods.push(Routes {
                    method: method.to_owned(),
                    ..Routes::default()
                });
            }
            let routes = table.methods.iter_mut();
            for routes in routes.filter(|known| known.method == method) {
                routes.root.insert(pattern.segments(), index);
            }
        }
        table
    }

    /// Works out what paths are found to be that are spelled as a route without
    /// parameters is written.
    fn work_out_exact(&mut self, patterns: &[&StartPattern]) {
        let is_literal = |segment: &Segment| matches!(segment, Segment::Literal(_));
        let exact = |method: &str| {
            let patterns = patterns.iter().filter(|known| known.method() == method);
            let patterns = patterns.filter(|known| known.segments().iter().all(is_literal));
            let paths = patterns.map(|pattern| pattern.path().into_bytes());
            let paths = paths.filter(|path| path.starts_with(b"/") && is_plain(path));
            let found = paths.map(|path| {
                let found = self.find_closely(method, iter::empty(), &path);
                (path, found)
            });
            Exact::new(found.collect())
        };
        let methods = self.methods.iter().map(|routes| exact(&routes.method));
        let methods: Vec<Exact> = methods.collect();
        for (routes, exact) in self.methods.iter_mut().zip(methods) {
            routes.exact = exact;
        }
    }

    /// As [`Table::new`], and what lies below a route counts as that route.
    pub fn with_prefixes<'a>(patterns: impl IntoIterator<Item = &'a StartPattern>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let mut table = Self::without_exact(&patterns);
        for (index, pattern) in patterns.iter().enumerate() {
            let mut below = pattern.segments().to_vec();
            below.push(Segment::CatchAll(String::new()));
            let method = table
                .methods
                .iter_mut()
                .find(|known| known.method == pattern.method());
            if let Some(routes) = method {
                routes.root.insert(&below, index);
            }
        }
        table.work_out_exact(&patterns);
        table
    }

    /// Finds the route of a path, whatever its method.
    #[must_use]
    pub fn find_path(&self, target: &[u8]) -> Found {
        let mut found = Search::default();
        let path = Readings::of(target);
        for routes in &self.methods {
            found.all_readings(&routes.root, &path);
        }
        found.outcome()
    }

    /// Finds the route of a request from its method, the values of its method
    /// override headers, and its target as received.
    pub fn find<'a>(
        &self,
        method: &str,
        overrides: impl Iterator<Item = &'a [u8]>,
        target: &[u8],
    ) -> Found {
        let mut overrides = overrides.peekable();
        if overrides.peek().is_none() {
            let routes = self.methods.iter().find(|known| known.method == method);
            if let Some(found) = routes.and_then(|routes| routes.exact.find(target)) {
                return found;
            }
        }
        self.find_closely(method, overrides, target)
    }

    fn find_closely<'a>(
        &self,
        method: &str,
        overrides: impl Iterator<Item = &'a [u8]>,
        target: &[u8],
    ) -> Found {
        let mut found = Search::default();
        let overrides = overrides.filter_map(|value| std::str::from_utf8(value).ok());
        let mut path = None;
        for name in std::iter::once(method).chain(overrides) {
            let name = name.trim();
            // Frameworks answer HEAD with the handler of GET.
            let is = |known: &str| {
                known.eq_ignore_ascii_case(name)
                    || (known == "GET" && name.eq_ignore_ascii_case("HEAD"))
            };
            for routes in self.methods.iter().filter(|known| is(&known.method)) {
                let path = path.get_or_insert_with(|| Readings::of(target));
                found.all_readings(&routes.root, path);
            }
        }
        found.outcome()
    }
}

/// The path of a target as it was received: without query and fragment, and
/// without scheme and authority if it has them.
pub fn received_path(target: &[u8]) -> Cow<'_, str> {
    let path = readings::received_path(target);
    // Nearly all are text, which is found out many bytes at once.
    match std::str::from_utf8(path) {
        Ok(path) => Cow::Borrowed(path),
        Err(_) => String::from_utf8_lossy(path),
    }
}

/// What the readings agreed on so far.
#[derive(Default)]
struct Search {
    route: Option<RouteIndex>,
    disagree: bool,
}

impl Search {
    fn all_readings(&mut self, root: &Node, readings: &Readings<'_>) {
        match readings {
            Readings::Plain(path) => self.one_reading(root, path),
            Readings::Several(paths) => {
                for (path, _) in paths {
                    self.one_reading(root, path);
                }
            }
            // More readings than anybody's client means.
            Readings::TooMany => self.disagree = true,
        }
    }

    fn one_reading(&mut self, root: &Node, path: &[u8]) {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let Some(hit) = root.find(path, Case::Folded) else {
            return;
        };
        self.note(hit.route);
        // Spelled as written, a comparison by case finds the same.
        if hit.spelling == Case::Folded
            && let Some(hit) = root.find(path, Case::AsWritten)
        {
            self.note(hit.route);
        }
    }

    fn note(&mut self, route: RouteIndex) {
        self.disagree |= self.route.is_some_and(|known| known != route);
        self.route = Some(route);
    }

    fn outcome(&self) -> Found {
        match self.route {
            _ if self.disagree => Found::Ambiguous,
            Some(route) => Found::Start(route),
            None => Found::Passes,
        }
    }
}

impl Node {
    fn insert(&mut self, segments: &[Segment], index: RouteIndex) {
        let Some((segment, rest)) = segments.split_first() else {
            self.route.get_or_insert(index);
            return;
        };
        match segment {
            Segment::Literal(text) => {
                let place = match self.place(text.as_bytes()) {
                    Ok(place) => place,
                    Err(place) => {
                        let literal = Literal {
                            lower: text.to_ascii_lowercase().into_bytes().into(),
                            ..Literal::default()
                        };
                        self.literals.insert(place, literal);
                        place
                    }
                };
                if let Some(literal) = self.literals.get_mut(place) {
                    literal.written = text.as_bytes().into();
                    literal.node.insert(rest, index);
                }
            }
            Segment::Parameter(_) => self.parameter.get_or_insert_default().insert(rest, index),
            Segment::CatchAll(_) => {
                self.catch_all.get_or_insert(index);
            }
        }
    }

    /// The most specific route for a path without its outer slashes: a literal
    /// goes before a parameter, a parameter before a catch-all.
    fn find(&self, path: &[u8], case: Case) -> Option<Hit> {
        let exactly = |route| Hit {
            route,
            spelling: Case::AsWritten,
        };
        if path.is_empty() {
            return self.route.map(exactly);
        }
        let (segment, rest) = match path.iter().position(|byte| *byte == b'/') {
            Some(slash) => {
                let (segment, rest) = path.split_at(slash);
                (segment, rest.strip_prefix(b"/").unwrap_or(rest))
            }
            None => (path, &b""[..]),
        };
        let by_literal = self.literal(segment, case).and_then(|literal| {
            let hit = literal.node.find(rest, case)?;
            let spelled = *literal.written == *segment;
            let spelling = if spelled { hit.spelling } else { Case::Folded };
            Some(Hit { spelling, ..hit })
        });
        let by_parameter = || {
            self.parameter
                .as_ref()
                .and_then(|node| node.find(rest, case))
        };
        by_literal
            .or_else(by_parameter)
            .or(self.catch_all.map(exactly))
    }

    fn literal(&self, segment: &[u8], case: Case) -> Option<&Literal> {
        let literal = self.literals.get(self.place(segment).ok()?)?;
        let fits = case == Case::Folded || *literal.written == *segment;
        fits.then_some(literal)
    }

    /// Where a literal stands without regard to case, or would have to stand.
    fn place(&self, segment: &[u8]) -> Result<usize, usize> {
        self.literals.binary_search_by(|known| {
            let lower = || segment.iter().map(u8::to_ascii_lowercase);
            match known.lower.len().cmp(&segment.len()) {
                Ordering::Equal if *known.lower == *segment => Ordering::Equal,
                Ordering::Equal => known.lower.iter().copied().cmp(lower()),
                other => other,
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(patterns: &[&str]) -> Table {
        let patterns: Vec<StartPattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
        Table::new(&patterns)
    }

    fn api() -> Table {
        table(&[
            "POST /api/v1/agent/tasks",
            "POST /api/v1/agent/runs",
            "POST /api/v1/agent/runs/{id}/followups",
            "POST /webhooks/w/{uid}",
            "POST /webhooks/w/{uid}/{token}",
            "POST /files/{*rest}",
        ])
    }

    fn find(method: &str, target: &str) -> Found {
        let (table, target) = (api(), target.as_bytes());
        let found = table.find(method, iter::empty(), target);
        let closely = table.find_closely(method, iter::empty(), target);
        assert_eq!(found, closely, "a short cut leads elsewhere");
        found
    }

    #[test]
    fn what_is_found_by_its_bytes_is_what_would_be_found_closely() {
        let tables = [
            &["POST /runs/batch", "POST /runs/{id}"][..],
            &["POST /runs/{id}", "POST /runs/batch", "PUT /runs/batch"],
            &["POST /Runs/a", "POST /runs/b", "POST /{x}/a"],
            &["POST /a b/c", "POST /a;b", "POST /x/../y", "POST /.a"],
            &["GET /go", "HEAD /go", "HEAD /stop", "GET /{any}"],
            &["POST /", "POST /{*rest}", "POST /a/"],
            &["DELETE /a/b", "POST /a/b", "POST /a/b"],
        ];
        for patterns in tables {
            let patterns: Vec<StartPattern> = patterns
                .iter()
                .filter_map(|pattern| pattern.parse().ok())
                .collect();
            for table in [Table::new(&patterns), Table::with_prefixes(&patterns)] {
                for pattern in &patterns {
                    for path in [pattern.path(), pattern.path().to_ascii_uppercase()] {
                        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "post"] {
                            let target = path.as_bytes();
                            assert_eq!(
                                table.find(method, iter::empty(), target),
                                table.find_closely(method, iter::empty(), target),
                                "{method} {path}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_one_of_many_routes_is_found_and_nothing_beside_them() {
        let patterns: Vec<StartPattern> = (0..500)
            .map(|i| match i % 2 {
                0 => format!("POST /api/v1/r{i}/start"),
                _ => format!("POST /api/v1/r{i}/{{id}}/start"),
            })
            .map(|pattern| pattern.parse().unwrap())
            .collect();
        let table = Table::new(&patterns);
        let find = |path: &str| table.find("POST", iter::empty(), path.as_bytes());
        for (index, pattern) in patterns.iter().enumerate() {
            let path = pattern.path().replace("{id}", "x");
            assert_eq!(find(&path), Found::Start(index), "{path}");
            assert_eq!(find(&path.to_uppercase()), Found::Start(index), "{path}");
            assert_eq!(find(&format!("{path}x")), Found::Passes, "{path}");
        }
    }

    #[test]
    fn every_spelling_of_a_start_is_that_start() {
        for (target, route) in [
            ("/api/v1/agent/tasks", 0),
            ("/api/v1/agent/tasks/", 0),
            ("/api/v1/agent/tasks?x=/y", 0),
            ("/API/V1/Agent/TASKS", 0),
            ("//api//v1/agent/tasks", 0),
            ("/./api/v1/x/../agent/tasks", 0),
            ("/api/v1/agent/%2e/tasks", 0),
            ("/api/v1/x/%2e%2e/agent/tasks", 0),
            ("/api/v1/x/%252e%252e/agent/tasks", 0),
            ("/%61pi/v1/agent/tasks", 0),
            ("/api%2Fv1%2fagent/tasks", 0),
            ("/api%252Fv1/agent/tasks", 0),
            ("/api\\v1\\agent\\tasks", 0),
            ("/api%5cv1/agent/tasks", 0),
            ("/api/v1/agent/tasks;x=1", 0),
            ("/api;a/v1;b/agent/tasks", 0),
            ("/api/v1/agent/tasks;x=/../y", 0),
            ("/api/v1/agent/tasks%20", 0),
            ("/api/v1/agent/tasks%09/", 0),
            ("/api/v1/agent/tasks%00.json", 0),
            ("/api/v1/agent/tasks%3fx", 0),
            ("/api/v1/agent/tasks%23x", 0),
            ("/api/v1/agent/tasks#x", 0),
            ("http://host/api/v1/agent/tasks", 0),
            ("HTTPS://user@host:1/api/v1/agent/tasks?q", 0),
            ("//other/api/v1/agent/tasks", 0),
            ("/api/v1/agent/ta%0asks", 0),
            ("/api/v1/agent/tas%E2%84%AAs", 0),
            ("/api/v1/agent/runs/", 1),
            ("/api/v1/agent/runs/a%2Fb/followups", 2),
            ("/api/v1/agent/runs/a%2Ffollowups", 2),
            ("/api/v1/agent/runs//followups", 2),
            ("/webhooks/w/u1", 3),
            ("/webhooks/w/u1/t1", 4),
            ("/files/a/b/c", 5),
        ] {
            assert_eq!(find("POST", target), Found::Start(route), "{target}");
        }
    }

    #[test]
    fn neighbours_pass() {
        for target in [
            "/",
            "",
            "*",
            "/api/v1/agent",
            "/api/v1/agent/runsx",
            "/api/v1/agent/run/s",
            "/api/v1/agent/runs/r1/cancel",
            "/api/v1/agent/runs/a%2Fb/cancel",
            "/api/v1/agent/runs/followups",
            "/x?/api/v1/agent/runs",
            "/api/v1/agent/runs.json",
            "/files",
            "/files/",
            "/webhooks/w",
            "/webhooks/w/",
            "/api/v1/agent/runs/%zz",
        ] {
            assert_eq!(find("POST", target), Found::Passes, "{target}");
        }
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POSTS"] {
            assert_eq!(
                find(method, "/api/v1/agent/runs"),
                Found::Passes,
                "{method}"
            );
        }
    }

    #[test]
    fn readings_that_disagree_are_ambiguous() {
        assert_eq!(find("POST", "/webhooks/w/u%2Ft"), Found::Ambiguous);
        let cased = table(&["POST /runs/batch", "POST /runs/{id}"]);
        let find = |target: &str| cased.find("POST", std::iter::empty(), target.as_bytes());
        assert_eq!(find("/runs/batch"), Found::Start(0));
        assert_eq!(find("/runs/BATCH"), Found::Ambiguous);
        assert_eq!(find("/runs/other"), Found::Start(1));
    }

    #[test]
    fn a_method_can_be_spelled_and_overridden() {
        let runs = b"/api/v1/agent/runs";
        let find = |method, over: &'static [u8]| api().find(method, std::iter::once(over), runs);
        assert_eq!(find("post", b""), Found::Start(1));
        assert_eq!(find("GET", b"POST"), Found::Start(1));
        assert_eq!(find("PUT", b" post "), Found::Start(1));
        assert_eq!(find("POST", b"GET"), Found::Start(1));
        assert_eq!(find("GET", b"PATCH"), Found::Passes);
        let gets = table(&["GET /go"]);
        assert_eq!(
            gets.find("HEAD", std::iter::empty(), b"/go"),
            Found::Start(0)
        );
    }

    #[test]
    fn absurd_paths_are_ambiguous_and_cheap() {
        let absurd = "/%252e;%5c%20//..%3f%23%00".repeat(400);
        let started = std::time::Instant::now();
        assert_eq!(find("POST", &absurd), Found::Ambiguous);
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
        assert_eq!(find("GET", &absurd), Found::Passes);
    }

    /// Ways to disguise a path that some upstream undoes.
    pub(super) fn disguise(path: &str, way: u8, at: usize) -> String {
        let slashes: Vec<usize> = path
            .char_indices()
            .filter(|(_, c)| *c == '/')
            .map(|(i, _)| i)
            .collect();
        let slash = slashes[at % slashes.len()];
        let (head, tail) = path.split_at(slash);
        match way {
            0 => format!("{head}/{tail}"),
            1 => format!("{head}/.{tail}"),
            2 => format!("{head}/x/..{tail}"),
            3 => format!("{head}/%2e{tail}"),
            4 => format!("{head};p=1{tail}"),
            5 => format!("{path}/"),
            6 => format!("{path}%20"),
            7 => format!("{path}%3fq"),
            8 => path.to_ascii_uppercase(),
            _ => format!("{head}/y/%2e%2E{tail}"),
        }
    }

    pub(super) fn encode(path: &str, at: usize) -> String {
        let at = 1 + at % (path.len() - 1);
        let (head, tail) = path.split_at(at);
        let mut chars = tail.chars();
        let first = chars.next().unwrap();
        format!("{head}%{:02x}{}", u32::from(first), chars.as_str())
    }

    proptest! {
        #[test]
        fn no_disguise_gets_past(
            ways in proptest::collection::vec((0_u8..10, any::<usize>()), 0..4),
            encodings in proptest::collection::vec(any::<usize>(), 0..3),
        ) {
            let mut path = "/api/v1/agent/tasks".to_owned();
            // Encoded first: a disguise may carry a percent sign of its own,
            // and nobody decodes three times.
            for at in encodings {
                path = encode(&path, at);
            }
            for (way, at) in ways {
                path = disguise(&path, way, at);
            }
            prop_assert_eq!(find("POST", &path), Found::Start(0), "{}", path);
        }

        #[test]
        fn ids_of_any_bytes_pass_or_match_and_never_panic(id in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut target = b"/api/v1/agent/runs/".to_vec();
            target.extend(&id);
            let _ = api().find("POST", std::iter::empty(), &target);
            let encoded: String = id.iter().map(|b| format!("%{b:02X}")).collect();
            let target = format!("/api/v1/other/{}x/cancel", encoded.replace("%2F", "-"));
            let _ = find("POST", &target);
        }

        #[test]
        fn plain_ids_are_never_taken_for_a_start(id in "[A-Za-z0-9_~-]{1,40}") {
            let found = find("POST", &format!("/api/v1/agent/runs/{id}/cancel"));
            prop_assert_eq!(found, Found::Passes);
        }
    }
}
