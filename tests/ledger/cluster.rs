//! A ledger on a real cluster of six nodes: slots that move, masters that are
//! replaced, and one that is dead while the others are none the wiser.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::Pipeline;
use tollgate::billing::team::TeamId;
use tollgate::ledger::redis::{EventLink, RedisLedger, RedisSettings, Replies, Servers};
use tollgate::ledger::{Health, Ledger, LedgerError, Mark, Proof, TeamFact};

use crate::false_redis::{Answer, FalseRedis, bulk, well_behaved};
use crate::redis_cluster::{MASTERS, NODE_TIMEOUT, RedisCluster};
use crate::redis_server::free_port;
use crate::{PATIENCE, connected, credits, eventually, settings, team};

/// The longest a request waits here.
const DEADLINE: Duration = Duration::from_millis(300);

/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(600);

fn cluster_settings(cluster: &RedisCluster, nodes: usize) -> RedisSettings {
    RedisSettings {
        servers: Servers::Cluster(cluster.urls(nodes)),
        deadline: DEADLINE,
        connect_timeout: Duration::from_secs(1),
        ..settings(String::new())
    }
}

/// A team whose balance is in a slot of this master's.
fn team_at(cluster: &RedisCluster, master: usize, stem: &str) -> TeamId {
    (0..)
        .map(|number| format!("{stem}-{number}"))
        .find(|name| cluster.owner(cluster.slot_of(&key(name))) == master)
        .map(|name| team(&name))
        .expect("a team")
}

fn key(team: &str) -> String {
    format!("credits:{{{team}}}")
}

/// One team of each master, each with 20 credits.
fn teams(cluster: &RedisCluster) -> Vec<TeamId> {
    let teams: Vec<TeamId> = (0..MASTERS)
        .map(|master| team_at(cluster, master, "team"))
        .collect();
    for team in &teams {
        cluster.set_balance(team.as_str(), "20");
    }
    teams
}

/// What a stream of reads met.
#[derive(Default)]
struct Seen {
    right: AtomicUsize,
    outages: AtomicUsize,
    longest: std::sync::Mutex<Duration>,
    over: AtomicBool,
}

impl Seen {
    fn note(&self, took: Duration) {
        let mut longest = self.longest.lock().unwrap();
        *longest = took.max(*longest);
    }
}

