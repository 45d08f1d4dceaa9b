//! Redis away, in every way: each request is told within the deadline, soon at
//! once, never a made-up balance; and when Redis is back so is the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::io::tcp::socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::billing::admission::Rule;
use tollgate::billing::hold::HoldId;
use tollgate::billing::team::TeamId;
use tollgate::ledger::holds::{Ask, Change, Holds, Outcome, Release, Terms, Which};
use tollgate::ledger::redis::{RedisLedger, RedisSettings};
use tollgate::ledger::{Health, Ledger, LedgerError};

use crate::false_redis::{Answer, FalseRedis, bulk, well_behaved};
use crate::redis_server::{RedisServer, free_port};
use crate::{PATIENCE, connected, credits, eventually, fresh_team, settings, team};

/// The longest a request waits here.
const DEADLINE: Duration = Duration::from_millis(100);

/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(200);

/// How fast the answer comes while the breaker is open.
const AT_ONCE: Duration = Duration::from_millis(10);

/// How soon after Redis requests are served again.
const BACK_WITHIN: Duration = Duration::from_secs(1);

fn impatient(url: String) -> RedisSettings {
    RedisSettings {
        deadline: DEADLINE,
        // The default; it must not show anywhere.
        connect_timeout: Duration::from_secs(1),
        probe_interval: Duration::from_millis(100),
        ..settings(url)
    }
}

/// Asks once: it has to be an outage, in time.
async fn is_out(ledger: &RedisLedger, team: &TeamId) -> Duration {
    let start = Instant::now();
    let outcome = ledger.balance(team).await;
    let took = start.elapsed();
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
    assert!(took < DEADLINE + SLACK, "{took:?}");
    took
}

/// Asks until the breaker is open, and then checks that it costs nothing.
async fn opens_the_breaker(ledger: &RedisLedger, team: &TeamId) {
    for _ in 0..3 {
        is_out(ledger, team).await;
    }
    assert!(ledger.is_breaker_open());
    assert!(matches!(ledger.health(), Health::Down(_)));
    let mut took = Vec::new();
    for _ in 0..21 {
        took.push(is_out(ledger, team).await);
    }
    took.sort_unstable();
    assert!(took[10] < AT_ONCE, "{took:?}");
    let key = ledger.key_fact(&"0".repeat(64)).await;
    assert!(matches!(key, Err(LedgerError::Outage(_))), "{key:?}");
    let set = ledger.set_balance(team, credits("1")).await;
    assert!(matches!(set, Err(LedgerError::Outage(_))), "{set:?}");
    let fact = ledger.team_fact_by("run:r1", ledger.until()).await;
    assert!(matches!(fact, Err(LedgerError::Outage(_))), "{fact:?}");
    let mark = ledger.mark_by("m", PATIENCE, ledger.until()).await;
    assert!(matches!(mark, Err(LedgerError::Outage(_))), "{mark:?}");
}

/// Waits until the ledger is up without asking it, then asks once.
async fn is_back(ledger: &RedisLedger, team: &TeamId, balance: &str) {
    let start = Instant::now();
    assert_eq!(ledger.settled(BACK_WITHIN).await, Health::Up);
    assert_eq!(ledger.balance(team).await, Ok(Some(credits(balance))));
    assert!(start.elapsed() < BACK_WITHIN, "{:?}", start.elapsed());
}

/// A false Redis turns bad in this way, and good again.
async fn survives(fault: impl Fn(&[String]) -> Answer + Send + Sync + 'static) {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    let team = fresh_team();
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("20"))));
    redis.behave(fault);
    opens_the_breaker(&ledger, &team).await;
    redis.behave(well_behaved);
    is_back(&ledger, &team, "20").await;
}

/// Every command gets these bytes.
async fn survives_bytes(bytes: &'static [u8]) {
    survives(|_| Answer::Say(bytes.to_vec())).await;
}

