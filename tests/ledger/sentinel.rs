//! A ledger behind real sentinels: masters that die, that are replaced, that
//! turn into replicas without a word, and sentinels that lie or are away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::Pipeline;
use tollgate::billing::team::TeamId;
use tollgate::ledger::redis::{
    EventLink, RedisLedger, RedisSettings, SentinelSettings, Servers, Transport,
};
use tollgate::ledger::{Health, Ledger, LedgerError, Mark, Proof, TeamFact};

use crate::false_redis::{Answer, FalseRedis, bulk};
use crate::redis_server::{RedisServer, free_port};
use crate::sentinel_service::{SERVICE, Sentinel, Service};
use crate::{PATIENCE, connected, credits, eventually, fresh_team, settings, team};

/// The longest a request waits here.
const DEADLINE: Duration = Duration::from_millis(300);

/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(600);

fn behind(nodes: Vec<String>) -> RedisSettings {
    RedisSettings {
        servers: Servers::Sentinel(SentinelSettings {
            nodes,
            service: SERVICE.to_owned(),
            user: None,
            password: None,
            db: 0,
            transport: Transport::Plain,
        }),
        deadline: DEADLINE,
        connect_timeout: Duration::from_secs(1),
        ..settings(String::new())
    }
}

fn key(team: &TeamId) -> String {
    format!("credits:{{{team}}}")
}