/// Reads a team's balance all the time. It is 20, or an outage in time, and
/// nothing else ever.
fn read_on(ledger: &Arc<RedisLedger>, team: &TeamId) -> (Arc<Seen>, tokio::task::JoinHandle<()>) {
    let seen = Arc::new(Seen::default());
    let (ledger, team, notes) = (Arc::clone(ledger), team.clone(), Arc::clone(&seen));
    let reading = tokio::spawn(async move {
        while !notes.over.load(Ordering::Relaxed) {
            let start = Instant::now();
            match ledger.balance(&team).await {
                Ok(balance) => {
                    assert_eq!(balance, Some(credits("20")), "a wrong balance");
                    notes.right.fetch_add(1, Ordering::Relaxed);
                }
                Err(LedgerError::Outage(_)) => {
                    notes.outages.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
            let took = start.elapsed();
            assert!(took < DEADLINE + SLACK, "{took:?}");
            notes.note(took);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    (seen, reading)
}

async fn end(seen: &Seen, reading: tokio::task::JoinHandle<()>) {
    seen.over.store(true, Ordering::Relaxed);
    reading.await.expect("the claims of the reader");
}

async fn answers(ledger: &RedisLedger, team: &TeamId) {
    eventually("the balance is read", PATIENCE, || async {
        match ledger.balance(team).await {
            Ok(balance) => {
                assert_eq!(balance, Some(credits("20")));
                true
            }
            Err(LedgerError::Outage(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_enough_to_find_every_balance() {
    let cluster = RedisCluster::start();
    let teams = teams(&cluster);
    // A replica, too, knows the masters.
    let of_a_replica = RedisSettings {
        servers: Servers::Cluster(vec![cluster.node(4).url()]),
        ..cluster_settings(&cluster, 1)
    };
    for settings in [cluster_settings(&cluster, 1), of_a_replica] {
        let ledger = connected(&settings).await;
        let once = RedisLedger::connect_once(&settings)
            .await
            .expect("a ledger");
        for ledger in [&ledger, &once] {
            for team in &teams {
                assert_eq!(ledger.balance(team).await, Ok(Some(credits("20"))));
            }
        }
        for (added, team) in teams.iter().enumerate() {
            let grown = once.grant(team, credits("1.5")).await;
            assert_eq!(grown, Ok(credits("21.5")), "team {added}");
            assert_eq!(once.set_balance(team, credits("20")).await, Ok(()));
        }
        // The key is in a slot of its own.
        let sha256 = "ab".repeat(32);
        let key = format!("apikey:{sha256}");
        cluster.at_owner(&key, &["HSET", &key, "team", "acme"]);
        let fact = ledger
            .key_fact(&sha256)
            .await
            .expect("an answer")
            .expect("a fact");
        assert_eq!(fact.team, Some(team("acme")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_and_marks_are_in_slots_of_their_own_that_may_move() {
    let cluster = RedisCluster::start();
    let ledger = connected(&cluster_settings(&cluster, 1)).await;
    let fact = async |key: &str| ledger.team_fact_by(key, ledger.until()).await;
    let mark = async |name: &str| ledger.mark_by(name, PATIENCE, ledger.until()).await;
    let belongs_to = |proof| {
        let team = team("acme");
        Ok(Some(TeamFact { team, proof }))
    };
    // Enough that every master has some.
    for number in 0..12 {
        let (text, hash) = (format!("run:{number}"), format!("webhook:{number}"));
        cluster.at_owner(&text, &["SET", &text, "acme"]);
        cluster.at_owner(&hash, &["HSET", &hash, "team", "acme"]);
        assert_eq!(fact(&text).await, belongs_to(Proof::Nothing));
        assert_eq!(fact(&hash).await, belongs_to(Proof::NotSaid));
        assert_eq!(fact(&format!("none:{number}")).await, Ok(None));
        assert_eq!(mark(&format!("m{number}")).await, Ok(Mark::First));
        assert_eq!(mark(&format!("m{number}")).await, Ok(Mark::Again));
    }
    for (key, proof) in [("run:1", Proof::Nothing), ("webhook:1", Proof::NotSaid)] {
        let slot = cluster.slot_of(key);
        let from = cluster.owner(slot);
        let to = (from + 1) % MASTERS;
        cluster.begin_move(slot, from, to);
        assert_eq!(fact(key).await, belongs_to(proof.clone()));
        cluster.move_keys(slot, from, to);
        assert_eq!(fact(key).await, belongs_to(proof.clone()));
        cluster.finish_move(slot, from, to);
        assert_eq!(fact(key).await, belongs_to(proof));
    }
    let slot = cluster.slot_of("tollgate:mark:m1");
    let from = cluster.owner(slot);
    let to = (from + 1) % MASTERS;
    cluster.begin_move(slot, from, to);
    assert_eq!(mark("m1").await, Ok(Mark::Again));
    cluster.move_keys(slot, from, to);
    assert_eq!(mark("m1").await, Ok(Mark::Again));
    cluster.finish_move(slot, from, to);
    assert_eq!(mark("m1").await, Ok(Mark::Again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_costs_nobody_anything() {
    let cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let ledger = Arc::new(connected(&cluster_settings(&cluster, 2)).await);
    let once = RedisLedger::connect_once(&cluster_settings(&cluster, 2)).await;
    let once = once.expect("a ledger");
    let readers: Vec<_> = teams.iter().map(|team| read_on(&ledger, team)).collect();
    let slot = cluster.slot_of(&key(teams[0].as_str()));
    for round in 0..6 {
        let from = cluster.owner(slot);
        let to = (from + 1) % MASTERS;
        cluster.begin_move(slot, from, to);
        assert_eq!(ledger.balance(&teams[0]).await, Ok(Some(credits("20"))));
        cluster.move_keys(slot, from, to);
        // Now only whoever is sent there is answered there.
        for _ in 0..3 {
            assert_eq!(ledger.balance(&teams[0]).await, Ok(Some(credits("20"))));
            assert_eq!(once.balance(&teams[0]).await, Ok(Some(credits("20"))));
            assert_eq!(ledger.set_balance(&teams[0], credits("20")).await, Ok(()));
            let granted = ledger.grant(&teams[0], credits("0")).await;
            assert_eq!(granted, Ok(credits("20")), "round {round}");
        }
        cluster.finish_move(slot, from, to);
        assert_eq!(ledger.balance(&teams[0]).await, Ok(Some(credits("20"))));
        assert_eq!(once.balance(&teams[0]).await, Ok(Some(credits("20"))));
    }
    for (seen, reading) in readers {
        end(&seen, reading).await;
        assert_eq!(seen.outages.load(Ordering::Relaxed), 0);
        assert!(seen.right.load(Ordering::Relaxed) > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_in_agreement_with_its_master() {
    let cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let ledger = Arc::new(connected(&cluster_settings(&cluster, 1)).await);
    let readers: Vec<_> = teams.iter().map(|team| read_on(&ledger, team)).collect();
    cluster.fail_over_to(MASTERS);
    cluster.is_well_again();
    answers(&ledger, &teams[0]).await;
    assert_eq!(ledger.set_balance(&teams[0], credits("20")).await, Ok(()));
    for (at, (seen, reading)) in readers.into_iter().enumerate() {
        end(&seen, reading).await;
        if at > 0 {
            assert_eq!(seen.outages.load(Ordering::Relaxed), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_master_costs_its_own_teams_alone_until_it_is_replaced() {
    let mut cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let ledger = Arc::new(connected(&cluster_settings(&cluster, 3)).await);
    let readers: Vec<_> = teams.iter().map(|team| read_on(&ledger, team)).collect();
    cluster.kill(0);
    cluster.is_replaced_by(MASTERS);
    answers(&ledger, &teams[0]).await;
    assert_eq!(ledger.health(), Health::Up);
    cluster.restart(0);
    cluster.is_well_again();
    answers(&ledger, &teams[0]).await;
    for (at, (seen, reading)) in readers.into_iter().enumerate() {
        end(&seen, reading).await;
        let outages = seen.outages.load(Ordering::Relaxed);
        assert_eq!(outages > 0, at == 0, "team {at}: {outages} outages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_shard_and_a_moving_slot_at_once_leave_the_others_alone() {
    let cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let ledger = Arc::new(connected(&cluster_settings(&cluster, 3)).await);
    let readers: Vec<_> = teams.iter().map(|team| read_on(&ledger, team)).collect();
    // Neither the master nor its replica: nobody will take over.
    cluster.node(2).freeze();
    cluster.node(2 + MASTERS).freeze();
    let slot = cluster.slot_of(&key(teams[0].as_str()));
    // Whoever was not frozen still moves slots about.
    cluster.move_slot(slot, 1);
    tokio::time::sleep(NODE_TIMEOUT * 2).await;
    assert_eq!(ledger.health(), Health::Up);
    let start = Instant::now();
    let outcome = ledger.balance(&teams[2]).await;
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "the breaker is open"
    );
    for node in [2, 2 + MASTERS] {
        cluster.node(node).thaw();
    }
    answers(&ledger, &teams[2]).await;
    for (at, (seen, reading)) in readers.into_iter().enumerate() {
        end(&seen, reading).await;
        let outages = seen.outages.load(Ordering::Relaxed);
        assert_eq!(outages > 0, at == 2, "team {at}: {outages} outages");
        let longest = *seen.longest.lock().unwrap();
        assert!(
            at == 2 || longest < DEADLINE,
            "team {at} waited {longest:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_full_coverage_one_dead_shard_is_everybody_s_outage_and_passes() {
    let cluster = RedisCluster::start_with(&["--cluster-require-full-coverage", "yes"]);
    let teams = teams(&cluster);
    let ledger = connected(&cluster_settings(&cluster, 3)).await;
    for node in [0, MASTERS] {
        cluster.node(node).freeze();
    }
    eventually("the cluster is down", PATIENCE, || async {
        match ledger.balance(&teams[1]).await {
            Ok(balance) => {
                assert_eq!(balance, Some(credits("20")));
                false
            }
            Err(LedgerError::Outage(_)) => true,
            Err(other) => panic!("{other:?}"),
        }
    })
    .await;
    for node in [0, MASTERS] {
        cluster.node(node).thaw();
    }
    for team in &teams {
        answers(&ledger, team).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_an_outage_and_one_that_comes_back_is_found() {
    let mut cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let settings = cluster_settings(&cluster, 3);
    for node in 0..2 * MASTERS {
        cluster.kill(node);
    }
    let ledger = RedisLedger::new(&settings).expect("settings");
    tokio::spawn(ledger.run());
    assert!(matches!(ledger.health(), Health::Down(_)));
    let start = Instant::now();
    let outcome = ledger.balance(&teams[0]).await;
    assert!(
        matches!(outcome, Err(LedgerError::Outage(_))),
        "{outcome:?}"
    );
    assert!(start.elapsed() < DEADLINE + SLACK);
    let once = RedisLedger::connect_once(&settings).await;
    assert!(matches!(once, Err(LedgerError::Outage(_))), "{once:?}");
    for node in 0..2 * MASTERS {
        cluster.restart(node);
    }
    cluster.is_well_again();
    for team in &teams {
        cluster.set_balance(team.as_str(), "20");
        answers(&ledger, team).await;
    }
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_cluster_is_said_to_be_none() {
    let redis = crate::redis_server::RedisServer::start();
    let settings = RedisSettings {
        servers: Servers::Cluster(vec![redis.url()]),
        ..settings(String::new())
    };
    let once = RedisLedger::connect_once(&settings).await;
    let Err(LedgerError::Outage(why)) = once else {
        panic!("{once:?}")
    };
    assert!(why.contains("cluster support disabled"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_follow_their_stream_s_slot() {
    let cluster = RedisCluster::start();
    let mut link = EventLink::new(&cluster_settings(&cluster, 1)).expect("settings");
    let batch = |count: usize| {
        let mut batch = Pipeline::new();
        for number in 0..count {
            batch
                .cmd("XADD")
                .arg("tollgate:refusals")
                .arg("*")
                .arg("n")
                .arg(number);
            batch
                .cmd("XADD")
                .arg("tollgate:events")
                .arg("*")
                .arg("n")
                .arg(number);
        }
        batch.get_packed_pipeline()
    };
    let length = |stream: &str| -> usize {
        redis::from_redis_value(cluster.at_owner(stream, &["XLEN", stream])).expect("a count")
    };
    let ids = |replies: &Replies| replies.count - replies.errors.len();
    let replies = link.send(&batch(5), 10).await.expect("sent");
    assert_eq!(ids(&replies), 10);
    let slot = cluster.slot_of("tollgate:refusals");
    let (from, to) = (cluster.owner(slot), (cluster.owner(slot) + 1) % MASTERS);
    cluster.move_slot(slot, to);
    let replies = link.send(&batch(5), 10).await.expect("sent");
    assert_eq!(ids(&replies), 10);
    assert_eq!(
        (length("tollgate:refusals"), length("tollgate:events")),
        (10, 10)
    );
    // Half-way through a move each one is sent on.
    cluster.begin_move(slot, to, from);
    cluster.move_keys(slot, to, from);
    let replies = link.send(&batch(5), 10).await.expect("sent");
    assert_eq!(ids(&replies), 10);
    cluster.finish_move(slot, to, from);
    assert_eq!(
        (length("tollgate:refusals"), length("tollgate:events")),
        (15, 15)
    );
}

/// A node of a cluster that serves everything, as it says.
async fn false_node(xadd: impl Fn(&[String]) -> Answer + Send + Sync + 'static) -> FalseRedis {
    let node = FalseRedis::start().await;
    let port = node.address.port();
    node.behave(move |command| match command.first().map(String::as_str) {
        Some("CLUSTER") => {
            let mut bytes = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n".to_vec();
            bytes.extend(bulk("127.0.0.1"));
            bytes.extend(format!(":{port}\r\n").into_bytes());
            bytes.extend(bulk("id"));
            Answer::Say(bytes)
        }
        Some("XADD") => xadd(command),
        _ => well_behaved(command),
    });
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_carried_out_in_part_is_not_one_that_was_not_sent() {
    let nobody = free_port();
    let moved = format!("-MOVED 1 127.0.0.1:{nobody}\r\n").into_bytes();
    let all_moved = moved.clone();
    for (node, is_sent) in [
        (
            false_node(move |command| match command[1].as_str() {
                "tollgate:events" => Answer::Say(moved.clone()),
                _ => Answer::Say(bulk("1-1")),
            })
            .await,
            true,
        ),
        (
            false_node(move |_| Answer::Say(all_moved.clone())).await,
            false,
        ),
    ] {
        let settings = RedisSettings {
            servers: Servers::Cluster(vec![node.url()]),
            connect_timeout: Duration::from_secs(1),
            ..settings(String::new())
        };
        let mut link = EventLink::new(&settings).expect("settings");
        let mut batch = Pipeline::new();
        for stream in ["tollgate:events", "tollgate:refusals"] {
            batch.cmd("XADD").arg(stream).arg("*").arg("n").arg(1);
        }
        let outcome = link.send(&batch.get_packed_pipeline(), 2).await;
        assert_eq!(
            matches!(outcome, Err(LedgerError::OutcomeUnknown(_))),
            is_sent,
            "{outcome:?}"
        );
        assert_eq!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            !is_sent,
            "{outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_goes_to_the_balance_s_slot_however_its_key_is_named() {
    let cluster = RedisCluster::start();
    let mut settings = cluster_settings(&cluster, 1);
    settings.keys.balance = "credits:<team>".to_owned();
    let ledger = connected(&settings).await;
    let redirects = || -> usize {
        let count = |node| {
            let stats = cluster.text(node, &["INFO", "errorstats"]);
            let moved = stats.split("errorstat_MOVED:count=").nth(1)?;
            moved.split(['\r', '\n']).next()?.parse::<usize>().ok()
        };
        (0..2 * MASTERS).filter_map(count).sum()
    };
    let before = redirects();
    for number in 0..20 {
        let team = team(&format!("plain-{number}"));
        assert_eq!(ledger.grant(&team, credits("2")).await, Ok(credits("2")));
        assert_eq!(ledger.balance(&team).await, Ok(Some(credits("2"))));
    }
    assert_eq!(redirects(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_do_no_more_than_the_manual_says_is_enough() {
    let cluster = RedisCluster::start();
    let teams = teams(&cluster);
    let user = "SETUSER gate on >s3cret resetkeys resetchannels nocommands %R~credits:* %R~run:* +ping +get +getrange +hmget +cluster|slots +asking (~tollgate:mark:* +set)";
    let words: Vec<&str> = ["ACL"].into_iter().chain(user.split(' ')).collect();
    for node in 0..2 * MASTERS {
        cluster.run(node, &words);
    }
    let url = cluster.urls(1)[0].replace("redis://", "redis://gate:s3cret@");
    let settings = RedisSettings {
        servers: Servers::Cluster(vec![url.clone()]),
        ..cluster_settings(&cluster, 1)
    };
    let ledger = connected(&settings).await;
    let slot = cluster.slot_of(&key(teams[0].as_str()));
    cluster.begin_move(slot, 0, 1);
    cluster.move_keys(slot, 0, 1);
    for team in &teams {
        assert_eq!(ledger.balance(team).await, Ok(Some(credits("20"))));
    }
    for key in ["run:1".to_owned(), format!("run:{{{}}}", teams[0])] {
        let fact = ledger.team_fact_by(&key, ledger.until()).await;
        assert_eq!(fact, Ok(None), "{key}");
        let mark = ledger.mark_by(&key, PATIENCE, ledger.until()).await;
        assert_eq!(mark, Ok(Mark::First), "{key}");
    }
    cluster.finish_move(slot, 0, 1);
    let wrong = RedisSettings {
        servers: Servers::Cluster(vec![url.replace("s3cret", "hunter2")]),
        ..settings
    };
    let once = RedisLedger::connect_once(&wrong).await;
    let Err(LedgerError::Outage(why)) = once else {
        panic!("{once:?}")
    };
    assert!(why.contains("authentication failed"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    assert!(!format!("{wrong:?}").contains("hunter2"));
}
