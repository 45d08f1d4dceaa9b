//! Deliveries that come broken, late, in pieces, too many at a time, or to an
//! upstream that is gone: nothing starts that should not, nobody waits for
//! ever, and what others do goes on.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::support::deliveries::{Delivery, SLACK, command, mention, seconds, slack_signature};
use crate::support::gateway::Builder;
use crate::support::h2_client::{H2Client, H2Req};
use crate::support::ports::Refusing;
use crate::support::problem::assert_problem;
use crate::support::redis::fresh;
use crate::support::request::{chunks, noise};
use crate::support::wait::{SOON, timed};
use crate::support::{Client, Gateway, Redis, Req, Upstream, eventually, secs};

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// With a route for Slack that answers with the problem, so that refused and
/// admitted differ by status.
fn slack(builder: Builder) -> Builder {
    builder.set(
        "routes.3",
        json!({
            "start": format!("POST {SLACK}"),
            "trigger": "slack",
            "webhook": {"kind": "slack", "secret": SECRET, "team_key": "slack:<workspace>"},
            "refuse_with": "problem",
        }),
    )
}

/// A workspace whose team has this balance.
fn workspace(redis: &Redis, balance: &str) -> String {
    let workspace = fresh("T");
    redis.run::<()>(&["SET", &format!("slack:{workspace}"), &redis.team(balance)]);
    workspace
}

/// The gateway in front of a recording upstream, and a mention in a workspace
/// with credits.
fn rich() -> (Upstream, Gateway, Delivery) {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let delivery = Delivery::json(&mention(&workspace(Redis::shared(), "5")));
    (upstream, gateway, delivery)
}

/// A mention of this many bytes.
fn padded(workspace: &str, length: usize) -> Delivery {
    let mut body = mention(workspace);
    body["event"]["text"] = json!("");
    let bare = body.to_string().len();
    body["event"]["text"] = json!("x".repeat(length - bare));
    Delivery::json(&body)
}

/// The head of a signed delivery, with whatever says how its body comes.
fn head(delivery: &Delivery, framing: (&str, &str)) -> Req {
    let timestamp = seconds().to_string();
    let signature = slack_signature(SECRET, &timestamp, delivery.body.as_bytes());
    Req::new("POST", SLACK)
        .header("Content-Type", delivery.content_type)
        .header("X-Slack-Request-Timestamp", &timestamp)
        .header("X-Slack-Signature", &signature)
        .header(framing.0, framing.1)
}

#[test]
fn a_delivery_in_chunks_arrives_whole_or_is_413() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let workspace = workspace(Redis::shared(), "5");
    for (length, chunk) in [
        (1_000, 1),
        (1_000, 1_000),
        (65_535, 1_000),
        (65_536, 65_536),
        (65_537, 4_096),
        (200_000, 65_537),
        (1_048_576, 8_192),
    ] {
        upstream.forget();
        let delivery = padded(&workspace, length);
        let mut bytes = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
        bytes.extend(chunks(delivery.body.as_bytes(), chunk));
        let response = gateway.connect().ask_while_writing(bytes);
        if response.status == 413 {
            assert!(
                length > 65_536,
                "{length} in chunks of {chunk}: {}",
                response.text()
            );
            assert_eq!(response.header("x-slack-no-retry"), Some("1"));
            upstream.assert_untouched();
            continue;
        }
        assert_eq!(
            response.status,
            200,
            "{length} in chunks of {chunk}: {}",
            response.text()
        );
        let arrived = upstream.only_request();
        assert!(
            arrived.body == delivery.body.as_bytes(),
            "{length} in chunks of {chunk}"
        );
    }
}

#[test]
fn a_delivery_in_chunks_beyond_the_largest_is_413() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let delivery = padded(&workspace(Redis::shared(), "5"), 1_048_577);
    let mut bytes = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
    bytes.extend(chunks(delivery.body.as_bytes(), 10_000));
    let response = gateway.connect().ask_while_writing(bytes);
    assert_problem(&response, 413, "invalid_request", Some("false"));
    upstream.assert_untouched();
}

