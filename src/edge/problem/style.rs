//! How a problem looks on the wire: HTTP, HEAD, gRPC, and what the operator
//! may choose about it.

use std::sync::Arc;

use http::Version;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_LENGTH,
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, ORIGIN, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE,
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::prepared::{Prepared, Ready};
use super::{Code, Problem, Retry};
use crate::billing::admission::Refusal;
use crate::config;

/// What an answer needs to know about the request it answers.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The path as received.
    pub instance: &'a str,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The trace that the request belongs to.
    pub trace_id: &'a str,
}

/// An answer, ready to be written.
#[derive(Debug)]
pub struct Rendered {
    /// Status and headers. On the heap, where Pingora wants it.
    pub header: Box<ResponseHeader>,
    /// The body; empty for gRPC.
    pub body: Vec<u8>,
    /// gRPC's trailers, where the answer is one of gRPC over HTTP/2.
    pub trailers: Option<HeaderMap>,
}

/// How the operator wants answers to look.
pub struct Style {
    type_base: String,
    /// Headers for every answer: the configured ones, and the help link.
    headers: Vec<(HeaderName, HeaderValue)>,
    help: Option<HeaderValue>,
    billing_url: Option<Arc<str>>,
    cors: Option<Cors>,
    /// Whether a team whose credits are held is told when to come again.
    held_retry_after: bool,
    /// Answers that have to be cheap.
    ready: Vec<Ready>,
}

struct Cors {
    origins: Vec<String>,
    max_age_seconds: String,
}

/// Headers that an answer has, about.
pub(super) const HEADERS: usize = 12;

/// Answer headers that a script in a browser may read.
const EXPOSED: &str = "x-should-retry, retry-after, proxy-status, www-authenticate, link";

impl Style {
    /// Takes the style as configured.
    #[must_use]
    pub fn new(configured: &config::Problem) -> Self {
        // Both come from types that hold valid header values only.
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let headers = configured.headers.iter();
        let headers = headers
            .filter_map(|(name, text)| Some((name.name().clone(), value(text.as_str())?)))
            .collect();
        let help = configured.billing_url.as_ref();
        let help = help.and_then(|url| value(&format!("<{}>; rel=\"help\"", url.as_str())));
        let cors = configured.cors.as_ref().map(|cors| Cors {
            origins: cors
                .origins
                .iter()
                .map(|origin| origin.as_str().to_owned())
                .collect(),
            max_age_seconds: cors.max_age.duration().as_secs().to_string(),
        });
        let mut style = Style {
            type_base: configured.type_base.as_str().to_owned(),
            headers,
            help,
            billing_url: configured
                .billing_url
                .as_ref()
                .map(|url| url.as_str().into()),
            cors,
            held_retry_after: configured.held_retry_after,
            ready: Vec::new(),
        };
        // What a storm of requests is answered with: no credits, no key, no
        // ledger.
        let often = [
            Problem::refused(Refusal::InsufficientCredits),
            Problem::for_good(401, Code::AuthenticationRequired),
            Problem::unavailable(),
        ];
        let ready = often.into_iter().filter_map(|problem| {
            let prepared = style.prepare(&problem).ok()?;
            Some(Ready::new(problem, prepared))
        });
        style.ready = ready.collect();
        style
    }

    /// Where credits can be bought.
    #[must_use]
    pub fn billing_url(&self) -> Option<&Arc<str>> {
        self.billing_url.as_ref()
    }

    /// What the types of problems begin with.
    #[must_use]
    pub fn type_base(&self) -> &str {
        &self.type_base
    }

    /// The answer for HTTP.
    ///
    /// # Errors
    /// If a header cannot be built, which would be a mistake in this file.
    pub fn http(&self, problem: &Problem, about: About<'_>) -> pingora_error::Result<Rendered> {
        match self.ready(problem) {
            Some(ready) if self.allowed_origin(about.headers).is_none() => {
                Ok(ready.rendered(about))
            }
            _ => self.open(problem, about),
        }
    }

