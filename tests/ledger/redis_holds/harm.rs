//! Teams whose holds are many, damaged or left alone for long: what is asked
//! then stays right, and short for everybody else.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;

/// Passes everything on between a ledger and Redis, but what a test wants
/// otherwise.
struct Between {
    url: String,
    /// How many commands that run a script reach Redis; the next one does not,
    /// and its connection ends.
    scripts: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Between {
    /// Each reply comes later by this much.
    async fn before(server: &RedisServer, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let scripts = Arc::new(AtomicU64::new(u64::MAX));
        let (port, left) = (server.port, Arc::clone(&scripts));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                connections.spawn(Self::pass_on(near, far, Arc::clone(&left), delay));
            }
        });
        Between { url, scripts, task }
    }

    async fn pass_on(
        mut near: TcpStream,
        mut far: TcpStream,
        left: Arc<AtomicU64>,
        delay: Duration,
    ) {
        let (mut command, mut reply) = (vec![0; 65536], vec![0; 65536]);
        loop {
            let passed = tokio::select! {
                read = near.read(&mut command) => {
                    let sent = &command[..read.unwrap_or(0)];
                    if sent.windows(7).any(|word| word == b"EVALSHA") {
                        let one = left.load(Ordering::SeqCst);
                        left.store(one.checked_sub(1).unwrap_or(u64::MAX), Ordering::SeqCst);
                        if one == 0 {
                            return;
                        }
                    }
                    !sent.is_empty() && far.write_all(sent).await.is_ok()
                }
                read = far.read(&mut reply) => {
                    let got = &reply[..read.unwrap_or(0)];
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    !got.is_empty() && near.write_all(got).await.is_ok()
                }
            };
            if !passed {
                return;
            }
        }
    }
}

/// Settings without a probe: what the test asks is all that is asked.
fn alone(url: String, terms: Terms) -> RedisSettings {
    let mut settings = hold_settings(url, terms);
    settings.probe_interval = Duration::from_secs(3600);
    settings
}

/// Writes holds of one credit each that end at so many milliseconds from now,
/// ten of them each millisecond, as the scripts do.
fn write_holds(server: &RedisServer, team: &TeamId, name: &str, number: u64, end: i64) {
    let script = "
        local clock = redis.call('TIME')
        local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
        for n = 1, tonumber(ARGV[1]) do
            local ends = string.format('%.0f', now + ARGV[2] - math.floor(n / 10))
            redis.call('HSET', KEYS[1], 'h:' .. ARGV[3] .. n, '1000000 60000 ' .. ends .. ' - - 1')
            redis.call('ZADD', KEYS[2], ends, 'h:' .. ARGV[3] .. n)
        end
        local live = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'totals')
        redis.call('HSET', KEYS[1], 'totals', '1 ' .. live .. '000000 ' .. live .. ' 1 9007199254740991')";
    let (holds, due) = (key("holds", team), key("due", team));
    let (number, end) = (number.to_string(), end.to_string());
    server.command(&["EVAL", script, "2", &holds, &due, &number, &end, name]);
}

/// How often Redis was asked something.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let Value::BulkString(info) = server.command(&["INFO", "commandstats"]) else {
        panic!("no commandstats")
    };
    let info = String::from_utf8(info).unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn without_the_canary_nothing_is_changed_and_nothing_is_unknown() {
    for terms in [Terms::default(), writing()] {
        let server = RedisServer::start();
        server.command(&["SET", "credits:canary", "1"]);
        let mut settings = alone(server.url(), terms);
        settings.keys.canary = Some("credits:canary".to_owned());
        let ledger = connected(&settings).await;
        let team = fresh_team();
        ledger.set_balance(&team, credits("10")).await.unwrap();
        let live = ask(&team, credits("1"));
        let (which, run) = (hold_of(&live), RunId::parse(b"run").unwrap());
        let one = credits("1");
        assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
        // While it is there, they are all done.
        assert!(ledger.bind(&team, &live.id, &run).await.is_ok());
        assert!(ledger.extend(&team, &which).await.is_ok());
        assert!(ledger.charge(&team, &which, one, "c").await.is_ok());
        assert!(ledger.settle(&team, &which, one).await.is_ok());
        assert!(ledger.release(&team, &which, &Release::Over).await.is_ok());
        assert!(ledger.grant_once(&team, one, "g").await.is_ok());
        assert!(ledger.grant(&team, one).await.is_ok());

        server.command(&["FLUSHALL"]);
        // Afresh for each: a ledger that has noticed does not ask any more.
        for nth in 0..12 {
            let ledger = RedisLedger::connect_once(&settings).await.unwrap();
            let error = match nth {
                0 => ledger.bind(&team, &live.id, &run).await.err(),
                1 => ledger.extend(&team, &which).await.err(),
                2 => ledger.charge(&team, &which, one, "c").await.err(),
                3 => ledger.settle(&team, &which, one).await.err(),
                4 => ledger.release(&team, &which, &Release::Over).await.err(),
                5 => ledger
                    .release(&team, &which, &not_started(&live))
                    .await
                    .err(),
                6 => ledger.grant_once(&team, one, "g").await.err(),
                7 => ledger.grant(&team, one).await.err(),
                8 => ledger.hold_by(&live, ledger.until()).await.err(),
                9 => ledger.standing(&team).await.err(),
                10 => ledger.list(&team, 10).await.err(),
                _ => ledger.audit(&team, Repair::Report).await.err(),
            };
            assert!(
                matches!(&error, Some(LedgerError::Outage(why)) if why.contains("canary")),
                "{nth}: {error:?}"
            );
        }
        let left = server.command(&["KEYS", "*"]);
        let schema = Value::BulkString(b"tollgate:schema".to_vec());
        assert_eq!(left, Value::Array(vec![schema]));
        // It is restored with the balances, which come first.
        let ledger = RedisLedger::connect_once(&settings).await.unwrap();
        ledger.set_balance(&team, credits("5")).await.unwrap();
    }
}

