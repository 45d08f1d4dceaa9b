//! However a start is spelled, it is a start; whatever else is spelled, it
//! passes as it is. Every line goes over a raw socket.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::h2_client::{H2Client, H2Req};
use crate::support::request::PROMPT;
use crate::support::{Client, Gateway, Redis, Req, Upstream, secs};

/// Spellings of a start: refused without credits, forwarded byte for byte with.
const STARTS: &[&str] = &[
    "POST /api/v1/agent/tasks",
    "POST /api/v1/agent/runs",
    "POST /api/v1/agent/runs/r1/followups",
    "POST /api/v1/agent/runs/a%2Fb/followups",
    "POST /files/x",
    // method
    "post /api/v1/agent/tasks",
    "Post /api/v1/agent/tasks",
    "pOsT /api/v1/agent/runs/r1/followups",
    // query
    "POST /api/v1/agent/tasks?",
    "POST /api/v1/agent/tasks?dry_run=1",
    "POST /api/v1/agent/tasks?/../../x",
    "POST /api/v1/agent/tasks?x=%2e%2e/%00",
    "POST /api/v1/agent//tasks?a//b",
    // repeated slashes
    "POST //api/v1/agent/tasks",
    "POST ///api/v1/agent/tasks",
    "POST /api//v1/agent/tasks",
    "POST /api/v1/agent//tasks",
    "POST /api/v1/agent////tasks",
    "POST /api/v1//agent//runs//r1//followups",
    "POST /api/v1/agent/tasks//",
    // trailing slash and blanks
    "POST /api/v1/agent/tasks/",
    "POST /api/v1/agent/tasks%2F",
    "POST /api/v1/agent/tasks%2f%2f",
    "POST /api/v1/agent/runs/r1/followups/",
    "POST /api/v1/agent/tasks%20",
    "POST /api/v1/agent/tasks%20%20",
    "POST /api/v1/agent/tasks%09",
    "POST /api/v1/agent/tasks%0a",
    "POST /api/v1/agent/tasks%0d%0a",
    "POST /api/v1/agent/tasks/%20",
    "POST /api/v1/agent/tasks%20/",
    "POST /api/v1/agent/tasks%2520",
    // case
    "POST /API/V1/AGENT/TASKS",
    "POST /api/v1/Agent/Tasks",
    "POST /api/V1/agent/RUNS/r1/FollowUps",
    // percent-encoded letters, once and twice
    "POST /api/v1/agent/%74asks",
    "POST /api/v1/agent/t%61s%6Bs",
    "POST /%61%70%69/v1/agent/tasks",
    "POST /%61%70%69%2F%76%31%2F%61%67%65%6E%74%2F%74%61%73%6B%73",
    "POST /api/v1/agent/%54ASKS",
    "POST /api/v1/agent/%2574asks",
    "POST /api/v1/agent/t%2561sks",
    "POST /%2561pi/v1/agent/tasks",
    "POST /api/v1/agent/runs/r1/%66ollowups",
    "POST /api/v1/agent/runs/r1/%2566ollowups",
    // encoded slashes
    "POST /api/v1/agent%2Ftasks",
    "POST /api/v1/agent%2ftasks",
    "POST /api%2Fv1%2Fagent%2Ftasks",
    "POST /%2Fapi/v1/agent/tasks",
    "POST /api/v1/agent%252Ftasks",
    "POST /api%252fv1%252fagent%252ftasks",
    "POST /api/v1/agent/%2Ftasks",
    "POST /api/v1/agent/runs/r1%2Ffollowups",
    "POST /api/v1/agent/runs%2Fr1%2Ffollowups",
    "POST /api/v1/agent/runs/r1%252Ffollowups",
    "POST /api/v1/agent/runs/a%252Fb/followups",
    // dot segments, plain
    "POST /./api/v1/agent/tasks",
    "POST /api/v1/agent/./tasks",
    "POST /api/v1/agent/tasks/.",
    "POST /api/v1/agent/tasks/./",
    "POST /api/v1/agent/x/../tasks",
    "POST /x/../api/v1/agent/tasks",
    "POST /x/y/../../api/v1/agent/tasks",
    "POST /../api/v1/agent/tasks",
    "POST /../../../api/v1/agent/tasks",
    "POST /api/v1/agent/tasks/x/..",
    "POST /api/v1/agent/tasks/x/../",
    "POST /api/v1/agent/runs/../tasks",
    "POST /api/v1/agent/tasks/../tasks",
    "POST /api/v1/agent/runs/r1/x/../followups",
    "POST /api/v1/../v1/agent/tasks",
    "POST /api/v1/agent/tasks/../../agent/tasks",
    // dot segments, encoded
    "POST /%2e/api/v1/agent/tasks",
    "POST /api/v1/agent/%2E/tasks",
    "POST /api/v1/agent/x/%2e%2e/tasks",
    "POST /api/v1/agent/x/.%2e/tasks",
    "POST /api/v1/agent/x/%2e./tasks",
    "POST /api/v1/agent/x%2f..%2ftasks",
    "POST /api/v1/agent/x%2F%2e%2e%2Ftasks",
    "POST /api/v1/agent/x/%252e%252e/tasks",
    "POST /api/v1/agent/x%252f%252e%252e%252ftasks",
    "POST /%2e%2e/%2e%2e/api/v1/agent/tasks",
    "POST /api/v1/agent/tasks/%2e",
    "POST /api/v1/agent/tasks/x/%2e%2e",
    // back slashes
    "POST /api\\v1\\agent\\tasks",
    "POST /api/v1/agent\\tasks",
    "POST /api/v1/agent/tasks\\",
    "POST /api/v1/agent%5Ctasks",
    "POST /api%5cv1%5cagent%5ctasks",
    "POST /api/v1/agent%255ctasks",
    "POST /api/v1/agent/x\\..\\tasks",
    "POST /api/v1/agent/x%5c..%5ctasks",
    "POST /api/v1/agent\\/tasks",
    "POST /\\api/v1/agent/tasks",
    // path parameters
    "POST /api/v1/agent/tasks;x=1",
    "POST /api/v1/agent/tasks;",
    "POST /api/v1/agent/tasks;x=/../y",
    "POST /api/v1/agent/tasks;jsessionid=1;v=2",
    "POST /api/v1/agent;x=1/tasks",
    "POST /api;a/v1;b/agent;c/tasks;d",
    "POST /api/v1/agent/tasks;x=1/",
    "POST /api/v1/agent/tasks%3bx=1",
    "POST /api/v1/agent/tasks%253Bx=1",
    "POST /api/v1/agent/x/..;/tasks",
    "POST /api/v1/agent/x/..;a=b/tasks",
    "POST /api/v1/agent/.;x/tasks",
    "POST /;/api/v1/agent/tasks",
    "POST /api/v1/agent/runs/r1;v=2/followups;v=3",
    // a decoded ?, # or NUL ends the path
    "POST /api/v1/agent/tasks%3F",
    "POST /api/v1/agent/tasks%3fx=1",
    "POST /api/v1/agent/tasks%3F/more",
    "POST /api/v1/agent/tasks%23",
    "POST /api/v1/agent/tasks%23x/y",
    "POST /api/v1/agent/tasks%00",
    "POST /api/v1/agent/tasks%00.png",
    "POST /api/v1/agent/tasks%00/x",
    "POST /api/v1/agent/tasks%2500",
    "POST /api/v1/agent/tasks%2523x",
    "POST /api/v1/agent/tasks%253fx",
    "POST /api/v1/agent/runs/r1/followups%00x",
    // several at once
    "pOST //API\\v1/./agent/x/%2e%2e;p=1/%2574ASKS;q/%3fy",
    "POST /x/..;/api%2fv1//agent/%54asks%20/",
    "POST /%2e%2e%2f/api/v1/agent/runs/a%252Fb/./followups%23",
    // an authority in front
    "POST //api.test/api/v1/agent/tasks",
    "POST //evil.example/api/v1/agent/runs",
];

