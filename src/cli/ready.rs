//! `tollgate ready`: asks the admin listener, for container health checks.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::{Failure, Outcome, Style, read, say};
use crate::app::build::admin_address;

/// How long the admin listener may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of an answer that are read.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

pub fn run(file: &Path, style: Style) -> Outcome {
    let config = read(file)?;
    let Some(address) = admin_address(&config) else {
        return Err(Failure::Usage(format!(
            "{}: there is no admin listener to ask: set server.admin.listen",
            file.display()
        )));
    };
    let address = reachable(address);
    let (status, body) = get(address, "/readyz").map_err(|error| {
        Failure::Fault(format!("not ready: {address} does not answer: {error}"))
    })?;
    match (status, style) {
        (200, Style::Text) => say("ready"),
        (_, Style::Json) => say(&body),
        _ => {}
    }
    if status == 200 {
        return Ok(());
    }
    if style == Style::Json {
        return Err(Failure::Fault(String::new()));
    }
    Err(Failure::Fault(format!("not ready: {body}")))
}

/// An address to connect to for one that is listened on.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A plain HTTP GET.
fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("that is no HTTP answer"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.trim().to_owned()))
}
