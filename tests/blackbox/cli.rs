//! The commands that do not serve.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::config::Config;
use crate::support::gateway::tollgate;
use crate::support::process::Folder;
use crate::support::wait::secs;
use crate::support::{Gateway, Redis, Req, Upstream};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    stdout(output) + &String::from_utf8_lossy(&output.stderr)
}

/// A configuration file for commands; nothing listens at its upstream.
fn config(folder: &Folder, changes: &[(&str, Value)]) -> String {
    let mut config = Config::new(([127, 0, 0, 1], 9).into());
    for (path, value) in changes {
        config.set(path, value.clone());
    }
    folder
        .write("tollgate.yaml", config.text())
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn bad_usage_ends_with_64() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["run"],
        &["run", "--config"],
        &["run", "--nonsense", "x"],
        &["check"],
        &["explain", "POST"],
        &["balance"],
        &["balance", "get"],
        &["balance", "set", "acme", "--config", "x.yaml"],
        &["balance", "set", "acme", "many", "--config", "x.yaml"],
    ] {
        let output = tollgate(arguments);
        assert_eq!(code(&output), Some(64), "{arguments:?}: {}", both(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["balance", "--help"],
    ] {
        let output = tollgate(arguments);
        assert_eq!(code(&output), Some(0), "{arguments:?}");
        assert!(!stdout(&output).is_empty(), "{arguments:?}");
    }
    for command in [
        "run", "check", "schema", "demo", "balance", "explain", "ready",
    ] {
        assert!(
            stdout(&tollgate(&["--help"])).contains(command),
            "{command}"
        );
    }
}

#[test]
fn check_accepts_what_run_accepts() {
    let folder = Folder::new("check");
    let file = config(&folder, &[]);
    let output = tollgate(&["check", &file]);
    assert_eq!(code(&output), Some(0), "{}", both(&output));
}

#[test]
fn the_shipped_configurations_are_sound() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let files: Vec<String> = std::fs::read_dir(folder)
        .expect("config/ is there")
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .filter(|path| path.ends_with(".yaml"))
        .collect();
    assert!(
        ["/tollgate.yaml", "/demo.yaml"]
            .iter()
            .all(|name| files.iter().any(|file| file.ends_with(name))),
        "{files:?}"
    );
    let mut arguments = vec!["check"];
    arguments.extend(files.iter().map(String::as_str));
    let output = tollgate(&arguments);
    assert_eq!(code(&output), Some(0), "{}", both(&output));
}