/// Spellings that a server may take for a start, cannot be forwarded as they
/// are, or need not be understood: refused without credits; with credits
/// forwarded or refused.
const REFUSED: &[&str] = &[
    "POST http://api.test/api/v1/agent/tasks HTTP/1.1",
    "POST HTTP://API.TEST/api/v1/agent/tasks HTTP/1.1",
    "POST http://evil.example/api/v1/agent/tasks HTTP/1.1",
    "POST http://user:pw@api.test:80/api/v1/agent//tasks?x HTTP/1.1",
    "POST https://api.test/api/v1/agent/tasks HTTP/1.1",
    "POST http://api.test/x/../api/v1/agent/tasks HTTP/1.1",
    "POST http:/api/v1/agent/tasks HTTP/1.1",
    "POST http:///api/v1/agent/tasks HTTP/1.1",
    "POST api/v1/agent/tasks HTTP/1.1",
    "POST ./api/v1/agent/tasks HTTP/1.1",
    "POST \\api\\v1\\agent\\tasks HTTP/1.1",
    "POST %2Fapi/v1/agent/tasks HTTP/1.1",
    "POST api.test/api/v1/agent/tasks HTTP/1.1",
    "POST /api/v1/agent/tasks#x HTTP/1.1",
    "POST /api/v1/agent/tasks#/../../x HTTP/1.1",
    "POST /api/v1/agent/tasks\0 HTTP/1.1",
    "POST /api/v1/agent/tasks\0x HTTP/1.1",
    "POST /api/v1/agent/tasks\t HTTP/1.1",
    "POST /api/v1/agent/tasks  HTTP/1.1",
    "POST  /api/v1/agent/tasks HTTP/1.1",
    "POST /api/v1/agent/tasks ? HTTP/1.1",
    "POST\t/api/v1/agent/tasks HTTP/1.1",
    " POST /api/v1/agent/tasks HTTP/1.1",
    "\r\nPOST /api/v1/agent/tasks HTTP/1.1",
    "POST /api/v1/agent/tasks HTTP/1.0",
    "POST /api/v1/agent//tasks HTTP/1.0",
    "POST /api/v1/agent/tasks HTTP/1.2",
    "POST /api/v1/agent/tasks HTTP/2.0",
    "POST /api/v1/agent/tasks http/1.1",
    "POST /api/v1/agent/tasks HTTP/0.9",
    "POST /api/v1/agent/tasks",
    "POST * HTTP/1.1",
    "POST ?/api/v1/agent/tasks HTTP/1.1",
    "CONNECT /api/v1/agent/tasks HTTP/1.1",
    "CONNECT api.test:443 HTTP/1.1",
    "POST #/api/v1/agent/tasks HTTP/1.1",
    "POST /api/v1/agent/tasks x HTTP/1.1",
];

