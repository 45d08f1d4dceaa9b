//! The stream of refusal events: every field, no waiting, and a count of what
//! was not written.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use redis::Value;
use tokio::sync::oneshot;
use tollgate::billing::team::Principal;
use tollgate::billing::trigger::Trigger;
use tollgate::refusals::{Dropped, RefusalEvent, STREAM, Sink, StreamSettings};

use crate::false_redis::{Answer, FalseRedis, bulk, well_behaved};
use crate::redis_server::RedisServer;
use crate::{PATIENCE, eventually, settings, team};

const STREAM_SETTINGS: StreamSettings = StreamSettings {
    queue: 1000,
    stream_length: 100_000,
};

fn event(request_id: &str) -> RefusalEvent {
    RefusalEvent {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_042),
        team: team("broke"),
        principal: Some(Principal::new("ann")),
        trigger: Trigger::Slack,
        route: "POST /api/v1/agent/runs".into(),
        instance: "/api/v1/agent/runs".to_owned(),
        request_id: request_id.to_owned(),
    }
}

fn length(server: &RedisServer) -> i64 {
    match server.command(&["XLEN", STREAM]) {
        Value::Int(length) => length,
        other => panic!("{other:?}"),
    }
}

fn words(value: Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.into_iter().flat_map(words).collect(),
        Value::BulkString(text) => vec![String::from_utf8(text).unwrap()],
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_event_has_every_field() {
    let server = RedisServer::start();
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(server.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    tokio::spawn(writer.run(pending(), PATIENCE));
    sink.offer(event("r1"));
    sink.offer(RefusalEvent {
        principal: None,
        instance: "ä".repeat(5000),
        ..event("r2")
    });
    eventually("written", PATIENCE, || async { length(&server) == 2 }).await;
    let told = words(server.command(&["XRANGE", STREAM, "-", "+"]));
    let expected = [
        "at",
        "2025-11-24T16:00:00.042Z",
        "state",
        "FAILED",
        "error",
        "insufficient_credits",
        "retryable",
        "false",
        "team",
        "broke",
        "principal",
        "ann",
        "trigger",
        "slack",
        "route",
        "POST /api/v1/agent/runs",
        "instance",
        "/api/v1/agent/runs",
        "request_id",
        "r1",
    ];
    assert_eq!(told[1..=expected.len()], expected);
    let second = &told[expected.len() + 2..];
    assert_eq!(second[10..12], ["principal", ""]);
    assert_eq!(second[17], "ä".repeat(1024));
    assert_eq!(dropped.count(), 0);
}

#[tokio::test]
async fn the_stream_is_bounded() {
    let server = RedisServer::start();
    let stream = StreamSettings {
        queue: 10_000,
        stream_length: 100,
    };
    let (sink, writer) = Sink::new(&settings(server.url()), stream, Dropped::default()).unwrap();
    for number in 0..5000 {
        sink.offer(event(&number.to_string()));
    }
    drop(sink);
    writer.run(pending(), PATIENCE).await;
    assert!((100..400).contains(&length(&server)), "{}", length(&server));
}

/// Redis is away: what fits in the queue waits, the rest is counted, nobody
/// waits for it, and afterwards what waited is there, once.
#[tokio::test]
async fn events_wait_for_redis_and_overflow_is_counted() {
    let mut server = RedisServer::start();
    server.stop();
    let dropped = Dropped::default();
    let stream = StreamSettings {
        queue: 10,
        ..STREAM_SETTINGS
    };
    let (sink, writer) = Sink::new(&settings(server.url()), stream, dropped.clone()).unwrap();
    for number in 0..100 {
        sink.offer(event(&number.to_string()));
    }
    assert_eq!(dropped.count(), 90);
    tokio::spawn(writer.run(pending(), PATIENCE));
    server.restart();
    eventually("written", PATIENCE, || async { length(&server) == 10 }).await;
    assert_eq!(dropped.count(), 90);
}

#[tokio::test]
async fn what_is_queued_is_written_at_the_end() {
    let server = RedisServer::start();
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(server.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    for number in 0..500 {
        sink.offer(event(&number.to_string()));
    }
    writer.run(async {}, PATIENCE).await;
    assert_eq!(length(&server), 500);
    assert_eq!(dropped.count(), 0);
    sink.offer(event("late"));
    assert_eq!(dropped.count(), 1);
}

#[tokio::test]
async fn the_end_is_bounded_and_what_is_left_is_counted() {
    let redis = FalseRedis::start().await;
    redis.behave(|command| match command[0].as_str() {
        "XADD" => Answer::Nothing,
        _ => well_behaved(command),
    });
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(redis.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    for number in 0..500 {
        sink.offer(event(&number.to_string()));
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let running = tokio::spawn(writer.run(stopped, Duration::from_millis(100)));
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(2), running)
        .await
        .expect("bounded")
        .unwrap();
    assert_eq!(dropped.count(), 500);
}

#[tokio::test]
async fn events_that_redis_refuses_are_counted_and_hold_nothing_up() {
    let server = RedisServer::start();
    server.command(&["SET", STREAM, "no stream"]);
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(server.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    tokio::spawn(writer.run(pending(), PATIENCE));
    sink.offer(event("r1"));
    eventually("counted", PATIENCE, || async { dropped.count() == 1 }).await;
    server.command(&["DEL", STREAM]);
    sink.offer(event("r2"));
    eventually("written", PATIENCE, || async { length(&server) == 1 }).await;
}

#[tokio::test]
async fn events_wait_out_a_server_that_refuses_them_for_now() {
    let redis = FalseRedis::start().await;
    let writes = Arc::new(AtomicUsize::new(0));
    redis.behave({
        let writes = Arc::clone(&writes);
        move |command| match command[0].as_str() {
            "XADD" => Answer::Say(match writes.fetch_add(1, Ordering::SeqCst) {
                0 => b"-LOADING Redis is loading the dataset in memory\r\n".to_vec(),
                1 => b"-READONLY You can't write against a read only replica.\r\n".to_vec(),
                _ => bulk("1-1"),
            }),
            _ => well_behaved(command),
        }
    });
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(redis.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    sink.offer(event("r1"));
    drop(sink);
    writer.run(pending(), PATIENCE).await;
    assert_eq!(writes.load(Ordering::SeqCst), 3);
    assert_eq!(dropped.count(), 0);
}

/// An event whose write was not answered is not written again.
#[tokio::test]
async fn an_event_is_written_at_most_once() {
    let redis = FalseRedis::start().await;
    let writes = Arc::new(AtomicUsize::new(0));
    redis.behave({
        let writes = Arc::clone(&writes);
        move |command| match command[0].as_str() {
            "XADD" => {
                writes.fetch_add(1, Ordering::SeqCst);
                Answer::Cut(Vec::new())
            }
            _ => well_behaved(command),
        }
    });
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(redis.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    sink.offer(event("r1"));
    drop(sink);
    writer.run(pending(), PATIENCE).await;
    assert_eq!(dropped.count(), 1);
    assert_eq!(writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_stream_events_go_nowhere() {
    Sink::off().offer(event("r1"));
}

/// Redis went while there was nothing to tell: that shows before the next event
/// is sent, so it is not lost.
#[tokio::test]
async fn a_connection_that_ended_meanwhile_costs_no_event() {
    let mut server = RedisServer::start();
    let dropped = Dropped::default();
    let (sink, writer) =
        Sink::new(&settings(server.url()), STREAM_SETTINGS, dropped.clone()).unwrap();
    tokio::spawn(writer.run(pending(), PATIENCE));
    sink.offer(event("r1"));
    eventually("written", PATIENCE, || async { length(&server) == 1 }).await;
    server.stop();
    server.restart();
    let before = length(&server);
    sink.offer(event("r2"));
    eventually("written", PATIENCE, || async {
        length(&server) == before + 1
    })
    .await;
    assert_eq!(dropped.count(), 0);
}
