//! An upstream's name is resolved again as its addresses expire.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::support::dns::NameServer;
use crate::support::wait::{eventually, secs};
use crate::support::{Gateway, Redis, Req, Upstream};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Two upstreams on the same port of two addresses.
fn pair() -> (Upstream, Upstream) {
    for _ in 0..20 {
        let one = Upstream::ok();
        let port = one.address.port();
        if std::net::TcpListener::bind((TWO, port)).is_ok() {
            return (one, Upstream::ok_on((TWO, port).into()));
        }
    }
    panic!("no port is free on both addresses")
}

fn gateway(one: &Upstream, names: &NameServer) -> Gateway {
    Gateway::before(one)
        .set(
            "upstream.addresses",
            json!([format!("api.test:{}", one.address.port())]),
        )
        .set(
            "upstream.dns",
            json!({"servers": [names.address.to_string()], "min_ttl": "200ms", "max_ttl": "1s"}),
        )
        .start()
}

#[test]
fn a_new_address_is_used_and_the_old_one_left() {
    let (one, two) = pair();
    let names = NameServer::answering(&[ONE]);
    let gateway = gateway(&one, &names);
    let team = Redis::shared().team("5");
    assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    assert_eq!((one.requests().len(), two.requests().len()), (1, 0));
    names.answer(&[TWO]);
    eventually(secs(10), "the new address is used", || {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
        (!two.requests().is_empty()).then_some(())
    });
    one.forget();
    for _ in 0..10 {
        assert_eq!(gateway.ask(&Req::start(&team)).status, 200);
    }
    assert_eq!(one.requests().len(), 0);
}

#[test]
fn a_name_stands_for_all_its_addresses() {
    let (one, two) = pair();
    let names = NameServer::answering(&[ONE, TWO]);
    let gateway = gateway(&one, &names);
    for _ in 0..20 {
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    }
    assert!(one.requests().len() >= 5 && two.requests().len() >= 5);
}

#[test]
fn while_the_name_server_knows_nothing_the_last_addresses_serve() {
    let (one, _two) = pair();
    let names = NameServer::answering(&[ONE]);
    let gateway = gateway(&one, &names);
    assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
    names.answer(&[]);
    let start = std::time::Instant::now();
    eventually(secs(10), "two lifetimes have passed", || {
        assert_eq!(gateway.ask(&Req::get("/x")).status, 200);
        (start.elapsed() > secs(2)).then_some(())
    });
}

#[test]
fn a_name_that_nobody_knows_is_an_unreached_upstream() {
    let one = Upstream::ok();
    let names = NameServer::answering(&[]);
    let gateway = Gateway::before(&one)
        .set(
            "upstream.addresses",
            json!([format!("api.test:{}", one.address.port())]),
        )
        .set(
            "upstream.dns",
            json!({"servers": [names.address.to_string()], "min_ttl": "200ms", "max_ttl": "1s"}),
        )
        .start_unready();
    let answer = gateway.ask(&Req::start(&Redis::shared().team("5")));
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    assert_eq!(answer.header("x-should-retry"), Some("true"));
    names.answer(&[ONE]);
    eventually(secs(10), "the name is found", || {
        (gateway.ask(&Req::get("/x")).status == 200).then_some(())
    });
}
