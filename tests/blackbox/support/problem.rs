//! What answers made at the edge look like, stated once.

use serde_json::{Value, json};

use super::client::Response;

/// The sentence people see.
pub const OUT_OF_CREDITS: &str = "Your team has run out of add-on credits. Purchase more credits in your team's billing settings to continue.";

/// The answer is the `insufficient_credits` problem, exactly.
#[track_caller]
pub fn assert_insufficient_credits(response: &Response, instance: &str) {
    assert!(
        response.head.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{}",
        response.head
    );
    assert_refusal_headers(|name| response.all(name).iter().map(|v| (*v).to_owned()).collect());
    assert_eq!(
        response.header("content-length"),
        Some(response.body.len().to_string().as_str())
    );
    assert_insufficient_credits_body(&response.body, instance);
}

/// The headers of a refusal, each there once.
#[track_caller]
pub fn assert_refusal_headers(all: impl Fn(&str) -> Vec<String>) {
    for (name, value) in [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("x-should-retry", "false"),
        (
            "proxy-status",
            r#"tollgate; error=http_request_denied; details="insufficient_credits""#,
        ),
    ] {
        assert_eq!(all(name), [value], "{name}");
    }
    for absent in ["retry-after", "www-authenticate", "transfer-encoding"] {
        assert!(all(absent).is_empty(), "{absent}: {:?}", all(absent));
    }
}

/// The body of a refusal: these members, each once.
#[track_caller]
pub fn assert_insufficient_credits_body(body: &[u8], instance: &str) {
    let found: Value = serde_json::from_slice(body).expect("a JSON body");
    let expected = json!({
        "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
        "title": OUT_OF_CREDITS,
        "status": 403,
        "instance": instance,
        "error": OUT_OF_CREDITS,
        "retryable": false,
    });
    assert_eq!(found, expected);
    assert_names_once(body);
}

/// No member's name stands twice; a parser would hide it.
#[track_caller]
pub fn assert_names_once(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    for name in [
        "type",
        "title",
        "status",
        "instance",
        "error",
        "retryable",
        "detail",
        "trace_id",
    ] {
        let count = text.matches(&format!("\"{name}\":")).count()
            + text.matches(&format!("\"{name}\" :")).count();
        assert!(count < 2, "`{name}` stands {count} times in {text}");
    }
}

/// The answer is a problem with this status and code, and says this about
/// trying again; `None`: it says nothing.
#[track_caller]
pub fn assert_problem(response: &Response, status: u16, code: &str, should_retry: Option<&str>) {
    assert_eq!(
        response.status,
        status,
        "{}{}",
        response.head,
        response.text()
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{}",
        response.head
    );
    assert_eq!(
        response.header("cache-control"),
        Some("no-store"),
        "{}",
        response.head
    );
    assert_eq!(
        response.header("x-should-retry"),
        should_retry,
        "{}",
        response.head
    );
    let body = response.json();
    let path = format!("/{}/", code.replace('_', "-"));
    assert!(
        body["type"].as_str().is_some_and(|t| t.ends_with(&path)),
        "not {code}: {body}"
    );
    assert_eq!(body["status"], status, "{body}");
    let (title, error) = (
        body["title"].as_str().unwrap_or(""),
        body["error"].as_str().unwrap_or(""),
    );
    assert!(!title.is_empty() && error.starts_with(title), "{body}");
    let expected = match body["detail"].as_str() {
        Some(detail) => format!("{title} ({detail})"),
        None => title.to_owned(),
    };
    assert_eq!(error, expected, "`error` is `title`, or `title (detail)`");
    assert!(body.get("auth_url").is_none(), "{body}");
    assert_names_once(&response.body);
}

/// The answer to a start whose balance cannot be found out.
#[track_caller]
pub fn assert_outage(response: &Response) {
    assert_problem(response, 503, "resource_unavailable", Some("true"));
    assert_eq!(
        response.header("retry-after"),
        Some("1"),
        "{}",
        response.head
    );
    assert_eq!(response.json()["retryable"], true);
}

/// The answer to what cannot be understood safely.
#[track_caller]
pub fn assert_invalid(response: &Response) {
    assert_problem(response, 400, "invalid_request", Some("false"));
    assert_eq!(response.json()["retryable"], false);
}