/// Reads and writes all the time until told that it is over. Each is right or an
/// outage, in time.
fn keep_asking(
    ledger: &Arc<RedisLedger>,
    team: &TeamId,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let (ledger, team, is_over) = (Arc::clone(ledger), team.clone(), Arc::clone(&over));
    let asking = tokio::spawn(async move {
        while !is_over.load(Ordering::Relaxed) {
            let start = Instant::now();
            match ledger.balance(&team).await {
                Ok(balance) => assert_eq!(balance, Some(credits("20"))),
                Err(LedgerError::Outage(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            match ledger.set_balance(&team, credits("20")).await {
                Ok(()) | Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            let took = start.elapsed();
            assert!(took < 2 * DEADLINE + SLACK, "{took:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    (over, asking)
}

/// The balance can be read and written, on this server.
async fn serves(ledger: &RedisLedger, team: &TeamId, server: &RedisServer) {
    eventually("the new master is used", PATIENCE, || async {
        if ledger.set_balance(team, credits("7")).await != Ok(()) {
            return false;
        }
        assert_eq!(ledger.balance(team).await, Ok(Some(credits("7"))));
        let written = server.command(&["GET", &key(team)]);
        redis::from_redis_value::<Option<String>>(written).expect("a text") == Some("7".to_owned())
    })
    .await;
    assert_eq!(ledger.set_balance(team, credits("20")).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_killed_is_replaced_and_its_return_changes_nothing() {
    let mut service = Service::start();
    let team = fresh_team();
    service.servers[0].command(&["SET", &key(&team), "20"]);
    service.servers[0].command(&["WAIT", "2", "5000"]);
    let ledger = Arc::new(connected(&behind(service.urls())).await);
    let (over, asking) = keep_asking(&ledger, &team);
    service.servers[0].stop();
    let new = service.replaced(0);
    serves_while_asked(&ledger, &team).await;
    assert_ne!(new, 0);
    service.servers[0].restart();
    let new = service.settled();
    over.store(true, Ordering::Relaxed);
    asking.await.expect("the claims of the one that asks");
    serves(&ledger, &team, &service.servers[new]).await;
}

/// As [`serves`], while somebody else writes too.
async fn serves_while_asked(ledger: &RedisLedger, team: &TeamId) {
    eventually("the new master is used", PATIENCE, || async {
        ledger.set_balance(team, credits("20")).await == Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_an_operator_asks_for_is_followed() {
    let service = Service::start();
    let team = fresh_team();
    service.servers[0].command(&["SET", &key(&team), "20"]);
    service.servers[0].command(&["WAIT", "2", "5000"]);
    let ledger = Arc::new(connected(&behind(service.urls())).await);
    let (over, asking) = keep_asking(&ledger, &team);
    service.fail_over();
    let new = service.replaced(0);
    serves_while_asked(&ledger, &team).await;
    over.store(true, Ordering::Relaxed);
    asking.await.expect("the claims of the one that asks");
    serves(&ledger, &team, &service.servers[new]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_and_marks_go_over_to_the_new_master() {
    let service = Service::start();
    service.servers[0].command(&["SET", "run:r1", "acme"]);
    let ledger = connected(&behind(service.urls())).await;
    let mark = async || ledger.mark_by("m", PATIENCE, ledger.until()).await;
    let fact = async || ledger.team_fact_by("run:r1", ledger.until()).await;
    let known = TeamFact {
        team: team("acme"),
        proof: Proof::Nothing,
    };
    assert_eq!(mark().await, Ok(Mark::First));
    assert_eq!(fact().await, Ok(Some(known.clone())));
    service.servers[0].command(&["WAIT", "2", "5000"]);
    service.fail_over();
    service.replaced(0);
    eventually("the new master has both", PATIENCE, || async {
        mark().await == Ok(Mark::Again) && fact().await == Ok(Some(known.clone()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_turned_replica_is_left_whoever_says_so() {
    let service = Service::start();
    let team = fresh_team();
    let ledger = connected(&behind(service.urls())).await;
    serves(&ledger, &team, &service.servers[0]).await;
    // Behind the sentinels' back, and they are not asked in time to notice.
    let port = service.servers[1].port.to_string();
    service.servers[1].command(&["REPLICAOF", "NO", "ONE"]);
    service.servers[0].command(&["REPLICAOF", "127.0.0.1", &port]);
    eventually("the replica is no longer used", PATIENCE, || async {
        let set = ledger.set_balance(&team, credits("20")).await;
        assert!(
            matches!(
                set,
                Ok(()) | Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_))
            ),
            "{set:?}"
        );
        set != Ok(()) && ledger.is_breaker_open()
    })
    .await;
    let port = service.servers[0].port.to_string();
    service.servers[0].command(&["REPLICAOF", "NO", "ONE"]);
    service.servers[1].command(&["REPLICAOF", "127.0.0.1", &port]);
    serves(&ledger, &team, &service.servers[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_away_do_not_end_what_works() {
    let mut service = Service::start();
    let team = fresh_team();
    let ledger = connected(&behind(service.urls())).await;
    serves(&ledger, &team, &service.servers[0]).await;
    service.sentinels[0].freeze();
    service.sentinels[1].stop();
    for _ in 0..20 {
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("20"))));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One is enough to begin with.
    let fresh = connected(&behind(service.urls())).await;
    assert_eq!(fresh.balance(&team).await, Ok(Some(credits("20"))));
    service.sentinels[2].stop();
    for _ in 0..20 {
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("20"))));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    let once = RedisLedger::connect_once(&behind(service.urls())).await;
    let Err(LedgerError::Outage(why)) = once else {
        panic!("{once:?}")
    };
    assert!(why.contains("no sentinel can be asked"), "{why}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// A sentinel that names this address.
async fn liar(port: u16) -> FalseRedis {
    let sentinel = FalseRedis::start().await;
    sentinel.behave(move |command| match command.first().map(String::as_str) {
        Some("SENTINEL") => {
            let mut bytes = b"*2\r\n".to_vec();
            bytes.extend(bulk("127.0.0.1"));
            bytes.extend(bulk(&port.to_string()));
            Answer::Say(bytes)
        }
        _ => Answer::Say(b"+OK\r\n".to_vec()),
    });
    sentinel
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_lies_is_not_believed() {
    let (master, replica, other) = (
        RedisServer::start(),
        RedisServer::start(),
        RedisServer::start(),
    );
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    let team = fresh_team();
    master.command(&["SET", &key(&team), "20"]);
    other.command(&["SET", &key(&team), "0"]);
    let honest = Sentinel::start(&master.port.to_string());
    let (to_replica, to_nobody, to_other) = (
        liar(replica.port).await,
        liar(free_port()).await,
        liar(other.port).await,
    );
    // A replica or nobody: the server itself, or its absence, tells.
    for lie in [&to_replica, &to_nobody] {
        let alone = RedisLedger::connect_once(&behind(vec![lie.url()])).await;
        assert!(matches!(alone, Err(LedgerError::Outage(_))), "{alone:?}");
        let ledger = connected(&behind(vec![lie.url(), honest.url()])).await;
        for _ in 0..30 {
            let balance = ledger.balance(&team).await;
            assert_eq!(balance, Ok(Some(credits("20"))));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Another master: the others outvote it.
    let second = Sentinel::start(&master.port.to_string());
    let ledger = connected(&behind(vec![to_other.url(), honest.url(), second.url()])).await;
    for _ in 0..30 {
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("20"))));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn most_of_all_sentinels_have_to_agree_before_a_master_is_left() {
    let (new, old) = (RedisServer::start(), RedisServer::start());
    let team = fresh_team();
    new.command(&["SET", &key(&team), "20"]);
    old.command(&["SET", &key(&team), "0"]);
    let (first, second, stale) = (
        liar(new.port).await,
        liar(new.port).await,
        liar(old.port).await,
    );
    let nodes = [&stale, &first, &second].map(FalseRedis::url).to_vec();
    let ledger = connected(&behind(nodes)).await;
    eventually("the master is confirmed", PATIENCE, || async {
        first.accepted() > 0 && second.accepted() > 0
    })
    .await;
    assert_eq!(ledger.balance(&team).await, Ok(Some(credits("20"))));
    // Both of those that know better begin anew.
    for sentinel in [&first, &second] {
        sentinel.behave(|_| Answer::Cut(Vec::new()));
    }
    for round in 0..40 {
        if round == 20 {
            // Without a link, the one that was confirmed is tried first.
            new.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
        match ledger.balance(&team).await {
            Ok(balance) => assert_eq!(balance, Some(credits("20"))),
            Err(LedgerError::Outage(_)) => assert!(round >= 20),
            Err(other) => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("it is there again", PATIENCE, || async {
        match ledger.balance(&team).await {
            Ok(balance) => {
                assert_eq!(balance, Some(credits("20")));
                true
            }
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slowest_sentinel_keeps_its_connection() {
    let master = RedisServer::start();
    let sentinels = [
        liar(master.port).await,
        liar(master.port).await,
        liar(master.port).await,
    ];
    let port = master.port;
    sentinels[2].behave(move |command| match command.first().map(String::as_str) {
        Some("SENTINEL") => {
            let mut bytes = b"*2\r\n".to_vec();
            bytes.extend(bulk("127.0.0.1"));
            bytes.extend(bulk(&port.to_string()));
            Answer::Late(Duration::from_millis(20), bytes)
        }
        _ => Answer::Say(b"+OK\r\n".to_vec()),
    });
    let nodes = sentinels.iter().map(FalseRedis::url).collect();
    let ledger = connected(&behind(nodes)).await;
    // Several rounds of questions.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ledger.health(), Health::Up);
    for sentinel in &sentinels {
        assert_eq!(sentinel.accepted(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_knows_is_an_outage() {
    let server = RedisServer::start();
    let sentinel = Sentinel::start(&server.port.to_string());
    let mut settings = behind(vec![sentinel.url()]);
    if let Servers::Sentinel(sentinel) = &mut settings.servers {
        sentinel.service = "other".to_owned();
    }
    let ledger = RedisLedger::new(&settings).expect("settings");
    tokio::spawn(ledger.run());
    eventually("the reason is known", PATIENCE, || async {
        ledger.health() == Health::Down("no sentinel knows a master of other".to_owned())
    })
    .await;
    let outcome = ledger.balance(&fresh_team()).await;
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn user_password_and_database_are_those_of_the_master() {
    let server = RedisServer::start_with(&[
        "--user",
        "gate",
        "on",
        ">s3cret",
        "~credits:*",
        "+ping",
        "+get",
        "+set",
        "+role",
        "+select",
    ]);
    let sentinel = Sentinel::start(&server.port.to_string());
    let mut settings = behind(vec![sentinel.url()]);
    if let Servers::Sentinel(sentinel) = &mut settings.servers {
        sentinel.user = Some("gate".to_owned());
        sentinel.password = Some("s3cret".to_owned());
        sentinel.db = 5;
    }
    let ledger = connected(&settings).await;
    let team = fresh_team();
    assert_eq!(ledger.set_balance(&team, credits("3")).await, Ok(()));
    let info = format!("{:?}", server.command(&["INFO", "keyspace"]));
    assert!(info.contains("db5:"), "{info}");
    if let Servers::Sentinel(sentinel) = &mut settings.servers {
        sentinel.password = Some("hunter2".to_owned());
    }
    let once = RedisLedger::connect_once(&settings).await;
    let Err(LedgerError::Outage(why)) = once else {
        panic!("{once:?}")
    };
    assert!(why.contains("authentication failed"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_the_master() {
    let service = Service::start();
    let mut link = EventLink::new(&behind(service.urls())).expect("settings");
    let mut batch = Pipeline::new();
    batch
        .cmd("XADD")
        .arg("tollgate:refusals")
        .arg("*")
        .arg("a")
        .arg("b");
    link.send(&batch.get_packed_pipeline(), 1)
        .await
        .expect("sent");
    service.fail_over();
    let new = service.replaced(0);
    let start = Instant::now();
    // One batch may be lost with the connection, and is told to be.
    let length = || -> usize {
        let length = service.servers[new].command(&["XLEN", "tollgate:refusals"]);
        redis::from_redis_value(length).expect("a count")
    };
    let before = length();
    while length() == before {
        assert!(
            start.elapsed() < PATIENCE,
            "nothing arrives at the new master"
        );
        let _ = link.send(&batch.get_packed_pipeline(), 1).await;
    }
}
