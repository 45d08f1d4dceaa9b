//! [`StartPattern`]: the form of a route, `POST /runs/{id}/followups`.
//!
//! This is the form alone. Which requests it matches, under every reading an
//! upstream might make of them, is in [`crate::edge::route`].

use std::fmt;
use std::str::FromStr;

use super::values::{Form, Unfit, text_form};

/// A method and a path with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPattern {
    method: String,
    segments: Vec<Segment>,
}

/// One segment of a pattern's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text, compared without regard to case.
    Literal(String),
    /// Any one segment.
    Parameter(String),
    /// All segments that follow, at least one.
    CatchAll(String),
}

impl StartPattern {
    /// The method, in upper case.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The segments of the path. None: the path is `/`.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The path as it was written.
    #[must_use]
    pub fn path(&self) -> String {
        if self.segments.is_empty() {
            return "/".to_owned();
        }
        self.segments
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect()
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Segment::Literal(text) => f.write_str(text),
            Segment::Parameter(name) => write!(f, "{{{name}}}"),
            Segment::CatchAll(name) => write!(f, "{{*{name}}}"),
        }
    }
}

impl fmt::Display for StartPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path())
    }
}

impl Form for StartPattern {
    const FORMAT: &'static str = "start-route";
    const NOUN: &'static str = "a route";
    const ADVICE: &'static str =
        "write a method and a path, such as POST /api/v1/agent/runs/{id}/followups";
    const EXAMPLES: &'static [&'static str] = &[
        "POST /api/v1/agent/runs",
        "POST /api/v1/agent/runs/{id}/followups",
        "POST /hooks/{*rest}",
    ];
    const PATTERN: Option<&'static str> = Some("^[A-Za-z]+ +/");
}

impl FromStr for StartPattern {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let Some((method, path)) = text.split_once(' ') else {
            return Err(if text.starts_with('/') {
                Self::unfit_because(format!("the method is missing, write POST {text}"))
            } else {
                Self::unfit()
            });
        };
        let path = path.trim_start();
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(Self::unfit_because(
                "the method must be letters alone, such as POST",
            ));
        }
        let Some(rest) = path.strip_prefix('/') else {
            return Err(Self::unfit_because(
                "the path must begin with `/`: leave out scheme and host, such as POST /api/v1/agent/runs",
            ));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let segments = parse_segments(rest)?;
        let names: Vec<&str> = segments.iter().filter_map(Segment::name).collect();
        for (i, name) in names.iter().enumerate() {
            if names
                .iter()
                .skip(i.saturating_add(1))
                .any(|other| other == name)
            {
                return Err(Self::unfit_because(format!(
                    "the parameter `{name}` stands twice, give each its own name"
                )));
            }
        }
        Ok(StartPattern {
            method: method.to_ascii_uppercase(),
            segments,
        })
    }
}

text_form!(StartPattern);

impl Segment {
    /// The parameter's name, for a segment that has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::CatchAll(name) => Some(name),
        }
    }
}

fn parse_segments(path: &str) -> Result<Vec<Segment>, Unfit> {
    let mut segments = Vec::new();
    if path.is_empty() {
        return Ok(segments);
    }
    for segment in path.split('/') {
        if matches!(segments.last(), Some(Segment::CatchAll(_))) {
            return Err(StartPattern::unfit_because(
                "a catch-all {*name} must be the last segment",
            ));
        }
        segments.push(parse_segment(segment)?);
    }
    Ok(segments)
}

fn parse_segment(segment: &str) -> Result<Segment, Unfit> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if let Some(inner) = segment
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        let (name, catch_all) = match inner.strip_prefix('*') {
            Some(name) => (name, true),
            None => (inner, false),
        };
        if !is_name(name) {
            return Err(StartPattern::unfit_because(format!(
                "`{segment}`: a parameter is {{name}} or {{*name}}, of letters, digits and _"
            )));
        }
        let name = name.to_owned();
        return Ok(if catch_all {
            Segment::CatchAll(name)
        } else {
            Segment::Parameter(name)
        });
    }
    if segment.is_empty() {
        return Err(StartPattern::unfit_because(
            "write single slashes: spellings with repeated ones match by themselves",
        ));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&b);
    if segment == "." || segment == ".." || !segment.bytes().all(plain) {
        return Err(StartPattern::unfit_because(format!(
            "`{segment}` cannot be a segment: write it decoded and plain, without dot segments, blanks, `%`, `;`, `?` or `#` (other spellings match by themselves), and a parameter as a whole segment, {{name}}"
        )));
    }
    Ok(Segment::Literal(segment.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_patterns() {
        for (text, printed) in [
            ("POST /api/v1/agent/runs", "POST /api/v1/agent/runs"),
            ("post /a/{id}/b/", "POST /a/{id}/b"),
            ("POST /w/{uid}/{*rest}", "POST /w/{uid}/{*rest}"),
            ("GET /", "GET /"),
        ] {
            assert_eq!(text.parse::<StartPattern>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn refuses_what_it_could_not_match_safely() {
        for text in [
            "",
            "POST",
            "/a",
            "POST a",
            "PO-ST /a",
            "POST /a//b",
            "POST /a/../b",
            "POST /a/%2F",
            "POST /a;b",
            "POST /a?b",
            "POST /{*rest}/b",
            "POST /{id}/{id}",
            "POST /{}",
            "POST /x{id}",
        ] {
            assert!(text.parse::<StartPattern>().is_err(), "{text}");
        }
    }
}