/// What no reading makes a start: passes byte for byte, broke or not.
const INNOCENT: &[&str] = &[
    "GET /api/v1/agent/tasks",
    "GET /api/v1/agent/runs",
    "GET /api/v1/agent//TASKS/",
    "GET /api/v1/agent/runs/r1",
    "GET /api/v1/agent/runs/r1/followups",
    "GET /files/x",
    "get /api/v1/agent/tasks",
    "HEAD /api/v1/agent/tasks",
    "OPTIONS /api/v1/agent/tasks",
    "PUT /api/v1/agent/tasks",
    "PATCH /api/v1/agent/tasks",
    "DELETE /api/v1/agent/runs",
    "POSTS /api/v1/agent/tasks",
    "POST /api/v1/agent/runs/r1/cancel",
    "POST /api/v1/agent/tasks/t1/cancel",
    "POST /api/v1/agent/runs/a%2Fb/cancel",
    "POST /api/v1/agent/runs/a%2Fb%2Fc/cancel",
    "POST /api/v1/agent/runs/..%2Fx/cancel",
    "POST /api/v1/agent/runs/r1",
    "POST /api/v1/agent/runsx",
    "POST /api/v1/agent/xruns",
    "POST /api/v1/agent/run/s",
    "POST /api/v1/agent/run%20s",
    "POST /api/v1/agent/r%C3%BCns",
    "POST /api/v1/agent/tasks.json",
    "POST /api/v1/agent/tasks%2Ejson",
    "POST /api/v1/agent/tasks/t1",
    "POST /api/v1/agent/tasks-archive",
    "POST /api/v1/agent/tasks,x",
    "POST /api/v1/agent/",
    "POST /api/v1/agent",
    "POST /api/v1/agents/tasks",
    "POST /api/v2/agent/tasks",
    "POST /v1/agent/tasks",
    "POST /agent/tasks",
    "POST /tasks",
    "POST /api/v1/agent/runs/r1/followup",
    "POST /api/v1/agent/runs/r1/followups/f1",
    "POST /api/v1/agent/runs/r1/x/followups/y",
    "POST /api/v1/agent/tasks/../schedules",
    "POST /api/v1/agent/tasks/%2e%2e/schedules",
    "POST /api/v1/agent/runs/r1/followups/../cancel",
    "POST /x?next=/api/v1/agent/tasks",
    "POST /x?/../api/v1/agent/tasks",
    "POST /x%3F",
    "POST /x;p=/api",
    "POST /file/x",
    "POST /",
    "POST //",
    "POST /%",
    "POST /%zz/%4",
    "POST /%25%25",
    "PUT /uploads/a%2F..%2Fb",
];

