//! What the upstream gets besides the request as it came.
//!
//! The list is closed: target, method and body stay as they are, and so does
//! every header that is not named here. Pingora removes the hop-by-hop ones.
//!
//! What a head did not have before is not put into Pingora's two maps of it,
//! where one header costs 2,000 instructions and they grow besides, but written
//! behind it as it goes out, where the connection is ours ([`Outgoing`]).

mod outgoing;

use std::net::IpAddr;

use http::header::{HOST, HeaderName};
use pingora_error::Result;
use pingora_http::RequestHeader;

use super::context::Context;
use super::framing::is_spelling_of;
use super::live::HoldAmount;
use super::seen::Seen;
use crate::config::values::Cidr;
pub use outgoing::Outgoing;

const TEAM: HeaderName = HeaderName::from_static("x-tollgate-team");
const PRINCIPAL: HeaderName = HeaderName::from_static("x-tollgate-principal");
const HOLD: HeaderName = HeaderName::from_static("x-tollgate-hold");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The scheme that the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What a request needs besides its own head.
pub struct Settings {
    /// Peers whose `X-Forwarded-Proto` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// `Host`, where the upstream wants its own.
    pub host: Option<String>,
}

impl Settings {
    /// Changes the head of a request on its way to the upstream.
    ///
    /// # Errors
    /// If a header cannot be set.
    pub fn apply(
        &self,
        request: &mut RequestHeader,
        context: &Context,
        scheme: Scheme,
    ) -> Result<()> {
        let own = |name: &&HeaderName| is_own(name.as_str().as_bytes());
        let claimed: Vec<HeaderName> = request.headers.keys().filter(own).cloned().collect();
        for name in claimed {
            request.remove_header(&name);
        }
        if context.start.is_some() {
            drop_unbelieved(request, context);
        }
        // Pingora reads it after this, and makes the target agree with it.
        if let Some(host) = &self.host {
            request.insert_header(HOST, host.as_str())?;
        }
        let passage = context.attempt.passage.as_ref();
        // A way that was not taken carries nothing.
        let passage = passage.filter(|passage| passage.is_taken());
        let mut head = match passage {
            Some(_) => Outgoing::behind(request),
            None => Outgoing::within(request),
        };
        // Nothing of the gateway's own is left in the head.
        if let Some(start) = &context.start {
            if let Some(payer) = &start.payer {
                head.add_header(&TEAM, payer.team.as_str())?;
                if let Some(principal) = &payer.principal {
                    head.add_header(&PRINCIPAL, principal.as_str())?;
                }
            }
            if let Some(held) = &start.hold {
                head.add_header(&HOLD, held.hold.as_str())?;
            }
        }
        context.ids.complete(&mut head)?;
        self.forwarded(&mut head, context.peer, scheme, context.seen)?;
        if let Some(passage) = passage {
            passage.write_behind_head(head.lines());
        }
        Ok(())
    }

    fn forwarded(
        &self,
        head: &mut Outgoing<'_>,
        peer: Option<IpAddr>,
        scheme: Scheme,
        seen: Seen,
    ) -> Result<()> {
        let Some(peer) = peer else { return Ok(()) };
        let own = text(peer.to_canonical());
        if !seen.forwarded {
            head.add_header(&FORWARDED_FOR, own)?;
            return head.add_header(&FORWARDED_PROTO, scheme.name());
        }
        let mut earlier = head.headers().get_all(&FORWARDED_FOR).iter().peekable();
        if earlier.peek().is_none() {
            head.add_header(&FORWARDED_FOR, own)?;
        } else {
            let earlier = earlier.map(http::HeaderValue::as_bytes);
            let chain: Vec<&[u8]> = earlier.chain([own.as_bytes()]).collect();
            let chain = chain.join(&b", "[..]);
            head.insert_header(&FORWARDED_FOR, chain)?;
        }
        let trusted = self.trusted_proxies.iter().any(|cidr| cidr.contains(peer));
        if !trusted || !head.headers().contains_key(&FORWARDED_PROTO) {
            head.insert_header(&FORWARDED_PROTO, scheme.name())?;
        }
        Ok(())
    }

    /// The client's address: the TCP peer, or what trusted proxies say of it.
    #[must_use]
    pub fn client(&self, request: &RequestHeader, peer: IpAddr) -> IpAddr {
        let trusted = |ip: IpAddr| self.trusted_proxies.iter().any(|cidr| cidr.contains(ip));
        let mut client = peer;
        let values: Vec<_> = request.headers.get_all(&FORWARDED_FOR).iter().collect();
        let hops = values
            .iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|b| *b == b','));
        for hop in hops {
            if !trusted(client) {
                break;
            }
            let hop = std::str::from_utf8(hop)
                .ok()
                .and_then(|hop| hop.trim().parse().ok());
            let Some(hop) = hop else { break };
            client = hop;
        }
        client.to_canonical()
    }
}

/// Whether a header is the gateway's own, in whatever spelling: only it says
/// them.
fn is_own(name: &[u8]) -> bool {
    matches!(
        name,
        [
            b'x',
            b'-' | b'_',
            b't',
            b'o',
            b'l',
            b'l',
            b'g',
            b'a',
            b't',
            b'e',
            b'-' | b'_',
            ..
        ]
    )
}

/// Removes from a start what this peer may not say: the upstream must not
/// believe what the gateway did not.
fn drop_unbelieved(request: &mut RequestHeader, context: &Context) {
    let mut unbelieved: Vec<HeaderName> = Vec::new();
    let mut note = |known: &HeaderName| {
        let spellings = request.headers.keys();
        let spellings = spellings.filter(|name| is_spelling_of(name.as_str(), known));
        unbelieved.extend(spellings.cloned());
    };
    context.live.identities.unbelieved(context.peer, &mut note);
    let hold = context.route().and_then(|route| route.hold.as_ref());
    if let Some(HoldAmount::Header { name, from, .. }) = hold.map(|hold| &hold.amount)
        && !is_listed(from, context.peer)
    {
        note(name);
    }
    for name in unbelieved {
        request.remove_header(&name);
    }
}

/// Whether a TCP peer is among those that are believed.
#[must_use]
pub fn is_listed(from: &[Cidr], peer: Option<IpAddr>) -> bool {
    peer.is_some_and(|peer| from.iter().any(|cidr| cidr.contains(peer)))
}

/// An address as text. The formatter of the standard library costs as much as
/// setting the header; IPv4 is worth doing by hand.
fn text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        let digit = |value: u8| char::from(b'0'.saturating_add(value % 10));
        if octet >= 100 {
            text.push(digit(octet / 100));
        }
        if octet >= 10 {
            text.push(digit(octet / 10));
        }
        text.push(digit(octet));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_the_library_writes_it() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "10.20.30.99",
            "255.100.9.10",
            "2001:db8::1",
        ] {
            assert_eq!(text(address.parse().unwrap()), address);
        }
    }

    #[test]
    fn the_client_is_the_last_hop_that_nobody_trusted_vouches_past() {
        let settings = Settings {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            host: None,
        };
        for (peer, forwarded, client) in [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            (
                "10.0.0.1",
                "203.0.113.9, 198.51.100.7, 10.0.0.2",
                "198.51.100.7",
            ),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("x-forwarded-for", forwarded).unwrap();
            let got = settings.client(&request, peer.parse().unwrap());
            assert_eq!(got, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded}");
        }
    }
}
