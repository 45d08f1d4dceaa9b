//! Requests that the gateway makes itself.

use http::Uri;

use super::super::Egress;
use super::{Report, files};

pub fn check(egress: &Egress, report: &mut Report) {
    if let Some(ca) = &egress.ca {
        files::authorities("egress.ca", ca, report);
    }
    if let Some(proxy) = &egress.proxy
        && !is_proxy(proxy.as_str())
    {
        report.value(
            "egress.proxy",
            "`egress.proxy` must be http://host:port: leave out a path and a user, and write the port, such as http://10.0.0.9:3128; what goes through it is encrypted all the same",
        );
    }
}

fn is_proxy(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        let authority = uri.authority().map(http::uri::Authority::as_str);
        uri.scheme_str() == Some("http")
            && uri.port_u16().is_some_and(|port| port != 0)
            && uri.path() == "/"
            && uri.query().is_none()
            && authority.is_some_and(|authority| !authority.contains('@'))
    })
}