/// Headers with which a request of another method is a start to some servers.
const OVERRIDES: &[&str] = &[
    "X-HTTP-Method-Override: POST",
    "x-http-method-override: post",
    "X-HTTP-Method: POST",
    "X-Method-Override: POST",
    "x_http_method_override: POST",
    "X_HTTP_METHOD_OVERRIDE: POST",
    "X_HTTP_Method: POST",
    "x_method_override: POST",
    "X-HTTP_Method-Override: POST",
    "X_Http-Method: pOsT",
];

struct Fixture {
    upstream: Upstream,
    gateway: Gateway,
    poor: String,
    rich: String,
}

fn fixture() -> Fixture {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.limits.header_timeout", "1s")
        .set("server.h2c", true)
        .start();
    let redis = Redis::shared();
    Fixture {
        upstream,
        gateway,
        poor: redis.team("0"),
        rich: redis.team("9"),
    }
}

fn request(line: &str, team: &str) -> Req {
    Req::line(line)
        .header("Host", "api.test")
        .team(team)
        .header("Connection", "close")
        .body(PROMPT)
}

fn status(gateway: &Gateway, line: &str, team: &str) -> Option<u16> {
    let mut client = Client::connect(gateway.http);
    let request = request(line, team);
    client.send(request.bytes());
    let answer = if request.is_head() {
        client.read_head()
    } else {
        client.try_response()
    };
    answer.ok().map(|answer| answer.status)
}

fn target(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

#[test]
fn the_corpus_is_worth_its_name() {
    let lines = [STARTS, REFUSED, INNOCENT, OVERRIDES].map(|lines| {
        let distinct: std::collections::BTreeSet<_> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len(), "none stands twice");
        lines.len()
    });
    assert!(lines.iter().sum::<usize>() >= 200, "{lines:?}");
}

