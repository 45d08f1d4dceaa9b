//! The other side, and deliveries, when they do not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tollgate::egress::TOTAL_MAX;
use tollgate::notices::{Hidden, Notice, Recipient, Via};
use tollgate::telemetry::notices::Kind;

use crate::office::{
    FLUSH, Log, Office, REPLY_URL, each, fates, fresh_session, fresh_thread, memory, notice, press,
    said, session,
};
use crate::outside::{Answer, Outside, assert_hidden};

/// Offers it to an outside that is already set up, and tells what became of it.
async fn fate(outside: &Outside, notice: Notice) -> Vec<(&'static str, &'static str, u64)> {
    let office = Office::open(outside);
    office.notices.offer(notice);
    fates(&office.close().await)
}

#[tokio::test]
async fn nothing_is_posted_to_an_address_that_is_not_slacks() {
    let outside = Outside::start();
    let urls = [
        "http://hooks.slack.com/actions/x",
        "https://hooks.slack.com.evil.test/actions/x",
        "https://hooks.slack.com@evil.test/actions/x",
        "https://evil.test#@hooks.slack.com/actions/x",
        "https://user:pass@hooks.slack.com/actions/x",
        "https://hooks.slack.com:8443/actions/x",
        "https://127.0.0.1/actions/x",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/actions/x",
        "https://hooks.slack.com\\.evil.test/actions/x",
        "file:///etc/passwd",
        "",
    ];
    for url in urls {
        let told = notice(Recipient::SlackReply(Hidden(url.to_owned())));
        assert_eq!(
            fate(&outside, told).await,
            [("slack", "untold", 1)],
            "{url}"
        );
    }
    assert_eq!(outside.tunnels(), [""; 0]);
}

#[tokio::test]
async fn a_redirect_leads_nowhere() {
    for status in [301, 302, 303, 307, 308] {
        let outside = Outside::answering(move |_| {
            Answer::status(status).header("location", "https://evil.test/")
        });
        for recipient in [press(), fresh_thread()] {
            let fate = fate(&outside, notice(recipient)).await;
            assert_eq!(fate, [("slack", "failed", 1)]);
        }
        assert_eq!(outside.tunnels(), ["hooks.slack.com:443", "slack.com:443"]);
    }
}

#[tokio::test]
async fn ids_that_are_none_are_told_nothing() {
    let outside = Outside::start();
    let long = "C".repeat(1 << 20);
    for channel in ["", "C1 C2", "<!channel>", "C1/../x", "C1\0", &long] {
        let odd = Recipient::SlackThread {
            workspace: "T1".to_owned(),
            channel: channel.to_owned(),
            thread: None,
            message: None,
            user: None,
        };
        assert_eq!(fate(&outside, notice(odd)).await, [("slack", "untold", 1)]);
        let odd = session("O1", channel);
        assert_eq!(fate(&outside, notice(odd)).await, [("linear", "untold", 1)]);
    }
    assert_eq!(outside.tunnels(), [""; 0]);
}

