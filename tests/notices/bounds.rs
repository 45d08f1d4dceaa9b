//! How much waits, how much is on its way, and what becomes of it at the end
//! and when a reload puts something else in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tollgate::notices::{Notices, Via};
use tollgate::telemetry::Metrics;
use tollgate::telemetry::notices::{Fate, Kind};

use crate::office::{
    FLUSH, Office, fates, fresh_session, fresh_thread, means, memory, notice, press,
};
use crate::outside::{Answer, Outside};

#[tokio::test]
async fn with_too_many_the_newest_are_dropped_at_once_and_counted() {
    let outside = Outside::start();
    let metrics = Metrics::new().unwrap().notices;
    let (notices, worker) = Notices::new(means(&outside, memory()), metrics.clone());
    let begun = Instant::now();
    for _ in 0..1005 {
        notices.offer(notice(press()));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(fates(&metrics), [("slack", "dropped", 5)]);
    // Linear has a queue of its own.
    notices.offer(notice(fresh_session()));
    assert_eq!(metrics.fared(Kind::Linear, Fate::Dropped), 0);
    // A worker that goes takes what waits with it, counted.
    drop(worker);
    assert_eq!(metrics.fared(Kind::Slack, Fate::Dropped), 1005);
    assert_eq!(metrics.fared(Kind::Linear, Fate::Dropped), 1);
    notices.offer(notice(press()));
    assert_eq!(metrics.fared(Kind::Slack, Fate::Dropped), 1006);
    assert_eq!(outside.tunnels(), [""; 0]);
}

#[tokio::test]
async fn only_a_few_are_on_their_way_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&most);
    let outside = Outside::answering(move |_| {
        let others = now.fetch_add(1, Ordering::SeqCst);
        highest.fetch_max(others + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        now.fetch_sub(1, Ordering::SeqCst);
        Answer::status(200)
    });
    let office = Office::open(&outside);
    for _ in 0..40 {
        office.notices.offer(notice(press()));
    }
    assert_eq!(fates(&office.close().await), [("slack", "sent", 40)]);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=8).contains(&most), "{most}");
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent() {
    let outside = Outside::start();
    let office = Office::open(&outside);
    for _ in 0..20 {
        office.notices.offer(notice(press()));
    }
    // The worker has not begun yet: nothing gave it a turn.
    assert_eq!(fates(&office.metrics), []);
    assert_eq!(fates(&office.close().await), [("slack", "sent", 20)]);
}

#[tokio::test]
async fn the_end_does_not_wait_for_what_hangs() {
    let outside = Outside::answering(|_| Answer::hang());
    let office = Office::with(&outside, memory(), Duration::from_millis(300));
    for _ in 0..20 {
        office.notices.offer(notice(press()));
    }
    tokio::task::yield_now().await;
    let begun = Instant::now();
    let notices = office.notices.clone();
    let metrics = office.close().await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(fates(&metrics), [("slack", "dropped", 20)]);
    // Whoever comes after the end is dropped as well.
    notices.offer(notice(press()));
    assert_eq!(fates(&metrics), [("slack", "dropped", 21)]);
}

#[tokio::test]
async fn a_worker_ends_when_nobody_can_offer_anything_any_more() {
    let outside = Outside::start();
    let metrics = Metrics::new().unwrap().notices;
    let (notices, worker) = Notices::new(means(&outside, memory()), metrics.clone());
    let work = tokio::spawn(worker.run(std::future::pending(), FLUSH));
    notices.offer(notice(press()));
    drop(notices);
    tokio::time::timeout(FLUSH, work).await.unwrap().unwrap();
    assert_eq!(fates(&metrics), [("slack", "sent", 1)]);
}

#[tokio::test]
async fn a_reload_sends_through_the_new_way_and_forgets_nobody_who_was_told() {
    let (before, after) = (Outside::start(), Outside::start());
    let office = Office::open(&before);
    let thread = fresh_thread();
    office.notices.offer(notice(thread.clone()));
    office.counted(1).await;
    office.notices.work_with(means(&after, memory()));
    office.notices.offer(notice(thread));
    office.notices.offer(notice(fresh_thread()));
    assert_eq!(
        fates(&office.close().await),
        [("slack", "sent", 2), ("slack", "repeated", 1)]
    );
    assert_eq!((before.seen().len(), after.seen().len()), (1, 1));
}

#[tokio::test]
async fn notices_that_are_off_say_nothing() {
    let off = Notices::off();
    off.offer(notice(press()));
    let mut untold = notice(fresh_thread());
    untold.via = Arc::new(Via::default());
    off.offer(untold);
}

#[tokio::test]
async fn every_result_shows_from_the_start() {
    let metrics = Metrics::new().unwrap();
    let text = String::from_utf8(metrics.render()).unwrap();
    for kind in ["slack", "linear"] {
        for result in ["sent", "failed", "untold", "repeated", "dropped", "late"] {
            let line = format!("tollgate_notices_total{{kind=\"{kind}\",result=\"{result}\"}} 0\n");
            assert!(text.contains(&line), "{line}");
        }
    }
}