#[test]
fn no_spelling_of_a_start_gets_past_an_empty_balance() {
    let Fixture {
        upstream,
        gateway,
        poor,
        ..
    } = fixture();
    let mut wrong = Vec::new();
    for line in STARTS {
        let status = status(&gateway, &format!("{line} HTTP/1.1"), &poor);
        if status != Some(403) || !upstream.requests().is_empty() {
            wrong.push((line, status, upstream.requests().len()));
        }
        upstream.forget();
    }
    assert!(
        wrong.is_empty(),
        "(line, status, requests at the upstream): {wrong:#?}"
    );
}

#[test]
fn no_spelling_of_a_method_override_gets_past_an_empty_balance() {
    let Fixture {
        upstream,
        gateway,
        poor,
        ..
    } = fixture();
    let paths = STARTS
        .iter()
        .filter_map(|line| line.strip_prefix("POST "))
        .step_by(7);
    let mut wrong = Vec::new();
    for (path, spelling) in paths.zip(OVERRIDES.iter().cycle()) {
        for method in ["GET", "PUT", "DELETE"] {
            let (name, value) = spelling.split_once(": ").unwrap();
            let line = format!("{method} {path} HTTP/1.1");
            let answer = gateway.ask(&request(&line, &poor).header(name, value));
            if answer.status != 403 || !upstream.requests().is_empty() {
                wrong.push((line, spelling, answer.status, upstream.requests().len()));
            }
            upstream.forget();
        }
    }
    assert!(
        wrong.is_empty(),
        "(line, header, status, requests at the upstream): {wrong:#?}"
    );
}

/// Each line is answered by the upstream, and got there as it was sent.
#[track_caller]
fn arrive_as_sent(lines: &[&str], gateway: &Gateway, upstream: &Upstream, team: &str) {
    let mut wrong = Vec::new();
    for line in lines {
        let sent = format!("{line} HTTP/1.1");
        let status = status(gateway, &sent, team);
        let arrived: Vec<String> = upstream
            .requests()
            .iter()
            .map(|request| request.line().to_owned())
            .collect();
        if status != Some(200) || arrived != [sent] {
            wrong.push((line, status, arrived));
        }
        upstream.forget();
    }
    assert!(
        wrong.is_empty(),
        "(line, status, lines at the upstream): {wrong:#?}"
    );
}

#[test]
fn no_spelling_of_a_start_is_harmed_when_there_are_credits() {
    let Fixture {
        upstream,
        gateway,
        rich,
        ..
    } = fixture();
    arrive_as_sent(STARTS, &gateway, &upstream, &rich);
}

#[test]
fn what_cannot_be_understood_safely_is_refused_or_judged() {
    let Fixture {
        upstream,
        gateway,
        poor,
        rich,
    } = fixture();
    let mut wrong = Vec::new();
    for line in REFUSED {
        let broke = status(&gateway, line, &poor);
        if !matches!(broke, Some(400 | 403 | 405 | 505)) || !upstream.requests().is_empty() {
            wrong.push((line, "broke", broke, upstream.requests().len()));
        }
        upstream.forget();
        let paid = status(&gateway, line, &rich);
        if !matches!(paid, Some(200 | 400 | 405 | 505)) {
            wrong.push((line, "paid up", paid, upstream.requests().len()));
        }
        upstream.forget();
    }
    assert!(
        wrong.is_empty(),
        "(line, case, status, requests at the upstream): {wrong:#?}"
    );
}

#[test]
fn what_no_reading_makes_a_start_passes_byte_for_byte() {
    let Fixture {
        upstream,
        gateway,
        poor,
        ..
    } = fixture();
    arrive_as_sent(INNOCENT, &gateway, &upstream, &poor);
}

