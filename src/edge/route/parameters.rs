//! What stands in the parameters of a path, under every reading of it.
//!
//! A parameter may decide who pays, so it may no more be misread than the
//! route itself: all readings that are the route have to agree about it, or it
//! has no value. In a path as it was received a segment is percent-decoded
//! once; in one that was decoded as a whole it is taken as it stands. Whoever
//! decodes twice must find the same.

use std::borrow::Cow;

use super::readings::{DECODES_MAX, Readings, decode, is_plain};
use crate::config::pattern::{Segment, StartPattern};

/// The parameters of one target's path.
pub struct Parameters<'a> {
    pattern: &'a StartPattern,
    readings: Readings<'a>,
}

impl<'a> Parameters<'a> {
    /// Reads the path of a target that was found to be this route.
    #[must_use]
    pub fn of(pattern: &'a StartPattern, target: &'a [u8]) -> Self {
        Parameters {
            pattern,
            readings: Readings::of(target),
        }
    }

    /// What stands in this parameter; `None` if readings disagree about it, if
    /// there are too many of them, or if none is this route.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Vec<u8>> {
        let paths = match &self.readings {
            Readings::Plain(path) => {
                // Nothing in it can be decoded.
                return raw(self.pattern, path, name).map(<[u8]>::to_vec);
            }
            Readings::Several(paths) => paths,
            Readings::TooMany => return None,
        };
        let mut value: Option<Vec<u8>> = None;
        for (path, decodes) in paths {
            let Some(raw) = raw(self.pattern, path, name) else {
                continue;
            };
            let read = decoded_once(raw, *decodes)?;
            match &value {
                Some(known) if **known != *read => return None,
                Some(_) => {}
                None => value = Some(read.into_owned()),
            }
        }
        value.filter(|value| !is_hidden(value) || is_plain(value))
    }
}

/// A segment after one decoding; `None` if a second one would change it.
fn decoded_once(raw: &[u8], decodes: u8) -> Option<Cow<'_, [u8]>> {
    let once = match decodes {
        0 => decode(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
        _ => Cow::Borrowed(raw),
    };
    let is_final = decodes >= DECODES_MAX || decode(&once).is_none();
    is_final.then_some(once)
}

/// Whether a value can stand in a segment only while that is encoded. What
/// other readings would make of the rest of it was not worked out then.
fn is_hidden(value: &[u8]) -> bool {
    value.iter().any(|byte| matches!(byte, b'/' | b'\\'))
}