    /// As [`Style::http`], where more headers may follow.
    pub(super) fn open(
        &self,
        problem: &Problem,
        about: About<'_>,
    ) -> pingora_error::Result<Rendered> {
        let made;
        let prepared = match self.ready(problem) {
            Some(ready) => ready.prepared(),
            None => {
                made = self.prepare(problem)?;
                &made
            }
        };
        let body = prepared.body(problem, about);
        let mut header = prepared.header.clone();
        header.insert_header(CONTENT_LENGTH, body.len())?;
        self.share(about, &mut header)?;
        Ok(Rendered {
            header: Box::new(header),
            body,
            trailers: None,
        })
    }

    fn ready(&self, problem: &Problem) -> Option<&Ready> {
        self.ready.iter().find(|ready| ready.is(problem))
    }

    /// Makes the parts of an answer that no request changes.
    fn prepare(&self, problem: &Problem) -> pingora_error::Result<Prepared> {
        let header = self.header(problem, problem.status, "application/problem+json")?;
        Ok(Prepared::new(header, &self.type_base, problem))
    }

    /// The answer for gRPC: the status in trailers over HTTP/2, and among the
    /// headers over HTTP/1.1, where a caller that says it speaks gRPC looks
    /// for it as it does in an answer without a body.
    ///
    /// # Errors
    /// As for [`Style::http`].
    pub fn grpc(
        &self,
        problem: &Problem,
        about: About<'_>,
        version: Version,
    ) -> pingora_error::Result<Rendered> {
        let mut header = self.header(problem, 200, "application/grpc")?;
        self.share(about, &mut header)?;
        let status = HeaderValue::from_static(problem.code.grpc_status());
        let message = HeaderValue::from_str(&grpc_message(&problem.sentence()));
        let named = [("grpc-status", Ok(status)), ("grpc-message", message)];
        // The encoding leaves visible ASCII, which a header value may hold.
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.ok()?)));
        let body = Vec::new();
        if version == Version::HTTP_2 {
            let named = named.map(|(name, value)| (HeaderName::from_static(name), value));
            let trailers = Some(named.collect());
            return Ok(Rendered {
                header: Box::new(header),
                body,
                trailers,
            });
        }
        for (name, value) in named {
            header.insert_header(name, value)?;
        }
        header.insert_header(CONTENT_LENGTH, 0)?;
        Ok(Rendered {
            header: Box::new(header),
            body,
            trailers: None,
        })
    }

    /// The headers that no request changes.
    fn header(
        &self,
        problem: &Problem,
        status: u16,
        content_type: &'static str,
    ) -> pingora_error::Result<ResponseHeader> {
        let mut header = ResponseHeader::build_no_case(status, Some(HEADERS))?;
        // Values that are not on the heap cost nothing to copy.
        header.insert_header(CONTENT_TYPE, HeaderValue::from_static(content_type))?;
        header.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
        if let Some(should_retry) = problem.should_retry() {
            let should_retry = HeaderValue::from_static(should_retry);
            header.insert_header("x-should-retry", should_retry)?;
        }
        match problem.retry {
            Retry::Soon => header.insert_header(RETRY_AFTER, "1")?,
            Retry::NotBefore(seconds) if self.held_retry_after => {
                header.insert_header(RETRY_AFTER, seconds)?;
            }
            _ => {}
        }
        if problem.code == Code::AuthenticationRequired {
            header.insert_header(WWW_AUTHENTICATE, problem.challenge)?;
        }
        header.insert_header("proxy-status", problem.proxy_status())?;
        self.add_headers(&mut header)?;
        if let Some(help) = &self.help
            && problem.code == Code::InsufficientCredits
        {
            header.append_header(LINK, help.clone())?;
        }
        Ok(header)
    }

    /// Adds what the operator wants in every answer.
    pub(super) fn add_headers(&self, header: &mut ResponseHeader) -> pingora_error::Result<()> {
        for (name, value) in &self.headers {
            header.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    /// Lets a browser's script read an answer, if its origin may.
    fn share(&self, about: About<'_>, header: &mut ResponseHeader) -> pingora_error::Result<()> {
        if let Some(origin) = self.allowed_origin(about.headers) {
            header.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
            header.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
            header.append_header(VARY, "origin")?;
        }
        Ok(())
    }

    /// The answer to a preflight (Fetch standard, section 3.2.2), if answers
    /// made at the edge may be read from the request's origin.
    pub fn preflight(&self, headers: &HeaderMap) -> Option<pingora_error::Result<Rendered>> {
        let origin = self.allowed_origin(headers)?.clone();
        let cors = self.cors.as_ref()?;
        let method = headers.get("access-control-request-method")?;
        Some((|| {
            let mut header = ResponseHeader::build_no_case(204, Some(8))?;
            header.insert_header("access-control-allow-origin", origin)?;
            header.insert_header("access-control-allow-methods", method.clone())?;
            if let Some(wanted) = headers.get("access-control-request-headers") {
                header.insert_header("access-control-allow-headers", wanted.clone())?;
            }
            header.insert_header("access-control-max-age", cors.max_age_seconds.as_str())?;
            header.insert_header("vary", "origin")?;
            self.add_headers(&mut header)?;
            Ok(Rendered {
                header: Box::new(header),
                body: Vec::new(),
                trailers: None,
            })
        })())
    }

    /// The request's origin, if it is one of the configured.
    fn allowed_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let cors = self.cors.as_ref()?;
        let origin = headers.get(ORIGIN)?;
        let allowed = |known: &String| known == "*" || known.as_bytes() == origin.as_bytes();
        cors.origins.iter().any(allowed).then_some(origin)
    }
}