const MISTAKES: &str = "\
server:
  listen: [\"0.0.0.0\"]
  lisen: 8080
upstream:
  addresses: []
  connect_timeout: 5
balances:
  redis: {url: \"http://127.0.0.1\", deadline: 50}
  refuse_at_or_below: lots
identity:
  - header: {name: x-team-id, from: [\"10.0.0.0/99\"]}
routes:
  - start: POST api/v1
";

#[test]
fn check_names_every_mistake_with_its_place() {
    let folder = Folder::new("check");
    let file = folder
        .write("wrong.yaml", MISTAKES)
        .to_str()
        .unwrap()
        .to_owned();
    let output = tollgate(&["check", &file]);
    assert_eq!(code(&output), Some(64));
    let said = both(&output);
    for line in [2, 3, 5, 6, 8, 9, 11, 13] {
        assert!(
            said.contains(&format!("wrong.yaml:{line}:")),
            "line {line}: {said}"
        );
    }
    assert!(
        said.contains("listen"),
        "it suggests the key that was meant: {said}"
    );
}

#[test]
fn check_looks_at_every_file_and_can_speak_json() {
    let folder = Folder::new("check");
    let good = config(&folder, &[]);
    let bad = folder
        .write("bad.yaml", MISTAKES)
        .to_str()
        .unwrap()
        .to_owned();
    let absent = folder
        .path()
        .join("absent.yaml")
        .to_str()
        .unwrap()
        .to_owned();
    let output = tollgate(&["check", &good, &bad, &absent]);
    assert_eq!(code(&output), Some(64));
    let said = both(&output);
    assert!(
        said.contains("bad.yaml") && said.contains("absent.yaml"),
        "{said}"
    );
    let output = tollgate(&["check", "--json", &good, &bad]);
    assert_eq!(code(&output), Some(64));
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", both(&output)));
    let text = report.to_string();
    assert!(
        text.contains("bad.yaml") && text.contains("lisen"),
        "{text}"
    );
}

#[test]
fn check_opens_no_socket() {
    let (upstream, folder) = (Upstream::ok(), Folder::new("check"));
    let file = config(
        &folder,
        &[("upstream.addresses", json!([upstream.address.to_string()]))],
    );
    assert_eq!(code(&tollgate(&["check", &file])), Some(0));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn schema_is_a_json_schema_of_every_block() {
    let output = tollgate(&["schema"]);
    assert_eq!(code(&output), Some(0));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    for block in [
        "server",
        "upstream",
        "balances",
        "admission",
        "identity",
        "routes",
        "problem",
        "refusals",
        "log",
    ] {
        assert!(schema["properties"][block].is_object(), "{block}");
    }
}

#[test]
fn explain_says_which_route_a_request_is() {
    let folder = Folder::new("explain");
    let file = config(&folder, &[]);
    let explain =
        |method: &str, path: &str| tollgate(&["explain", method, path, "--config", &file]);
    let start = explain("POST", "/api/v1/agent//TASKS%3fx");
    assert_eq!(code(&start), Some(0), "{}", both(&start));
    assert!(
        stdout(&start).contains("POST /api/v1/agent/tasks"),
        "{}",
        stdout(&start)
    );
    let passing = explain("POST", "/api/v1/agent/runs/r1/cancel");
    assert_eq!(code(&passing), Some(0));
    assert!(
        !stdout(&passing).contains("{id}/followups"),
        "{}",
        stdout(&passing)
    );
    assert_ne!(stdout(&start), stdout(&passing));
    let json = tollgate(&[
        "explain",
        "POST",
        "/api/v1/agent/runs/r1/followups",
        "--json",
        "--config",
        &file,
    ]);
    let facts: Value = serde_json::from_slice(&json.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", both(&json)));
    assert!(
        facts
            .to_string()
            .contains("POST /api/v1/agent/runs/{id}/followups"),
        "{facts}"
    );
    let ambiguous = explain("POST", "/files/../api/v1/agent/tasks");
    assert!(stdout(&ambiguous).contains("400"), "{}", both(&ambiguous));
}

#[test]
fn explain_says_what_is_wrong_with_a_path_that_is_none() {
    let folder = Folder::new("explain");
    let file = config(&folder, &[]);
    for (path, meant) in [
        ("runs", "/runs"),
        ("api/v1/agent/tasks", "/api/v1/agent/tasks"),
    ] {
        for json in [&["--json"][..], &[]] {
            let words = ["explain", "POST", path, "--config", &file];
            let output = tollgate(&[&words, json].concat());
            assert_eq!(code(&output), Some(64), "{path}: {}", both(&output));
            let said = String::from_utf8_lossy(&output.stderr);
            for text in [path, meant, "slash"] {
                assert!(said.contains(text), "{text}: {said}");
            }
            assert!(stdout(&output).is_empty(), "{}", stdout(&output));
        }
    }
}

#[test]
fn ready_asks_the_admin_listener() {
    let (upstream, redis, folder) = (Upstream::ok(), Redis::private(&[]), Folder::new("ready"));
    let gateway = Gateway::before(&upstream).redis(&redis).start();
    let file = config(
        &folder,
        &[("server.admin.listen", json!(gateway.admin.to_string()))],
    );
    let ready = || tollgate(&["ready", "--config", &file]);
    assert_eq!(code(&ready()), Some(0), "{}", both(&ready()));
    redis.kill();
    gateway.ask(&Req::start("acme"));
    crate::support::eventually(secs(5), "it is not ready", || {
        (code(&ready()) == Some(1)).then_some(())
    });
    gateway.signal("KILL");
    gateway.wait(secs(5));
    let output = ready();
    assert_eq!(code(&output), Some(1), "nobody is there");
    assert!(!both(&output).is_empty());
}

#[test]
fn balances_are_read_set_and_granted() {
    let (redis, folder) = (Redis::shared(), Folder::new("balance"));
    let team = crate::support::redis::fresh("cli-team");
    let file = config(&folder, &[]);
    let balance = |words: &[&str]| {
        let output = tollgate(&[&["balance"], words, &["--config", &file]].concat());
        (code(&output), both(&output))
    };
    let stored = || redis.run::<Option<String>>(&["GET", &format!("credits:{{{team}}}")]);
    let (status, text) = balance(&["get", &team]);
    assert!(
        status == Some(0) && text.contains("no"),
        "a team without a balance is told apart from zero: {text}"
    );
    assert_eq!(balance(&["set", &team, "12.5"]).0, Some(0));
    assert_eq!(stored().as_deref(), Some("12.5"));
    assert!(balance(&["get", &team]).1.contains("12.5"));
    let (status, text) = balance(&["grant", &team, "20"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("32.5"), "{text}");
    assert_eq!(stored().as_deref(), Some("32.5"));
    let (_, facts) = balance(&["get", &team, "--json"]);
    assert!(
        serde_json::from_str::<Value>(&facts)
            .unwrap()
            .to_string()
            .contains("32.5"),
        "{facts}"
    );
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    assert_eq!(balance(&["set", &team, "0"]).0, Some(0));
    assert_eq!(gateway.ask(&Req::start(&team)).status, 403);
    assert_eq!(
        balance(&["set", &team, "-3"]).0,
        Some(0),
        "a balance may be negative"
    );
}

#[test]
fn a_balance_that_cannot_be_read_is_not_made_up() {
    let folder = Folder::new("balance");
    let refusing = crate::support::ports::Refusing::new();
    let file = config(
        &folder,
        &[(
            "balances.redis.url",
            json!(format!("redis://{}", refusing.address)),
        )],
    );
    let output = tollgate(&["balance", "get", "acme", "--config", &file]);
    assert_eq!(code(&output), Some(1), "{}", both(&output));
    assert!(stdout(&output).is_empty(), "{}", stdout(&output));
    let odd = tollgate(&["balance", "get", "not a team", "--config", &file]);
    assert_eq!(code(&odd), Some(64), "{}", both(&odd));
}

#[test]
fn the_demo_shows_both_answers_and_exits() {
    let output = tollgate(&["demo", "--once"]);
    let shown = stdout(&output);
    assert_eq!(code(&output), Some(0), "{}", both(&output));
    for text in [
        "200",
        "403",
        "insufficient",
        crate::support::problem::OUT_OF_CREDITS,
        "/api/v1/agent/",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn explain_says_what_a_failover_could_cost() {
    let worst = |text: &str, more: &[&str]| {
        let folder = Folder::new("worst");
        let file = folder.write("tollgate.yaml", text);
        let file = file.to_str().unwrap();
        let output = tollgate(&[&["explain", "--worst-case", "--config", file], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut config = crate::support::holding::config();
    let text = worst(&config.text(), &[]);
    assert!(text.contains("each team's balance, once more"), "{text}");
    assert!(text.contains("name one with --team"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&worst(&config.text(), &["--json"])).unwrap();
    assert_eq!(json["credits"], serde_json::Value::Null);
    for (path, value) in crate::support::holding::embedded("acme", "12.5") {
        config.set(path, value);
    }
    let text = worst(&config.text(), &[]);
    assert!(
        text.contains("at most 12.5 credits are spent twice"),
        "{text}"
    );
    let lookup = crate::support::config::Config::new(([127, 0, 0, 1], 9).into());
    let text = worst(&lookup.text(), &[]);
    assert!(text.contains("at most 0 credits are spent twice"), "{text}");
}

#[test]
fn explain_says_what_a_start_sets_aside() {
    let folder = Folder::new("explain");
    let admission = json!({
        "mode": "hold", "hold": {"header": "x-run-credits", "from": ["10.0.0.0/8"], "default": 7},
        "hold_for": "45m", "run_id": "/data/run", "release_on": ["4xx", 503], "idempotency": "upstream",
    });
    let settings = [
        ("admission", admission),
        ("routes.1.settle_from", json!("x-credits-used")),
        ("routes.0.hold", json!("2.5")),
    ];
    let file = config(&folder, &settings);
    let explain = |path: &str, more: &[&str]| {
        let output = tollgate(&[&["explain", "POST", path, "--config", &file], more].concat());
        assert_eq!(code(&output), Some(0), "{}", both(&output));
        stdout(&output)
    };
    let text = explain("/api/v1/agent/runs", &[]);
    for said in [
        "x-run-credits",
        "10.0.0.0/8 only, else 7",
        "45m",
        "4xx, 503",
        "/data/run",
        "x-credits-used",
        "Idempotency-Key",
        "credits_held",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let facts: Value = serde_json::from_str(&explain("/api/v1/agent/tasks", &["--json"])).unwrap();
    let start = &facts["start"];
    assert_eq!(
        json!([
            start["hold"],
            start["hold_for"],
            start["release_on"],
            start["run_id"]
        ]),
        json!(["2.5", "45m", ["4xx", "503"], "/data/run"]),
        "{facts}"
    );
    assert_eq!(
        json!([start["settle_from"], start["idempotency"]]),
        json!([null, "upstream"])
    );
    let lookup = config(&folder, &[("admission.hold", json!(20))]);
    let words = [
        "explain",
        "POST",
        "/api/v1/agent/runs",
        "--json",
        "--config",
        &lookup,
    ];
    assert!(!stdout(&tollgate(&words)).contains("hold"), "lookup mode");
}

#[test]
fn explain_says_what_tells_of_runs() {
    let explain = |words: &[&str]| {
        let output = tollgate(&[&["explain"], words, &["--config", "config/hold.yaml"]].concat());
        assert_eq!(code(&output), Some(0), "{}", both(&output));
        stdout(&output)
    };
    let cancel = ["POST", "/api/v1/agent/runs/r%2F1/cancel?x"];
    let text = explain(&cancel);
    for said in ["ends:", "r/1", "{run} in the path", "2xx", "releases"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("no route lists"), "{text}");
    let look = ["GET", "/api/v1/agent/runs/r1"];
    let text = explain(&look);
    for said in [
        "watch:",
        "/state",
        "SUCCEEDED, FAILED",
        "releases",
        "extends",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let json = |words: [&str; 2]| {
        let text = explain(&[&words[..], &["--json"]].concat());
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (cancel, look) = (json(cancel), json(look));
    assert_eq!(
        json!([
            cancel["conclusion"],
            cancel["run"]["run"],
            cancel["run"]["state"]
        ]),
        json!(["ends", "r/1", null]),
        "{cancel}"
    );
    assert_eq!(
        json!([
            look["conclusion"],
            look["run"]["state"],
            look["run"]["end_states"][0]
        ]),
        json!(["watch", "/state", "SUCCEEDED"]),
        "{look}"
    );
    // Matched as received only, and not under another method.
    for [method, path] in [
        ["POST", "/api/v1/agent/runs/r1//cancel"],
        ["DELETE", "/api/v1/agent/runs/r1"],
    ] {
        assert!(explain(&[method, path]).contains("passes:"), "{path}");
    }
}
