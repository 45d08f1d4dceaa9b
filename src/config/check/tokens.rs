//! JSON Web Tokens and client certificates.

use super::super::values::{FileOrUrl, HeaderText, Place, Span};
use super::super::{Config, Identity, JwtIdentity};
use super::{Report, jwks};

/// The shortest secret of HS256: as long as its hash (RFC 7518, section 3.2).
const SECRET_MIN_BYTES: usize = 32;

/// The most by which clocks may differ.
const LEEWAY_MAX: Span = Span::from_secs(5 * 60);

/// How often a URL's keys may be asked for. More often, and the issuer would
/// be troubled by every gateway there is; less often, and a key that was taken
/// back would be believed for days.
const REFRESH_MIN: Span = Span::from_secs(10);
const REFRESH_MAX: Span = Span::from_secs(24 * 60 * 60);

pub fn check(config: &Config, report: &mut Report) {
    let mut issuers: Vec<(String, &HeaderText)> = Vec::new();
    for (index, identity) in config.identity.iter().enumerate() {
        match identity {
            Identity::Jwt(token) => {
                let at = format!("identity[{index}].jwt");
                jwt(&at, token, report);
                let at = format!("{at}.issuer");
                if let Some((other, _)) = issuers.iter().find(|(_, taken)| **taken == token.issuer)
                {
                    report.clash(
                        &at,
                        other,
                        format!("`{at}` is that of `{other}` already: one entry can list several audiences, and a JWKS several keys"),
                    );
                }
                issuers.push((at, &token.issuer));
            }
            Identity::Mtls(_) => certificate(&format!("identity[{index}].mtls"), config, report),
            Identity::ApiKey(_) | Identity::Header(_) => {}
        }
    }
}

fn jwt(at: &str, token: &JwtIdentity, report: &mut Report) {
    let (jwks, secret) = (format!("{at}.jwks"), format!("{at}.secret"));
    match (&token.jwks, &token.secret) {
        (Some(_), Some(_)) => report.key(
            &secret,
            &[&jwks, &secret],
            format!("`{at}` has keys of both kinds: write either `jwks`, the issuer's public keys, or `secret`, of HS256; which one a token is checked with must not be up to the token"),
        ),
        (None, None) => report.key(
            at,
            &[&jwks, &secret],
            format!("`{at}` has no key: write `jwks: jwks.json` or `jwks: \"https://…\"`, the issuer's public keys, or `secret` for HS256"),
        ),
        _ => {}
    }
    match token.jwks.as_ref().map(FileOrUrl::place) {
        Some(Place::File(path)) => jwks::check(&jwks, path, report),
        Some(Place::Url(url)) if has_user(url) => report.value(
            &jwks,
            format!("`{jwks}` has a user in it: leave user and password out, such keys are public"),
        ),
        Some(Place::Url(_)) | None => {}
    }
    let length = token.secret.as_ref().map(|secret| secret.expose().len());
    if length.is_some_and(|length| length < SECRET_MIN_BYTES) {
        report.value(
            &secret,
            format!("`{secret}` is shorter than {SECRET_MIN_BYTES} bytes and could be guessed from a token: write one that `openssl rand -hex 32` made"),
        );
    }
    let advice = "no token would be accepted; write what stands in `aud` of the tokens that are meant for this service";
    report.not_empty(&format!("{at}.audience"), token.audience.as_slice(), advice);
    if token.leeway > LEEWAY_MAX {
        let at = format!("{at}.leeway");
        report.value(
            &at,
            format!("`{at}` must be at most {LEEWAY_MAX}: a token that has expired must stop working soon"),
        );
    }
    refresh(at, token, report);
}

/// Whether a URL names a user, and most likely a password.
fn has_user(url: &str) -> bool {
    let url = url.parse::<http::Uri>().ok();
    let authority = url.as_ref().and_then(http::Uri::authority);
    authority.is_some_and(|authority| authority.as_str().contains('@'))
}

fn refresh(block: &str, token: &JwtIdentity, report: &mut Report) {
    let at = format!("{block}.refresh");
    if !(REFRESH_MIN..=REFRESH_MAX).contains(&token.refresh) {
        report.value(
            &at,
            format!("`{at}` must be between {REFRESH_MIN} and {REFRESH_MAX}: write for example 5m"),
        );
    }
    let is_url = |keys: &FileOrUrl| matches!(keys.place(), Place::Url(_));
    if !token.jwks.as_ref().is_some_and(is_url) {
        let jwks = format!("{block}.jwks");
        report.idle(
            &at,
            &[&at, &jwks],
            "`refresh` is for the keys of a URL: leave it out; a file is read again on SIGHUP",
        );
    }
}

fn certificate(at: &str, config: &Config, report: &mut Report) {
    let ca = "server.tls.client_ca";
    if config
        .server
        .tls
        .as_ref()
        .is_none_or(|tls| tls.client_ca.is_none())
    {
        report.key(
            at,
            &[at, ca, "server.tls"],
            format!("`{at}` reads client certificates, which are not asked for: write `{ca}`, the PEM file with the CAs that they must come from"),
        );
    }
}