/// The bare answer for places that have no configured style at hand, such as a
/// connection over the bound: complete bytes, for HTTP/1.1, closing.
#[must_use]
pub fn bare_http1(problem: &Problem, type_base: &str) -> Vec<u8> {
    let mut body = serde_json::json!({
        "type": format!("{type_base}{}/", problem.code.slug()),
        "title": problem.title,
        "status": problem.status,
        "error": problem.sentence(),
        "retryable": problem.retryable(),
    });
    if let (Some(detail), Some(body)) = (&problem.detail, body.as_object_mut()) {
        body.insert("detail".to_owned(), detail.as_ref().into());
    }
    let body = body.to_string();
    let status = http::StatusCode::from_u16(problem.status).unwrap_or_default();
    let retry_after = if problem.retry == Retry::Soon {
        "retry-after: 1\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nx-should-retry: {}\r\n{retry_after}\
         proxy-status: tollgate; error={}; details=\"{}\"\r\nconnection: close\r\n\r\n{body}",
        body.len(),
        problem.should_retry().unwrap_or("false"),
        problem.proxy_error,
        problem.code.name(),
    )
    .into_bytes()
}

/// Whether the caller speaks gRPC, which has a form of its own for answers.
#[must_use]
pub fn is_grpc(head: &RequestHeader) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The percent-encoding of `grpc-message`: everything outside visible ASCII
/// and the blank, and the percent sign itself.
fn grpc_message(sentence: &str) -> String {
    let mut message = String::with_capacity(sentence.len());
    for byte in sentence.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            message.push(char::from(byte));
        } else {
            message.push_str(&format!("%{byte:02X}"));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, SetAside, UpstreamFault};
    use super::*;
    use crate::billing::hold::Held;
    use std::time::Duration;

    fn style() -> Style {
        Style::new(&config::Problem::default())
    }

    /// The problem of a team with this balance, of which so much is set aside
    /// for so many runs.
    fn held(credits: &str, live: u64, balance: &str, next_end: Option<Duration>) -> Problem {
        let credits = credits.parse().unwrap();
        Problem::credits_held(SetAside {
            held: Held { credits, live },
            balance: balance.parse().unwrap(),
            hold: "20".parse().unwrap(),
            next_end,
        })
    }

    fn render(problem: &Problem, instance: &str) -> (ResponseHeader, String) {
        let headers = HeaderMap::new();
        let about = About {
            instance,
            headers: &headers,
            trace_id: "0af7651916cd43dd8448eb211c80319c",
        };
        let rendered = style().http(problem, about).unwrap();
        (*rendered.header, String::from_utf8(rendered.body).unwrap())
    }

    #[test]
    fn a_refusal_is_the_documented_answer() {
        let (header, body) = render(
            &Problem::refused(Refusal::InsufficientCredits),
            "/api/v1/agent/tasks",
        );
        let sentence = "Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue.";
        assert_eq!(
            body,
            format!(
                r#"{{"type":"/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/","title":"{sentence}","status":403,"instance":"/api/v1/agent/tasks","error":"{sentence}","retryable":false}}"#
            )
        );
        let value = |name: &str| header.headers.get(name).map(|v| v.to_str().unwrap());
        assert_eq!(header.status, 403);
        assert_eq!(value("content-type"), Some("application/problem+json"));
        assert_eq!(value("cache-control"), Some("no-store"));
        assert_eq!(value("x-should-retry"), Some("false"));
        assert_eq!(
            value("proxy-status"),
            Some("tollgate; error=http_request_denied; details=\"insufficient_credits\"")
        );
        assert_eq!(value("retry-after"), None);
    }

    #[test]
    fn held_credits_have_a_sentence_of_their_own_and_say_how_much() {
        let next_end = Some(Duration::from_millis(61_001));
        let (header, body) = render(&held("37.5", 2, "40", next_end), "/x");
        let title = "Your team's remaining add-on credits are set aside for runs in progress. Wait for them to finish, or purchase more credits in your team's billing settings.";
        let detail = "37.5 of 40 credits are set aside for 2 runs, and this run sets 20 aside";
        assert_eq!(
            body,
            format!(
                r#"{{"type":"/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/","title":"{title}","status":403,"detail":"{detail}","instance":"/x","error":"{title} ({detail})","retryable":false}}"#
            )
        );
        assert_eq!(header.headers["x-should-retry"], "false");
        assert_eq!(header.headers["retry-after"], "62");
        assert_eq!(
            header.headers["proxy-status"],
            "tollgate; error=http_request_denied; details=\"insufficient_credits\""
        );
    }

    #[test]
    fn a_team_with_too_few_credits_is_not_told_that_it_has_none() {
        let credits = |text: &str| text.parse().unwrap();
        let problem = Problem::below_hold(credits("10"), credits("20"));
        let (header, body) = render(&problem, "/x");
        let title = "Your team does not have enough add-on credits left for this run. Purchase more credits in your team's billing settings to continue.";
        let detail = "10 credits are left, and this run sets 20 aside";
        assert_eq!(
            body,
            format!(
                r#"{{"type":"/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/","title":"{title}","status":403,"detail":"{detail}","instance":"/x","error":"{title} ({detail})","retryable":false}}"#
            )
        );
        assert_eq!(header.headers["x-should-retry"], "false");
        assert!(!header.headers.contains_key("retry-after"));
    }

    #[test]
    fn what_is_set_aside_is_no_more_than_there_is() {
        for (credits, live, balance, said) in [
            (
                "20",
                1,
                "20",
                "20 of 20 credits are set aside for 1 run, and this run sets 20 aside)",
            ),
            (
                "50",
                3,
                "40.000001",
                "40.000001 of 40.000001 credits are set aside for 3 runs, and this run sets 20 aside)",
            ),
        ] {
            let (_, body) = render(&held(credits, live, balance, None), "/x");
            assert!(body.contains(said), "{body}");
        }
    }

    #[test]
    fn held_credits_are_worth_another_look_when_the_earliest_hold_ends() {
        for (millis, said) in [
            (0, "1"),
            (1, "1"),
            (1_000, "1"),
            (1_001, "2"),
            (59_999, "60"),
        ] {
            let problem = held("1", 1, "1", Some(Duration::from_millis(millis)));
            let (header, _) = render(&problem, "/x");
            assert_eq!(header.headers["retry-after"], said, "{millis} ms");
        }
        let (header, _) = render(&held("1", 1, "1", None), "/x");
        assert!(!header.headers.contains_key("retry-after"));
        let mut silent = style();
        silent.held_retry_after = false;
        let problem = held("1", 1, "1", Some(Duration::from_secs(5)));
        let header = silent.header(&problem, 403, "x/y").unwrap();
        assert!(!header.headers.contains_key("retry-after"));
    }

    #[test]
    fn a_conflict_is_not_sent_again_as_it_is() {
        let (header, body) = render(&Problem::conflict(), "/x");
        assert_eq!(header.status, 409);
        assert_eq!(header.headers["x-should-retry"], "false");
        assert!(!header.headers.contains_key("retry-after"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(body["type"].as_str().unwrap().ends_with("/conflict/"));
        assert_eq!(body["retryable"], false);
        assert!(body["detail"].as_str().unwrap().contains("Idempotency-Key"));
    }

    #[test]
    fn what_each_situation_says_about_a_retry() {
        let unreached = UpstreamFault::Unreached("connection_refused");
        for (problem, status, should_retry, retryable, retry_after) in [
            (
                Problem::refused(Refusal::NoBalance),
                403,
                Some("false"),
                false,
                false,
            ),
            (Problem::unavailable(), 503, Some("true"), true, true),
            (Problem::invalid("x"), 400, Some("false"), false, false),
            (Problem::body_too_large(1), 413, Some("false"), false, false),
            (Problem::head_too_large(), 431, Some("false"), false, false),
            (
                Problem::upstream(unreached, Kind::Start),
                503,
                Some("true"),
                true,
                true,
            ),
            (
                Problem::upstream(UpstreamFault::Broke, Kind::Start),
                502,
                Some("false"),
                false,
                false,
            ),
            (
                Problem::upstream(UpstreamFault::TimedOut, Kind::Start),
                504,
                Some("false"),
                false,
                false,
            ),
            (
                Problem::upstream(UpstreamFault::Broke, Kind::Safe),
                502,
                None,
                true,
                false,
            ),
        ] {
            let (header, body) = render(&problem, "/x");
            let value = |name: &str| header.headers.get(name).map(|v| v.to_str().unwrap());
            assert_eq!(header.status, status, "{problem:?}");
            assert_eq!(value("x-should-retry"), should_retry, "{problem:?}");
            assert_eq!(value("retry-after").is_some(), retry_after, "{problem:?}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["retryable"], retryable, "{problem:?}");
        }
    }

    #[test]
    fn error_is_the_title_and_the_detail() {
        let (_, body) = render(
            &Problem::invalid("the Host header is missing"),
            "/a\"b\\\u{1}",
        );
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body["error"],
            "The request contains invalid or missing parameters. (the Host header is missing)"
        );
        assert_eq!(body["instance"], "/a\"b\\\u{1}");
        assert!(body.get("trace_id").is_none());
    }

    #[test]
    fn support_is_given_the_trace() {
        let (_, body) = render(&Problem::upstream(UpstreamFault::Broke, Kind::Start), "/x");
        assert!(
            body.contains(r#""trace_id":"0af7651916cd43dd8448eb211c80319c""#),
            "{body}"
        );
    }

    #[test]
    fn grpc_gets_status_and_sentence() {
        let headers = HeaderMap::new();
        let about = About {
            instance: "/x",
            headers: &headers,
            trace_id: "",
        };
        let problem = Problem::refused(Refusal::InsufficientCredits);
        let rendered = style().grpc(&problem, about, Version::HTTP_2).unwrap();
        let trailers = rendered.trailers.unwrap();
        assert_eq!(rendered.header.status, 200);
        assert_eq!(trailers["grpc-status"], "7");
        assert!(
            trailers["grpc-message"]
                .to_str()
                .unwrap()
                .starts_with("Your team has run out")
        );
        assert_eq!(grpc_message("50 % ä"), "50 %25 %C3%A4");
        for (problem, status, said) in [
            (held("1", 1, "1", None), "7", "1 of 1 credits"),
            (Problem::conflict(), "6", "Idempotency-Key"),
        ] {
            let rendered = style().grpc(&problem, about, Version::HTTP_2).unwrap();
            let trailers = rendered.trailers.unwrap();
            assert_eq!(trailers["grpc-status"], status);
            assert!(trailers["grpc-message"].to_str().unwrap().contains(said));
        }
    }
}