#[test]
fn chunks_may_come_with_extensions_trailers_and_questions() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let workspace = workspace(Redis::shared(), "5");
    for length in [2_000, 150_000] {
        let delivery = padded(&workspace, length);
        let (first, rest) = delivery.body.split_at(1_000);
        let body = format!(
            "{:x};name=\"value\"\r\n{first}\r\n{:X}\r\n{rest}\r\n0\r\nX-Trailer: 1\r\n\r\n",
            first.len(),
            rest.len(),
        );
        let request =
            head(&delivery, ("Transfer-Encoding", "chunked")).header("Expect", "100-continue");
        upstream.forget();
        let mut client = gateway.connect();
        client.send(request.head_bytes());
        assert!(
            client.take_until(b"\r\n\r\n").starts_with(b"HTTP/1.1 100 "),
            "{length}"
        );
        client.send(&body);
        let response = client.response();
        assert_eq!(
            (response.status, response.interim.len()),
            (200, 0),
            "{length}: {}",
            response.text()
        );
        assert!(
            upstream.only_request().body == delivery.body.as_bytes(),
            "{length}"
        );
    }
}

#[test]
fn broken_chunks_are_no_delivery() {
    let (upstream, gateway, delivery) = rich();
    let head = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
    let body = &delivery.body;
    let length = body.len();
    let broken = [
        format!("{length:x}\r\n{body}X\r\n0\r\n\r\n"),
        format!("{length:x}\r\n{body}\r\nzz\r\n\r\n"),
        format!("-1\r\n{body}\r\n0\r\n\r\n"),
        format!("{length}\n{body}\n0\n\n"),
        format!("ffffffffffffffff1\r\n{body}\r\n0\r\n\r\n"),
    ];
    for body in &broken {
        let mut tcp = std::net::TcpStream::connect(gateway.http).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        tcp.write_all(&[head.as_slice(), body.as_bytes()].concat())
            .unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let mut said = Vec::new();
        let _ = std::io::Read::read_to_end(&mut tcp, &mut said);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.starts_with("HTTP/1.1 2"), "{body}: {said}");
    }
    upstream.assert_untouched();
}

#[test]
fn what_redis_says_of_one_workspace_that_makes_no_sense_is_of_that_one_alone() {
    let (upstream, gateway, fine) = rich();
    let redis = Redis::shared();
    let deliver =
        |workspace: &str| gateway.ask(&Delivery::json(&mention(workspace)).by_slack(SECRET));
    let (list, nobody, hash, token) = (fresh("T"), fresh("T"), fresh("T"), fresh("T"));
    redis.run::<()>(&["RPUSH", &format!("slack:{list}"), "a"]);
    redis.run::<()>(&["SET", &format!("slack:{nobody}"), "not a team"]);
    redis.run::<()>(&["HSET", &format!("slack:{hash}"), "else", "x"]);
    for workspace in [&list, &nobody, &hash] {
        let response = deliver(workspace);
        assert!(
            [503, 400].contains(&response.status),
            "{workspace}: {}",
            response.text()
        );
        if response.status == 503 {
            assert_eq!(response.header("x-slack-no-retry"), None);
        }
        upstream.assert_untouched();
        assert_eq!(
            gateway.ask(&fine.by_slack(SECRET)).status,
            200,
            "it is no outage"
        );
        upstream.forget();
    }
    let team = redis.team("5");
    redis.run::<()>(&[
        "HSET",
        &format!("slack:{token}"),
        "team",
        &team,
        "token_sha256",
        &"0".repeat(64),
    ]);
    assert_eq!(
        deliver(&token).status,
        200,
        "a workspace has no token to match"
    );
}

