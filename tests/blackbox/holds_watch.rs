//! Looking at passing answers: what is seen ends or extends a hold, and
//! nobody notices that it was looked at.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use crate::support::gateway::{Builder, tollgate};
use crate::support::holds::{
    assert_credits_held, command, holding, run_of, run_path, standing, start, started, stays_live,
    until_live,
};
use crate::support::packed;
use crate::support::request::{chunks, noise};
use crate::support::upstream::After;
use crate::support::wait::{eventually, millis, secs, throughout, timed};
use crate::support::{Gateway, Redis, Req, Response, Upstream};

/// An answer to a question about a run, byte for byte.
type Said = Arc<Mutex<Vec<u8>>>;

/// A task API that starts runs and says whatever the test wants of them.
fn telling() -> (Upstream, Said) {
    let said = Said::default();
    let saying = Arc::clone(&said);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        if let Some(hold) = exchange.request.header("x-tollgate-hold") {
            return exchange.json(200, &started(&hold));
        }
        let bytes = saying.lock().unwrap().clone();
        exchange.say(&bytes)
    });
    (upstream, said)
}

/// A JSON answer with these further headers and this body.
fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A JSON answer that shows this state.
fn state(state: &str) -> Vec<u8> {
    let body = json!({"run_id": "x", "state": state, "prompt": "fix"}).to_string();
    answer("", body.as_bytes())
}

/// Asks about a run.
#[track_caller]
fn look(gateway: &Gateway, run: &str) -> Response {
    gateway.ask(&Req::get(&run_path(run)))
}

#[test]
fn a_run_seen_in_an_end_state_frees_its_credits() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).start();
    for end in ["SUCCEEDED", "FAILED", "CANCELLED", "ERROR", "succeeded"] {
        let team = Redis::shared().team("20");
        let run = run_of(&start(&gateway, &upstream, &team));
        for alive in ["QUEUED", "INPROGRESS", "SUCCEEDED_NOT", ""] {
            *said.lock().unwrap() = state(alive);
            assert_eq!(look(&gateway, &run).json()["state"], alive);
        }
        stays_live(&gateway, &team, 1);
        *said.lock().unwrap() = state(end);
        assert_eq!(look(&gateway, &run).json()["state"], end);
        until_live(&gateway, &team, 0);
    }
}

#[test]
fn the_operator_says_where_the_state_is_and_which_ends() {
    let (upstream, said) = telling();
    let watch = json!({"watch": "GET /api/v1/agent/runs/{run}", "state": "/run/status~0", "end_states": ["done"]});
    let gateway = holding(&upstream).set("routes.3", watch).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let tell = |body: serde_json::Value| {
        *said.lock().unwrap() = answer("", body.to_string().as_bytes());
        look(&gateway, &run);
    };
    tell(json!({"state": "SUCCEEDED"}));
    tell(json!({"run": {"status~": "SUCCEEDED"}}));
    tell(json!({"run": {"status~": ["done"]}}));
    stays_live(&gateway, &team, 1);
    tell(json!({"run": {"status~": "DONE"}}));
    until_live(&gateway, &team, 0);
}

#[test]
fn each_answer_that_shows_the_run_alive_extends_its_hold() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).set("admission.hold_for", "2s").start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    *said.lock().unwrap() = state("INPROGRESS");
    throughout(millis(3500), "it is alive, so it holds", || {
        look(&gateway, &run);
        let again = gateway.ask(&Req::start(&team));
        if again.status == 403 {
            assert_credits_held(&again);
        }
        again.status == 403
    });
    let last = Instant::now();
    eventually(secs(10), "nobody looks, so it expires", || {
        (gateway.ask(&Req::start(&team)).status == 200).then_some(())
    });
    // It is extended every quarter of its time at the least.
    assert!(last.elapsed() >= millis(500), "{:?}", last.elapsed());
}

#[test]
fn an_answer_that_does_not_show_the_run_extends_nothing() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).set("admission.hold_for", "2s").start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let body = state("INPROGRESS");
    let gone = String::from_utf8_lossy(&body).replacen("200 OK", "404 Not Found", 1);
    *said.lock().unwrap() = gone.into_bytes();
    let began = Instant::now();
    eventually(secs(6), "a 404 is no sign of life", || {
        look(&gateway, &run);
        (gateway.ask(&Req::start(&team)).status == 200).then_some(())
    });
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
}