#[tokio::test]
async fn without_a_token_nobody_is_told_and_the_log_says_so() {
    let log = Log::default();
    let _kept = log.keep();
    let outside = Outside::start();
    for recipient in [fresh_thread(), fresh_session()] {
        let kind = recipient.kind().name();
        let told = Notice {
            via: Arc::new(Via::default()),
            ..notice(recipient)
        };
        assert_eq!(fate(&outside, told).await, [(kind, "untold", 1)]);
    }
    // A button needs none.
    let told = Notice {
        via: Arc::new(Via::default()),
        ..notice(press())
    };
    assert_eq!(fate(&outside, told).await, [("slack", "sent", 1)]);
    let text = log.text();
    for part in [
        "webhook.bot_token",
        "webhook.api_token",
        "request-1",
        "acme",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_own_workspace_and_no_other() {
    let outside = Outside::answering(|seen| match seen.url().contains("linear") {
        true => Answer::json(r#"{"data":{"agentActivityCreate":{"success":true}}}"#),
        false => Answer::json(r#"{"ok":true}"#),
    });
    let via = Arc::new(Via {
        bot_token: each([("T1", "xoxb-first")]),
        api_token: each([("O1", "lin_oauth_first"), ("O2", "lin_oauth_second")]),
        every: Duration::ZERO,
    });
    let elsewhere = Recipient::SlackUser {
        workspace: "T9".to_owned(),
        user: "U1".to_owned(),
    };
    for (recipient, result) in [
        (said(None, "1.0", Some("U1")), "sent"),
        (session("O2", "s"), "sent"),
        (elsewhere, "untold"),
        // Not even one that is good for Slack, nor one whose id begins alike.
        (session("T1", "s"), "untold"),
        (session("O", "s"), "untold"),
        (session("", "s"), "untold"),
    ] {
        let kind = recipient.kind().name();
        let told = Notice {
            via: Arc::clone(&via),
            ..notice(recipient.clone())
        };
        let fate = fate(&outside, told).await;
        assert_eq!(fate, [(kind, result, 1)], "{recipient:?}");
    }
    let seen = outside.seen();
    let tokens = seen.iter().map(|seen| seen.header("authorization"));
    assert_eq!(
        tokens.collect::<Vec<_>>(),
        [Some("Bearer xoxb-first"), Some("Bearer lin_oauth_second")]
    );
}

#[tokio::test]
async fn whoever_asks_can_say_that_nobody_can_be_told() {
    let log = Log::default();
    let _kept = log.keep();
    let outside = Outside::start();
    let office = Office::open(&outside);
    let team = notice(press()).team;
    office
        .notices
        .untold(Kind::Slack, &team, "request-9", "it names nobody");
    assert_eq!(fates(&office.close().await), [("slack", "untold", 1)]);
    let text = log.text();
    assert!(text.contains("request-9") && text.contains("it names nobody"));
}

#[tokio::test]
async fn answers_that_are_no_success_are_failures() {
    let answers = [
        Answer::json(r#"{"ok":false,"error":"channel_not_found"}"#),
        Answer::status(200).body("<html>ok</html>"),
        Answer::status(200),
        Answer::status(500).body(r#"{"ok":true}"#),
        Answer::status(404),
        Answer::json(r#"{"ok":true}"#).cut_after(3),
        Answer::status(200).endless(),
        Answer::raw("SSH-2.0-OpenSSH\r\n"),
        Answer::raw(""),
    ];
    for answer in answers {
        let shown = format!("{answer:?}");
        let outside = Outside::answering(move |_| answer.clone());
        let slack = fate(&outside, notice(fresh_thread())).await;
        assert_eq!(slack, [("slack", "failed", 1)], "{shown}");
        let linear = fate(&outside, notice(fresh_session())).await;
        assert_eq!(linear, [("linear", "failed", 1)], "{shown}");
    }
}

#[tokio::test]
async fn who_is_not_reached_is_tried_once_more() {
    let log = Log::default();
    let _kept = log.keep();
    let gone = Outside::start();
    let office = Office::open(&gone);
    drop(gone);
    let begun = Instant::now();
    office.notices.offer(notice(press()));
    assert_eq!(fates(&office.close().await), [("slack", "failed", 1)]);
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let text = log.text();
    assert!(text.contains("it is not reached"), "{text}");
}

#[tokio::test]
async fn a_slack_that_hangs_is_given_up_in_time() {
    let outside = Outside::answering(|_| Answer::hang());
    let office = Office::open(&outside);
    let begun = Instant::now();
    office.notices.offer(notice(press()));
    office.counted(1).await;
    assert!(begun.elapsed() < TOTAL_MAX + Duration::from_secs(3));
    assert_eq!(fates(&office.close().await), [("slack", "failed", 1)]);
}

#[tokio::test]
async fn who_is_asked_too_often_is_asked_once_more_after_the_time_they_name() {
    let asked = AtomicUsize::new(0);
    let outside = Outside::answering(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::status(429).header("retry-after", "1"),
        _ => Answer::json(r#"{"ok":true}"#),
    });
    let told = fate(&outside, notice(fresh_thread())).await;
    assert_eq!(told, [("slack", "sent", 1)]);
    let seen = outside.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].at.duration_since(seen[0].at) >= Duration::from_secs(1));
    assert_eq!(seen[0].text(), seen[1].text());
}

#[tokio::test]
async fn who_wants_to_be_left_alone_is() {
    // For longer than there is time, and again and again.
    for (pause, requests) in [("30", 1), ("1", 2)] {
        let outside = Outside::answering(move |_| Answer::status(429).header("retry-after", pause));
        let told = fate(&outside, notice(fresh_thread())).await;
        assert_eq!(told, [("slack", "failed", 1)]);
        assert_eq!(outside.seen().len(), requests);
    }
}

#[tokio::test]
async fn a_session_is_not_told_after_its_ten_seconds() {
    let ago = |seconds: f32| Instant::now() - Duration::from_secs_f32(seconds);
    // Too late already.
    let outside = Outside::start();
    let late = Notice {
        since: ago(10.1),
        ..notice(fresh_session())
    };
    assert_eq!(fate(&outside, late).await, [("linear", "late", 1)]);
    assert_eq!(outside.tunnels(), [""; 0]);
    // Too late before the answer is there.
    let outside = Outside::answering(|_| Answer::hang());
    let office = Office::open(&outside);
    let begun = Instant::now();
    office.notices.offer(Notice {
        since: ago(9.0),
        ..notice(fresh_session())
    });
    office.counted(1).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(fates(&office.close().await), [("linear", "late", 1)]);
}

#[tokio::test]
async fn a_slack_that_hangs_does_not_keep_linear_waiting() {
    let outside = Outside::answering(|seen| match &*seen.host {
        "api.linear.app" => Answer::json(r#"{"data":{"agentActivityCreate":{"success":true}}}"#),
        _ => Answer::hang(),
    });
    let office = Office::with(&outside, memory(), Duration::ZERO);
    for _ in 0..50 {
        office.notices.offer(notice(press()));
    }
    office.notices.offer(notice(fresh_session()));
    office.counted(1).await;
    assert_eq!(fates(&office.metrics)[0], ("linear", "sent", 1));
    office.close().await;
}

#[tokio::test]
async fn the_log_says_that_it_failed_and_nothing_that_is_nobodys_business() {
    let log = Log::default();
    let _kept = log.keep();
    let echo = r#"{"ok":false,"error":"no: https://hooks.slack.com/sEcReTpArT"}"#;
    for answer in [
        Answer::status(404).body(echo),
        Answer::json(echo),
        Answer::raw(echo),
        Answer::json(echo).cut_after(9),
    ] {
        let outside = Outside::answering(move |_| answer.clone());
        let office = Office::with(&outside, memory(), FLUSH);
        let asked = said(Some("17.123456"), "17.2", Some("U0PERSON"));
        for recipient in [press(), asked, fresh_session()] {
            let notice = notice(recipient);
            tracing::info!(?notice, notices = ?office.notices, "offered");
            office.notices.offer(notice);
        }
        office.close().await;
    }
    // Debug of a notice may show ids and the sentence; the gateway logs none.
    let logged = log.text();
    let own: String = logged
        .lines()
        .filter(|line| !line.contains(" offered "))
        .collect();
    assert!(own.contains("nobody was told of a refusal"), "{own}");
    assert!(own.contains("request-1") && own.contains("acme"));
    // That of the client is kept too, so there is something to look through.
    assert!(logged.contains("starting new connection"), "{logged}");
    assert_hidden(
        &logged,
        &[
            "sEcReTpArT",
            REPLY_URL,
            "xoxb-first",
            "xoxb-second",
            "lin_oauth_token",
        ],
    );
    assert_hidden(&own, &["no credits", "shop.test", "U0PERSON", "17.123456"]);
}