/// What stands in a parameter of a path, if the path matches the pattern: with
/// literals in whatever case, without its outer slashes, as routes are found.
fn raw<'p>(pattern: &StartPattern, path: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut rest = path.strip_suffix(b"/").unwrap_or(path);
    let mut found = None;
    for segment in pattern.segments() {
        // What is missing is no segment, not even an empty one.
        if rest.is_empty() {
            return None;
        }
        if let Segment::CatchAll(catch_all) = segment {
            return if catch_all == name { Some(rest) } else { found };
        }
        let end = rest.iter().position(|byte| *byte == b'/');
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix(b"/").unwrap_or(after);
        match segment {
            Segment::Literal(text) if text.as_bytes().eq_ignore_ascii_case(part) => {}
            Segment::Literal(_) => return None,
            Segment::Parameter(parameter) if parameter == name => found = Some(part),
            Segment::Parameter(_) | Segment::CatchAll(_) => {}
        }
    }
    found.filter(|_| rest.is_empty())
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    use super::super::readings::{STEPS, received_path};
    use super::super::tests::{disguise, encode};
    use super::super::{Found, Table};
    use super::*;
    use proptest::prelude::*;

    const FOLLOWUPS: &str = "POST /api/v1/agent/runs/{run}/followups";

    fn pattern(text: &str) -> StartPattern {
        text.parse().unwrap()
    }

    fn value(route: &str, target: &str, name: &str) -> Option<String> {
        let pattern = pattern(route);
        let value = Parameters::of(&pattern, target.as_bytes()).value(name)?;
        Some(String::from_utf8(value).unwrap())
    }

    fn run(middle: &str) -> Option<String> {
        value(
            "POST /runs/{run}/followups",
            &format!("/runs/{middle}/followups"),
            "run",
        )
    }

    #[test]
    fn an_id_is_decoded_once() {
        for (written, id) in [
            ("r1", "r1"),
            ("a%2Fb", "a/b"),
            ("a%2fb%2fc", "a/b/c"),
            ("%72%31", "r1"),
            ("a%20b", "a b"),
            ("caf%C3%A9", "café"),
            ("a%3Ab", "a:b"),
            ("a+b", "a+b"),
            ("100%25", "100%"),
            ("%zz", "%zz"),
        ] {
            assert_eq!(run(written).as_deref(), Some(id), "{written}");
        }
        let target = "http://h/Runs//r1/FOLLOWUPS/?q=/x";
        let found = value("POST /runs/{run}/followups", target, "run");
        assert_eq!(found.as_deref(), Some("r1"));
    }

    #[test]
    fn readings_that_disagree_leave_no_value() {
        for written in [
            "a;b",
            "a%3Bb",
            "a%20",
            "%20a",
            "a%2520b",
            "a%252Fb",
            "a%2Fb%2525",
            "a%2F..%2Fb",
            "x%2F..%2Fa%2F..%2Fb",
            "a%2F",
            "%2Fa",
            "a%2F.",
            "a%2F%2Fb",
            "a%2Fb%3Bc",
            "a%2Fb%5Cc",
            "a%2Fb%20",
            "a%5Cb",
            "%E2%84%AA",
            "a%00",
            "%2561",
        ] {
            assert_eq!(run(written), None, "{written}");
        }
        let two = "/runs/a/followups%3F/../../b/followups";
        assert_eq!(value("POST /runs/{run}/followups", two, "run"), None);
        let last = "/w/u1/t1%3Fx";
        assert_eq!(value("POST /w/{uid}/{token}", last, "token"), None);
        assert_eq!(
            value("POST /w/{uid}/{token}", last, "uid").as_deref(),
            Some("u1")
        );
    }

    #[test]
    fn each_parameter_has_its_place() {
        let route = "POST /w/{uid}/x/{*rest}";
        for (target, uid, rest) in [
            ("/w/u1/x/a/b", Some("u1"), Some("a/b")),
            ("/W/u1/X/a%2Fb/", Some("u1"), Some("a/b")),
            ("/w/u1/x", None, None),
            ("/w/u1/y/a", None, None),
            ("/w//x/a", Some(""), Some("a")),
        ] {
            assert_eq!(value(route, target, "uid").as_deref(), uid, "{target}");
            assert_eq!(value(route, target, "rest").as_deref(), rest, "{target}");
            assert_eq!(value(route, target, "other"), None, "{target}");
        }
        for target in ["/w/u1", "/w/u1/t1/more", "/w/u1//"] {
            assert_eq!(value("POST /w/{uid}/{token}", target, "uid"), None);
        }
    }

    #[test]
    fn absurd_paths_have_no_value_and_are_cheap() {
        let absurd = format!(
            "/runs{}/followups",
            "/%252e;%5c%20//..%3f%23%00".repeat(400)
        );
        let started = std::time::Instant::now();
        assert_eq!(value("POST /runs/{run}/followups", &absurd, "run"), None);
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }

    /// One upstream: it takes these steps in this order, and then finds the
    /// route and decodes what stands in it: if it did not decode before, and
    /// once more if it is one of those.
    fn upstream(
        pattern: &StartPattern,
        target: &[u8],
        steps: &[usize],
        last: u8,
    ) -> Option<Vec<u8>> {
        let mut path = received_path(target).to_vec();
        let mut decodes = 0;
        for step in steps {
            let next = match STEPS.get(*step) {
                Some(step) => step(&path),
                None if decodes < DECODES_MAX => {
                    decodes += 1;
                    decode(&path)
                }
                None => None,
            };
            path = next.unwrap_or(path);
        }
        let mut found = raw(pattern, &path, "run")?.to_vec();
        while decodes < last {
            decodes += 1;
            found = decode(&found).unwrap_or(found);
        }
        Some(found)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_upstream_reads_another_run(
            pieces in proptest::collection::vec(
                prop::sample::select(vec![
                    "a", "b", "runs", "followups", "/", "/", "/", ".", "..", "%2F", "%2e", "%25",
                    "%252F", "%5C", "\\", ";", "%3B", "%3F", "%23", "%20", "%09", "%00", "2F", "x",
                ]),
                0..8,
            ),
            // Decoding as often as all the other steps together.
            steps in proptest::collection::vec(0..2 * STEPS.len(), 0..6),
            last in 1..=DECODES_MAX,
        ) {
            let pattern = pattern("POST /runs/{run}/followups");
            let target = format!("/runs/{}/followups", pieces.concat());
            let value = Parameters::of(&pattern, target.as_bytes()).value("run");
            let read = upstream(&pattern, target.as_bytes(), &steps, last);
            if let (Some(value), Some(read)) = (value, read) {
                prop_assert_eq!(value, read, "{}", target);
            }
        }
    }

    proptest! {
        #[test]
        fn a_disguised_path_names_the_same_run_or_none(
            id in "[A-Z0-9]{1,22}",
            ways in proptest::collection::vec((0_u8..10, any::<usize>()), 0..4),
            encodings in proptest::collection::vec(any::<usize>(), 0..3),
        ) {
            let pattern = pattern(FOLLOWUPS);
            let mut path = format!("/api/v1/agent/runs/{id}/followups");
            for at in encodings {
                path = encode(&path, at);
            }
            for (way, at) in ways {
                path = disguise(&path, way, at);
            }
            let value = Parameters::of(&pattern, path.as_bytes()).value("run");
            if let Some(value) = value {
                prop_assert_eq!(String::from_utf8(value).unwrap(), id, "{}", path);
            }
        }

        #[test]
        fn an_encoded_id_of_any_plain_letters_is_itself(id in "[A-Za-z0-9_~:@-]{1,40}(/[A-Za-z0-9_~:@-]{1,9})?") {
            let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let target = format!("/api/v1/agent/runs/{encoded}/followups");
            let found = value(FOLLOWUPS, &target, "run");
            prop_assert_eq!(found, Some(id));
        }

        #[test]
        fn what_has_a_value_is_the_route(target in "/(runs|RUNS)(/|%2F|//)[a-c%25;./]{0,9}/followups/?") {
            let pattern = pattern("POST /runs/{run}/followups");
            let value = Parameters::of(&pattern, target.as_bytes()).value("run");
            if value.is_some() {
                let table = Table::new([&pattern]);
                let found = table.find("POST", std::iter::empty(), target.as_bytes());
                prop_assert_eq!(found, Found::Start(0));
            }
        }
    }
}
