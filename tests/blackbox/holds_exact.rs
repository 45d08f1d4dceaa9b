//! Exactness: of any number of starts at once, over several gateways, as many
//! are admitted as the balance holds, and not one more or less.
//!
//! `HOLDS_STARTS` and `HOLDS_ROUNDS` make it longer.

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::Builder;
use crate::support::holds::{SET_ASIDE, assert_sound, holding, standing};
use crate::support::wait::secs;
use crate::support::{Gateway, Redis, Req, Upstream};

/// How many ask at once; each does so over one connection.
const CLIENTS: usize = 48;
/// Over how many gateways.
const GATEWAYS: usize = 3;

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

/// An upstream that gives runs no ids, so that holds end by their time alone.
fn nameless() -> Upstream {
    Upstream::answering(|exchange| exchange.json(200, r#"{"state":"QUEUED"}"#))
}

/// Several gateways on one Redis. Patient: a busy machine is no outage here.
fn fleet(upstream: &Upstream, redis: &Redis, set: impl Fn(Builder) -> Builder) -> Vec<Gateway> {
    let patient = || {
        holding(upstream)
            .redis(redis)
            .set("balances.redis.deadline", "5s")
    };
    (0..GATEWAYS).map(|_| set(patient()).start()).collect()
}

/// What became of one start.
struct Asked {
    hold: u64,
    status: u16,
    began: Instant,
    ended: Instant,
}

/// Asks for all of these holds, in micro-credits, at once.
fn ask_all(fleet: &[Gateway], team: &str, holds: &[u64]) -> Vec<Asked> {
    let (all, ready) = (Mutex::new(Vec::new()), Barrier::new(CLIENTS));
    std::thread::scope(|scope| {
        for (client, share) in holds.chunks(holds.len().div_ceil(CLIENTS)).enumerate() {
            let (all, ready, gateway) = (&all, &ready, &fleet[client % fleet.len()]);
            scope.spawn(move || {
                let mut connection = gateway.connect();
                connection.patience(secs(30));
                ready.wait();
                for hold in share {
                    let began = Instant::now();
                    let credits = format!("0.{hold:06}");
                    let request = Req::start(team).header("X-Run-Credits", &credits);
                    let answer = connection.ask(&request);
                    match answer.status {
                        200 => {}
                        403 => assert_eq!(answer.json()["title"], SET_ASIDE),
                        _ => panic!("{}{}", answer.head, answer.text()),
                    }
                    all.lock().unwrap().push(Asked {
                        hold: *hold,
                        status: answer.status,
                        began,
                        ended: Instant::now(),
                    });
                }
            });
        }
        // Whoever has no share still counts at the barrier.
        for _ in holds.chunks(holds.len().div_ceil(CLIENTS)).len()..CLIENTS {
            scope.spawn(|| ready.wait());
        }
    });
    all.into_inner().unwrap()
}

/// Holds are what the request says, in micro-credits.
fn by_header(builder: Builder) -> Builder {
    let hold = json!({"header": "x-run-credits", "from": ["127.0.0.0/8"], "default": 1});
    builder.set("admission.hold", hold)
}

/// Micro-credits as credits.
fn credits(micro: u64) -> String {
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

#[test]
fn as_many_are_admitted_as_the_balance_holds() {
    let (upstream, redis) = (nameless(), Redis::private(&[]));
    let fleet = fleet(&upstream, &redis, by_header);
    let starts = number("HOLDS_STARTS", 2_000);
    for round in 0..number("HOLDS_ROUNDS", 2) {
        let admitted = starts / (2 + round % 5);
        let team = redis.team(&credits(20 * admitted as u64 + 19));
        upstream.forget();
        let asked = ask_all(&fleet, &team, &vec![20; starts]);
        let count = |status: u16| asked.iter().filter(|one| one.status == status).count();
        assert_eq!((count(200), count(403)), (admitted, starts - admitted));
        assert_eq!(upstream.requests().len(), admitted, "nobody else got there");
        assert_eq!(standing(&fleet[0], &team).live, admitted as u64);
        assert_sound(&fleet[0], &team);
    }
}

/// Numbers that look random, the same in each run.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn with_holds_of_any_size_nothing_is_overspent_and_nobody_is_refused_in_vain() {
    let (upstream, redis) = (nameless(), Redis::private(&[]));
    let fleet = fleet(&upstream, &redis, by_header);
    for round in 0..number("HOLDS_ROUNDS", 2) as u64 {
        let mut random = random(round + 1);
        let holds: Vec<u64> = (0..number("HOLDS_STARTS", 2_000))
            .map(|_| 1 + random(999))
            .collect();
        let balance = holds.iter().sum::<u64>() / 3;
        let team = redis.team(&credits(balance));
        let asked = ask_all(&fleet, &team, &holds);
        let held: u64 = asked
            .iter()
            .filter(|one| one.status == 200)
            .map(|one| one.hold)
            .sum();
        assert!(held <= balance, "{held} of {balance} were held");
        // What can be spent only falls: whoever was refused would not fit now.
        for refused in asked.iter().filter(|one| one.status == 403) {
            let left = balance - held;
            assert!(refused.hold > left, "{} with {left} left", refused.hold);
        }
        assert_eq!(
            standing(&fleet[0], &team).held.parse(),
            credits(held).parse::<f64>()
        );
        assert_sound(&fleet[0], &team);
    }
}

/// The most that was certainly held at one moment: from the answer to a start
/// until `hold_for` after it was asked.
fn most_at_once(asked: &[Asked], hold_for: Duration) -> u64 {
    let mut changes: Vec<(Instant, bool, u64)> = asked
        .iter()
        .filter(|one| one.status == 200 && one.ended < one.began + hold_for)
        .flat_map(|one| {
            [
                (one.ended, true, one.hold),
                (one.began + hold_for, false, one.hold),
            ]
        })
        .collect();
    // At the same moment, what ends goes first.
    changes.sort_by_key(|(at, begins, _)| (*at, *begins));
    let (mut now, mut most) = (0, 0);
    for (_, begins, hold) in changes {
        now = if begins { now + hold } else { now - hold };
        most = most.max(now);
    }
    most
}

#[test]
fn while_holds_expire_as_fast_as_they_are_made_nothing_is_overspent() {
    let (upstream, redis) = (nameless(), Redis::private(&[]));
    let hold_for = secs(1);
    let fleet = fleet(&upstream, &redis, |builder| {
        by_header(builder).set("admission.hold_for", "1s")
    });
    let starts = number("HOLDS_STARTS", 2_000) * 3;
    let mut random = random(7);
    let holds: Vec<u64> = (0..starts).map(|_| 1 + random(99)).collect();
    let balance = 5_000;
    let team = redis.team(&credits(balance));
    let asked = ask_all(&fleet, &team, &holds);
    let most = most_at_once(&asked, hold_for);
    assert!(most <= balance, "{most} of {balance} were held at once");
    let held: u64 = asked
        .iter()
        .filter(|one| one.status == 200)
        .map(|one| one.hold)
        .sum();
    let (first, last) = (
        asked.iter().map(|one| one.began).min().unwrap(),
        asked.iter().map(|one| one.ended).max().unwrap(),
    );
    // What expired is free again: by the n-th second, n balances were held,
    // less what no longer fits.
    let whole_seconds = (last - first).as_secs();
    let at_least = whole_seconds * (balance - 200);
    assert!(
        held >= at_least,
        "{held} in {whole_seconds} s of {balance} a second"
    );
    assert_eq!(
        upstream.requests().len(),
        asked.iter().filter(|o| o.status == 200).count()
    );
    assert_sound(&fleet[0], &team);
}