#[tokio::test]
async fn a_standing_looks_at_a_part_of_what_is_due_at_a_time() {
    let server = RedisServer::start();
    let ledger = connected(&alone(server.url(), Terms::default())).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    write_holds(&server, &team, "due", 5000, -1000);
    write_holds(&server, &team, "live", 3, 3_600_000);
    server.command(&["CONFIG", "RESETSTAT"]);
    let standing = ledger.standing(&team).await.unwrap();
    assert_eq!(
        (standing.held.credits, standing.held.live),
        (credits("3"), 3)
    );
    let scripts = calls(&server, "evalsha") + calls(&server, "eval");
    assert!(scripts >= 10, "{scripts} scripts");
    // It told nobody, and left them for somebody who does.
    let mut told = 0;
    loop {
        let (_, expired) = ledger.sweep(&team).await.unwrap();
        if expired.is_empty() {
            break;
        }
        told += expired.len();
    }
    assert_eq!(told, 5000);
}

#[tokio::test]
async fn a_list_leaves_nothing_out_when_holds_end_between_its_pages() {
    let server = RedisServer::start();
    let slow = Between::before(&server, Duration::from_millis(400)).await;
    let ledger = connected(&alone(slow.url.clone(), Terms::default())).await;
    let team = fresh_team();
    write_holds(&server, &team, "long", 1500, 3_600_000);
    write_holds(&server, &team, "brief", 1000, 300);
    let listed = ledger.list(&team, 5000).await.unwrap();
    let long = listed
        .iter()
        .filter(|live| live.hold.as_str().starts_with("long"));
    assert_eq!(long.count(), 1500);
    let ids: BTreeSet<_> = listed.iter().map(|live| live.hold.as_str()).collect();
    assert_eq!(ids.len(), listed.len());
}

#[tokio::test]
async fn nothing_is_left_of_a_team_that_nobody_asks_for_any_more() {
    let server = RedisServer::start();
    let terms = Terms {
        remember: Duration::from_millis(300),
        ..writing()
    };
    let ledger = connected(&alone(server.url(), terms)).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let keys = ["holds", "due", "done"].map(|kind| key(kind, &team));
    let live = ask(&team, credits("1"));
    assert_eq!(outcome(&ledger, &live).await, Ok(Outcome::Held));
    let run = RunId::parse(b"run").unwrap();
    ledger.bind(&team, &live.id, &run).await.unwrap();
    let which = hold_of(&live);
    let one = credits("1");
    ledger.charge(&team, &which, one, "c").await.unwrap();
    ledger.settle(&team, &which, one).await.unwrap();
    eventually("all of it is gone", PATIENCE, async || {
        keys.iter()
            .all(|key| server.command(&["EXISTS", key]) == Value::Int(0))
    })
    .await;
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("8"))));
}

