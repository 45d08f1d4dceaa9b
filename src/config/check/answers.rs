//! Answers made at the edge.

use super::super::Problem;
use super::super::values::Origin;
use super::{Report, is_reserved_header};

/// Headers that the gateway sets itself on its answers, and what to do instead.
const SET_BY_GATEWAY: [(&str, &str); 8] = [
    (
        "cache-control",
        "leave it out: answers made at the edge are never stored",
    ),
    ("content-type", "leave it out: it follows from the protocol"),
    ("date", "leave it out"),
    ("grpc-status", "leave it out: it follows from the answer"),
    ("proxy-status", "leave it out: it says what happened"),
    ("retry-after", "leave it out: it follows from the answer"),
    (
        "www-authenticate",
        "leave it out: it follows from `identity`",
    ),
    (
        "x-should-retry",
        "leave it out: a wrong one makes clients pay twice",
    ),
];

pub fn check(problem: &Problem, report: &mut Report) {
    let base = problem.type_base.as_str();
    let is_reference = base.starts_with('/')
        || base
            .split_once(':')
            .is_some_and(|(scheme, _)| is_scheme(scheme));
    if !is_reference || base.contains([' ', '"', '<', '>', '\\', '#', '?']) {
        report.shown(
            "problem.type_base",
            base.to_owned(),
            "is not the beginning of a URI: write a path or an absolute URL that ends in a slash, such as https://example.com/errors/",
        );
    }
    for name in problem.headers.keys().map(|field| field.name().as_str()) {
        let at = format!("problem.headers.{name}");
        let advice = SET_BY_GATEWAY
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, advice)| *advice);
        let advice = match advice {
            Some(advice) => advice,
            None if is_reserved_header(name) => {
                "leave it out: it belongs to the protocol or to the gateway"
            }
            None if name.starts_with("access-control-") => "write `problem.cors` instead",
            None if name == "link" && problem.billing_url.is_some() => {
                "`billing_url` sends a Link already"
            }
            None => continue,
        };
        report.key(
            &at,
            &[&at],
            format!("`{name}` cannot be set here: {advice}"),
        );
    }
    if let Some(cors) = &problem.cors {
        let advice =
            "write the origins that may read the answers, such as \"https://app.example.com\"";
        report.not_empty("problem.cors.origins", &cors.origins, advice);
        let any = cors.origins.iter().position(Origin::is_any);
        if let (Some(any), true) = (any, cors.origins.len() > 1) {
            let at = format!("problem.cors.origins[{any}]");
            report.clash(
                &at,
                "problem.cors.origins",
                "\"*\" allows every origin: write it alone, or leave it out",
            );
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}
