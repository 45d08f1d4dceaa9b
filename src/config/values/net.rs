//! Addresses: where the gateway listens, where the upstream is, whom it
//! believes, and what browsers and people are sent to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::{Form, Unfit, text_form};

/// The longest name that DNS carries.
const NAME_MAX_BYTES: usize = 253;

/// A range of IP addresses: `10.0.0.0/8`. A bare address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Whether the address is in the range. An IPv4 address that came in over
    /// an IPv6 socket (`::ffff:10.0.0.1`) counts as the IPv4 address it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The range.
    #[must_use]
    pub const fn net(&self) -> IpNet {
        self.0
    }
}

impl Form for Cidr {
    const FORMAT: &'static str = "cidr";
    const NOUN: &'static str = "a range of addresses";
    const ADVICE: &'static str =
        "write an IP address, or a CIDR range such as 10.0.0.0/8 or fd00::/8";
    const EXAMPLES: &'static [&'static str] = &["10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8"];
}

impl FromStr for Cidr {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Cidr(address.to_canonical().into()));
        }
        let net: IpNet = text.parse().map_err(|_| Self::unfit())?;
        // Bits behind the prefix are a slip in an address list that grants trust.
        if net.trunc() != net {
            return Err(Self::unfit_because(format!(
                "the address has bits behind the prefix, write {} or {}",
                net.trunc(),
                net.addr()
            )));
        }
        Ok(Cidr(unmapped(net)))
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: [`Cidr::contains`] compares IPv4 as IPv4.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped();
    let prefix = v6.prefix_len().checked_sub(96);
    match (v4, prefix) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(net, IpNet::V4),
        _ => net,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address to listen at: IP and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        ListenAddress(address)
    }
}

impl Form for ListenAddress {
    const FORMAT: &'static str = "listen-address";
    const NOUN: &'static str = "an address and port";
    const ADVICE: &'static str =
        "write an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
    const EXAMPLES: &'static [&'static str] = &["127.0.0.1:8080", "0.0.0.0:8080", "[::]:8080"];
}

