//! Holds while slots move and masters are replaced: a start is held once or
//! told of an outage, nobody is refused who has credits, and what a failover
//! loses is within what `tollgate explain --worst-case` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tollgate::billing::admission::Rule;
use tollgate::billing::credits::Credits;
use tollgate::billing::hold::HoldId;
use tollgate::billing::team::TeamId;
use tollgate::ledger::holds::{Ask, Change, Holds, Outcome, Release, Repair, Terms, Which};
use tollgate::ledger::redis::{RedisLedger, RedisSettings, SentinelSettings, Servers, Transport};
use tollgate::ledger::{Health, Ledger, LedgerError};

use crate::redis_cluster::{MASTERS, RedisCluster};
use crate::sentinel_service::{SERVICE, Service};
use crate::{PATIENCE, connected, credits, eventually, settings, team};

/// The longest a start waits here.
const DEADLINE: Duration = Duration::from_millis(300);

/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(600);

/// Longer than any test runs.
const HOLD_FOR: Duration = Duration::from_secs(3600);

/// How many ask at the same time.
const STARTERS: usize = 8;

fn for_holds(servers: Servers) -> RedisSettings {
    RedisSettings {
        servers,
        deadline: DEADLINE,
        connect_timeout: Duration::from_secs(1),
        holds: Some(Terms::default()),
        ..settings(String::new())
    }
}

async fn on_cluster(cluster: &RedisCluster) -> Arc<RedisLedger> {
    let settings = for_holds(Servers::Cluster(cluster.urls(3)));
    Arc::new(connected(&settings).await)
}

fn ask(team: &TeamId) -> Ask {
    static COUNT: AtomicU64 = AtomicU64::new(1 << 40);
    Ask {
        team: team.clone(),
        id: HoldId::from_bits(COUNT.fetch_add(1, Ordering::Relaxed).into()),
        credits: credits("1"),
        hold_for: HOLD_FOR,
        rule: Rule::default(),
        replay: None,
    }
}