/// A run that ended, in this coding; the very bytes arrive, and it is seen.
#[track_caller]
fn is_seen_and_unchanged(coding: &str, packed: &[u8]) {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).start();
    for chunked in [false, true] {
        let team = Redis::shared().team("20");
        let run = run_of(&start(&gateway, &upstream, &team));
        let headers = format!("Content-Encoding: {coding}\r\n");
        *said.lock().unwrap() = match chunked {
            false => answer(&headers, packed),
            true => {
                let json = "Content-Type: application/json; charset=utf-8\r\n";
                let head =
                    format!("HTTP/1.1 200 OK\r\n{json}{headers}Transfer-Encoding: chunked\r\n\r\n");
                [head.into_bytes(), chunks(packed, 7)].concat()
            }
        };
        let request = Req::get(&run_path(&run)).header("Accept-Encoding", coding);
        let seen = gateway.ask(&request);
        assert_eq!(seen.body, packed, "{coding}: the bytes of the upstream");
        assert_eq!(seen.header("content-encoding"), Some(coding));
        let asked = upstream.requests().pop().unwrap();
        assert_eq!(asked.header("accept-encoding").as_deref(), Some(coding));
        until_live(&gateway, &team, 0);
    }
}

/// A run that ended.
const OVER: &[u8] =
    br#"{"run_id":"x","state":"SUCCEEDED","session":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}"#;

#[test]
fn gzip_is_looked_into() {
    is_seen_and_unchanged("gzip", &packed::gzip(OVER));
}

#[test]
fn deflate_is_looked_into() {
    is_seen_and_unchanged("deflate", &packed::zlib(OVER));
}

#[test]
fn brotli_is_looked_into() {
    is_seen_and_unchanged("br", &packed::brotli(OVER));
}

#[test]
fn zstd_is_looked_into() {
    is_seen_and_unchanged("zstd", &packed::zstd(OVER));
}

#[test]
fn what_cannot_be_looked_into_passes_and_ends_nothing() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let mut broken = packed::gzip(OVER);
    broken[12] ^= 0xff;
    let bomb = packed::gzip_bomb(8 << 20);
    let gzip = "Content-Encoding: gzip\r\n";
    for (headers, body) in [
        ("", b"not JSON at all".to_vec()),
        ("", br#"{"state":"SUCCEEDED"} and more"#.to_vec()),
        ("", b"".to_vec()),
        ("", vec![b'['; 200_000]),
        (gzip, broken),
        (gzip, OVER.to_vec()),
        (gzip, bomb),
        ("Content-Encoding: x-unheard-of\r\n", OVER.to_vec()),
    ] {
        *said.lock().unwrap() = answer(headers, &body);
        let seen = look(&gateway, &run);
        assert_eq!(seen.status, 200);
        assert!(seen.body == body, "{headers} {} bytes", body.len());
    }
    stays_live(&gateway, &team, 1);
}

#[test]
fn a_huge_answer_passes_whole() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let body = noise(8 << 20);
    *said.lock().unwrap() = answer("", &body);
    assert!(look(&gateway, &run).body == body);
    let padded = format!(r#"{{"log":"{}","state":"SUCCEEDED"}}"#, "x".repeat(8 << 20));
    *said.lock().unwrap() = answer("", padded.as_bytes());
    assert!(look(&gateway, &run).body == padded.as_bytes());
    // Too large to be looked into: whatever it says, nothing is known.
    stays_live(&gateway, &team, 1);
}

#[test]
fn answers_without_a_body_end_nothing() {
    let (upstream, said) = telling();
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let mut client = gateway.connect();
    *said.lock().unwrap() = b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec();
    assert_eq!(client.ask(&Req::get(&run_path(&run))).status, 304);
    *said.lock().unwrap() = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    assert_eq!(client.ask(&Req::get(&run_path(&run))).status, 204);
    *said.lock().unwrap() = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec();
    let head = client.ask(&Req::new("HEAD", &run_path(&run)));
    assert_eq!(head.header("content-length"), Some("99"));
    *said.lock().unwrap() = state("INPROGRESS");
    assert_eq!(client.ask(&Req::get(&run_path(&run))).status, 200);
    stays_live(&gateway, &team, 1);
}

/// A task API whose answer about a run comes event by event, when told to.
fn in_events(gate: mpsc::Receiver<()>) -> Upstream {
    let gate = Mutex::new(gate);
    Upstream::answering(move |exchange| {
        exchange.read_body()?;
        if let Some(hold) = exchange.request.header("x-tollgate-hold") {
            return exchange.json(200, &started(&hold));
        }
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for event in 0..5 {
            let text = format!("id: {event}\ndata: {{\"state\":\"SUCCEEDED\"}}\n\n");
            exchange.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?;
            gate.lock()
                .unwrap()
                .recv_timeout(secs(10))
                .map_err(std::io::Error::other)?;
        }
        exchange.send(b"0\r\n\r\n")?;
        Ok(After::Keep)
    })
}

