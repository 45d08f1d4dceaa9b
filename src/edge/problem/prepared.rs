//! Answers of which a request changes nothing but `instance`.
//!
//! [`Prepared`] is what is the same for all requests. [`Ready`] goes further,
//! for answers that have to be cheap: its headers are copied as they are, with
//! all that Pingora will put a value into already in its place, so that nothing
//! is looked up by name or grows.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use pingora_http::ResponseHeader;
use serde::Serialize;

use super::Problem;
use super::style::{About, Rendered};
use crate::telemetry::json::put_text;

/// The problem body (RFC 9457), each name once: what stands before `instance`,
/// and what stands behind it.
#[derive(Serialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Tail<'a> {
    error: &'a str,
    retryable: bool,
}

/// The parts of an answer that no request changes.
pub(super) struct Prepared {
    pub(super) header: ResponseHeader,
    before_instance: Vec<u8>,
    after_instance: Vec<u8>,
}

impl Prepared {
    /// With this header, whose length is still to come.
    pub(super) fn new(header: ResponseHeader, type_base: &str, problem: &Problem) -> Self {
        let head = Head {
            kind: &format!("{type_base}{}/", problem.code.slug()),
            title: problem.title,
            status: problem.status,
            detail: problem.detail.as_deref(),
        };
        let tail = Tail {
            error: &problem.sentence(),
            retryable: problem.retryable(),
        };
        // Two objects become one: the closing brace of the one and the opening
        // brace of the other go.
        let mut before_instance = serde_json::to_vec(&head).unwrap_or_default();
        before_instance.pop();
        before_instance.extend_from_slice(b",\"instance\":");
        let mut after_instance = serde_json::to_vec(&tail).unwrap_or_default();
        if let Some(brace) = after_instance.first_mut() {
            *brace = b',';
        }
        Prepared {
            header,
            before_instance,
            after_instance,
        }
    }

    /// The body of the answer to a request.
    pub(super) fn body(&self, problem: &Problem, about: About<'_>) -> Vec<u8> {
        // Two quotes; what has to be escaped makes it grow.
        let length = [self.before_instance.len(), about.instance.len(), 2]
            .into_iter()
            .fold(self.after_instance.len(), usize::saturating_add);
        let mut body = Vec::with_capacity(length);
        body.extend_from_slice(&self.before_instance);
        put_text(&mut body, about.instance);
        body.extend_from_slice(&self.after_instance);
        if problem.code.asks_for_support() {
            body.pop();
            // Hex needs no escaping.
            body.extend_from_slice(format!(",\"trace_id\":\"{}\"}}", about.trace_id).as_bytes());
        }
        body
    }
}

/// An answer that has to be cheap.
pub(super) struct Ready {
    problem: Problem,
    prepared: Prepared,
    /// All headers, in the order in which they are sent.
    headers: HeaderMap,
}

impl Ready {
    pub(super) fn new(problem: Problem, prepared: Prepared) -> Self {
        let known = &prepared.header.headers;
        let mut headers = HeaderMap::with_capacity(known.len().saturating_add(3));
        for (name, value) in known {
            headers.append(name.clone(), value.clone());
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        // Pingora puts its own in their places, or takes them away where the
        // protocol has none.
        headers.insert(
            DATE,
            HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"),
        );
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        Ready {
            problem,
            prepared,
            headers,
        }
    }

    /// Whether it is the answer for this problem.
    pub(super) fn is(&self, problem: &Problem) -> bool {
        self.problem == *problem
    }

    /// The parts that no request changes.
    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The answer to a request.
    pub(super) fn rendered(&self, about: About<'_>) -> Rendered {
        let body = self.prepared.body(&self.problem, about);
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut answer = http::Response::new(());
        *answer.status_mut() = self.prepared.header.status;
        *answer.headers_mut() = headers;
        Rendered {
            header: Box::new(answer.into_parts().0.into()),
            body,
            trailers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::admission::Refusal;
    use crate::config;
    use crate::edge::problem::style::Style;

    #[test]
    fn a_cheap_answer_is_the_same_as_any() {
        let style = Style::new(&config::Problem {
            billing_url: Some("https://example.com/billing".parse().unwrap()),
            ..config::Problem::default()
        });
        let headers = HeaderMap::new();
        for instance in ["/api/v1/agent/tasks", "/a\"b\\\u{1}ä", ""] {
            for problem in [
                Problem::refused(Refusal::InsufficientCredits),
                Problem::unavailable(),
            ] {
                let about = About {
                    instance,
                    headers: &headers,
                    trace_id: "",
                };
                let mut cheap = style.http(&problem, about).unwrap();
                let any = style.open(&problem, about).unwrap();
                assert_eq!(cheap.body, any.body);
                let body: serde_json::Value = serde_json::from_slice(&cheap.body).unwrap();
                assert_eq!(body["instance"], instance);
                // Pingora's, and in the places where it would put them.
                let names = cheap.header.headers.keys().map(|name| name.as_str());
                let last: Vec<_> = names.skip(any.header.headers.keys_len()).collect();
                assert_eq!(last, ["date", "connection"]);
                cheap.header.remove_header("connection");
                cheap.header.remove_header("date");
                assert_eq!(cheap.header.headers, any.header.headers);
                assert_eq!(cheap.header.status, any.header.status);
                assert_eq!(cheap.header.version, any.header.version);
            }
        }
    }
}
