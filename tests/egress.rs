//! Requests of the gateway's own: where they go, what they say, and what
//! becomes of them when the other side does not behave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a panic is how a claim fails"
)]

#[path = "support/outside.rs"]
mod outside;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use http::HeaderValue;
use outside::{Answer, Outside, assert_hidden};
use tollgate::egress::{Egress, EgressError, Settings, TOTAL_MAX};

const BODY_MAX: usize = 1024;

fn through(outside: &Outside) -> Egress {
    let settings = Settings {
        proxy: Some(outside.proxy()),
        ca: Some(outside.ca()),
    };
    Egress::new(&settings).unwrap()
}

#[tokio::test]
async fn a_request_goes_to_the_host_that_its_url_names() {
    let outside = Outside::start();
    let egress = through(&outside);
    let reply = egress
        .post_json(
            "https://slack.com/api/chat.postMessage",
            Some(HeaderValue::from_static("Bearer xoxb-1")),
            r#"{"text":"hello"}"#.to_owned(),
            BODY_MAX,
        )
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(&*reply.body, br#"{"ok":true}"#);
    let seen = &outside.seen()[0];
    assert_eq!(outside.tunnels(), ["slack.com:443"]);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.path, "/api/chat.postMessage");
    assert_eq!(seen.header("host"), Some("slack.com"));
    assert_eq!(seen.header("authorization"), Some("Bearer xoxb-1"));
    assert_eq!(
        seen.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(
        seen.header("user-agent"),
        Some(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(seen.text(), r#"{"text":"hello"}"#);
}

#[tokio::test]
async fn a_get_asks_for_json_and_tells_nothing_else() {
    let outside = Outside::start();
    let egress = through(&outside);
    egress
        .get("https://issuer.test/.well-known/jwks.json", BODY_MAX)
        .await
        .unwrap();
    let seen = &outside.seen()[0];
    assert_eq!(seen.method, "GET");
    assert_eq!(seen.url(), "https://issuer.test/.well-known/jwks.json");
    let names: Vec<&str> = seen.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["accept", "host", "user-agent"]);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let outside = Outside::answering(|_| {
        Answer::status(307).header("location", "https://elsewhere.test/steal")
    });
    let egress = through(&outside);
    let reply = egress.get("https://issuer.test/", BODY_MAX).await.unwrap();
    assert_eq!(reply.status, 307);
    assert_eq!(outside.tunnels(), ["issuer.test:443"]);
}

#[tokio::test]
async fn plain_http_is_not_spoken() {
    let outside = Outside::start();
    let egress = through(&outside);
    for url in [
        "http://issuer.test/",
        "ftp://issuer.test/",
        "issuer.test",
        "",
    ] {
        let error = egress.get(url, BODY_MAX).await.unwrap_err();
        assert!(matches!(error, EgressError::Unusable(_)), "{url}: {error}");
    }
    assert_eq!(outside.tunnels(), [""; 0]);
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_was_asked_for() {
    let outside = Outside::answering(|seen| match &*seen.path {
        "/exactly" => Answer::json(&"x".repeat(BODY_MAX)),
        "/stated" => Answer::json(&"x".repeat(BODY_MAX + 1)),
        _ => Answer::status(200).endless(),
    });
    let egress = through(&outside);
    let exactly = egress
        .get("https://a.test/exactly", BODY_MAX)
        .await
        .unwrap();
    assert_eq!(exactly.body.len(), BODY_MAX);
    for path in ["stated", "endless"] {
        let url = format!("https://a.test/{path}");
        let error = egress.get(&url, BODY_MAX).await.unwrap_err();
        assert_eq!(error, EgressError::TooLarge(BODY_MAX), "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_one() {
    let outside = Outside::answering(|seen| match &*seen.path {
        "/cut" => Answer::json("0123456789").cut_after(5),
        "/garbage" => Answer::raw("I am not a server of that kind\r\n\r\n"),
        _ => Answer::raw(""),
    });
    let egress = through(&outside);
    for path in ["cut", "garbage", "nothing"] {
        let url = format!("https://a.test/{path}");
        let error = egress.get(&url, BODY_MAX).await.unwrap_err();
        assert!(matches!(error, EgressError::Cut(_)), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_request_that_hangs_is_given_up_in_time() {
    let outside = Outside::answering(|_| Answer::hang());
    let egress = through(&outside);
    let begun = Instant::now();
    let error = egress.get("https://a.test/", BODY_MAX).await.unwrap_err();
    assert_eq!(error, EgressError::Late);
    assert!(begun.elapsed() >= TOTAL_MAX);
    assert!(begun.elapsed() < TOTAL_MAX + Duration::from_secs(3));
}

#[tokio::test]
async fn a_host_whose_certificate_nobody_vouches_for_is_told_nothing() {
    let (outside, other) = (Outside::start(), Outside::start());
    let settings = Settings {
        proxy: Some(outside.proxy()),
        ca: Some(other.ca()),
    };
    let egress = Egress::new(&settings).unwrap();
    let error = egress.get("https://a.test/", BODY_MAX).await.unwrap_err();
    assert!(matches!(error, EgressError::Unreachable(_)), "{error}");
    assert!(outside.seen().is_empty());
}

#[tokio::test]
async fn errors_do_not_tell_the_url() {
    let outside = Outside::answering(|seen| match seen.path.contains("cut") {
        true => Answer::raw(""),
        false => Answer::status(200).endless(),
    });
    let reached = through(&outside);
    let unreached = Egress::new(&Settings {
        proxy: Some("http://user:pass@127.0.0.1:1".to_owned()),
        ca: Some(outside.ca()),
    })
    .unwrap();
    for (egress, url) in [
        (&reached, "https://hooks.slack.com/cut/T0SECRET"),
        (&reached, "https://hooks.slack.com/T0SECRET"),
        (&reached, "http://hooks.slack.com/T0SECRET"),
        (&reached, "https://hooks.slack.com:T0SECRET/"),
        (&unreached, "https://hooks.slack.com/T0SECRET"),
    ] {
        let error = egress.get(url, BODY_MAX).await.unwrap_err();
        let shown = format!("{error} {error:?} {egress:?}");
        assert_hidden(&shown, &["T0SECRET", "pass"]);
    }
}

#[test]
fn settings_that_cannot_be_used_are_said_at_once_and_keep_the_password() {
    let wrong = |settings: Settings| {
        let error = Egress::new(&settings).unwrap_err().to_string();
        assert_hidden(&format!("{error} {settings:?}"), &["hunter2"]);
        error
    };
    let missing = wrong(Settings {
        proxy: None,
        ca: Some(PathBuf::from("/nonexistent/ca.pem")),
    });
    assert!(
        missing.starts_with("ca: /nonexistent/ca.pem: "),
        "{missing}"
    );
    let proxy = wrong(Settings {
        proxy: Some("http://user:hunter2@:::".to_owned()),
        ca: None,
    });
    assert!(proxy.starts_with("proxy: "), "{proxy}");
}

#[test]
fn a_machine_without_authorities_is_trouble_only_for_who_asks() {
    const CHILD: &str = "TOLLGATE_TEST_WITHOUT_AUTHORITIES";
    if std::env::var_os(CHILD).is_none() {
        // Where the system's authorities are is read from the environment.
        let empty = std::env::temp_dir().join(format!("tollgate-egress-{}", std::process::id()));
        std::fs::create_dir_all(&empty).unwrap();
        let file = empty.join("none.pem");
        std::fs::write(&file, "").unwrap();
        let ended = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_machine_without_authorities_is_trouble_only_for_who_asks",
            ])
            .env(CHILD, "1")
            .env("SSL_CERT_FILE", &file)
            .env("SSL_CERT_DIR", &empty)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&empty).unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let egress = Egress::new(&Settings::default()).unwrap();
        let error = egress.get("https://a.test/", BODY_MAX).await.unwrap_err();
        assert!(error.to_string().contains("`egress.ca`"), "{error}");
        // One authority is enough.
        let outside = Outside::start();
        through(&outside)
            .get("https://a.test/", BODY_MAX)
            .await
            .unwrap();
    });
}
