//! The memory of refusals before real Redis: every way in which a team may get
//! credits ends it, on every gateway, and so does everything after which
//! nobody could be sure to hear of that.
//!
//! Refusals are remembered for an hour here, so that what ends them is never
//! that their time is up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tollgate::billing::admission::{Balance, Refusal, Rule, Verdict, decide};
use tollgate::billing::team::TeamId;
use tollgate::ledger::redis::{RedisLedger, RedisSettings, SentinelSettings, Servers, Transport};
use tollgate::ledger::refused::Refused;
use tollgate::ledger::{Health, Ledger};

use crate::false_redis::{Answer, FalseRedis, bulk};
use crate::redis_cluster::{MASTERS, RedisCluster};
use crate::redis_server::RedisServer;
use crate::sentinel_service::{SERVICE, Service};
use crate::{PATIENCE, eventually, fresh_team, settings, team};

const HOUR: Duration = Duration::from_secs(3600);

/// What a purchase may take to be seen by everybody. However busy the machine
/// is: what it does late counts as not heard.
const PROMISED: Duration = Duration::from_millis(100);

/// A gateway, as far as it asks who may start.
struct Gate {
    ledger: RedisLedger,
    refused: Arc<Refused>,
}

impl Gate {
    async fn before(settings: &RedisSettings) -> Self {
        let ledger = RedisLedger::new(settings).expect("settings");
        let ledger = ledger.remembering(&settings.keys, Rule::default(), HOUR);
        tokio::spawn(ledger.run());
        let watching = ledger.watch().expect("nobody watches yet");
        assert!(ledger.watch().is_none(), "one watches");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        std::thread::spawn(move || runtime.block_on(watching));
        let refused = Arc::clone(ledger.refused().expect("it remembers"));
        assert_eq!(ledger.settled(PATIENCE).await, Health::Up);
        Gate { ledger, refused }
    }

    fn recall(&self, team: &TeamId) -> Option<Refusal> {
        self.refused.recall(team, Instant::now())
    }

    /// What becomes of a start of this team: why it is refused, if it is, and
    /// whether that came from memory. `None`: it cannot be told.
    async fn ask(&self, team: &TeamId) -> Option<Result<(), Refusal>> {
        if let Some(refusal) = self.recall(team) {
            return Some(Err(refusal));
        }
        let balance = match self.ledger.balance(team).await.ok()? {
            Some(credits) => Balance::Known(credits),
            None => Balance::Missing,
        };
        match decide(balance, &Rule::default()) {
            Verdict::Refuse(refusal) => {
                self.refused.offer(team);
                Some(Err(refusal))
            }
            _ => Some(Ok(())),
        }
    }

    /// Asks until it is refused from memory.
    async fn remembers(&self, team: &TeamId) {
        eventually("the refusal is remembered", PATIENCE, || async {
            self.ask(team).await;
            self.recall(team).is_some()
        })
        .await;
    }

    /// The memory works, and this team is not in it.
    async fn does_not_recall(&self, team: &TeamId) {
        let other = fresh_team();
        eventually("the memory works without the team", PATIENCE, || async {
            self.ask(&other).await;
            let now = Instant::now();
            let works = self.refused.recall(&other, now).is_some();
            let recalled = self.refused.recall(team, now);
            assert!(!works || recalled.is_none(), "{team} is still refused");
            works
        })
        .await;
    }
}

/// Until when a purchase that was just made may go unseen.
async fn promise_is_due() {
    tokio::time::sleep(PROMISED).await;
}

fn key(team: &TeamId) -> String {
    format!("credits:{{{team}}}")
}