impl FromStr for ListenAddress {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress(address));
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if port.parse::<u16>().is_ok() {
            return Err(Self::unfit_because(format!(
                "the IP address is missing, write 127.0.0.1:{port}, or 0.0.0.0:{port} for all interfaces"
            )));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(Self::unfit_because(
                "the port is missing, write it behind a `:`",
            ));
        }
        match text.rsplit_once(':') {
            Some(("localhost", port)) => Err(Self::unfit_because(format!(
                "names are not resolved here, write 127.0.0.1:{port}"
            ))),
            _ => Err(Self::unfit()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the upstream is: a name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamAddress {
    host: String,
    port: u16,
}

impl UpstreamAddress {
    /// The name, in lower case, or the IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The address, if it is one already; `None` for a name.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for UpstreamAddress {
    fn from(address: SocketAddr) -> Self {
        UpstreamAddress {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl Form for UpstreamAddress {
    const FORMAT: &'static str = "upstream-address";
    const NOUN: &'static str = "a host and port";
    const ADVICE: &'static str =
        "write a name or an IP address and a port, such as api.internal:9000 or [::1]:9000";
    const EXAMPLES: &'static [&'static str] =
        &["127.0.0.1:9000", "api.internal:9000", "[::1]:9000"];
}

impl FromStr for UpstreamAddress {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text.contains("://") {
            return Err(Self::unfit_because(
                "leave out the scheme and path, write host:port (`upstream.tls` switches TLS on)",
            ));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Self::unfit_because(
                "the port is missing, write it behind a `:`",
            ));
        };
        if port.contains('/') {
            return Err(Self::unfit_because("leave out the path, write host:port"));
        }
        let all_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if port != 0 && all_digits => port,
            _ => return Err(Self::unfit_because("the port must be between 1 and 65535")),
        };
        let host = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(inner) => match inner.parse::<std::net::Ipv6Addr>() {
                Ok(address) => address.to_string(),
                Err(_) => return Err(Self::unfit_because("[…] must hold an IPv6 address")),
            },
            None if host.contains(':') => {
                return Err(Self::unfit_because(
                    "write an IPv6 address in brackets, such as [::1]:9000",
                ));
            }
            None if is_name(host) => host.to_ascii_lowercase(),
            None => return Err(Self::unfit()),
        };
        Ok(UpstreamAddress { host, port })
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An absolute `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url(String);

impl Url {
    /// The URL, safe to stand between `<` and `>` in a header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Form for Url {
    const FORMAT: &'static str = "http-url";
    const NOUN: &'static str = "a URL";
    const ADVICE: &'static str =
        "write an absolute http or https URL, such as https://example.com/billing";
    const EXAMPLES: &'static [&'static str] = &["https://example.com/billing"];
    const PATTERN: Option<&'static str> = Some("^[Hh][Tt][Tt][Pp][Ss]?://");
}

impl FromStr for Url {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let safe = |byte: u8| byte.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&byte);
        if !text.bytes().all(safe) {
            return Err(Self::unfit_because(
                "percent-encode blanks and anything outside the URL alphabet",
            ));
        }
        // A fragment is fine for people; `http::Uri` drops it.
        let uri: http::Uri = text.parse().map_err(|_| Self::unfit())?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        match uri.host() {
            Some(host) if is_web && !host.is_empty() => Ok(Url(text.to_owned())),
            _ => Err(Self::unfit()),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A web origin, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin(String);

impl Origin {
    /// The origin as browsers write it: lower case, no trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `*`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl Form for Origin {
    const FORMAT: &'static str = "web-origin";
    const NOUN: &'static str = "an origin";
    const ADVICE: &'static str =
        "write scheme and host, such as https://app.example.com or http://localhost:3000, or \"*\"";
    const EXAMPLES: &'static [&'static str] =
        &["https://app.example.com", "http://localhost:3000", "*"];
}

impl FromStr for Origin {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text == "*" {
            return Ok(Origin(text.to_owned()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Self::unfit());
        };
        if rest.contains('*') {
            return Err(Self::unfit_because(
                "write each origin out, or \"*\" alone for all: a `*` within one is not expanded",
            ));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(Self::unfit_because(
                "leave out what follows the host, a trailing `/` too: browsers send scheme, host and port only",
            ));
        }
        let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let authority = rest.parse::<http::uri::Authority>();
        match authority {
            Ok(authority) if scheme_fits && !authority.host().is_empty() && !rest.contains('@') => {
                Ok(Origin(text.to_ascii_lowercase()))
            }
            _ => Err(Self::unfit()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Cidr, ListenAddress, UpstreamAddress, Url, Origin);

/// Whether the text can be a DNS name or an IPv4 address. `_` occurs in the
/// names that container networks give.
fn is_name(text: &str) -> bool {
    let label_fits = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    // All digits and dots must then be an IPv4 address, not a name.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.len() <= NAME_MAX_BYTES
        && text.split('.').all(label_fits)
        && (!numeric || text.parse::<std::net::Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_hold_mapped_addresses_as_well() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "::1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("fd00::/8", "fd12::1", true),
            ("0.0.0.0/0", "::1", false),
        ] {
            assert_eq!(
                cidr(range).contains(address.parse().unwrap()),
                expected,
                "{range} {address}"
            );
        }
    }

    #[test]
    fn a_range_with_stray_bits_is_a_slip() {
        let error = "10.0.0.1/8".parse::<Cidr>().unwrap_err().to_string();
        assert_eq!(
            error,
            "not a range of addresses: the address has bits behind the prefix, write 10.0.0.0/8 or 10.0.0.1"
        );
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_listen_addresses() {
        for text in ["127.0.0.1:0", "[::]:8080"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for (text, advice) in [
            (":8080", "127.0.0.1:8080"),
            ("8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("127.0.0.1", "the port is missing"),
            ("::1:8080", "the port is missing"),
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn reads_upstream_addresses() {
        for (text, host, port, is_ip) in [
            ("127.0.0.1:9000", "127.0.0.1", 9000, true),
            ("[::1]:9000", "::1", 9000, true),
            ("API.internal:80", "api.internal", 80, false),
            ("my_service:80", "my_service", 80, false),
        ] {
            let address: UpstreamAddress = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.socket_addr().is_some(), is_ip);
            assert_eq!(
                address.to_string().parse::<UpstreamAddress>().unwrap(),
                address
            );
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            ":80",
            "a b:80",
            "::1:80",
            "http://host:80",
            "host:80/x",
            "[x]:80",
            "300.1.1.1:80",
            "-a:80",
            "a..b:80",
            "u@h:80",
        ] {
            assert!(text.parse::<UpstreamAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_cannot_leave_its_header() {
        for text in ["https://example.com/a?b=c&d#e", "http://localhost:3000"] {
            assert_eq!(text.parse::<Url>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "/billing",
            "ftp://a",
            "https://",
            "https://a/>; rel=x",
            "https://a b",
            "https://a/\n",
            "https://ä",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_origins_as_browsers_write_them() {
        assert!("*".parse::<Origin>().unwrap().is_any());
        assert_eq!(
            "https://App.example.com"
                .parse::<Origin>()
                .unwrap()
                .as_str(),
            "https://app.example.com"
        );
        for text in [
            "",
            "null",
            "example.com",
            "https://a/",
            "https://a/b",
            "https://",
            "https://u@a",
            "https://*.a",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