#[test]
fn nothing_is_smuggled_behind_a_delivery_in_chunks() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let redis = Redis::shared();
    let workspace = workspace(redis, "5");
    let behind = Req::start(&redis.team("0")).bytes();
    for length in [1_000, 65_536, 65_537, 300_000] {
        upstream.forget();
        let delivery = padded(&workspace, length);
        let mut bytes = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
        bytes.extend(chunks(delivery.body.as_bytes(), 16_384));
        bytes.extend(&behind);
        bytes.extend(&behind);
        let mut client = gateway.connect();
        client.send(&bytes);
        let first = client.response();
        assert!(
            [200, 413].contains(&first.status),
            "{length}: {}",
            first.text()
        );
        // Whatever becomes of the others, they are what they are: starts without credits.
        while let Ok(next) = client.try_response() {
            assert_eq!(next.status, 403, "{length}: {}{}", next.head, next.text());
        }
        let arrived = upstream.requests();
        assert!(arrived.len() <= 1, "{length}: {arrived:#?}");
        for request in arrived {
            assert!(request.body == delivery.body.as_bytes(), "{length}");
        }
    }
}

#[test]
fn deliveries_and_starts_take_turns_on_one_connection() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream)).start();
    let redis = Redis::shared();
    let (rich, poor) = (workspace(redis, "5"), workspace(redis, "0"));
    let (team, broke) = (redis.team("5"), redis.team("0"));
    let mut client = gateway.connect();
    for length in [1_000, 60_000, 65_536] {
        let of = |workspace: &str| padded(workspace, length).by_slack(SECRET);
        assert_eq!(client.ask(&of(&rich)).status, 200, "{length}");
        assert_eq!(client.ask(&of(&poor)).status, 403, "{length}");
        assert_eq!(client.ask(&Req::start(&team)).status, 200, "{length}");
        assert_eq!(client.ask(&Req::start(&broke)).status, 403, "{length}");
        assert_eq!(
            client
                .ask(&padded(&rich, length).by_slack("another"))
                .status,
            401,
            "{length}"
        );
        assert_eq!(
            client.ask(&command(&rich).by_slack(SECRET)).status,
            200,
            "{length}"
        );
    }
    assert_eq!(upstream.requests().len(), 9);
}

#[test]
fn a_client_may_ask_before_it_sends_the_body() {
    let (upstream, gateway, delivery) = rich();
    let request = delivery.by_slack(SECRET).header("Expect", "100-continue");
    let mut client = gateway.connect();
    client.send(request.head_bytes());
    assert!(client.take_until(b"\r\n\r\n").starts_with(b"HTTP/1.1 100 "));
    client.send(request.body_bytes());
    let response = client.response();
    assert_eq!(
        (response.status, response.interim.len()),
        (200, 0),
        "{}",
        response.text()
    );
    assert!(upstream.only_request().body == delivery.body.as_bytes());
}

#[test]
fn a_delivery_over_http_2_is_one_like_any_other() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream))
        .set("server.h2c", true)
        .start();
    let redis = Redis::shared();
    let client = H2Client::connect(gateway.http);
    let (rich, poor) = (workspace(redis, "5"), workspace(redis, "0"));
    let request = |workspace: &str, length: usize, secret: &str, states: &str| {
        let delivery = padded(workspace, length);
        let timestamp = seconds().to_string();
        let signature = slack_signature(secret, &timestamp, delivery.body.as_bytes());
        let mut request = H2Req::new("POST", SLACK)
            .header("content-type", delivery.content_type)
            .header("x-slack-request-timestamp", &timestamp)
            .header("x-slack-signature", &signature);
        if states == "a length" {
            request = request.header("content-length", &length.to_string());
        }
        for piece in delivery.body.as_bytes().chunks(10_000) {
            request = request.body(piece);
        }
        (request, delivery)
    };
    for states in ["a length", "no length"] {
        for length in [1_000, 65_536, 65_537, 500_000] {
            upstream.forget();
            let (signed, delivery) = request(&rich, length, SECRET, states);
            let status = client.ask(&signed).status;
            if status == 413 && states == "no length" && length > 65_536 {
                upstream.assert_untouched();
                continue;
            }
            assert_eq!(status, 200, "{length}, {states}");
            assert!(
                upstream.only_request().body == delivery.body.as_bytes(),
                "{length}, {states}"
            );
            upstream.forget();
            assert_eq!(
                client.ask(&request(&poor, length, SECRET, states).0).status,
                403
            );
            assert_eq!(
                client
                    .ask(&request(&rich, length, "another", states).0)
                    .status,
                401
            );
            assert!(upstream.requests().is_empty());
        }
    }
}