#[test]
fn http_2_paths_are_judged_alike() {
    let Fixture {
        upstream,
        gateway,
        poor,
        rich,
    } = fixture();
    let client = H2Client::connect(gateway.http);
    // The client library cannot be made to send these two.
    let can_be_sent = |line: &&&str| line.starts_with("POST ") && !line.contains('\\');
    for line in STARTS.iter().filter(can_be_sent) {
        let ask = |team: &str| {
            client
                .ask(
                    &H2Req::new("POST", target(line))
                        .header("x-team-id", team)
                        .body("{}"),
                )
                .status
        };
        assert_eq!(ask(&poor), 403, "{line}");
        upstream.assert_untouched();
        assert_eq!(ask(&rich), 200, "{line}");
        assert_eq!(upstream.only_request().target(), target(line));
        upstream.forget();
    }
}

/// One way to write a slash.
fn slash() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just("/"),
        1 => prop::sample::select(vec![
            "//", "///", "%2f", "%2F", "%252f", "\\", "%5c", "%255C", "/./", "/%2e/", "/x/../", "/x/%2e%2E/", "/.;v/",
            "/x/..;/", ";a=b/", ";/",
        ]),
    ]
}

/// One way to write a letter.
fn letter(plain: char) -> impl Strategy<Value = String> {
    let code = u32::from(plain);
    let upper = plain.to_ascii_uppercase();
    prop_oneof![
        8 => Just(plain.to_string()),
        1 => Just(upper.to_string()),
        1 => Just(format!("%{code:02x}")),
        1 => Just(format!("%{:02X}", u32::from(upper))),
        1 => Just(format!("%25{code:02X}")),
    ]
}

fn spelled(path: &'static str) -> impl Strategy<Value = String> {
    let pieces: Vec<BoxedStrategy<String>> = path
        .chars()
        .map(|c| {
            if c == '/' {
                slash().prop_map(str::to_owned).boxed()
            } else {
                letter(c).boxed()
            }
        })
        .collect();
    let ends = prop::sample::select(vec![
        "", "", "", "/", "//", "%20", "%09", "/.", "%2f", ";x", "?", "?a=/b", "%3fz", "%23z",
        "%00z", "/%2e", "/y/..",
    ]);
    (pieces, ends).prop_map(|(pieces, end)| {
        let path = format!("{}{end}", pieces.concat());
        if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        }
    })
}

#[test]
fn any_mixture_of_spellings_is_still_a_start() {
    let Fixture {
        upstream,
        gateway,
        poor,
        rich,
    } = fixture();
    let paths = prop_oneof![
        spelled("/api/v1/agent/tasks"),
        spelled("/api/v1/agent/runs"),
        spelled("/api/v1/agent/runs/r1/followups"),
    ];
    let mut connection = gateway.connect();
    let mut ask = |path: &str, team: &str| {
        let answer = connection.ask(&Req::post(path).team(team));
        if answer
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            connection = gateway.connect();
        }
        answer.status
    };
    let config = Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    };
    let ask = std::cell::RefCell::new(&mut ask);
    TestRunner::new(config)
        .run(&vec(paths, 25), |paths| {
            for path in paths {
                let broke = (ask.borrow_mut())(&path, &poor);
                prop_assert!(matches!(broke, 400 | 403), "{path}: {broke}");
                prop_assert!(
                    upstream.requests().is_empty(),
                    "{path} reached the upstream"
                );
                let paid = (ask.borrow_mut())(&path, &rich);
                prop_assert!(matches!(paid, 200 | 400), "{path}: {paid}");
                let arrived = upstream.requests();
                prop_assert!(
                    arrived.iter().all(|request| request.target() == path),
                    "{path}: {arrived:?}"
                );
                upstream.forget();
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_request_without_an_end_of_line_is_given_up() {
    let Fixture {
        upstream,
        gateway,
        poor,
        ..
    } = fixture();
    let mut client = Client::connect(gateway.http);
    client.send(format!(
        "POST /api/v1/agent/tasks HTTP/1.1\rHost: api.test\rX-Team-Id: {poor}\r\r"
    ));
    let _ = client.is_closed_within(secs(4)) || !client.pending().is_empty();
    upstream.assert_untouched();
}
