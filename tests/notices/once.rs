//! How often people are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::notices::{Notice, Recipient};

use crate::office::{
    FLUSH, LONG, Office, PATIENCE, fates, fresh_session, fresh_thread, memory, notice, press,
    redis, said, via,
};
use crate::outside::{Answer, Outside};
use crate::redis_server::RedisServer;

fn linear_or_slack() -> Outside {
    Outside::answering(|seen| match &*seen.host {
        "api.linear.app" => Answer::json(r#"{"data":{"agentActivityCreate":{"success":true}}}"#),
        _ => Answer::json(r#"{"ok":true}"#),
    })
}

#[tokio::test]
async fn a_conversation_is_told_once_and_a_button_or_a_prompt_each_time() {
    let outside = linear_or_slack();
    let office = Office::open(&outside);
    let person = Recipient::SlackUser {
        workspace: "T1".to_owned(),
        user: "U1".to_owned(),
    };
    let (thread, session) = (fresh_thread(), fresh_session());
    for _ in 0..3 {
        for recipient in [&person, &thread, &session, &press()] {
            office.notices.offer(notice(recipient.clone()));
        }
    }
    assert_eq!(
        fates(&office.close().await),
        [
            ("slack", "sent", 5),
            ("slack", "repeated", 4),
            ("linear", "sent", 3),
        ]
    );
    let presses = outside.seen();
    let presses = presses.iter().filter(|seen| seen.host == "hooks.slack.com");
    assert_eq!(presses.count(), 3);
}

#[tokio::test]
async fn a_thread_is_told_once_whoever_speaks_in_it() {
    let outside = linear_or_slack();
    let office = Office::open(&outside);
    // The message that the thread begins with, and two answers to it.
    office.notices.offer(notice(said(None, "17.1", Some("U1"))));
    office
        .notices
        .offer(notice(said(Some("17.1"), "17.2", Some("U2"))));
    office
        .notices
        .offer(notice(said(Some("17.1"), "17.3", None)));
    assert_eq!(
        fates(&office.close().await),
        [("slack", "sent", 1), ("slack", "repeated", 2)]
    );
}

#[tokio::test]
async fn after_the_window_it_is_told_again() {
    let window = Duration::from_millis(400);
    let outside = linear_or_slack();
    let office = Office::open(&outside);
    let thread = fresh_thread();
    let mut windowed = notice(thread);
    let mut short = via();
    short.every = window;
    windowed.via = Arc::new(short);
    let until = Instant::now() + PATIENCE;
    let mut offered = 0;
    while outside.seen().len() < 2 {
        assert!(Instant::now() < until);
        office.notices.offer(windowed.clone());
        offered += 1;
        office.counted(offered).await;
    }
    let seen = outside.seen();
    let apart = seen[1].at.duration_since(seen[0].at);
    // The first had to get there after it was marked.
    assert!(apart > window.mul_f32(0.5), "{apart:?}");
    drop(office.close().await);
}

#[tokio::test]
async fn without_a_window_each_is_told() {
    let outside = linear_or_slack();
    let office = Office::open(&outside);
    let mut each = via();
    each.every = Duration::ZERO;
    let each = Notice {
        via: Arc::new(each),
        ..notice(fresh_thread())
    };
    office.notices.offer(each.clone());
    office.notices.offer(each);
    assert_eq!(fates(&office.close().await), [("slack", "sent", 2)]);
}

#[tokio::test]
async fn two_gateways_tell_a_conversation_once_between_them() {
    let outside = linear_or_slack();
    let server = RedisServer::start();
    let first = Office::with(&outside, redis(&server).await, FLUSH);
    let second = Office::with(&outside, redis(&server).await, FLUSH);
    let thread = fresh_thread();
    first.notices.offer(notice(thread.clone()));
    second.notices.offer(notice(thread));
    let (first, second) = (first.close().await, second.close().await);
    assert_eq!(outside.seen().len(), 1);
    let mut both = fates(&first);
    both.extend(fates(&second));
    both.sort_unstable();
    assert_eq!(both, [("slack", "repeated", 1), ("slack", "sent", 1),]);
}

#[tokio::test]
async fn a_window_ends_for_all_gateways_when_it_ends_for_the_one_that_told() {
    let outside = linear_or_slack();
    let server = RedisServer::start();
    let first = Office::with(&outside, redis(&server).await, FLUSH);
    let second = Office::with(&outside, redis(&server).await, FLUSH);
    let thread = fresh_thread();
    first.notices.offer(notice(thread.clone()));
    first.counted(1).await;
    second.notices.offer(notice(thread.clone()));
    second.counted(1).await;
    assert_eq!(fates(&second.metrics), [("slack", "repeated", 1)]);
    // As when its time is over.
    server.command(&["FLUSHALL"]);
    second.notices.offer(notice(thread));
    assert_eq!(
        fates(&second.close().await),
        [("slack", "sent", 1), ("slack", "repeated", 1)]
    );
    drop(first.close().await);
}

#[tokio::test]
async fn the_mark_in_the_ledger_lasts_as_long_as_the_window_and_names_nobody() {
    let outside = linear_or_slack();
    let server = RedisServer::start();
    let office = Office::with(&outside, redis(&server).await, FLUSH);
    office.notices.offer(notice(fresh_thread()));
    office.counted(1).await;
    drop(office.close().await);
    let redis::Value::Array(keys) = server.command(&["KEYS", "tollgate:mark:*"]) else {
        panic!("keys");
    };
    let [redis::Value::BulkString(key)] = &keys[..] else {
        panic!("one key: {keys:?}");
    };
    let key = String::from_utf8(key.clone()).unwrap();
    let name = key.strip_prefix("tollgate:mark:notice:").unwrap();
    assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let redis::Value::Int(left) = server.command(&["PTTL", &key]) else {
        panic!("a time");
    };
    let longest = i64::try_from(LONG.as_millis()).unwrap();
    assert!(
        (1..=longest).contains(&left) && left > longest - 60_000,
        "{left}"
    );
}

#[tokio::test]
async fn while_the_ledger_is_away_each_gateway_tells_a_conversation_once() {
    let outside = linear_or_slack();
    let mut server = RedisServer::start();
    let first = Office::with(&outside, redis(&server).await, FLUSH);
    let second = Office::with(&outside, redis(&server).await, FLUSH);
    server.stop();
    let thread = fresh_thread();
    for office in [&first, &second] {
        for _ in 0..3 {
            office.notices.offer(notice(thread.clone()));
        }
    }
    for office in [first, second] {
        assert_eq!(
            fates(&office.close().await),
            [("slack", "sent", 1), ("slack", "repeated", 2)]
        );
    }
}

#[tokio::test]
async fn what_failed_is_lost_until_the_window_is_over() {
    let outside = Outside::answering(|_| Answer::json(r#"{"ok":false,"error":"fatal_error"}"#));
    let office = Office::with(&outside, memory(), FLUSH);
    let thread = fresh_thread();
    office.notices.offer(notice(thread.clone()));
    office.counted(1).await;
    outside.answer_with(|_| Answer::json(r#"{"ok":true}"#));
    office.notices.offer(notice(thread));
    office.notices.offer(notice(fresh_thread()));
    assert_eq!(
        fates(&office.close().await),
        [
            ("slack", "sent", 1),
            ("slack", "failed", 1),
            ("slack", "repeated", 1),
        ]
    );
}