#[tokio::test]
async fn a_hold_keeps_what_is_remembered_from_going_by_itself() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let keys = ["holds", "due", "done"].map(|kind| key(kind, &team));
    let left = || {
        keys.clone()
            .map(|key| match server.command(&["PTTL", &key]) {
                Value::Int(millis) => millis,
                other => panic!("{other:?}"),
            })
    };
    let day = 24 * 60 * 60 * 1000;
    for _ in 0..3 {
        let asks = [ask(&team, credits("1")), ask(&team, credits("1"))];
        for ask in &asks {
            assert_eq!(outcome(&ledger, ask).await, Ok(Outcome::Held));
            assert!(left().iter().all(|left| *left < 0), "{:?}", left());
        }
        for ask in &asks {
            assert!(left().iter().all(|left| *left < 0), "{:?}", left());
            let change = ledger.release(&team, &hold_of(ask), &Release::Over).await;
            assert!(matches!(change, Ok(Change::Done(_))), "{change:?}");
        }
        // Not before the last end may be forgotten, and not long after it.
        let left = left();
        assert!(
            left.iter()
                .all(|left| *left > day - 60_000 && *left < day + day / 32),
            "{left:?}"
        );
    }
    // What is granted is remembered for longer, and so is the rest.
    ledger.grant_once(&team, credits("1"), "g").await.unwrap();
    assert!(left().iter().all(|left| *left > 300 * day), "{:?}", left());
    assert_eq!(held(&ledger, &team).await, (Credits::ZERO, 0));
}

#[tokio::test]
async fn a_hold_that_fell_out_of_the_index_is_held_once() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("10")).await.unwrap();
    let asks = [ask(&team, credits("1")), ask(&team, credits("1"))];
    for ask in &asks {
        assert_eq!(outcome(&ledger, ask).await, Ok(Outcome::Held));
    }
    let due = key("due", &team);
    server.command(&["ZREM", &due, &format!("h:{}", asks[0].id)]);
    assert_eq!(outcome(&ledger, &asks[0]).await, Ok(Outcome::Held));
    assert_eq!(held(&ledger, &team).await, (credits("2"), 2));
    server.command(&["DEL", &due]);
    for ask in &asks {
        assert_eq!(outcome(&ledger, ask).await, Ok(Outcome::Held));
    }
    assert_eq!(held(&ledger, &team).await, (credits("2"), 2));
}

#[tokio::test]
async fn holds_end_though_the_index_is_lost() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("3003")).await.unwrap();
    write_holds(&server, &team, "due", 3000, -1000);
    write_holds(&server, &team, "live", 3, 3_600_000);
    server.command(&["DEL", &key("due", &team)]);
    let answer = ledger
        .hold_by(&ask(&team, credits("3000")), ledger.until())
        .await
        .unwrap();
    assert_eq!(answer.outcome, Outcome::Held);
    assert_eq!(answer.expired.len(), 3000);
    assert_eq!(held(&ledger, &team).await, (credits("3003"), 4));
    // And where nothing is due, the refusal is one.
    server.command(&["DEL", &key("due", &team)]);
    let refused = outcome(&ledger, &ask(&team, credits("1"))).await.unwrap();
    let Outcome::Refused {
        refusal: Refusal::CreditsHeld,
        next_end: Some(next_end),
        ..
    } = refused
    else {
        panic!("{refused:?}")
    };
    assert!(next_end <= HOLD_FOR);
    assert_eq!(held(&ledger, &team).await, (credits("3003"), 4));
}

#[tokio::test]
async fn what_expired_is_told_though_the_hold_fails_in_the_end() {
    let server = RedisServer::start();
    let between = Between::before(&server, Duration::ZERO).await;
    let ledger = connected(&alone(between.url.clone(), Terms::default())).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    write_holds(&server, &team, "due", 2000, -1000);
    between.scripts.store(2, Ordering::SeqCst);
    let failed = outcome(&ledger, &ask(&team, credits("1"))).await;
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
    let mut told = BTreeSet::new();
    let begun = Instant::now();
    while told.len() < 2000 {
        assert!(begun.elapsed() < PATIENCE, "{} told", told.len());
        let (_, expired) = ledger.sweep(&team).await.unwrap();
        for one in expired {
            assert!(told.insert(one.hold.clone()), "{} told twice", one.hold);
        }
    }
}

#[tokio::test]
async fn a_team_with_too_much_due_is_told_so() {
    let server = RedisServer::start();
    let ledger = ledger_on(&server).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("1")).await.unwrap();
    write_holds(&server, &team, "due", 30_000, -1000);
    let until = Instant::now() + Duration::from_millis(30);
    let answer = ledger.hold_by(&ask(&team, credits("1")), until).await;
    match answer {
        Err(LedgerError::Outage(why)) => assert!(why.contains("due"), "{why}"),
        // The deadline may also come while Redis is at it.
        Err(LedgerError::OutcomeUnknown(_)) => {}
        other => panic!("{other:?}"),
    }
}