#[test]
fn half_a_delivery_starts_nothing() {
    let (upstream, gateway, delivery) = rich();
    let bytes = delivery.by_slack(SECRET).bytes();
    let mut chunked = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
    chunked.extend(chunks(delivery.body.as_bytes(), 100));
    for whole in [&bytes, &chunked] {
        for end in [whole.len() - 1, whole.len() - 5, whole.len() - 300] {
            let mut tcp = std::net::TcpStream::connect(gateway.http).unwrap();
            tcp.write_all(&whole[..end]).unwrap();
            tcp.shutdown(Shutdown::Write).unwrap();
            tcp.set_read_timeout(Some(SOON)).unwrap();
            let mut said = Vec::new();
            let _ = std::io::Read::read_to_end(&mut tcp, &mut said);
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(!said.starts_with("HTTP/1.1 2"), "{end}: {said}");
        }
    }
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&delivery.by_slack(SECRET)).status, 200);
}

#[test]
fn a_delivery_that_stalls_is_given_up_in_time() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream))
        .set("server.limits", json!({"body_timeout": "1s"}))
        .start();
    let delivery = Delivery::json(&mention(&workspace(Redis::shared(), "5")));
    let bytes = delivery.by_slack(SECRET).bytes();
    let mut client = gateway.connect();
    client.send(&bytes[..bytes.len() - 10]);
    let (ended, took) = timed(|| client.try_response());
    if let Ok(response) = ended {
        assert!([400, 408].contains(&response.status), "{}", response.head);
    }
    assert!(took < secs(8), "{took:?}");
    upstream.assert_untouched();
}

#[test]
fn a_compressed_body_is_read_as_it_was_signed() {
    let (upstream, gateway, delivery) = rich();
    let packed = {
        use flate2::{Compression, write::GzEncoder};
        let mut packing = GzEncoder::new(Vec::new(), Compression::default());
        packing.write_all(delivery.body.as_bytes()).unwrap();
        packing.finish().unwrap()
    };
    let timestamp = seconds().to_string();
    let send = |signature: &str, body: &[u8]| {
        let request = delivery.with_slack_signature(&timestamp, signature);
        gateway.ask(&request.body(body).header("Content-Encoding", "gzip"))
    };
    // Signed as it would read when unpacked: the signature is over what is sent.
    let of_plain = slack_signature(SECRET, &timestamp, delivery.body.as_bytes());
    assert_eq!(send(&of_plain, &packed).status, 401);
    // Signed as sent: genuine, and no delivery that could be read.
    let of_packed = slack_signature(SECRET, &timestamp, &packed);
    assert_problem(
        &send(&of_packed, &packed),
        400,
        "invalid_request",
        Some("false"),
    );
    upstream.assert_untouched();
}

