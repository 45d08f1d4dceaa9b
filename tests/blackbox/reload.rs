//! SIGHUP takes the new configuration without losing a request; a bad file
//! changes nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::request::TASKS;
use crate::support::wait::{eventually, millis, secs, throughout};
use crate::support::{Gateway, Redis, Req, Upstream};

#[test]
fn a_reload_takes_the_new_line_routes_and_words() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let team = Redis::shared().team("5");
    let mut old_connection = gateway.connect();
    assert_eq!(old_connection.ask(&Req::start(&team)).status, 200);
    gateway.reload_with("balances.refuse_at_or_below", "20");
    eventually(secs(5), "the line has moved", || {
        (gateway.ask(&Req::start(&team)).status == 403).then_some(())
    });
    assert_eq!(
        old_connection.ask(&Req::start(&team)).status,
        403,
        "on old connections too"
    );
    gateway.reload_with("routes.0.start", "POST /launch");
    eventually(secs(5), "the route has moved", || {
        (gateway.ask(&Req::start(&team)).status == 200).then_some(())
    });
    assert_eq!(gateway.ask(&Req::post("/launch").team(&team)).status, 403);
    gateway.reload_with("problem.headers", json!({"x-served-by": "edge-9"}));
    eventually(secs(5), "the words have changed", || {
        gateway
            .ask(&Req::post("/launch").team(&team))
            .header("x-served-by")
            .map(|value| assert_eq!(value, "edge-9"))
    });
    // A reload is counted once it is over, a moment after it shows.
    eventually(secs(5), "three reloads are counted", || {
        (gateway.reloads("ok") == 3.0).then_some(())
    });
}

#[test]
fn a_reload_takes_a_new_upstream_and_a_new_redis() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let (old_redis, new_redis) = (Redis::shared(), Redis::private(&[]));
    let gateway = Gateway::before(&old).start();
    let team = old_redis.team("5");
    new_redis.set_balance(&team, "0");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    gateway.reload_with("upstream.addresses", json!([new.address.to_string()]));
    eventually(secs(5), "the new upstream is used", || {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        (!new.requests().is_empty()).then_some(())
    });
    gateway.reload_with("balances.redis.url", new_redis.url());
    eventually(secs(5), "the new Redis is asked", || {
        let status = gateway.ask(&Req::start(&team)).status;
        assert!(
            matches!(status, 200 | 403),
            "no outage in between: {status}"
        );
        (status == 403).then_some(())
    });
}

#[test]
fn a_bad_file_changes_nothing_and_says_so() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich) = (Redis::shared().team("0"), Redis::shared().team("5"));
    for (at, text) in ["nonsense: [", "", "server: {listen: 5}", "{}", "\u{0}\u{1}"]
        .iter()
        .enumerate()
    {
        gateway.reload_with_text(text);
        let rejected = at as f64 + 1.0;
        eventually(secs(5), "the reload is rejected", || {
            (gateway.reloads("rejected") == rejected).then_some(())
        });
        assert_eq!(gateway.ask(&Req::start(&poor)).status, 403);
        assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
    }
    gateway.says("tollgate.yaml");
    assert_eq!(gateway.reloads("ok"), 0.0);
    gateway.reload_with("balances.refuse_at_or_below", "20");
    eventually(secs(5), "a good file is still taken", || {
        (gateway.ask(&Req::start(&rich)).status == 403).then_some(())
    });
}

#[test]
fn what_needs_a_restart_is_said() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    gateway.reload_with("server.threads", 1);
    let line = gateway.says("restart");
    assert!(line.contains("threads"), "{line}");
    assert_eq!(
        gateway.ask(&Req::start(&Redis::shared().team("5"))).status,
        200
    );
}

#[test]
fn what_needs_a_restart_is_said_until_it_is_taken_back() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (before, more) = (
        json!(["127.0.0.1:0"]),
        json!(["127.0.0.1:0", "127.0.0.1:0"]),
    );
    let becomes = |result: &str, count: f64| {
        eventually(secs(5), result, || {
            (gateway.reloads(result) == count).then_some(())
        });
    };
    gateway.reload_with("server.listen", more.clone());
    becomes("needs_restart", 1.0);
    gateway.reload_with("server.listen", more);
    becomes("needs_restart", 2.0);
    gateway.signal("HUP");
    becomes("needs_restart", 3.0);
    assert_eq!(gateway.reloads("ok"), 0.0);
    gateway.reload_with("server.listen", before);
    becomes("ok", 1.0);
    assert_eq!(gateway.reloads("needs_restart"), 3.0);
    assert_eq!(gateway.reloads("rejected"), 0.0);
    assert!(gateway.says("restart").contains("server.listen"));
}

#[test]
fn no_request_is_lost_under_reloads() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let (poor, rich) = (Redis::shared().team("0"), Redis::shared().team("50"));
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut kept = gateway.connect();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(kept.ask(&Req::start(&rich)).status, 200);
                    assert_eq!(kept.ask(&Req::start(&poor)).status, 403);
                    assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
                    served.fetch_add(3, Ordering::Relaxed);
                }
            });
        }
        for at in 0..10 {
            if at % 3 == 2 {
                gateway.reload_with_text("broken: [");
            } else {
                gateway.reload_with("balances.refuse_at_or_below", at);
            }
            let reloads = f64::from(at) + 1.0;
            let total = || gateway.metrics().sum("tollgate_config_reloads_total", &[]);
            eventually(secs(5), "the reload is done", || {
                (total() == reloads).then_some(())
            });
        }
        throughout(millis(100), "still served", || {
            gateway.ask(&Req::post(TASKS).team(&rich)).status == 200
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 30);
}

#[test]
fn a_reload_to_hold_mode_before_holds_of_another_version_is_rejected() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    let poor = redis.team("0");
    redis.run::<()>(&["SET", "tollgate:schema", "99"]);
    let hold = json!({"mode": "hold", "hold": 20, "hold_for": "30m"});
    gateway.reload_with("admission", hold.clone());
    eventually(secs(10), "the reload is rejected", || {
        (gateway.reloads("rejected") == 1.0).then_some(())
    });
    let line = gateway.says("nothing was changed");
    assert!(line.contains("tollgate:schema"), "{line}");
    // Decided as before, by the balance alone.
    let (rich, refused) = (redis.team("5"), gateway.ask(&Req::start(&poor)));
    assert_eq!(refused.status, 403);
    assert_eq!(gateway.ask(&Req::start(&rich)).status, 200);
    redis.run::<()>(&["DEL", "tollgate:schema"]);
    gateway.reload_with("admission", hold);
    eventually(secs(10), "what is known is taken over", || {
        (gateway.reloads("ok") == 1.0).then_some(())
    });
    assert_eq!(
        gateway.ask(&Req::start(&rich)).status,
        403,
        "20 are set aside"
    );
}
