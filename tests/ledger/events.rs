//! The stream of hold events: every field, and a way shared with refusals that
//! keeps apart what is counted.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::{Duration, SystemTime};

use redis::Value;
use tollgate::billing::hold::{End, HoldId, RunId};
use tollgate::billing::trigger::Trigger;
use tollgate::events::holds::{Act, HoldEvent, STREAM, What};
use tollgate::events::{Dropped, Feed, StreamSettings};
use tollgate::ledger::holds::{Change, Entry, Expired};
use tollgate::refusals::{self, RefusalEvent};

use crate::redis_server::RedisServer;
use crate::{PATIENCE, credits, eventually, settings, team};

const STREAM_SETTINGS: StreamSettings = StreamSettings {
    queue: 1000,
    stream_length: 100_000,
};

fn length(server: &RedisServer, stream: &str) -> i64 {
    match server.command(&["XLEN", stream]) {
        Value::Int(length) => length,
        other => panic!("{other:?}"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(text) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The fields of each event, in order.
fn told(server: &RedisServer) -> Vec<Vec<(String, String)>> {
    let Value::Array(events) = server.command(&["XRANGE", STREAM, "-", "+"]) else {
        panic!("no events");
    };
    let fields = |event: &Value| match event {
        Value::Array(parts) => match &parts[1] {
            Value::Array(words) => words
                .chunks(2)
                .map(|pair| (text(&pair[0]), text(&pair[1])))
                .collect(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    events.iter().map(fields).collect()
}

fn entry() -> Entry {
    Entry {
        hold: HoldId::from_bits(1),
        run: Some(RunId::parse(b"run-1").unwrap()),
        credits: credits("20"),
        figure: credits("0"),
        end: None,
        ended_now: false,
        balance: None,
        has_others: false,
    }
}

fn refusal() -> RefusalEvent {
    RefusalEvent {
        at: SystemTime::UNIX_EPOCH,
        team: team("broke"),
        principal: None,
        trigger: Trigger::Api,
        route: "POST /runs".into(),
        instance: "/runs".to_owned(),
        request_id: "r1".to_owned(),
    }
}

#[tokio::test]
async fn each_event_says_what_there_is_to_say() {
    let server = RedisServer::start();
    let (feed, writer) = Feed::new(&settings(server.url()), 1000).unwrap();
    tokio::spawn(writer.run(pending(), PATIENCE));
    let dropped = Dropped::default();
    let sink = feed.sink::<HoldEvent>(STREAM_SETTINGS, dropped.clone());
    let (acme, hold) = (team("acme"), HoldId::from_bits(1));
    let mut events = vec![HoldEvent::held(&acme, &hold, credits("20"))];
    let settled = Change::Done(Entry {
        figure: credits("12.5"),
        end: Some(End::Settled),
        ended_now: true,
        balance: Some(credits("-2.5")),
        ..entry()
    });
    events.extend(HoldEvent::of_change(&acme, &settled, Act::Settle));
    let released = Change::Done(Entry {
        end: Some(End::Released),
        ended_now: true,
        ..entry()
    });
    events.extend(HoldEvent::of_change(&acme, &released, Act::Over));
    let credits = credits("20");
    let run = entry().run;
    events.push(HoldEvent::expired(&acme, &Expired { hold, credits, run }));
    for event in events {
        sink.offer(HoldEvent {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_042),
            ..event
        });
    }
    eventually("written", PATIENCE, || async {
        length(&server, STREAM) == 4
    })
    .await;
    let common = |event: &str, run: &str| {
        [
            ("at", "2025-11-24T16:00:00.042Z"),
            ("event", event),
            ("team", "acme"),
            ("hold", "00000000000000000000000000000001"),
            ("run", run),
            ("credits", "20"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    };
    let and = |mut fields: Vec<(String, String)>, more: &[(&str, &str)]| {
        let more = more.iter();
        fields.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        fields
    };
    let expected = [
        common("held", ""),
        and(
            common("settled", "run-1"),
            &[("figure", "12.5"), ("balance", "-2.5")],
        ),
        and(common("released", "run-1"), &[("reason", "run_over")]),
        common("expired", "run-1"),
    ];
    assert_eq!(told(&server), expected);
    assert_eq!(dropped.count(), 0);
}

/// What is told of a change, by what it was and how the hold stood.
#[test]
fn only_what_happened_now_is_told() {
    let at = |end, ended_now| Entry {
        end,
        ended_now,
        ..entry()
    };
    let (released, expired) = (Some(End::Released), Some(End::Expired));
    let settled = Some(End::Settled);
    for (change, act, what) in [
        (Change::Done(at(None, false)), Act::Keep, &[][..]),
        (
            Change::Conflict(at(expired, true)),
            Act::Keep,
            &[What::Expired],
        ),
        (Change::Done(at(None, false)), Act::NotStarted, &[]),
        (
            Change::Done(at(released, true)),
            Act::NotStarted,
            &[What::Released],
        ),
        (Change::Again(at(released, false)), Act::Over, &[]),
        (
            Change::Conflict(at(expired, true)),
            Act::Over,
            &[What::Expired],
        ),
        (
            Change::Done(at(settled, true)),
            Act::Settle,
            &[What::Settled],
        ),
        (Change::Again(at(settled, false)), Act::Settle, &[]),
        (Change::Conflict(at(settled, false)), Act::Settle, &[]),
        // Late: its time was up, and the debit is made all the same.
        (
            Change::Done(at(expired, true)),
            Act::Settle,
            &[What::Expired, What::Settled],
        ),
        (
            Change::Done(at(released, false)),
            Act::Settle,
            &[What::Settled],
        ),
        (Change::Done(at(None, false)), Act::Charge, &[What::Charged]),
        (Change::Again(at(None, false)), Act::Charge, &[]),
        (Change::Unknown, Act::Over, &[]),
    ] {
        let events = HoldEvent::of_change(&team("acme"), &change, act);
        let told: Vec<_> = events.iter().map(|event| event.what).collect();
        assert_eq!(told, what, "{change:?} {act:?}");
    }
}

/// One writer, two streams: each has room of its own, and a stream that cannot
/// be written costs the other nothing.
#[tokio::test]
async fn streams_share_a_writer_and_nothing_else() {
    let server = RedisServer::start();
    server.command(&["SET", STREAM, "no stream"]);
    let (feed, writer) = Feed::new(&settings(server.url()), 1000).unwrap();
    let (lost, kept) = (Dropped::default(), Dropped::default());
    let small = StreamSettings {
        queue: 5,
        ..STREAM_SETTINGS
    };
    let holds = feed.sink::<HoldEvent>(small, lost.clone());
    let refused = feed.sink::<RefusalEvent>(STREAM_SETTINGS, kept.clone());
    drop(feed);
    for _ in 0..20 {
        holds.offer(HoldEvent::held(
            &team("acme"),
            &HoldId::from_bits(1),
            credits("20"),
        ));
        refused.offer(refusal());
    }
    assert_eq!((lost.count(), kept.count()), (15, 0));
    drop((holds, refused));
    // It ends when all sinks are gone and everything is written.
    writer.run(pending(), PATIENCE).await;
    assert_eq!(length(&server, refusals::STREAM), 20);
    assert_eq!((lost.count(), kept.count()), (20, 0));
}

/// Nothing is told twice, whatever the names of the fields.
#[tokio::test]
async fn no_field_stands_twice() {
    let server = RedisServer::start();
    let (feed, writer) = Feed::new(&settings(server.url()), 1000).unwrap();
    let sink = feed.sink::<HoldEvent>(STREAM_SETTINGS, Dropped::default());
    drop(feed);
    let charged = Change::Done(Entry {
        figure: credits("1"),
        balance: Some(credits("1")),
        ..entry()
    });
    for event in HoldEvent::of_change(&team("acme"), &charged, Act::Charge) {
        sink.offer(event);
    }
    drop(sink);
    writer.run(pending(), PATIENCE).await;
    let events = told(&server);
    let names: BTreeMap<_, _> = events[0].iter().cloned().collect();
    assert_eq!((events.len(), names.len()), (1, events[0].len()));
    assert_eq!(names["event"], "charged");
}