#[tokio::test]
async fn survives_silence() {
    survives(|_| Answer::Nothing).await;
}

#[tokio::test]
async fn survives_slowness() {
    survives(|command| match well_behaved(command) {
        Answer::Say(bytes) => Answer::Late(DEADLINE * 3, bytes),
        other => other,
    })
    .await;
}

#[tokio::test]
async fn survives_garbage() {
    survives_bytes(b"\x00\xff\x13 no redis here\r\n").await;
}

#[tokio::test]
async fn survives_a_web_server() {
    survives_bytes(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test]
async fn survives_errors_of_the_server() {
    for line in [
        &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-ERR unknown\r\n",
        b"-\r\n",
    ] {
        survives_bytes(line).await;
    }
}

#[tokio::test]
async fn survives_replies_of_another_shape() {
    for reply in [
        &b":0\r\n"[..],
        b"+0\r\n",
        b"*0\r\n",
        b"*1\r\n$2\r\n20\r\n",
        b",0\r\n",
        b"#f\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b">1\r\n+a\r\n",
        b"!3\r\nERR\r\n",
        b"=6\r\ntxt:20\r\n",
    ] {
        survives(move |command| match command[0].as_str() {
            "GET" | "GETRANGE" | "PING" | "HMGET" | "SET" => Answer::Say(reply.to_vec()),
            _ => Answer::Nothing,
        })
        .await;
    }
}

#[tokio::test]
async fn survives_replies_that_are_cut() {
    survives(|_| Answer::Cut(b"$10\r\n20".to_vec())).await;
    survives(|_| Answer::Cut(Vec::new())).await;
}

#[tokio::test]
async fn survives_replies_without_an_end() {
    for start in [
        &b"$9223372036854775807\r\n"[..],
        b"*1\r\n",
        b"+",
        b"-ERR ",
        b"*9223372036854775807\r\n:1\r\n",
    ] {
        survives(|_| Answer::Endless(start.to_vec())).await;
    }
}

#[tokio::test]
async fn a_reply_without_an_end_does_not_fill_the_memory() {
    let redis = FalseRedis::start().await;
    // It is not the deadline that ends it.
    let ledger = connected(&settings(redis.url())).await;
    redis.behave(|command| match command[0].as_str() {
        "GET" => Answer::Endless(b"$9223372036854775807\r\n".to_vec()),
        _ => well_behaved(command),
    });
    let start = Instant::now();
    let outcome = ledger.balance(&fresh_team()).await;
    assert!(
        matches!(&outcome, Err(LedgerError::Outage(why)) if why.contains("more than")),
        "{outcome:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    // Four megabytes, and what the kernel's buffers swallow.
    assert!(
        redis.most_sent() < 32 * 1024 * 1024,
        "{}",
        redis.most_sent()
    );
}

/// Whether a command is the read with which the ledger tries a connection.
fn is_sample(command: &[String]) -> bool {
    command.iter().any(|word| word.contains("tollgate-probe"))
}

#[tokio::test]
async fn a_user_who_may_not_read_balances_is_an_outage_and_stays_one() {
    let server = RedisServer::start_with(&["--user", "gate", "on", ">pass", "~*", "+ping", "+set"]);
    let url = format!("redis://gate:pass@127.0.0.1:{}", server.port);
    let ledger = RedisLedger::new(&settings(url)).unwrap();
    let running = tokio::spawn(ledger.run());
    let health = ledger.settled(Duration::from_millis(300)).await;
    assert!(
        matches!(&health, Health::Down(why) if why.contains("NOPERM")),
        "{health:?}"
    );
    is_out(&ledger, &fresh_team()).await;
    drop(ledger);
    running.await.unwrap();
}

#[tokio::test]
async fn a_late_reply_is_never_taken_for_another() {
    let redis = FalseRedis::start().await;
    let mut settings = impatient(redis.url());
    // Timeouts alone must not replace the connection here.
    settings.breaker_failures = 1_000_000;
    redis.behave(|command| match command[0].as_str() {
        // The balance is the number in the team's name; each tenth is late.
        "GET" if !is_sample(command) => {
            let number: u64 = command[1]
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .unwrap();
            let reply = bulk(&number.to_string());
            if number.is_multiple_of(10) {
                Answer::Late(DEADLINE + Duration::from_millis(20), reply)
            } else {
                Answer::Say(reply)
            }
        }
        _ => well_behaved(command),
    });
    let ledger = Arc::new(connected(&settings).await);
    let mut requests = tokio::task::JoinSet::new();
    for number in 1..=200 {
        let ledger = Arc::clone(&ledger);
        requests.spawn(async move { (number, ledger.balance(&team(&format!("t{number}"))).await) });
        if number % 10 == 0 {
            tokio::time::sleep(DEADLINE).await;
        }
    }
    let mut known = 0;
    for (number, outcome) in requests.join_all().await {
        match outcome {
            Ok(balance) => {
                assert_eq!(balance, Some(credits(&number.to_string())));
                known += 1;
            }
            Err(LedgerError::Outage(_)) => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    assert!(known > 0);
}

#[tokio::test]
async fn a_server_that_only_answers_probes_is_not_hammered() {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    redis.behave(|command| match command[0].as_str() {
        "GET" => Answer::Say(b"-CLUSTERDOWN The cluster is down\r\n".to_vec()),
        _ => well_behaved(command),
    });
    let (before, start) = (redis.accepted(), Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        is_out(&ledger, &fresh_team()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let connections = redis.accepted() - before;
    assert!((2..=15).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_ledger_that_is_dropped_lets_go_of_its_connection() {
    let redis = FalseRedis::start().await;
    let ledger = RedisLedger::new(&settings(redis.url())).unwrap();
    let running = tokio::spawn(ledger.run());
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
    assert_eq!(redis.open(), 1);
    drop(ledger);
    tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
    eventually("closed", PATIENCE, || async { redis.open() == 0 }).await;
}

/// A frozen server would otherwise find the connections of the whole outage.
#[tokio::test]
async fn a_connection_with_replies_owed_is_closed_all_the_same() {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    redis.behave(|command| match command[0].as_str() {
        "GET" if !is_sample(command) => Answer::Nothing,
        _ => well_behaved(command),
    });
    for _ in 0..3 {
        is_out(&ledger, &fresh_team()).await;
    }
    assert_eq!(ledger.settled(BACK_WITHIN).await, Health::Up);
    eventually("the old one is closed", PATIENCE, || async {
        redis.accepted() == 2 && redis.open() == 1
    })
    .await;
    // The new one has to prove itself with its first request.
    is_out(&ledger, &fresh_team()).await;
    assert!(ledger.is_breaker_open());
    drop(ledger);
    eventually("closed", PATIENCE, || async { redis.open() == 0 }).await;
}

#[tokio::test]
async fn an_idle_ledger_notices_that_redis_is_gone_and_back() {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    redis.behave(|_| Answer::Nothing);
    eventually("down", PATIENCE, || async { ledger.is_breaker_open() }).await;
    redis.behave(well_behaved);
    is_back(&ledger, &fresh_team(), "20").await;
}

/// A real server with one team that has 7 credits.
async fn real() -> (RedisServer, RedisLedger, TeamId) {
    let server = RedisServer::start();
    let ledger = connected(&impatient(server.url())).await;
    let team = fresh_team();
    server.command(&["SET", &format!("credits:{{{team}}}"), "7"]);
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("7"))));
    (server, ledger, team)
}

#[tokio::test]
async fn survives_a_server_that_is_stopped() {
    let (mut server, ledger, team) = real().await;
    server.stop();
    opens_the_breaker(&ledger, &team).await;
    eventually("the reason", PATIENCE, || async {
        matches!(ledger.health(), Health::Down(why) if why.contains("127.0.0.1"))
    })
    .await;
    server.restart();
    server.command(&["SET", &format!("credits:{{{team}}}"), "8"]);
    is_back(&ledger, &team, "8").await;
}

#[tokio::test]
async fn survives_a_server_that_is_frozen() {
    let (server, ledger, team) = real().await;
    server.freeze();
    opens_the_breaker(&ledger, &team).await;
    // For longer than an attempt to connect lasts.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        is_out(&ledger, &team).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.thaw();
    is_back(&ledger, &team, "7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_before_a_frozen_server_is_told_in_time() {
    let (server, ledger, team) = real().await;
    let ledger = Arc::new(ledger);
    server.freeze();
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..5000 {
        let (ledger, team) = (Arc::clone(&ledger), team.clone());
        crowd.spawn(async move {
            let start = Instant::now();
            (ledger.balance(&team).await, start.elapsed())
        });
    }
    for (outcome, took) in crowd.join_all().await {
        assert!(matches!(outcome, Err(LedgerError::Outage(_))));
        assert!(took < DEADLINE + SLACK * 5, "{took:?}");
    }
    server.thaw();
    is_back(&ledger, &team, "7").await;
}

#[tokio::test]
async fn a_change_without_a_reply_may_have_happened() {
    let (server, ledger, team) = real().await;
    server.freeze();
    let outcome = ledger.set_balance(&team, credits("9")).await;
    assert!(
        matches!(outcome, Err(LedgerError::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    server.thaw();
}

/// What a string is asked for is answered, what a hash is asked for is not.
async fn survives_half_an_answer(half: impl Fn() -> Answer + Send + Sync + 'static) {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    redis.behave(move |command| match command[0].as_str() {
        "HMGET" => half(),
        _ => well_behaved(command),
    });
    let start = Instant::now();
    let fact = ledger.team_fact_by("run:r1", ledger.until()).await;
    assert!(matches!(fact, Err(LedgerError::Outage(_))), "{fact:?}");
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    redis.behave(well_behaved);
    is_back(&ledger, &fresh_team(), "20").await;
}

#[tokio::test]
async fn half_an_answer_is_no_team() {
    survives_half_an_answer(|| Answer::Nothing).await;
    survives_half_an_answer(|| Answer::Cut(b"*2\r\n$4\r\nacme\r\n".to_vec())).await;
    for half in [
        &b"+OK\r\n"[..],
        b"$4\r\nacme\r\n",
        b"*0\r\n",
        b"*1\r\n$4\r\nacme\r\n",
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"*2\r\n:1\r\n$-1\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-ERR unknown command\r\n",
    ] {
        survives_half_an_answer(move || Answer::Say(half.to_vec())).await;
    }
}

#[tokio::test]
async fn a_mark_without_a_reply_may_be_there() {
    let (server, ledger, _) = real().await;
    server.freeze();
    let outcome = ledger.mark_by("m", PATIENCE, ledger.until()).await;
    assert!(
        matches!(outcome, Err(LedgerError::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    server.thaw();
}

#[tokio::test]
async fn a_server_that_takes_no_marks_for_now_is_no_outage() {
    let redis = FalseRedis::start().await;
    let ledger = connected(&impatient(redis.url())).await;
    redis.behave(|command| match command[0].as_str() {
        "SET" => {
            Answer::Say(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n".to_vec())
        }
        _ => well_behaved(command),
    });
    for _ in 0..10 {
        let outcome = ledger.mark_by("m", PATIENCE, ledger.until()).await;
        assert!(
            matches!(&outcome, Err(LedgerError::Outage(why)) if why.contains("OOM")),
            "{outcome:?}"
        );
    }
    assert_eq!(ledger.balance(&fresh_team()).await, Ok(Some(credits("20"))));
    assert!(!ledger.is_breaker_open());
}

#[tokio::test]
async fn a_change_that_the_server_refuses_has_not_happened() {
    let (server, ledger, team) = real().await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for outcome in [
        ledger.set_balance(&team, credits("9")).await,
        ledger.grant(&team, credits("9")).await.map(drop),
    ] {
        assert!(
            matches!(&outcome, Err(LedgerError::Outage(why)) if why.contains("READONLY")),
            "{outcome:?}"
        );
    }
    server.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(
        server.command(&["GET", &format!("credits:{{{team}}}")]),
        redis::Value::BulkString(b"7".to_vec())
    );
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_replaced() {
    let (server, ledger, team) = real().await;
    for _ in 0..5 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        eventually("noticed", PATIENCE, || async {
            ledger.balance(&team).await == Ok(Some(credits("7")))
        })
        .await;
        is_back(&ledger, &team, "7").await;
    }
}

#[tokio::test]
async fn a_server_that_comes_after_the_ledger_is_found() {
    let port = free_port();
    let ledger = RedisLedger::new(&impatient(format!("redis://127.0.0.1:{port}"))).unwrap();
    let team = fresh_team();
    // Before anything runs, too.
    assert!(is_out(&ledger, &team).await < AT_ONCE);
    tokio::spawn(ledger.run());
    opens_the_breaker(&ledger, &team).await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
    let _redis = FalseRedis::on(listener.unwrap());
    is_back(&ledger, &team, "20").await;
}

/// A listener whose queue is full: the kernel drops what would connect.
#[tokio::test]
async fn survives_a_network_that_swallows_packets() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(
        Duration::from_millis(300),
        tokio::net::TcpStream::connect(address),
    )
    .await
    {
        queued.push(connected.unwrap());
        assert!(queued.len() < 100, "the queue is never full");
    }

    let ledger = RedisLedger::new(&impatient(format!("redis://{address}"))).unwrap();
    tokio::spawn(ledger.run());
    let team = fresh_team();
    opens_the_breaker(&ledger, &team).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        is_out(&ledger, &team).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let listener = tokio::net::TcpListener::from_std(socket.into()).unwrap();
    let _redis = FalseRedis::on(listener);
    is_back(&ledger, &team, "20").await;
}

/// Emptied under a running gateway: lost, not zero, not "no balance", and no
/// key is unknown.
#[tokio::test]
async fn with_a_canary_an_emptied_redis_is_an_outage() {
    for field in [None, Some("spendable".to_owned())] {
        let server = RedisServer::start();
        server.command(&["SET", "credits:canary", "1"]);
        let mut settings = impatient(server.url());
        settings.keys.canary = Some("credits:canary".to_owned());
        settings.keys.field = field;
        let ledger = connected(&settings).await;
        let team = fresh_team();
        ledger.set_balance(&team, credits("7")).await.unwrap();
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("7"))));

        server.command(&["FLUSHALL"]);
        let fact = ledger.key_fact(&"0".repeat(64)).await;
        assert!(matches!(fact, Err(LedgerError::Outage(_))), "{fact:?}");
        opens_the_breaker(&ledger, &team).await;
        eventually("the reason", PATIENCE, || async {
            matches!(ledger.health(), Health::Down(why) if why.contains("canary"))
        })
        .await;

        let restored = RedisLedger::connect_once(&settings).await.unwrap();
        restored.set_balance(&team, credits("6")).await.unwrap();
        is_out(&ledger, &team).await;
        server.command(&["SET", "credits:canary", "1"]);
        is_back(&ledger, &team, "6").await;
    }
}

#[tokio::test]
async fn a_missing_canary_is_noticed_while_nobody_asks() {
    let server = RedisServer::start();
    server.command(&["SET", "credits:canary", "1"]);
    let mut settings = impatient(server.url());
    settings.keys.canary = Some("credits:canary".to_owned());
    let ledger = connected(&settings).await;
    server.command(&["DEL", "credits:canary"]);
    eventually("down", PATIENCE, || async { ledger.is_breaker_open() }).await;
}

fn with_holds(url: String) -> RedisSettings {
    RedisSettings {
        holds: Some(Terms::default()),
        ..impatient(url)
    }
}

fn ask(team: &TeamId, number: u128) -> Ask {
    Ask {
        team: team.clone(),
        id: HoldId::from_bits(number),
        credits: credits("1"),
        hold_for: Duration::from_secs(3600),
        rule: Rule::default(),
        replay: None,
    }
}

async fn is_held(ledger: &RedisLedger, ask: &Ask) -> Result<bool, LedgerError> {
    let answer = ledger.hold_by(ask, ledger.until()).await?;
    Ok(answer.outcome == Outcome::Held)
}

/// What is refused for now is an outage for the one who asked for it. The link
/// is good, and whatever else goes over it goes on.
#[tokio::test]
async fn a_server_that_takes_no_writes_for_now_is_not_away() {
    for (setting, bad, good, releases) in [
        ("maxmemory", "1", "0", true),
        ("min-replicas-to-write", "1", "0", false),
    ] {
        let server = RedisServer::start();
        let mut settings = with_holds(server.url());
        settings.probe_interval = Duration::from_millis(20);
        let ledger = connected(&settings).await;
        let team = fresh_team();
        ledger.set_balance(&team, credits("7")).await.unwrap();
        let first = ask(&team, 1);
        assert_eq!(is_held(&ledger, &first).await, Ok(true));
        server.command(&["CONFIG", "SET", setting, bad]);
        for number in 2..12 {
            let refused = is_held(&ledger, &ask(&team, number)).await;
            assert!(
                matches!(refused, Err(LedgerError::Outage(_))),
                "{setting}: {refused:?}"
            );
            assert_eq!(ledger.health(), Health::Up, "{setting}");
        }
        let fact = ledger.key_fact(&"0".repeat(64)).await;
        assert_eq!(fact, Ok(None), "{setting}");
        // Probes are no other than requests.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(ledger.health(), Health::Up, "{setting}");
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("7"))));
        let which = Which::Hold(first.id.clone());
        let released = ledger.release(&team, &which, &Release::Over).await;
        assert_eq!(
            matches!(released, Ok(Change::Done(_))),
            releases,
            "{setting}: {released:?}"
        );
        // A gateway that begins now is as good.
        let fresh = connected(&settings).await;
        assert_eq!(fresh.balance(&team).await, Ok(Some(credits("7"))));
        server.command(&["CONFIG", "SET", setting, good]);
        assert_eq!(is_held(&ledger, &ask(&team, 12)).await, Ok(true));
    }
}

/// Passes on what a ledger sends, so much every two milliseconds.
async fn narrow_line(port: u16, bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut near_reads, mut near_writes) = near.into_split();
            let (mut far_reads, mut far_writes) = far.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut far_reads, &mut near_writes).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; bytes];
                while let Ok(read @ 1..) = near_reads.read(&mut buffer).await {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    if far_writes.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_may_take_longer_to_arrive_than_a_request() {
    let server = RedisServer::start();
    let settings = with_holds(narrow_line(server.port, 512).await);
    let ledger = connected(&settings).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("7")).await.unwrap();
    assert_eq!(is_held(&ledger, &ask(&team, 1)).await, Ok(true));
    // Those that come later find them there.
    let start = Instant::now();
    connected(&settings).await;
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_version_that_changes_under_a_busy_link_is_noticed() {
    let server = RedisServer::start();
    let ledger = connected(&with_holds(server.url())).await;
    let team = fresh_team();
    ledger.set_balance(&team, credits("7")).await.unwrap();
    server.command(&["SET", "tollgate:schema", "999"]);
    eventually("noticed", PATIENCE, || async {
        let _ = ledger.standing(&team).await;
        ledger.schema_conflict().is_some() && ledger.is_breaker_open()
    })
    .await;
    let outcome = is_held(&ledger, &ask(&team, 1)).await;
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
    server.command(&["SET", "tollgate:schema", "1"]);
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
}
