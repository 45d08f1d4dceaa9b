//! Every way to reach a Redis: TLS, a Unix socket, a user, a database.

use crate::support::gateway::Builder;
use crate::support::ports;
use crate::support::process::Folder;
use crate::support::redis::fresh;
use crate::support::tls::Authority;
use crate::support::{Gateway, Redis, Req, Upstream};

/// Both answers, so that it is not by chance.
#[track_caller]
fn assert_reads_balances(builder: Builder, upstream: &Upstream, rich: &str, poor: &str) {
    let gateway = builder.start();
    assert_eq!(gateway.ask(&Req::start(poor)).status, 403);
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::start(rich)).status, 200);
}

#[test]
fn a_unix_socket() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let url = format!("redis+unix://{}", redis.socket().display());
    let builder = Gateway::before(&upstream).set("balances.redis.url", url);
    assert_reads_balances(builder, &upstream, &redis.team("1"), &redis.team("0"));
}

#[test]
fn a_database_number() {
    let (upstream, redis) = (Upstream::ok(), Redis::private(&[]));
    let (rich, poor) = (redis.team("0"), redis.team("1"));
    // The other way round in database 3.
    for (team, balance) in [(&rich, "1"), (&poor, "0")] {
        redis.run::<()>(&[
            "EVAL",
            "redis.call('SELECT', 3) return redis.call('SET', KEYS[1], ARGV[1])",
            "1",
            &format!("credits:{{{team}}}"),
            balance,
        ]);
    }
    let builder =
        Gateway::before(&upstream).set("balances.redis.url", format!("{}/3", redis.url()));
    assert_reads_balances(builder, &upstream, &rich, &poor);
}

#[test]
fn a_password_alone_and_a_user_with_one() {
    let redis = Redis::with_password("s3cret", &[]);
    redis.run::<()>(&["ACL", "SETUSER", "gate", "on", ">p%40ss", "~*", "+@all"]);
    let (rich, poor) = (redis.team("1"), redis.team("0"));
    for credentials in [":s3cret", "default:s3cret", "gate:p%2540ss"] {
        let upstream = Upstream::ok();
        let url = format!("redis://{credentials}@127.0.0.1:{}", redis.port);
        assert_reads_balances(
            Gateway::before(&upstream).set("balances.redis.url", url),
            &upstream,
            &rich,
            &poor,
        );
    }
}

#[test]
fn a_wrong_password_is_an_outage_and_is_not_logged() {
    let (upstream, redis) = (Upstream::ok(), Redis::with_password("s3cret", &[]));
    let url = format!("redis://:wr0ng-passw0rd@127.0.0.1:{}", redis.port);
    let gateway = Gateway::before(&upstream)
        .set("balances.redis.url", url)
        .start_unready();
    assert_eq!(gateway.ask(&Req::start(&redis.team("1"))).status, 503);
    upstream.assert_untouched();
    let ready = gateway.admin("/readyz");
    assert_eq!(ready.status, 503);
    for text in [gateway.stderr.text(), gateway.stdout.text(), ready.text()] {
        assert!(!text.contains("wr0ng-passw0rd"), "{text}");
    }
}

#[test]
fn the_url_may_come_from_the_environment_or_a_file() {
    let (upstream, redis) = (Upstream::ok(), Redis::shared());
    let (rich, poor) = (redis.team("1"), redis.team("0"));
    let builder = Gateway::before(&upstream).env("BALANCES_URL", &redis.url());
    assert_reads_balances(
        builder.set("balances.redis.url", "${BALANCES_URL}"),
        &upstream,
        &rich,
        &poor,
    );
    upstream.forget();
    let builder = Gateway::before(&upstream).env("PORT", &redis.port.to_string());
    let url = "redis://${HOST_THAT_IS_NOT_SET:-127.0.0.1}:${PORT}";
    assert_reads_balances(
        builder.set("balances.redis.url", url),
        &upstream,
        &rich,
        &poor,
    );
    upstream.forget();
    let builder = Gateway::before(&upstream);
    let file = builder.folder().write("url", format!("{}\n", redis.url()));
    let builder = builder.set(
        "balances.redis.url",
        format!("${{file:{}}}", file.display()),
    );
    assert_reads_balances(builder, &upstream, &rich, &poor);
}

