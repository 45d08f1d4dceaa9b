//! The upstream: its addresses, TLS, waits and names.

use rustls::pki_types::ServerName;

use super::super::{Server, Upstream};
use super::server::{overlap, public_addresses};
use super::{Report, files};

pub fn check(upstream: &Upstream, server: &Server, report: &mut Report) {
    let advice = "write at least one host:port, such as \"127.0.0.1:9000\"";
    report.not_empty("upstream.addresses", &upstream.addresses, advice);
    addresses(upstream, server, report);
    if let Some(tls) = &upstream.tls {
        if let Some(ca) = &tls.ca {
            files::authorities("upstream.tls.ca", ca, report);
        }
        files::optional_pair(
            "upstream.tls",
            tls.cert.as_deref(),
            tls.key.as_deref(),
            report,
        );
        let bad_name = |sni: &str| ServerName::try_from(sni).is_err();
        if let Some(sni) = tls.sni.as_ref().filter(|sni| bad_name(sni.as_str())) {
            report.shown(
                "upstream.tls.sni",
                sni.as_str().to_owned(),
                "is not a host name: write the name in the upstream's certificate, such as api.internal, without a port",
            );
        }
    }
    if let Some(host) = &upstream.host {
        let fits = host
            .as_str()
            .parse::<http::uri::Authority>()
            .is_ok_and(|host| !host.as_str().contains('@'));
        if !fits {
            report.shown(
                "upstream.host",
                host.as_str().to_owned(),
                "is not a Host: write a name, with a port where needed, such as api.internal",
            );
        }
    }
    waits(upstream, report);
}

fn addresses(upstream: &Upstream, server: &Server, report: &mut Report) {
    for (index, address) in upstream.addresses.iter().enumerate() {
        let at = format!("upstream.addresses[{index}]");
        if let Some(first) = upstream
            .addresses
            .iter()
            .take(index)
            .position(|other| other == address)
        {
            let other = format!("upstream.addresses[{first}]");
            report.clash(
                &at,
                &other,
                format!("`{at}` stands twice, see `{other}`: keep one of them"),
            );
        }
        let Some(upstream) = address.socket_addr() else {
            continue;
        };
        // A wildcard listener is reached by every address of this machine, of
        // which only the loopback ones are known without asking the system.
        let own = public_addresses(server).into_iter().find(|(_, listen)| {
            let listen = listen.addr();
            overlap(listen, upstream)
                && (listen.ip() == upstream.ip() || upstream.ip().is_loopback())
        });
        if let Some((listen, _)) = own {
            report.clash(&at, &listen, format!("`{at}` is the gateway's own address, see `{listen}`: write where the service listens"));
        }
    }
}

fn waits(upstream: &Upstream, report: &mut Report) {
    report.positive("upstream.connect_timeout", upstream.connect_timeout);
    report.positive("upstream.read_timeout", upstream.read_timeout);
    report.positive("upstream.write_timeout", upstream.write_timeout);
    report.positive("upstream.idle_timeout", upstream.idle_timeout);
    report.positive("upstream.health.timeout", upstream.health.timeout);
    report.positive("upstream.dns.min_ttl", upstream.dns.min_ttl);
    if upstream.dns.max_ttl < upstream.dns.min_ttl {
        report.clash(
            "upstream.dns.max_ttl",
            "upstream.dns.min_ttl",
            format!(
                "`upstream.dns.max_ttl` must not be shorter than `upstream.dns.min_ttl` ({})",
                upstream.dns.min_ttl
            ),
        );
    }
    for (index, server) in upstream.dns.servers.iter().enumerate() {
        if server.addr().port() == 0 {
            report.value(
                &format!("upstream.dns.servers[{index}]"),
                "a name server needs a port: write for example 10.0.0.2:53",
            );
        }
    }
}