/// The ids of connections that Redis tells of changes.
fn watching(server: &RedisServer) -> Vec<String> {
    let list = server.command(&["CLIENT", "LIST"]);
    let list: String = redis::from_redis_value(list).expect("a text");
    let word = |line: &str, name: &str| {
        let mut words = line.split(' ');
        words.find_map(|word| word.strip_prefix(name).map(str::to_owned))
    };
    let tracked = |line: &&str| word(line, "flags=").is_some_and(|flags| flags.contains('t'));
    let lines = list.lines().filter(tracked);
    lines.filter_map(|line| word(line, "id=")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_balance_ends_the_memory_of_its_team() {
    let server = RedisServer::start();
    let gates = [
        Gate::before(&settings(server.url())).await,
        Gate::before(&settings(server.unix_url())).await,
    ];
    server.command(&["SET", "other", "20"]);
    server.command(&["RPUSH", "list", "20"]);
    let mut admin = server.admin().expect("redis answers");
    let dump: Vec<u8> = redis::cmd("DUMP").arg("other").query(&mut admin).unwrap();
    let script = "return redis.call('SET', KEYS[1], '20')";
    for (is_there, change) in [
        (true, &["SET", "KEY", "20"][..]),
        (false, &["SET", "KEY", "20"]),
        (true, &["INCRBYFLOAT", "KEY", "0.5"]),
        (false, &["INCRBY", "KEY", "1"]),
        (true, &["DEL", "KEY"]),
        (true, &["UNLINK", "KEY"]),
        (true, &["GETDEL", "KEY"]),
        (true, &["PEXPIRE", "KEY", "1"]),
        (true, &["APPEND", "KEY", "20"]),
        (true, &["SETRANGE", "KEY", "0", "7"]),
        (false, &["COPY", "other", "KEY"]),
        (true, &["COPY", "other", "KEY", "REPLACE"]),
        (true, &["RENAME", "KEY", "elsewhere"]),
        (false, &["RENAME", "other", "KEY"]),
        (false, &["EVAL", script, "1", "KEY"]),
        (true, &["MSET", "unrelated", "1", "KEY", "20"]),
        (false, &["HSET", "KEY", "spendable", "20"]),
        (true, &["SORT", "list", "STORE", "KEY"]),
        (true, &["RESTORE", "KEY", "0", "DUMP", "REPLACE"]),
        (false, &["RESTORE", "KEY", "0", "DUMP"]),
        (true, &["FLUSHDB"]),
        (false, &["FLUSHALL", "ASYNC"]),
    ] {
        server.command(&["SET", "other", "20"]);
        let team = fresh_team();
        if is_there {
            server.command(&["SET", &key(&team), "0"]);
        }
        for gate in &gates {
            gate.remembers(&team).await;
        }
        let mut command = redis::Cmd::new();
        for word in change {
            match *word {
                "KEY" => command.arg(key(&team)),
                "DUMP" => command.arg(&dump),
                word => command.arg(word),
            };
        }
        let _: redis::Value = command.query(&mut admin).unwrap();
        promise_is_due().await;
        for gate in &gates {
            assert_eq!(gate.recall(&team), None, "{change:?}");
            gate.does_not_recall(&team).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_a_hash_is_remembered_until_its_hash_changes() {
    let server = RedisServer::start();
    let mut settings = settings(server.url());
    settings.keys.field = Some("spendable".to_owned());
    let gate = Gate::before(&settings).await;
    let (zero, bare) = (fresh_team(), fresh_team());
    server.command(&["HSET", &key(&zero), "spendable", "0"]);
    server.command(&["HSET", &key(&bare), "name", "Acme"]);
    gate.remembers(&zero).await;
    gate.remembers(&bare).await;
    assert_eq!(gate.recall(&zero), Some(Refusal::InsufficientCredits));
    assert_eq!(gate.recall(&bare), Some(Refusal::NoBalance));
    server.command(&["HINCRBYFLOAT", &key(&zero), "spendable", "20"]);
    server.command(&["HSET", &key(&bare), "spendable", "20"]);
    promise_is_due().await;
    for team in [zero, bare] {
        assert_eq!(gate.recall(&team), None);
        assert_eq!(gate.ask(&team).await, Some(Ok(())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_redis_holds_is_remembered() {
    let server = RedisServer::start();
    let gate = Gate::before(&settings(server.url())).await;
    let (rich, corrupt, broke) = (fresh_team(), fresh_team(), fresh_team());
    server.command(&["SET", &key(&rich), "0.000001"]);
    server.command(&["SET", &key(&corrupt), "none"]);
    for team in [&rich, &corrupt, &broke] {
        gate.refused.offer(team);
    }
    gate.remembers(&broke).await;
    assert_eq!(gate.recall(&broke), Some(Refusal::NoBalance));
    gate.does_not_recall(&rich).await;
    gate.does_not_recall(&corrupt).await;
}

/// What is known of a team's balance by the one that changes it.
#[derive(Clone, Copy)]
enum Known {
    Unsure,
    Credits(Instant),
}

/// A small generator, so that a failure can be played again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Asks for all teams all the time until it is over, and makes sure that none
/// that has paid is refused from memory. Returns how often one was.
async fn ask_on(
    gate: Gate,
    teams: Vec<TeamId>,
    known: Arc<Mutex<Vec<Known>>>,
    over: Over,
) -> usize {
    let mut recalled = 0;
    while !over.load(Ordering::Relaxed) {
        for (index, team) in teams.iter().enumerate() {
            gate.ask(team).await;
            // What is remembered is told without waiting, and would keep the
            // thread from all else.
            tokio::task::yield_now().await;
            let known = known.lock().unwrap();
            let now = Instant::now();
            let refused = gate.refused.recall(team, now);
            recalled += usize::from(refused.is_some());
            if let Known::Credits(since) = known[index] {
                let since = now.duration_since(since);
                let is_late = refused.is_some() && since > PROMISED;
                assert!(!is_late, "{team} is refused {since:?} after it paid");
            }
        }
    }
    recalled
}

type Over = Arc<AtomicBool>;

/// Changes the balance of one team, in a way that the dice say.
fn change(
    dice: &mut Dice,
    admin: &mut redis::Connection,
    teams: &[TeamId],
    known: &Mutex<Vec<Known>>,
) {
    let index = dice.roll(teams.len());
    let key = key(&teams[index]);
    let mut run = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let _: redis::Value = command.query(admin).unwrap();
    };
    let unsure = || known.lock().unwrap()[index] = Known::Unsure;
    match dice.roll(8) {
        // Out of credits, in one way or another.
        0 | 1 => {
            unsure();
            run(&["SET", &key, "0"]);
        }
        2 => {
            unsure();
            run(&["DEL", &key]);
        }
        3 => {
            known.lock().unwrap().fill(Known::Unsure);
            run(&["FLUSHALL"]);
        }
        // It pays, in one way or another.
        4 => run(&["SET", &key, "20"]),
        5 => run(&["INCRBYFLOAT", &key, "1000000"]),
        6 => {
            run(&["SET", "bought", "5"]);
            run(&["RENAME", "bought", &key]);
        }
        _ => run(&["MSET", &key, "7", "unrelated", "0"]),
    }
    // Whatever was rolled: does it have credits now?
    let now: Option<String> = redis::cmd("GET").arg(&key).query(admin).unwrap();
    let paid = now.is_some_and(|text| text.parse::<f64>().unwrap() > 0.0);
    let mut known = known.lock().unwrap();
    if paid && matches!(known[index], Known::Unsure) {
        known[index] = Known::Credits(Instant::now());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_of_balances_keeps_a_team_with_credits_out() {
    let server = RedisServer::start();
    let gates = [
        Gate::before(&settings(server.url())).await,
        Gate::before(&settings(server.unix_url())).await,
    ];
    let teams: Vec<TeamId> = (0..8).map(|_| fresh_team()).collect();
    let known = Arc::new(Mutex::new(vec![Known::Unsure; teams.len()]));
    let over = Over::default();
    let asking = gates.map(|gate| {
        let (known, over) = (Arc::clone(&known), Arc::clone(&over));
        tokio::spawn(ask_on(gate, teams.clone(), known, over))
    });
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut admin = server.admin().expect("redis answers");
    for _ in 0..400 {
        change(&mut dice, &mut admin, &teams, &known);
        tokio::time::sleep(Duration::from_millis(dice.roll(20) as u64)).await;
    }
    over.store(true, Ordering::Relaxed);
    for asking in asking {
        let recalled = asking.await.expect("its claims");
        assert!(recalled > 0, "nothing was recalled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connection_takes_its_memory_along_and_another_one_takes_over() {
    let server = RedisServer::start();
    let gate = Gate::before(&settings(server.url())).await;
    for _ in 0..5 {
        let team = fresh_team();
        gate.remembers(&team).await;
        assert!(gate.refused.tally().is_up);
        let ids = watching(&server);
        assert_eq!(ids.len(), 1, "one connection is told of changes");
        server.command(&["CLIENT", "KILL", "ID", &ids[0]]);
        server.command(&["SET", &key(&team), "20"]);
        promise_is_due().await;
        assert_eq!(gate.recall(&team), None);
        gate.does_not_recall(&team).await;
        assert!(gate.refused.tally().faults > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_not_believed_to_be_silent_because_nothing_changed() {
    let server = RedisServer::start();
    let mut settings = settings(server.url());
    settings.deadline = Duration::from_millis(100);
    let gate = Gate::before(&settings).await;
    let team = fresh_team();
    gate.remembers(&team).await;
    server.freeze();
    eventually("nothing is remembered", PATIENCE, || async {
        gate.recall(&team).is_none()
    })
    .await;
    assert_eq!(gate.ask(&team).await, None, "an outage is no refusal");
    server.thaw();
    server.command(&["SET", &key(&team), "20"]);
    promise_is_due().await;
    gate.does_not_recall(&team).await;
}

/// Passes bytes on, until it swallows what a server says.
struct Wire {
    port: u16,
    swallows: watch::Sender<bool>,
}

impl Wire {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows = watch::Sender::new(false);
        let receiver = swallows.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let ((mut from, mut to), (mut back, mut forth)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut forth).await });
                let swallows = receiver.clone();
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(length @ 1..) = back.read(&mut bytes).await {
                        let swallowed = *swallows.borrow();
                        if !swallowed && to.write_all(&bytes[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Wire { port, swallows }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_what_redis_tells_costs_no_team_more_than_was_promised() {
    let server = RedisServer::start();
    let wire = Wire::to(server.port).await;
    let mut settings = settings(format!("redis://127.0.0.1:{}", wire.port));
    settings.deadline = Duration::from_millis(200);
    let gate = Gate::before(&settings).await;
    for _ in 0..5 {
        let team = fresh_team();
        gate.remembers(&team).await;
        wire.swallows.send_replace(true);
        server.command(&["SET", &key(&team), "20"]);
        promise_is_due().await;
        assert_eq!(gate.recall(&team), None);
        wire.swallows.send_replace(false);
        gate.does_not_recall(&team).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_be_told_of_changes_asks_each_time() {
    let server = RedisServer::start();
    for forbidden in ["-client|tracking", "-info"] {
        let rules = [
            "ACL", "SETUSER", "ann", "reset", "on", ">pass", "~*", "+@all",
        ];
        server.command(&[&rules[..], &[forbidden]].concat());
        let url = format!("redis://ann:pass@127.0.0.1:{}", server.port);
        let gate = Gate::before(&settings(url)).await;
        let team = fresh_team();
        let mut faults = 0;
        while faults == 0 {
            let refused = gate.ask(&team).await;
            assert_eq!(refused, Some(Err(Refusal::NoBalance)), "{forbidden}");
            assert_eq!(gate.recall(&team), None, "{forbidden}");
            let tally = gate.refused.tally();
            assert!(!tally.is_up, "{forbidden}");
            faults = tally.faults;
        }
    }
    // With those alone, and what it needs anyway.
    let rules = [
        "ACL",
        "SETUSER",
        "ann",
        "reset",
        "on",
        ">pass",
        "~credits:*",
    ];
    let needs = ["+get", "+ping", "+client|tracking", "+info"];
    server.command(&[&rules[..], &needs].concat());
    let url = format!("redis://ann:pass@127.0.0.1:{}", server.port);
    let gate = Gate::before(&settings(url)).await;
    gate.remembers(&fresh_team()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_knows_no_tracking_is_asked_each_time() {
    let redis = FalseRedis::start().await;
    redis.behave(|command| {
        Answer::Say(match command[0].as_str() {
            "PING" => bulk(&command[1]),
            "GET" => bulk("0"),
            "HELLO" => b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n".to_vec(),
            _ => b"+OK\r\n".to_vec(),
        })
    });
    let gate = Gate::before(&settings(redis.url())).await;
    let team = fresh_team();
    eventually("it is noticed", PATIENCE, || async {
        let refused = gate.ask(&team).await;
        assert_eq!(refused, Some(Err(Refusal::InsufficientCredits)));
        gate.refused.tally().faults > 0
    })
    .await;
    assert_eq!(gate.recall(&team), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_gone_takes_the_memory_along() {
    let server = RedisServer::start();
    server.command(&["SET", "credits:canary", "1"]);
    let mut settings = settings(server.url());
    settings.keys.canary = Some("credits:canary".to_owned());
    let gate = Gate::before(&settings).await;
    let team = fresh_team();
    gate.remembers(&team).await;
    server.command(&["DEL", "credits:canary"]);
    promise_is_due().await;
    assert_eq!(gate.recall(&team), None);
    assert_eq!(gate.ask(&team).await, None, "lost balances are no refusal");
    server.command(&["SET", "credits:canary", "1"]);
    gate.remembers(&team).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_ledger_watches_no_more() {
    let server = RedisServer::start();
    let gate = Gate::before(&settings(server.url())).await;
    let team = fresh_team();
    gate.remembers(&team).await;
    let refused = Arc::clone(&gate.refused);
    drop(gate);
    eventually("nothing is remembered", PATIENCE, || async {
        refused.recall(&team, Instant::now()).is_none() && watching(&server).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_behind_sentinels_takes_the_memory_along() {
    let mut service = Service::start();
    let settings = RedisSettings {
        servers: Servers::Sentinel(SentinelSettings {
            nodes: service.urls(),
            service: SERVICE.to_owned(),
            user: None,
            password: None,
            db: 0,
            transport: Transport::Plain,
        }),
        deadline: Duration::from_millis(300),
        connect_timeout: Duration::from_secs(1),
        ..settings(String::new())
    };
    let gate = Gate::before(&settings).await;
    let (killed, demoted) = (fresh_team(), fresh_team());
    gate.remembers(&killed).await;
    service.servers[0].stop();
    let new = service.replaced(0);
    service.servers[new].command(&["SET", &key(&killed), "20"]);
    promise_is_due().await;
    assert_eq!(gate.recall(&killed), None);
    service.servers[0].restart();
    let old = service.settled();
    gate.does_not_recall(&killed).await;
    gate.remembers(&demoted).await;
    // An old master that is demoted goes on answering reads.
    service.fail_over();
    let new = service.replaced(old);
    service.servers[new].command(&["SET", &key(&demoted), "20"]);
    eventually("it is admitted", PATIENCE, || async {
        gate.ask(&demoted).await == Some(Ok(()))
    })
    .await;
    gate.does_not_recall(&demoted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_takes_the_memory_along() {
    let cluster = RedisCluster::start();
    let settings = RedisSettings {
        servers: Servers::Cluster(cluster.urls(1)),
        deadline: Duration::from_millis(300),
        connect_timeout: Duration::from_secs(1),
        ..settings(String::new())
    };
    let gate = Gate::before(&settings).await;
    for round in 0..3 {
        let moving = team(&format!("moving-{round}"));
        cluster.set_balance(moving.as_str(), "0");
        gate.remembers(&moving).await;
        let slot = cluster.slot_of(&key(&moving));
        let to = (cluster.owner(slot) + 1) % 3;
        cluster.move_slot(slot, to);
        cluster.set_balance(moving.as_str(), "20");
        promise_is_due().await;
        assert_eq!(gate.recall(&moving), None);
        eventually("it is admitted", PATIENCE, || async {
            gate.ask(&moving).await == Some(Ok(()))
        })
        .await;
    }
    // Of a key that is not there, no move could be told.
    let missing = team("missing");
    let zero = team("zero");
    cluster.set_balance(zero.as_str(), "0");
    gate.remembers(&zero).await;
    let refused = gate.ask(&missing).await;
    assert_eq!(refused, Some(Err(Refusal::NoBalance)));
    cluster.set_balance(zero.as_str(), "-1");
    gate.remembers(&zero).await;
    assert_eq!(gate.recall(&missing), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_that_is_replaced_takes_the_memory_along() {
    let cluster = RedisCluster::start();
    let settings = RedisSettings {
        servers: Servers::Cluster(cluster.urls(1)),
        deadline: Duration::from_millis(300),
        connect_timeout: Duration::from_secs(1),
        ..settings(String::new())
    };
    let gate = Gate::before(&settings).await;
    let teams = (0..).map(|number| team(&format!("team-{number}")));
    let at_the_first = |team: &TeamId| cluster.owner(cluster.slot_of(&key(team))) == 0;
    let team = teams.into_iter().find(at_the_first).unwrap();
    cluster.set_balance(team.as_str(), "0");
    gate.remembers(&team).await;
    cluster.fail_over_to(MASTERS);
    eventually("the old master knows", PATIENCE, || async {
        !cluster.is_master(0)
    })
    .await;
    cluster.set_balance(team.as_str(), "20");
    eventually("it is admitted", PATIENCE, || async {
        gate.ask(&team).await == Some(Ok(()))
    })
    .await;
}
