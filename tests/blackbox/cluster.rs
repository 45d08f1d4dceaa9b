//! The program on a Redis Cluster and behind sentinels: while slots move and
//! masters are replaced, a start is answered quickly and truthfully, and
//! refusals are still told.

use std::time::Duration;

use serde_json::json;

use crate::redis_cluster::{MASTERS, RedisCluster};
use crate::sentinel_service::{SERVICE, Service};
use crate::support::gateway::{Builder, tollgate};
use crate::support::holding::{self, Holding};
use crate::support::problem::{assert_insufficient_credits, assert_outage};
use crate::support::process::Folder;
use crate::support::request::TASKS;
use crate::support::wait::{eventually, secs, timed};
use crate::support::{Gateway, Req, Upstream};

/// The deadline in these tests, and how much longer an answer may take on a
/// machine that is busy with other tests.
const DEADLINE: &str = "200ms";
const PATIENCE: Duration = Duration::from_millis(800);

fn on(upstream: &Upstream, place: serde_json::Value) -> Builder {
    let mut redis = place;
    redis["deadline"] = json!(DEADLINE);
    redis["probe_interval"] = json!("100ms");
    Gateway::before(upstream).set("balances.redis", redis)
}

/// Asks until the start is admitted again. Until then it is an outage, in time,
/// and never a refusal.
#[track_caller]
fn is_admitted_again(gateway: &Gateway, start: &Req) {
    eventually(secs(40), "starts are admitted again", || {
        let (answer, took) = timed(|| gateway.ask(start));
        assert!(took < PATIENCE, "{took:?}");
        if answer.status == 200 {
            return Some(());
        }
        assert_outage(&answer);
        None
    });
}

#[test]
fn a_cluster_whose_slots_move_and_whose_masters_die() {
    let upstream = Upstream::ok();
    let mut cluster = RedisCluster::start();
    let gateway = on(&upstream, json!({"cluster": cluster.urls(2)})).start();
    let owner =
        |cluster: &RedisCluster, team: &str| cluster.owner(cluster.slot_of(&format!("{{{team}}}")));
    // A team of each master, with credits, and one without.
    let rich: Vec<String> = (0..MASTERS)
        .map(|master| {
            let name = |number| format!("rich-{number}");
            let is_there = |team: &String| owner(&cluster, team) == master;
            (0..).map(name).find(is_there).unwrap()
        })
        .collect();
    for team in &rich {
        cluster.set_balance(team, "5");
    }
    cluster.set_balance("poor", "0");
    let starts: Vec<Req> = rich.iter().map(|team| Req::start(team)).collect();
    for start in &starts {
        assert_eq!(gateway.ask(start).status, 200);
    }
    assert_insufficient_credits(&gateway.ask(&Req::start("poor")), TASKS);

    // A slot moves, and no start notices.
    let slot = cluster.slot_of(&format!("{{{}}}", rich[0]));
    cluster.begin_move(slot, 0, 1);
    assert_eq!(gateway.ask(&starts[0]).status, 200);
    cluster.move_keys(slot, 0, 1);
    assert_eq!(gateway.ask(&starts[0]).status, 200);
    cluster.finish_move(slot, 0, 1);
    assert_eq!(gateway.ask(&starts[0]).status, 200);

    // A master dies: its own team has an outage, until the replica takes over.
    cluster.kill(2);
    assert_outage(&gateway.ask(&starts[2]));
    for start in &starts[..2] {
        assert_eq!(gateway.ask(start).status, 200);
    }
    is_admitted_again(&gateway, &starts[2]);
    assert_insufficient_credits(&gateway.ask(&Req::start("poor")), TASKS);

    // Two starts were refused, and both are told.
    let stream = "tollgate:refusals";
    eventually(secs(10), "the refusals are told", || {
        let length = cluster.at_owner(stream, &["XLEN", stream]);
        (redis::from_redis_value::<usize>(length).unwrap() == 2).then_some(())
    });
}

#[test]
fn sentinels_whose_master_dies() {
    let upstream = Upstream::ok();
    let mut service = Service::start();
    let place = json!({"sentinel": {"nodes": service.urls(), "service": SERVICE}});
    let gateway = on(&upstream, place).start();
    service.servers[0].command(&["SET", "credits:{rich}", "5"]);
    service.servers[0].command(&["SET", "credits:{poor}", "0"]);
    service.servers[0].command(&["WAIT", "2", "5000"]);
    let (rich, poor) = (Req::start("rich"), Req::start("poor"));
    assert_eq!(gateway.ask(&rich).status, 200);
    assert_insufficient_credits(&gateway.ask(&poor), TASKS);
    service.servers[0].stop();
    assert_outage(&gateway.ask(&rich));
    is_admitted_again(&gateway, &rich);
    assert_insufficient_credits(&gateway.ask(&poor), TASKS);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("tollgate_ledger_up", &[]), 1.0);
}

#[test]
fn holds_on_a_cluster_while_their_master_is_replaced() {
    let cluster = RedisCluster::start();
    cluster.set_balance("holder", "50");
    let place = json!({
        "cluster": cluster.urls(3), "deadline": DEADLINE, "probe_interval": "100ms",
    });
    let settings = [("balances.redis", place.clone())];
    let held = Holding::with("holder", &settings);
    held.hold();
    let master = cluster.owner(cluster.slot_of("{holder}"));
    cluster.fail_over_to(master + MASTERS);
    let start = Req::start("holder");
    is_admitted_again(&held.gateway, &start);
    // 40 of 50 are set aside, each hold once.
    let refused = held.gateway.ask(&start);
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(
        refused.text().contains("40 of 50 credits"),
        "{}",
        refused.text()
    );
    assert_eq!(held.get("")["held"], "40");

    let mut config = holding::config();
    config.set("balances.redis", place);
    let folder = Folder::new("worst");
    let file = folder.write("tollgate.yaml", config.text());
    let file = file.to_str().unwrap();
    let words = [
        "explain",
        "--worst-case",
        "--team",
        "holder",
        "--json",
        "--config",
        file,
    ];
    let output = tollgate(&words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let worst: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(worst["credits"], "50", "{worst}");
    assert_eq!(worst["team"]["held_now"], "40", "{worst}");
    let output = tollgate(&["holds", "list", "holder", "--json", "--config", file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = tollgate(&["audit", "--json", "--config", file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("holder"));
}