#[test]
fn genuine_nonsense_is_400_and_starts_nothing() {
    let (upstream, gateway, _) = rich();
    let workspace = workspace(Redis::shared(), "5");
    let twice = |name: &str| format!("team_id={workspace}&command=%2Fagent&{name}=a&{name}=b");
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" ".to_vec(),
        b"{".to_vec(),
        b"{}".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        b"payload=".to_vec(),
        b"payload=%7B".to_vec(),
        b"payload=null".to_vec(),
        b"payload=%5B%5D".to_vec(),
        b"text=hello".to_vec(),
        b"ssl_check=0".to_vec(),
        b"\xff\xfe{}".to_vec(),
        b"{\"type\":\"event_callback\",\"team_id\":\"\xff\"}".to_vec(),
        twice("command").into_bytes(),
        twice("team_id").into_bytes(),
        twice("payload").into_bytes(),
        format!(r#"{{"type":"event_callback","team_id":"{workspace}","team_id":"T0OTHER","event":{{"type":"app_mention"}}}}"#).into_bytes(),
        format!(r#"{{"type":"event_callback","type":"url_verification","team_id":"{workspace}","event":{{"type":"app_mention"}}}}"#).into_bytes(),
        format!(r#"{{"type":"event_callback","team_id":"{workspace}","event":{{"type":"app_mention","type":"app_uninstalled"}}}}"#).into_bytes(),
        noise(5_000),
    ];
    for body in &bodies {
        let timestamp = seconds().to_string();
        let signature = slack_signature(SECRET, &timestamp, body);
        for content_type in ["application/json", "application/x-www-form-urlencoded"] {
            let request = Req::new("POST", SLACK)
                .header("Content-Type", content_type)
                .header("X-Slack-Request-Timestamp", &timestamp)
                .header("X-Slack-Signature", &signature)
                .body(body);
            let response = gateway.ask(&request);
            let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            assert_eq!(response.status, 400, "{shown}: {}", response.text());
            assert_eq!(response.header("x-slack-no-retry"), Some("1"), "{shown}");
        }
    }
    upstream.assert_untouched();
}

#[test]
fn what_another_reader_could_take_for_another_delivery_is_400() {
    let (upstream, gateway, _) = rich();
    let json = r#"{"type":"view_closed","a":"&command=/agent&team_id=T0&b="}"#;
    let form = "application/x-www-form-urlencoded";
    for (body, headers) in [
        (json.to_owned(), [("Content-Type", form)].as_slice()),
        (format!("\n{json}"), &[("Content-Type", form)]),
        (format!("\n{json}"), &[]),
        (json.to_owned(), &[("Content-Encoding", "gzip")]),
        (
            json.to_owned(),
            &[("Content-Type", "application/json; charset=utf-7")],
        ),
        (
            "ssl_check=1".to_owned(),
            &[("Content-Type", "multipart/form-data; boundary=ssl")],
        ),
    ] {
        let timestamp = seconds().to_string();
        let signature = slack_signature(SECRET, &timestamp, body.as_bytes());
        let mut request = Req::new("POST", SLACK)
            .header("X-Slack-Request-Timestamp", &timestamp)
            .header("X-Slack-Signature", &signature);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = gateway.ask(&request.body(&body));
        assert_eq!(
            response.status,
            400,
            "{body} {headers:?}: {}",
            response.text()
        );
    }
    upstream.assert_untouched();
}

#[test]
fn headers_that_sign_stand_once_and_plainly() {
    let (upstream, gateway, delivery) = rich();
    let good = || delivery.by_slack(SECRET);
    let timestamp = seconds().to_string();
    let wrong = [
        good().header("X-Slack-Signature", "v0=00"),
        good().header(
            "x-slack-signature",
            &slack_signature(SECRET, &timestamp, delivery.body.as_bytes()),
        ),
        good().header("X-Slack-Request-Timestamp", &timestamp),
        good().header("X_Slack_Signature", "v0=00"),
        good().header("x_slack-request_timestamp", "1"),
        good().header("Connection", "x-slack-signature"),
        good().header("Connection", "close, X-Slack-Request-Timestamp"),
    ];
    for request in &wrong {
        let response = gateway.ask(request);
        assert_eq!(
            response.status,
            400,
            "{}",
            String::from_utf8_lossy(&request.head_bytes())
        );
    }
    upstream.assert_untouched();
}

#[test]
fn however_the_path_is_written_the_signature_is_asked_for() {
    let (upstream, gateway, _) = rich();
    let poor = workspace(Redis::shared(), "0");
    for path in [
        "/integrations/slack",
        "/integrations//slack",
        "/integrations/./slack",
        "/x/../integrations/slack",
        "/Integrations/Slack",
        "/integrations/slack/",
        "/integrations%2fslack",
        "/integrations/sl%61ck",
        "/integrations/slack?x=1",
        "/integrations/slack;v=1",
        "/integrations\\slack",
        "http://api.test/integrations/slack",
    ] {
        let delivery = Delivery::json(&mention(&poor));
        let timestamp = seconds().to_string();
        let signature = slack_signature(SECRET, &timestamp, delivery.body.as_bytes());
        let to = |signature: &str| {
            Req::new("POST", path)
                .header("Content-Type", delivery.content_type)
                .header("X-Slack-Request-Timestamp", &timestamp)
                .header("X-Slack-Signature", signature)
                .body(&delivery.body)
        };
        assert_eq!(gateway.ask(&to(&signature)).status, 403, "{path}");
        assert_eq!(
            gateway.ask(&to(&format!("v0={}", "0".repeat(64)))).status,
            401,
            "{path}"
        );
    }
    upstream.assert_untouched();
    // What is read on that path is nobody's delivery.
    assert_eq!(gateway.ask(&Req::get(SLACK)).status, 200);
}

#[test]
fn many_half_sent_deliveries_take_bounded_room_and_disturb_nobody() {
    let (upstream, gateway, delivery) = rich();
    let team = Redis::shared().team("5");
    let before = gateway.resident_bytes();
    let mebibyte = noise(1024 * 1024);
    let request = Req::new("POST", SLACK)
        .header("X-Slack-Request-Timestamp", &seconds().to_string())
        .header("X-Slack-Signature", &format!("v0={}", "0".repeat(64)))
        .body(&mebibyte);
    let bytes = request.bytes();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..120 {
        let mut client = gateway.connect();
        // Beyond the bound the gateway answers and hangs up.
        let _ = client.try_send(&bytes[..bytes.len() - 1]);
        clients.push(client);
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(
        grown < 200 * 1024 * 1024,
        "{} MiB more",
        grown / 1024 / 1024
    );
    // Starts of others need no such room.
    let (response, took) = timed(|| gateway.ask(&Req::start(&team)));
    assert_eq!(response.status, 200);
    assert!(took < secs(3), "{took:?}");
    let turned_away = clients.iter_mut().filter_map(|client| {
        client.patience(std::time::Duration::from_millis(1));
        client.try_response().ok()
    });
    let turned_away: Vec<u16> = turned_away.map(|response| response.status).collect();
    assert!(
        turned_away.iter().all(|status| *status == 503),
        "{turned_away:?}"
    );
    assert!(
        !turned_away.is_empty(),
        "120 MiB are more than there is room for"
    );
    drop(clients);
    eventually(secs(10), "there is room again", || {
        (gateway.ask(&delivery.by_slack(SECRET)).status == 200).then_some(())
    });
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn many_deliveries_at_once_are_all_answered() {
    let (upstream, gateway, _) = rich();
    let redis = Redis::shared();
    let (rich, poor) = (workspace(redis, "5"), workspace(redis, "0"));
    std::thread::scope(|scope| {
        for at in 0..16 {
            let (gateway, rich, poor) = (&gateway, &rich, &poor);
            scope.spawn(move || {
                let mut client = gateway.connect();
                for turn in 0..10 {
                    let length = if turn % 5 == 0 { 200_000 } else { 2_000 };
                    let is_rich = (at + turn) % 2 == 0;
                    let workspace = if is_rich { rich } else { poor };
                    let response = client.ask(&padded(workspace, length).by_slack(SECRET));
                    let wanted = if is_rich { 200 } else { 403 };
                    assert_eq!(response.status, wanted, "{}", response.text());
                    if response
                        .header("connection")
                        .is_some_and(|value| value.contains("close"))
                    {
                        client = gateway.connect();
                    }
                }
            });
        }
    });
    assert_eq!(upstream.requests().len(), 80);
}

#[test]
fn an_upstream_that_is_gone_is_said_so_that_slack_delivers_again() {
    let away = Refusing::new();
    let gateway = slack(Gateway::before_address(away.address))
        .set(
            "admission",
            json!({"mode": "hold", "hold": 20, "hold_for": "30m"}),
        )
        .start();
    let workspace = workspace(Redis::shared(), "30");
    // A hold that stayed would leave too little for the next. It is given back
    // off the request path, so the next one may come too early.
    for length in [1_000, 1_000, 500_000] {
        let response = eventually(secs(5), "the hold is given back", || {
            let response = gateway.ask(&padded(&workspace, length).by_slack(SECRET));
            (response.status != 403).then_some(response)
        });
        assert!([502, 503].contains(&response.status), "{}", response.text());
        assert_eq!(
            response.header("x-slack-no-retry"),
            None,
            "{}",
            response.head
        );
    }
}

#[test]
fn a_large_delivery_goes_to_the_next_upstream_if_the_first_is_gone() {
    let (upstream, away) = (Upstream::ok(), Refusing::new());
    let addresses = json!([away.address.to_string(), upstream.address.to_string()]);
    let gateway = slack(Gateway::before(&upstream))
        .set("upstream.addresses", addresses)
        .start();
    let workspace = workspace(Redis::shared(), "5");
    for at in 0..12 {
        let delivery = padded(&workspace, 300_000 + at);
        let mut bytes = delivery.by_slack(SECRET).bytes();
        if at % 2 == 1 {
            bytes = head(&delivery, ("Transfer-Encoding", "chunked")).head_bytes();
            bytes.extend(chunks(delivery.body.as_bytes(), 50_000));
        }
        let mut client = gateway.connect();
        client.send(&bytes);
        let response = client.response();
        assert_eq!(response.status, 200, "{at}: {}", response.text());
        let arrived = upstream.requests();
        assert!(arrived[at].body == delivery.body.as_bytes(), "{at}");
        assert_eq!(arrived.len(), at + 1);
    }
}

#[test]
fn redis_that_freezes_in_the_middle_of_a_delivery() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let gateway = slack(Gateway::before(&upstream))
        .redis(&redis)
        .set("balances.redis.deadline", "200ms")
        .start();
    let workspace = workspace(&redis, "5");
    let delivery = padded(&workspace, 100_000);
    let bytes = delivery.by_slack(SECRET).bytes();
    let mut client = gateway.connect();
    client.send(&bytes[..50_000]);
    redis.freeze();
    client.send(&bytes[50_000..]);
    let response = client.response();
    assert_problem(&response, 503, "resource_unavailable", Some("true"));
    assert_eq!(response.header("x-slack-no-retry"), None);
    upstream.assert_untouched();
    redis.thaw();
    eventually(secs(20), "it is admitted when it comes again", || {
        let again = delivery.by_slack(SECRET).header("X-Slack-Retry-Num", "1");
        (gateway.ask(&again).status == 200).then_some(())
    });
    assert_eq!(upstream.requests().len(), 1);
    let admitted = [("verdict", "admitted")];
    assert_eq!(
        gateway.metrics().sum("tollgate_requests_total", &admitted),
        1.0
    );
}

#[test]
fn the_time_that_a_body_takes_is_not_the_ledgers() {
    let upstream = Upstream::ok();
    let gateway = slack(Gateway::before(&upstream))
        .set("balances.redis.deadline", "500ms")
        .start();
    let workspace = workspace(Redis::shared(), "5");
    let bytes = padded(&workspace, 100_000).by_slack(SECRET).bytes();
    let mut client = gateway.connect();
    client.send(&bytes[..50_000]);
    let began = std::time::Instant::now();
    eventually(secs(5), "a while passes", || {
        (began.elapsed() > secs(1)).then_some(())
    });
    client.send(&bytes[50_000..]);
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.requests().len(), 1);
}
