//! Which identity a request is the business of, and what it says: each one in
//! its order, with the reason.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::questions::Questions;
use super::{Found, Scene};
use crate::config::values::{FileOrUrl, Place};
use crate::config::{Config, Identity, JwtIdentity};
use crate::edge::forward::is_listed;
use crate::edge::identify::certificate::Mtls;
use crate::edge::identify::jwt::token::Token;
use crate::edge::identify::jwt::{Jwt, NotVerified};
use crate::edge::identify::keyring::Keyring;
use crate::edge::identify::{Caller, Identities, NoPayer, bearer};

/// What became of one way to find out who pays.
#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    /// The key in the configuration.
    pub by: String,
    /// Whether it applies; a later one than the first that does is not asked.
    pub applies: Applies,
    /// Why.
    pub because: String,
}

/// Whether a way to find out who pays applies to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// It does, and decides.
    Yes,
    /// It does not.
    No,
    /// An earlier one decided.
    NotAsked,
}

/// Goes through the identities in order.
pub async fn by_identities(
    config: &Config,
    keyrings: &[Keyring],
    scene: &Scene<'_>,
    questions: &Questions<'_>,
    considered: &mut Vec<Considered>,
) -> Found {
    let bearer = bearer(&scene.wire.head.headers);
    let signed = bearer.and_then(|text| Signed::read(&config.identity, text));
    let mut keyrings = keyrings.iter();
    let mut found = None;
    for (index, identity) in config.identity.iter().enumerate() {
        let keyring = match identity {
            Identity::Jwt(_) => keyrings.next(),
            _ => None,
        };
        let by = format!("identity[{index}].{}", name(identity));
        if found.is_some() {
            let because = "an earlier one decides".to_owned();
            let applies = Applies::NotAsked;
            considered.push(Considered {
                by,
                applies,
                because,
            });
            continue;
        }
        let unfit = unfit(identity, index, (bearer, signed.as_ref()), scene);
        let (applies, because) = match unfit {
            Some(because) => (Applies::No, because),
            None => {
                let (said, because) = match (identity, &signed, keyring) {
                    (Identity::Jwt(jwt), Some(signed), Some(keyring)) => {
                        by_token(jwt, keyring, &signed.token, scene).await
                    }
                    _ => by_one(identity, scene, questions).await,
                };
                found = Some(said);
                (Applies::Yes, because)
            }
        };
        considered.push(Considered {
            by,
            applies,
            because,
        });
    }
    found.unwrap_or(Found::Nobody(NoPayer::Unauthenticated))
}

/// Why an identity does not apply, if it does not.
fn unfit(
    identity: &Identity,
    index: usize,
    (bearer, signed): (Option<&[u8]>, Option<&Signed<'_>>),
    scene: &Scene<'_>,
) -> Option<String> {
    match identity {
        Identity::ApiKey(_) => key_unfit(bearer, signed),
        Identity::Jwt(_) => token_unfit(bearer, signed, index),
        Identity::Header(header) => {
            let name = header.name.name();
            if !is_listed(&header.from, Some(scene.peer)) {
                return Some(format!(
                    "the peer {} is not one of `from`, so that the header counts as absent and is not forwarded",
                    scene.peer
                ));
            }
            let is_there = scene.wire.head.headers.contains_key(name);
            (!is_there).then(|| format!("there is no header `{name}`"))
        }
        Identity::Mtls(mtls) => match scene.certificate {
            None => Some("there is no client certificate".to_owned()),
            Some(certificate) => Mtls::new(mtls)
                .payer(Some(certificate))
                .is_none()
                .then(|| "the client certificate says no team there".to_owned()),
        },
    }
}

/// A bearer token in the form of a JWT, and whose business it is.
struct Signed<'a> {
    token: Token<'a>,
    index: usize,
    names_issuer: Named,
}

/// Whether a token names a configured issuer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

impl<'a> Signed<'a> {
    fn read(identities: &[Identity], text: &'a [u8]) -> Option<Self> {
        let jwts = || {
            let all = identities.iter().enumerate();
            all.filter_map(|(index, identity)| match identity {
                Identity::Jwt(jwt) => Some((index, jwt)),
                _ => None,
            })
        };
        let (first, _) = jwts().next()?;
        let token = Token::read(text)?;
        let named = jwts().find(|(_, jwt)| token.issuer() == Some(jwt.issuer.as_str()));
        let (index, names_issuer) = match named {
            Some((index, _)) => (index, Named::Yes),
            None => (first, Named::No),
        };
        Some(Signed {
            token,
            index,
            names_issuer,
        })
    }
}