#[test]
fn looking_delays_no_event() {
    let (go, gate) = mpsc::channel();
    let upstream = in_events(gate);
    let gateway = holding(&upstream).start();
    let team = Redis::shared().team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    let mut client = gateway.connect();
    client.send(Req::get(&run_path(&run)).bytes());
    client.read_head().unwrap();
    for event in 0..5 {
        let seen = String::from_utf8(client.take_until(b"\n\n")).unwrap();
        assert!(seen.contains(&format!("id: {event}\n")), "{seen}");
        go.send(()).unwrap();
    }
    client.take_until(b"0\r\n\r\n");
    stays_live(&gateway, &team, 1);
}

/// A ledger that is away: looking must not be felt.
fn patient(upstream: &Upstream, redis: &Redis) -> Builder {
    holding(upstream)
        .redis(redis)
        .set("balances.redis.deadline", "2s")
}

#[test]
fn an_answer_does_not_wait_for_the_ledger() {
    let (upstream, said) = telling();
    let redis = Redis::private(&[]);
    let gateway = patient(&upstream, &redis).start();
    let team = redis.team("20");
    let run = run_of(&start(&gateway, &upstream, &team));
    *said.lock().unwrap() = state("SUCCEEDED");
    redis.freeze();
    for _ in 0..20 {
        let (seen, took) = timed(|| look(&gateway, &run));
        assert_eq!(seen.status, 200);
        assert!(took < secs(1), "{took:?}");
    }
    redis.thaw();
    until_live(&gateway, &team, 0);
}

/// A follow-up is a start whose answer names the run that it goes on with.
#[test]
fn a_run_that_is_over_frees_what_its_follow_ups_set_aside_whoever_sees_it() {
    let (upstream, said) = following_up();
    let one = holding(&upstream)
        .set(
            "routes.1",
            json!({"start": "POST /api/v1/agent/runs/{id}/followups"}),
        )
        .start();
    let other = holding(&upstream).start();
    let team = Redis::shared().team("60");
    let run = run_of(&start(&one, &upstream, &team));
    let follow_up = Req::post(&format!("{}/followups", run_path(&run))).team(&team);
    for round in 0..2 {
        let first = if round == 0 { 1 } else { 0 };
        assert_eq!(one.ask(&follow_up).status, 200);
        until_bound(&one, &team, &run, first + 1);
        *said.lock().unwrap() = state("INPROGRESS");
        look(&other, &run);
        stays_live(&one, &team, first + 1);
        *said.lock().unwrap() = state("SUCCEEDED");
        // Whoever saw it end a moment ago looks again, as clients do.
        eventually(secs(10), "every hold of the run is released", || {
            look(&other, &run);
            (standing(&one, &team).live == 0).then_some(())
        });
    }
    assert_eq!(standing(&one, &team).held, "0");
}

#[test]
fn an_operator_releases_a_run_with_its_follow_ups() {
    let (upstream, _) = following_up();
    let follow_up = json!({"start": "POST /api/v1/agent/runs/{id}/followups"});
    let gateway = holding(&upstream).set("routes.1", follow_up).start();
    let team = Redis::shared().team("60");
    let run = run_of(&start(&gateway, &upstream, &team));
    let follow_up = Req::post(&format!("{}/followups", run_path(&run))).team(&team);
    assert_eq!(gateway.ask(&follow_up).status, 200);
    until_bound(&gateway, &team, &run, 2);
    let file = gateway.config_file();
    let told = tollgate(&["holds", "release", &team, &run, "--config", &file]);
    let told = String::from_utf8(told.stdout).unwrap();
    let frees = told.matches("released, 20 credits are free again");
    assert_eq!(frees.count(), 2, "{told}");
    assert_eq!(standing(&gateway, &team).live, 0);
}

/// As [`telling`], and a follow-up's answer names the run of its path.
fn following_up() -> (Upstream, Said) {
    let said = Said::default();
    let saying = Arc::clone(&said);
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        let target = exchange.request.target().to_owned();
        let run = target.strip_suffix("/followups");
        let run = run.and_then(|path| path.rsplit('/').next());
        match (exchange.request.header("x-tollgate-hold"), run) {
            (_, Some(run)) => exchange.json(200, &json!({"run_id": run}).to_string()),
            (Some(hold), None) => exchange.json(200, &started(&hold)),
            (None, None) => {
                let bytes = saying.lock().unwrap().clone();
                exchange.say(&bytes)
            }
        }
    });
    (upstream, said)
}

/// Waits until so many live holds are bound to the run.
#[track_caller]
fn until_bound(gateway: &Gateway, team: &str, run: &str, holds: u64) {
    eventually(secs(10), "they are bound", || {
        let found = command(gateway, &["holds", "list", team]);
        let found = found["holds"].as_array().unwrap();
        let bound = found.iter().filter(|hold| hold["run"] == run).count();
        (u64::try_from(bound).unwrap() == holds).then_some(())
    });
}
