//! From the start of the process to its end.

use std::net::TcpListener;
use std::sync::{Arc, Barrier};

use serde_json::json;

use crate::support::tls::Authority;
use crate::support::upstream::After;
use crate::support::wait::{eventually, millis, secs, throughout, timed};
use crate::support::{Client, Gateway, Redis, Req, Upstream};

#[test]
fn an_idle_gateway_ends_within_a_second_of_sigterm() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream).start();
    let mut idle = gateway.connect();
    assert_eq!(idle.ask(&Req::get("/x")).status, 200);
    gateway.signal("TERM");
    let (status, took) = timed(|| gateway.wait(secs(10)));
    assert_eq!(status.code(), Some(0));
    assert!(took < millis(1500), "{took:?}");
    assert!(idle.is_closed_within(secs(1)));
}

#[test]
fn the_lame_duck_is_not_ready_and_still_serves() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.shutdown.lame_duck", "1500ms")
        .start();
    let team = Redis::shared().team("5");
    gateway.signal("TERM");
    let answer = eventually(secs(1), "it is not ready", || {
        Some(gateway.admin("/readyz")).filter(|a| a.status == 503)
    });
    assert!(!answer.text().is_empty());
    throughout(millis(700), "new connections are served", || {
        gateway.ask(&Req::start(&team)).status == 200
    });
    assert_eq!(gateway.wait(secs(10)).code(), Some(0));
}

#[test]
fn requests_in_flight_are_finished_before_the_end() {
    let gate = Arc::new(Barrier::new(2));
    let opened = gate.clone();
    let upstream = Upstream::answering(move |exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")?;
        gate.wait();
        exchange.send(b"3\r\ntwo\r\n0\r\n\r\n")?;
        Ok(After::Keep)
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.connect();
    client.send(Req::start(&Redis::shared().team("5")).bytes());
    client.read_head().unwrap();
    gateway.signal("TERM");
    eventually(secs(5), "nobody new is accepted", || {
        std::net::TcpStream::connect(gateway.http).err()
    });
    assert!(gateway.runs(), "it waits for the one in flight");
    opened.wait();
    client.take_until(b"two\r\n0\r\n\r\n");
    let (status, took) = timed(|| gateway.wait(secs(10)));
    assert_eq!(status.code(), Some(0));
    assert!(took < millis(1500), "after the last answer: {took:?}");
}

#[test]
fn the_drain_has_an_end() {
    let upstream = Upstream::answering(|exchange| {
        exchange.read_body()?;
        drop(exchange.take(1));
        Ok(After::Close)
    });
    let gateway = Gateway::before(&upstream)
        .set("server.shutdown.drain", "500ms")
        .start();
    let mut client = gateway.connect();
    client.send(Req::get("/never").bytes());
    eventually(secs(5), "the request is in flight", || {
        (!upstream.requests().is_empty()).then_some(())
    });
    gateway.signal("TERM");
    let (_, took) = timed(|| gateway.wait(secs(10)));
    assert!(took >= millis(400) && took < secs(3), "{took:?}");
}

#[test]
fn sigint_ends_it_at_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set(
            "server.shutdown",
            json!({"lame_duck": "30s", "drain": "30s"}),
        )
        .start();
    gateway.signal("INT");
    let (_, took) = timed(|| gateway.wait(secs(10)));
    assert!(took < millis(1500), "{took:?}");
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set(
            "server.shutdown",
            json!({"lame_duck": "30s", "drain": "30s"}),
        )
        .start();
    gateway.signal("TERM");
    eventually(secs(5), "it is not ready", || {
        (gateway.admin("/readyz").status == 503).then_some(())
    });
    gateway.signal("TERM");
    let (_, took) = timed(|| gateway.wait(secs(10)));
    assert!(took < millis(1500), "{took:?}");
}

#[test]
fn a_wrong_configuration_binds_nothing_and_names_every_mistake() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set(
            "server.listen",
            json!([taken.local_addr().unwrap().to_string()]),
        )
        .set("server.shutdwn", json!({}))
        .set("balances.redis.deadline", "fifty")
        .set("routes.0.start", "tasks")
        .launch();
    assert_eq!(
        gateway.wait(secs(10)).code(),
        Some(64),
        "the mistakes come before the taken port"
    );
    let said = eventually(secs(5), "it says why", || {
        Some(gateway.stderr.text()).filter(|text| !text.is_empty())
    });
    for mistake in ["shutdwn", "shutdown", "fifty", "tollgate.yaml:"] {
        assert!(said.contains(mistake), "{mistake}: {said}");
    }
    assert!(gateway.addresses().is_empty());
}

#[test]
fn a_missing_file_is_a_wrong_configuration() {
    let output =
        crate::support::gateway::tollgate(&["run", "--config", "/nonexistent/tollgate.yaml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/tollgate.yaml"));
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let authority = Authority::new();
    for listener in ["http", "https", "admin"] {
        let upstream = Upstream::ok();
        let builder = Gateway::before(&upstream);
        let builder = match listener {
            "http" => builder.set("server.listen", json!([address])),
            "admin" => builder.set("server.admin.listen", address.as_str()),
            _ => {
                let (cert, key) = authority
                    .issue(&["api.test"])
                    .write(builder.folder(), "server");
                builder.set(
                    "server.tls",
                    json!({"listen": [address], "cert": cert, "key": key}),
                )
            }
        };
        let gateway = builder.launch();
        assert_eq!(gateway.wait(secs(15)).code(), Some(1), "{listener}");
        eventually(secs(5), "it names the address", || {
            gateway.stderr.text().contains(&address).then_some(())
        });
    }
}

#[test]
fn several_addresses_are_all_served() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set(
            "server.listen",
            json!(["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"]),
        )
        .start();
    let public: Vec<_> = gateway
        .addresses()
        .into_iter()
        .filter(|(listener, _)| listener == "http")
        .collect();
    assert_eq!(public.len(), 3);
    for (_, address) in public {
        assert_eq!(
            Client::connect(address).ask(&Req::get("/x")).status,
            200,
            "{address}"
        );
    }
}

#[test]
fn without_an_admin_listener_it_serves_all_the_same() {
    let upstream = Upstream::ok();
    let gateway = Gateway::before(&upstream)
        .set("server.admin", json!(null))
        .start_unready();
    let team = Redis::shared().team("5");
    eventually(secs(10), "starts are served", || {
        (gateway.ask(&Req::start(&team)).status == 200).then_some(())
    });
}