/// Starts that go on until they are told to end.
struct Starts {
    over: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Starts {
    /// Each holds one credit, again and again. One that was not answered is made
    /// again with its id until it is.
    fn begin(ledger: &Arc<RedisLedger>, team: &TeamId) -> Self {
        let mut starts = Starts {
            over: Arc::default(),
            held: Arc::default(),
            refused: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..STARTERS {
            let (ledger, team) = (Arc::clone(ledger), team.clone());
            let over = Arc::clone(&starts.over);
            let (held, refused) = (Arc::clone(&starts.held), Arc::clone(&starts.refused));
            starts.tasks.push(tokio::spawn(async move {
                let mut next = ask(&team);
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match ledger
                        .hold_by(&next, ledger.until())
                        .await
                        .map(|answer| answer.outcome)
                    {
                        Ok(Outcome::Held) => {
                            held.fetch_add(1, Ordering::Relaxed);
                            next = ask(&team);
                        }
                        Ok(Outcome::Refused { .. }) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            next = ask(&team);
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(LedgerError::Outage(_) | LedgerError::OutcomeUnknown(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                    let took = begun.elapsed();
                    assert!(took < DEADLINE + SLACK, "{took:?}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // Whether the last one is held is not known: now it is not.
                let which = Which::Hold(next.id.clone());
                let why = Release::NotStarted(next.id);
                let start = Instant::now();
                while ledger.release(&team, &which, &why).await.is_err() {
                    assert!(start.elapsed() < PATIENCE, "a hold cannot be released");
                }
            }));
        }
        starts
    }

    fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits until so many more are held.
    async fn go_on(&self, more: u64) {
        let before = self.held();
        eventually("starts go on", PATIENCE, || async {
            self.held() >= before + more
        })
        .await;
    }

    /// How many were held and refused in all.
    async fn end(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("the claims of the starts");
        }
        let refused = self.refused.load(Ordering::Relaxed);
        (self.held.load(Ordering::Relaxed), refused)
    }
}

/// How many holds there are, if they add up.
async fn live(ledger: &RedisLedger, team: &TeamId) -> u64 {
    let audit = ledger.audit(team, Repair::Report).await.expect("an audit");
    assert!(audit.is_sound(), "{audit:?}");
    assert_eq!(
        audit.summed.credits,
        Credits::from_micro(audit.summed.live as i64 * 1_000_000)
    );
    audit.summed.live
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_while_starts_run_holds_each_once() {
    let cluster = RedisCluster::start();
    let team = team("mover");
    cluster.set_balance(team.as_str(), "1000000");
    let ledger = on_cluster(&cluster).await;
    let starts = Starts::begin(&ledger, &team);
    let slot = cluster.slot_of("{mover}");
    for _ in 0..6 {
        starts.go_on(20).await;
        let from = cluster.owner(slot);
        let to = (from + 1) % MASTERS;
        cluster.begin_move(slot, from, to);
        tokio::time::sleep(Duration::from_millis(20)).await;
        cluster.move_keys(slot, from, to);
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Keys that came to be in the meantime.
        cluster.move_keys(slot, from, to);
        cluster.finish_move(slot, from, to);
    }
    starts.go_on(20).await;
    let (held, refused) = starts.end().await;
    assert_eq!(refused, 0);
    assert_eq!(live(&ledger, &team).await, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_agreement_loses_no_hold() {
    let cluster = RedisCluster::start();
    let team = team("agreed");
    cluster.set_balance(team.as_str(), "1000000");
    let ledger = on_cluster(&cluster).await;
    let starts = Starts::begin(&ledger, &team);
    let master = cluster.owner(cluster.slot_of("{agreed}"));
    starts.go_on(50).await;
    cluster.fail_over_to(master + MASTERS);
    starts.go_on(50).await;
    cluster.is_well_again();
    cluster.fail_over_to(master);
    starts.go_on(50).await;
    let (held, refused) = starts.end().await;
    assert_eq!(refused, 0);
    assert_eq!(live(&ledger, &team).await, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_no_more_than_was_spendable_before_it() {
    const BALANCE: u64 = 300;
    let mut cluster = RedisCluster::start();
    let team = team("loser");
    cluster.set_balance(team.as_str(), &BALANCE.to_string());
    let master = cluster.owner(cluster.slot_of("{loser}"));
    cluster.run(master, &["WAIT", "1", "5000"]);
    let ledger = on_cluster(&cluster).await;
    // The worst that can happen: the replica hears of none of it, not even what
    // the network would keep for it.
    cluster.node(master + MASTERS).freeze();
    cluster.run(master, &["CLIENT", "KILL", "TYPE", "replica"]);
    let starts = Starts::begin(&ledger, &team);
    eventually("the balance is used up", PATIENCE, || async {
        starts.refused.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(starts.held(), BALANCE);
    cluster.kill(master);
    cluster.node(master + MASTERS).thaw();
    cluster.is_replaced_by(master + MASTERS);
    let worst = 2 * BALANCE;
    eventually("the balance is used up again", PATIENCE, || async {
        assert!(starts.held() <= worst, "{} of {worst}", starts.held());
        match ledger.standing(&team).await {
            Ok(standing) => standing.spendable() == Some(Credits::ZERO),
            Err(_) => false,
        }
    })
    .await;
    let (held, _) = starts.end().await;
    assert_eq!(live(&ledger, &team).await, BALANCE);
    // All that could be lost was lost, so the figure is no exaggeration.
    assert_eq!(held, worst);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_loses_at_most_what_its_replica_had_not_heard() {
    const BALANCE: u64 = 100_000;
    let mut cluster = RedisCluster::start();
    let team = team("killed");
    cluster.set_balance(team.as_str(), &BALANCE.to_string());
    let ledger = on_cluster(&cluster).await;
    let starts = Starts::begin(&ledger, &team);
    starts.go_on(100).await;
    let master = cluster.owner(cluster.slot_of("{killed}"));
    cluster.run(master, &["WAIT", "1", "5000"]);
    let heard = starts.held();
    cluster.kill(master);
    cluster.is_replaced_by(master + MASTERS);
    starts.go_on(100).await;
    let (held, refused) = starts.end().await;
    assert_eq!(refused, 0);
    let live = live(&ledger, &team).await;
    assert!(
        live <= held,
        "{live} holds of {held} starts: some are held twice"
    );
    assert!(
        live >= heard,
        "{live} holds, and the replica had heard of {heard}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_of_every_shard_are_found_changed_and_ended() {
    let cluster = RedisCluster::start();
    let ledger = on_cluster(&cluster).await;
    let teams: Vec<TeamId> = (0..20)
        .map(|number| team(&format!("shard-{number}")))
        .collect();
    let owners: std::collections::BTreeSet<usize> = teams
        .iter()
        .map(|team| cluster.owner(cluster.slot_of(&format!("{{{team}}}"))))
        .collect();
    assert_eq!(owners.len(), MASTERS);
    for team in &teams {
        cluster.set_balance(team.as_str(), "2.5");
        let (first, second, third) = (ask(team), ask(team), ask(team));
        for (ask, expected) in [(&first, true), (&second, true), (&third, false)] {
            let answer = ledger
                .hold_by(ask, ledger.until())
                .await
                .expect("an answer");
            assert_eq!(answer.outcome == Outcome::Held, expected, "{answer:?}");
        }
        let settled = ledger
            .settle(team, &Which::Hold(first.id.clone()), credits("1"))
            .await;
        assert!(matches!(settled, Ok(Change::Done(_))), "{settled:?}");
        assert_eq!(live(&ledger, team).await, 1);
    }
    let mut found = ledger.teams().await.expect("teams");
    let mut expected = teams.clone();
    found.sort_by_key(|team| team.as_str().to_owned());
    expected.sort_by_key(|team| team.as_str().to_owned());
    assert_eq!(found, expected);
    // A part of the teams would look like all of them.
    cluster.node(0).freeze();
    eventually("it is not told", PATIENCE, || async {
        ledger.teams().await.is_err()
    })
    .await;
    cluster.node(0).thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_an_unknown_version_is_not_written_to() {
    let cluster = RedisCluster::start();
    cluster.at_owner("tollgate:schema", &["SET", "tollgate:schema", "999"]);
    let settings = for_holds(Servers::Cluster(cluster.urls(1)));
    let ledger = RedisLedger::new(&settings).expect("settings");
    tokio::spawn(ledger.run());
    eventually("the version is known", PATIENCE, || async {
        ledger
            .schema_conflict()
            .is_some_and(|why| why.contains("999"))
    })
    .await;
    assert!(matches!(ledger.health(), Health::Down(why) if why.contains("999")));
    for number in 0..20 {
        let team = team(&format!("unknown-{number}"));
        cluster.set_balance(team.as_str(), "20");
        let outcome = ledger.hold_by(&ask(&team), ledger.until()).await;
        assert!(
            matches!(outcome, Err(LedgerError::Outage(_))),
            "{outcome:?}"
        );
    }
    cluster.at_owner("tollgate:schema", &["SET", "tollgate:schema", "1"]);
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
    assert_eq!(ledger.schema_conflict(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_cluster_whose_version_cannot_be_read() {
    let cluster = RedisCluster::start();
    let owner = cluster.owner(cluster.slot_of("tollgate:schema"));
    cluster.at_owner("tollgate:schema", &["SET", "tollgate:schema", "999"]);
    let teams: Vec<TeamId> = (0..20)
        .map(|number| team(&format!("unread-{number}")))
        .filter(|team| cluster.owner(cluster.slot_of(&format!("{{{team}}}"))) != owner)
        .collect();
    for team in &teams {
        cluster.set_balance(team.as_str(), "20");
    }
    let replica = owner + MASTERS;
    cluster.run(owner, &["WAIT", "1", "5000"]);
    let other = (owner + 1) % MASTERS;
    for node in [owner, replica] {
        cluster.node(node).freeze();
    }
    let settings = for_holds(Servers::Cluster(vec![cluster.node(other).url()]));
    let ledger = RedisLedger::new(&settings).expect("settings");
    tokio::spawn(ledger.run());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        for team in &teams {
            let outcome = ledger.hold_by(&ask(team), ledger.until()).await;
            assert!(
                matches!(outcome, Err(LedgerError::Outage(_))),
                "{outcome:?}"
            );
        }
        assert!(matches!(ledger.health(), Health::Down(_)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for node in [owner, replica] {
        cluster.node(node).thaw();
    }
    cluster.is_well_again();
    eventually("the version is known", PATIENCE, || async {
        ledger.schema_conflict().is_some()
    })
    .await;
    cluster.at_owner("tollgate:schema", &["SET", "tollgate:schema", "1"]);
    assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_changes_in_a_cluster_is_noticed_while_links_are_up() {
    let cluster = RedisCluster::start();
    let ledger = on_cluster(&cluster).await;
    let slot = cluster.slot_of("tollgate:schema");
    let from = cluster.owner(slot);
    let to = (from + 1) % MASTERS;
    // Half-way through a move it is where one is sent.
    cluster.begin_move(slot, from, to);
    cluster.move_keys(slot, from, to);
    let fresh = on_cluster(&cluster).await;
    assert_eq!(fresh.health(), Health::Up);
    cluster.finish_move(slot, from, to);
    cluster.at_owner("tollgate:schema", &["SET", "tollgate:schema", "999"]);
    for ledger in [&ledger, &fresh] {
        eventually("noticed", PATIENCE, || async {
            ledger.schema_conflict().is_some()
        })
        .await;
        assert!(matches!(ledger.health(), Health::Down(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_replace_the_master_while_starts_run() {
    let mut service = Service::start();
    let team = team("guarded");
    let settings = for_holds(Servers::Sentinel(SentinelSettings {
        nodes: service.urls(),
        service: SERVICE.to_owned(),
        user: None,
        password: None,
        db: 0,
        transport: Transport::Plain,
    }));
    let ledger = Arc::new(connected(&settings).await);
    ledger
        .set_balance(&team, credits("1000000"))
        .await
        .expect("a balance");
    let starts = Starts::begin(&ledger, &team);
    starts.go_on(50).await;
    service.servers[0].command(&["WAIT", "2", "5000"]);
    let heard = starts.held();
    service.servers[0].stop();
    let master = service.replaced(0);
    starts.go_on(50).await;
    // Now without a dead one: asked to, sentinels move on by themselves.
    service.servers[0].restart();
    let settled = service.settled();
    service.servers[settled].command(&["WAIT", "1", "5000"]);
    starts.go_on(50).await;
    let (held, refused) = starts.end().await;
    assert_eq!(refused, 0, "the master was {master}");
    let live = live(&ledger, &team).await;
    assert!((heard..=held).contains(&live), "{heard} ≤ {live} ≤ {held}");
}