struct TlsRedis {
    redis: Redis,
    authority: Authority,
    clients: Authority,
    port: u16,
    _folder: Folder,
}

fn tls_redis(auth_clients: &str) -> TlsRedis {
    let (authority, clients, folder) = (Authority::new(), Authority::new(), Folder::new("tls"));
    let (cert, key) = authority
        .issue(&["localhost", "127.0.0.1"])
        .write(&folder, "redis");
    let ca = folder.write("clients.pem", clients.pem());
    let port = ports::recently_free();
    let (tls_port, path) = (port.to_string(), |path: &std::path::Path| {
        path.to_str().unwrap().to_owned()
    });
    let redis = Redis::private(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &path(&cert),
        "--tls-key-file",
        &path(&key),
        "--tls-ca-cert-file",
        &path(&ca),
        "--tls-auth-clients",
        auth_clients,
    ]);
    TlsRedis {
        redis,
        authority,
        clients,
        port,
        _folder: folder,
    }
}

#[test]
fn tls_with_a_ca() {
    let (upstream, server) = (Upstream::ok(), tls_redis("no"));
    let (rich, poor) = (server.redis.team("1"), server.redis.team("0"));
    for host in ["localhost", "127.0.0.1"] {
        upstream.forget();
        let builder = Gateway::before(&upstream);
        let ca = builder.folder().write("ca.pem", server.authority.pem());
        let builder = builder
            .set(
                "balances.redis.url",
                format!("rediss://{host}:{}", server.port),
            )
            .set("balances.redis.ca", ca.to_str().unwrap());
        assert_reads_balances(builder, &upstream, &rich, &poor);
    }
}

#[test]
fn tls_of_a_stranger_is_an_outage() {
    let (upstream, server, stranger) = (Upstream::ok(), tls_redis("no"), Authority::new());
    let builder = Gateway::before(&upstream);
    let ca = builder.folder().write("ca.pem", stranger.pem());
    let gateway = builder
        .set(
            "balances.redis.url",
            format!("rediss://localhost:{}", server.port),
        )
        .set("balances.redis.ca", ca.to_str().unwrap())
        .start_unready();
    assert_eq!(
        gateway.ask(&Req::start(&server.redis.team("1"))).status,
        503
    );
    upstream.assert_untouched();
}

#[test]
fn tls_with_a_client_certificate() {
    let (upstream, server) = (Upstream::ok(), tls_redis("yes"));
    let (rich, poor) = (server.redis.team("1"), server.redis.team("0"));
    let with_ca = |builder: Builder| {
        let ca = builder.folder().write("ca.pem", server.authority.pem());
        builder
            .set(
                "balances.redis.url",
                format!("rediss://localhost:{}", server.port),
            )
            .set("balances.redis.ca", ca.to_str().unwrap())
    };
    let bare = with_ca(Gateway::before(&upstream)).start_unready();
    assert_eq!(bare.ask(&Req::start(&rich)).status, 503);
    let builder = with_ca(Gateway::before(&upstream));
    let (cert, key) = server
        .clients
        .issue(&[&fresh("gate")])
        .write(builder.folder(), "client");
    let builder = builder
        .set("balances.redis.cert", cert.to_str().unwrap())
        .set("balances.redis.key", key.to_str().unwrap());
    assert_reads_balances(builder, &upstream, &rich, &poor);
}

#[test]
fn balances_in_memory_need_no_redis() {
    let upstream = Upstream::ok();
    let builder = Gateway::before(&upstream)
        .set(
            "balances",
            serde_json::json!({"memory": {"rich": 5, "poor": "0"}}),
        )
        .set(
            "identity",
            serde_json::json!([{"header": {"name": "x-team-id", "from": ["127.0.0.0/8"]}}]),
        );
    let gateway = builder.start();
    assert_eq!(gateway.ask(&Req::start("poor")).status, 403);
    assert_eq!(gateway.ask(&Req::start("unheard-of")).status, 403);
    upstream.assert_untouched();
    assert_eq!(gateway.ask(&Req::start("rich")).status, 200);
}
