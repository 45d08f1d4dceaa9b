//! Listeners, their certificates, and limits.

use std::net::SocketAddr;

use super::super::values::{ListenAddress, Secret, Size};
use super::super::{Limits, Server};
use super::{Report, files};

/// The bounds of `server.limits.header_size`: what the proxy can be set to.
const HEADER_SIZE_MIN: Size = Size::from_kib(1);
const HEADER_SIZE_MAX: Size = Size::from_kib(1024);

/// The most worker threads; more is a slip.
const THREADS_MAX: usize = 1024;

pub fn check(server: &Server, report: &mut Report) {
    listeners(server, report);
    limits(&server.limits, report);
    if let Some(tls) = &server.tls {
        let advice =
            "write at least one address, such as \"0.0.0.0:8443\", or leave `server.tls` out";
        report.not_empty("server.tls.listen", &tls.listen, advice);
        files::pair(
            ("server.tls.cert", &tls.cert),
            ("server.tls.key", &tls.key),
            report,
        );
        match &tls.client_ca {
            Some(ca) => files::authorities("server.tls.client_ca", ca, report),
            None => report.idle(
                "server.tls.client_auth",
                &["server.tls.client_auth", "server.tls.client_ca"],
                "`client_auth` needs `client_ca`: write the PEM file with the CAs that client certificates must come from, or leave it out; without one no client is asked for a certificate",
            ),
        }
    }
    if server
        .threads
        .is_some_and(|threads| threads.get() > THREADS_MAX)
    {
        report.value(
            "server.threads",
            format!(
                "`server.threads` must be at most {THREADS_MAX}: leave it out for one per core"
            ),
        );
    }
}

fn listeners(server: &Server, report: &mut Report) {
    if server.listen.is_empty() && server.tls.is_none() {
        report.key(
            "server",
            &["server.listen", "server.tls"],
            "`server` listens nowhere: write `listen: [\"0.0.0.0:8080\"]`, or `tls` with addresses and a certificate",
        );
    }
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    for (at, address) in public_addresses(server) {
        let clash = taken
            .iter()
            .find(|(_, other)| overlap(*other, address.addr()));
        if let Some((other, _)) = clash {
            report.clash(
                &at,
                other,
                format!("`{at}` is taken by `{other}`: give each its own address or port"),
            );
        }
        taken.push((at, address.addr()));
    }
    let Some(admin) = &server.admin else { return };
    let sendable = |token: &Secret| token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !admin.token.as_ref().is_none_or(sendable) {
        report.value(
            "server.admin.token",
            "`server.admin.token` cannot be sent as a bearer token: leave out blanks, line breaks and anything that is not ASCII, as `openssl rand -hex 32` does",
        );
    }
    let clash = taken
        .iter()
        .find(|(_, public)| overlap(*public, admin.listen.addr()));
    if let Some((public, _)) = clash {
        report.clash(
            "server.admin.listen",
            public,
            format!("the admin listener must not share the public port of `{public}`: write another port, such as 127.0.0.1:9901"),
        );
    }
}

/// The public addresses with their paths.
pub fn public_addresses(server: &Server) -> Vec<(String, ListenAddress)> {
    let numbered = |block: &'static str, list: &[ListenAddress]| {
        let name = move |(index, address): (usize, &ListenAddress)| {
            (format!("{block}[{index}]"), *address)
        };
        list.iter().enumerate().map(name).collect::<Vec<_>>()
    };
    let mut addresses = numbered("server.listen", &server.listen);
    if let Some(tls) = &server.tls {
        addresses.extend(numbered("server.tls.listen", &tls.listen));
    }
    addresses
}

/// Whether two sockets cannot both be bound. Port 0 takes a free one.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    let same_ip = a_ip == b_ip || a_ip.is_unspecified() || b_ip.is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}

fn limits(limits: &Limits, report: &mut Report) {
    if !(HEADER_SIZE_MIN..=HEADER_SIZE_MAX).contains(&limits.header_size) {
        report.value(
            "server.limits.header_size",
            format!("`server.limits.header_size` must be between {HEADER_SIZE_MIN} and {HEADER_SIZE_MAX}"),
        );
    }
    report.positive("server.limits.header_timeout", limits.header_timeout);
    report.positive("server.limits.idle_timeout", limits.idle_timeout);
    report.positive("server.limits.body_timeout", limits.body_timeout);
    report.positive("server.limits.write_timeout", limits.write_timeout);
    report.positive("server.limits.handshake_timeout", limits.handshake_timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_cannot_both_be_bound() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(
                overlap(a.parse().unwrap(), b.parse().unwrap()),
                expected,
                "{a} {b}"
            );
        }
    }
}