fn name(identity: &Identity) -> &'static str {
    match identity {
        Identity::ApiKey(_) => "api_key",
        Identity::Header(_) => "header",
        Identity::Jwt(_) => "jwt",
        Identity::Mtls(_) => "mtls",
    }
}

fn key_unfit(bearer: Option<&[u8]>, signed: Option<&Signed<'_>>) -> Option<String> {
    match (bearer, signed) {
        (None, _) => Some("there is no bearer token".to_owned()),
        (Some(_), Some(signed)) => Some(format!(
            "the bearer token is a JWT, which is the business of identity[{}]",
            signed.index
        )),
        (Some(_), None) => None,
    }
}

fn token_unfit(bearer: Option<&[u8]>, signed: Option<&Signed<'_>>, index: usize) -> Option<String> {
    match (bearer, signed) {
        (None, _) => Some("there is no bearer token".to_owned()),
        (Some(_), None) => Some("the bearer token is not a JWT".to_owned()),
        (Some(_), Some(signed)) if signed.index == index => None,
        (Some(_), Some(signed)) => Some(match signed.names_issuer {
            Named::Yes => format!("the token names the issuer of identity[{}]", signed.index),
            Named::No => format!(
                "the token names no configured issuer, and identity[{}] refuses it",
                signed.index
            ),
        }),
    }
}

/// What a token says, at the time of the scene.
async fn by_token(
    configured: &JwtIdentity,
    keyring: &Keyring,
    token: &Token<'_>,
    scene: &Scene<'_>,
) -> (Found, String) {
    let since = scene.at.duration_since(std::time::UNIX_EPOCH);
    let jwt = Jwt::new(configured, keyring.clone());
    let (verified, _) = jwt.verify(token, since.unwrap_or(Duration::ZERO)).await;
    let url = configured.jwks.as_ref().map(FileOrUrl::place);
    match (verified, url) {
        (Ok(claims), _) => match jwt.paid_by(claims) {
            Ok(payer) => (
                Found::Payer(payer),
                "the JWT counts: its issuer, audience, times and signature hold".to_owned(),
            ),
            Err(why) => (Found::Nobody(why.clone()), because(&why)),
        },
        (Err(NotVerified::NeverLoaded), Some(Place::Url(url))) => (
            Found::Open,
            format!("its claims fit; whether its signature holds, the keys at {url} say"),
        ),
        (Err(why @ NotVerified::Unheard), _) => (
            Found::Nobody(NoPayer::Unvouched("its issuer does not answer")),
            format!("nobody can say whether the JWT counts: {why}"),
        ),
        (Err(why), _) => (
            Found::Nobody(NoPayer::Unauthenticated),
            format!("the JWT does not count: {why}"),
        ),
    }
}

/// What one identity that applies says, by the rule that serves.
async fn by_one(
    identity: &Identity,
    scene: &Scene<'_>,
    questions: &Questions<'_>,
) -> (Found, String) {
    let caller = Caller {
        headers: &scene.wire.head.headers,
        peer: Some(scene.peer),
        certificate: scene.certificate,
    };
    let alone = Identities::new(std::slice::from_ref(identity), &[]);
    let mut until: Instant = crate::ledger::Ledger::until(questions);
    let said = alone.payer(caller, questions, &mut until).await;
    let what = match identity {
        Identity::ApiKey(_) => "there is a bearer token",
        Identity::Header(_) => "the peer is listed, and the header is there",
        Identity::Mtls(_) => "the client certificate says a team",
        Identity::Jwt(_) => "the bearer token is a JWT",
    };
    match said {
        Ok(payer) => (Found::Payer(payer), what.to_owned()),
        Err(NoPayer::Unknown(_)) if !questions.is_asked() => (
            Found::Open,
            format!("{what}; what it stands for, the ledger says"),
        ),
        Err(why) => {
            let because = match &why {
                NoPayer::Unauthenticated => format!("{what}, and the ledger does not know it"),
                why => format!("{what}, and {}", because(why)),
            };
            (Found::Nobody(why), because)
        }
    }
}

/// Why nobody pays, for people.
pub fn because(why: &NoPayer) -> String {
    match why {
        NoPayer::Unauthenticated => "nothing that counts is shown".to_owned(),
        NoPayer::NotTheirs(team) => format!("it does not give access to the team {team}"),
        NoPayer::Invalid(why) | NoPayer::Unvouched(why) => (*why).to_owned(),
        NoPayer::Unknown(error) => error.to_string(),
    }
}
