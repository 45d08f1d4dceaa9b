//! Who pays for a start.
//!
//! The configured identities are tried in order; the first that applies
//! decides. An API key applies when the request has a bearer token, a header
//! when it comes from a listed TCP peer, a client certificate when its
//! connection has one that says a team. Where token issuers are configured, a
//! bearer token that has the form of a signed one is theirs, and no API key.
//! What a key stands for may be remembered for a moment (`KeyFacts`); a balance
//! never is.

pub mod certificate;
pub mod jwt;
pub mod keyring;
pub mod path;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use self::certificate::{Certificate, Mtls};
use self::jwt::token::Token;
use self::jwt::{Jwt, Waited};
use self::keyring::Keyring;
use super::trace::hex;
use crate::billing::team::{Principal, TeamId};
use crate::config;
use crate::config::values::Cidr;
use crate::ledger::{KeyFact, Ledger, LedgerError};

/// What a replay is recognised by; guarded like the headers of identities.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Keys remembered at most; the least used go first.
const KEY_FACTS_MAX: u64 = 100_000;

/// Hex digits of a key's hash that name its holder where nothing else does.
const PRINCIPAL_HEX_DIGITS: usize = 12;

/// What a request shows of who sends it.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The TCP peer.
    pub peer: Option<IpAddr>,
    /// The client certificate, if there is one and it is good.
    pub certificate: Option<&'a Certificate>,
}

/// Who pays for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The team.
    pub team: TeamId,
    /// Who asked, where that is known.
    pub principal: Option<Principal>,
}

/// Why nobody was found to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPayer {
    /// No credentials, or a key that the ledger does not know.
    Unauthenticated,
    /// The team is not among the key's teams.
    NotTheirs(TeamId),
    /// Credentials that cannot be understood, and why.
    Invalid(&'static str),
    /// The ledger could not be asked, or holds nonsense for this key.
    Unknown(LedgerError),
    /// Nobody who could vouch for the credentials answers, and why. It is no
    /// outage that `on_outage` could let through: whoever makes credentials up
    /// can have it so.
    Unvouched(&'static str),
}

/// The configured identities.
pub struct Identities {
    ordered: Vec<Identity>,
    guarded: Vec<HeaderName>,
}

enum Identity {
    ApiKey(ApiKey),
    Header(Header),
    Jwt(Box<Jwt>),
    Mtls(Mtls),
}

struct ApiKey {
    team_header: Option<HeaderName>,
    facts: KeyFacts,
}

struct Header {
    name: HeaderName,
    from: Vec<Cidr>,
}

/// What keys stand for, remembered for at most the configured time. Only known
/// keys are: a key that was just made must work at once.
struct KeyFacts(Option<Cache<[u8; 32], KeyFact>>);

impl Identities {
    /// Takes the identities as configured, and the keys of those that are
    /// token issuers, in their order.
    #[must_use]
    pub fn new(configured: &[config::Identity], keyrings: &[Keyring]) -> Self {
        let mut keyrings = keyrings.iter();
        let mut guarded = vec![AUTHORIZATION, IDEMPOTENCY_KEY];
        let ordered = configured
            .iter()
            .map(|identity| match identity {
                config::Identity::ApiKey(key) => {
                    let team_header = key.team_header.as_ref().map(|field| field.name().clone());
                    guarded.extend(team_header.clone());
                    let facts = KeyFacts::new(key.cache.duration());
                    Identity::ApiKey(ApiKey { team_header, facts })
                }
                config::Identity::Header(header) => {
                    guarded.push(header.name.name().clone());
                    let name = header.name.name().clone();
                    Identity::Header(Header {
                        name,
                        from: header.from.clone(),
                    })
                }
                config::Identity::Jwt(jwt) => {
                    let keyring = keyrings.next().cloned().unwrap_or_else(Keyring::empty);
                    Identity::Jwt(Box::new(Jwt::new(jwt, keyring)))
                }
                config::Identity::Mtls(mtls) => Identity::Mtls(Mtls::new(mtls)),
            })
            .collect();
        Identities { ordered, guarded }
    }

    /// The headers that decide who pays, to be checked on start routes.
    #[must_use]
    pub fn guarded(&self) -> &[HeaderName] {
        &self.guarded
    }

    /// Whether client certificates are asked who pays.
    #[must_use]
    pub fn ask_certificates(&self) -> bool {
        let asks = |identity: &Identity| matches!(identity, Identity::Mtls(_));
        self.ordered.iter().any(asks)
    }

    /// Names the identity headers that this peer may not set, so that the
    /// upstream does not believe what the gateway did not.
    pub fn unbelieved(&self, peer: Option<IpAddr>, mut note: impl FnMut(&HeaderName)) {
        for identity in &self.ordered {
            if let Identity::Header(header) = identity
                && !header.believes(peer)
            {
                note(&header.name);
            }
        }
    }

    /// Finds out who pays. `until` is put off if it took time for which the
    /// ledger is not to blame.
    ///
    /// # Errors
    /// Why nobody was found.
    pub async fn payer(
        &self,
        caller: Caller<'_>,
        ledger: &dyn Ledger,
        until: &mut Instant,
    ) -> Result<Payer, NoPayer> {
        let Caller {
            headers,
            peer,
            certificate,
        } = caller;
        let bearer = bearer(headers);
        let signed = bearer.and_then(|text| self.signed(text));
        for (index, identity) in self.ordered.iter().enumerate() {
            let found = match identity {
                Identity::ApiKey(key) => match (bearer, &signed) {
                    (Some(token), None) => Some(key.payer(token, headers, ledger, *until).await),
                    _ => None,
                },
                Identity::Jwt(jwt) => match &signed {
                    Some((token, whose)) if *whose == index => {
                        // On the heap: starts without a token would carry its
                        // room about.
                        let (payer, waited) = Box::pin(jwt.payer(token)).await;
                        if waited == Waited::Yes {
                            *until = ledger.until();
                        }
                        Some(payer)
                    }
                    _ => None,
                },
                Identity::Header(header) => header.payer(headers, peer),
                Identity::Mtls(mtls) => mtls.payer(certificate),
            };
            if let Some(found) = found {
                return found;
            }
        }
        Err(NoPayer::Unauthenticated)
    }

    /// A bearer token that has the form of a signed token, and the identity
    /// whose business it is: that of the issuer it names, else the first, which
    /// will have none of it. Without any, it is a key like another.
    fn signed<'a>(&self, text: &'a [u8]) -> Option<(Token<'a>, usize)> {
        let issuers = || {
            let ordered = self.ordered.iter().enumerate();
            ordered.filter_map(|(index, identity)| match identity {
                Identity::Jwt(jwt) => Some((index, jwt)),
                _ => None,
            })
        };
        let (first, _) = issuers().next()?;
        let token = Token::read(text)?;
        let named = issuers().find(|(_, jwt)| jwt.is_named_by(&token));
        let whose = named.map_or(first, |(index, _)| index);
        Some((token, whose))
    }
}

/// The bearer token of a request (RFC 6750, section 2.1), if it has one.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer".len())?;
    let separated = token.is_empty() || token.starts_with(b" ") || token.starts_with(b"\t");
    (scheme.eq_ignore_ascii_case(b"bearer") && separated).then(|| token.trim_ascii())
}

impl Header {
    fn believes(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| self.from.iter().any(|cidr| cidr.contains(peer)))
    }

    fn payer(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Result<Payer, NoPayer>> {
        if !self.believes(peer) {
            return None;
        }
        let value = headers.get(&self.name)?;
        let team = TeamId::parse(value.as_bytes())
            .map_err(|_| NoPayer::Invalid("the team header does not hold a team id"));
        Some(team.map(|team| Payer {
            team,
            principal: None,
        }))
    }
}

impl ApiKey {
    async fn payer(
        &self,
        token: &[u8],
        headers: &HeaderMap,
        ledger: &dyn Ledger,
        until: Instant,
    ) -> Result<Payer, NoPayer> {
        if token.is_empty() {
            return Err(NoPayer::Unauthenticated);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let hex = hex(&digest);
        let fact = match self.facts.get(&digest) {
            Some(fact) => fact,
            None => {
                let fact = ledger
                    .key_fact_by(&hex, until)
                    .await
                    .map_err(NoPayer::Unknown)?;
                let fact = fact.ok_or(NoPayer::Unauthenticated)?;
                self.facts.remember(digest, &fact);
                fact
            }
        };
        let team = self.team(&fact, headers)?;
        let principal = fact.principal.unwrap_or_else(|| {
            let name = hex.get(..PRINCIPAL_HEX_DIGITS).unwrap_or_default();
            Principal::new(&format!("key:{name}"))
        });
        Ok(Payer {
            team,
            principal: Some(principal),
        })
    }

    /// The team that a key pays with: an agent key's own, or the one that a
    /// personal key picks.
    fn team(&self, fact: &KeyFact, headers: &HeaderMap) -> Result<TeamId, NoPayer> {
        let corrupt = || NoPayer::Unknown(LedgerError::Corrupt("the key has no team".to_owned()));
        let Some(teams) = &fact.teams else {
            return fact.team.clone().ok_or_else(corrupt);
        };
        let picked = self.team_header.as_ref().and_then(|name| headers.get(name));
        if let Some(value) = picked {
            let team = TeamId::parse(value.as_bytes())
                .map_err(|_| NoPayer::Invalid("the team header does not hold a team id"))?;
            return if teams.contains(&team) {
                Ok(team)
            } else {
                Err(NoPayer::NotTheirs(team))
            };
        }
        match (&fact.team, teams.as_slice()) {
            (Some(team), teams) if teams.contains(team) => Ok(team.clone()),
            // It was one of the key's teams once.
            (Some(team), _) => Err(NoPayer::NotTheirs(team.clone())),
            (None, [team]) => Ok(team.clone()),
            (None, _) => Err(NoPayer::Invalid(
                "the request has to name one of the key's teams",
            )),
        }
    }
}

impl KeyFacts {
    fn new(keep: Duration) -> Self {
        let cache = || {
            Cache::builder()
                .max_capacity(KEY_FACTS_MAX)
                .time_to_live(keep)
                .build()
        };
        KeyFacts((!keep.is_zero()).then(cache))
    }

    fn get(&self, digest: &[u8; 32]) -> Option<KeyFact> {
        self.0.as_ref()?.get(digest)
    }

    fn remember(&self, digest: [u8; 32], fact: &KeyFact) {
        if let Some(cache) = &self.0 {
            cache.insert(digest, fact.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::credits::Credits;
    use crate::ledger::{Health, Mark, TeamFact};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A ledger that knows one key and counts how often it is asked.
    struct OneKey {
        sha256: String,
        fact: KeyFact,
        asked: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Ledger for OneKey {
        fn until(&self) -> Instant {
            Instant::now()
        }
        async fn balance_by(&self, _: &TeamId, _: Instant) -> Result<Option<Credits>, LedgerError> {
            Ok(None)
        }
        async fn key_fact_by(
            &self,
            sha256: &str,
            _: Instant,
        ) -> Result<Option<KeyFact>, LedgerError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok((sha256 == self.sha256).then(|| self.fact.clone()))
        }
        async fn team_fact_by(&self, _: &str, _: Instant) -> Result<Option<TeamFact>, LedgerError> {
            Ok(None)
        }

        async fn mark_by(&self, _: &str, _: Duration, _: Instant) -> Result<Mark, LedgerError> {
            Ok(Mark::First)
        }

        async fn set_balance(&self, _: &TeamId, _: Credits) -> Result<(), LedgerError> {
            Ok(())
        }
        async fn grant(&self, _: &TeamId, credits: Credits) -> Result<Credits, LedgerError> {
            Ok(credits)
        }
        fn health(&self) -> Health {
            Health::Up
        }
    }

    fn team(id: &str) -> TeamId {
        TeamId::parse(id.as_bytes()).unwrap()
    }

    fn ledger(own: Option<&str>, teams: &[&str]) -> OneKey {
        OneKey {
            sha256: hex(&Sha256::digest(b"wk-1")),
            fact: KeyFact {
                team: own.map(team),
                teams: (!teams.is_empty()).then(|| teams.iter().map(|id| team(id)).collect()),
                principal: None,
            },
            asked: AtomicUsize::new(0),
        }
    }

    fn identities(yaml_cache: &str) -> Identities {
        let key = config::ApiKeyIdentity {
            key: Default::default(),
            team_header: Some("x-warp-team-uid".parse().unwrap()),
            cache: yaml_cache.parse().unwrap(),
        };
        let header = config::HeaderIdentity {
            name: "x-team-id".parse().unwrap(),
            from: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let configured = [
            config::Identity::ApiKey(key),
            config::Identity::Header(header),
        ];
        Identities::new(&configured, &[])
    }

    fn caller(headers: &HeaderMap, peer: Option<IpAddr>) -> Caller<'_> {
        Caller {
            headers,
            peer,
            certificate: None,
        }
    }

    async fn ask(
        ledger: &OneKey,
        headers: &[(&'static str, &str)],
        peer: &str,
    ) -> Result<String, NoPayer> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let peer = peer.parse().ok();
        let payer = identities("2s")
            .payer(caller(&headers, peer), ledger, &mut Instant::now())
            .await?;
        Ok(payer.team.as_str().to_owned())
    }

    #[tokio::test]
    async fn an_agent_key_pays_with_its_own_team_whatever_it_picks() {
        let ledger = ledger(Some("acme"), &[]);
        let picks = [
            ("authorization", "bEaReR wk-1"),
            ("x-warp-team-uid", "other"),
        ];
        assert_eq!(ask(&ledger, &picks, "").await, Ok("acme".to_owned()));
    }

    #[tokio::test]
    async fn a_personal_key_picks_among_its_teams() {
        let ledger = ledger(Some("home"), &["home", "work"]);
        let key = ("authorization", "Bearer wk-1");
        assert_eq!(ask(&ledger, &[key], "").await, Ok("home".to_owned()));
        let work = [key, ("x-warp-team-uid", "work")];
        assert_eq!(ask(&ledger, &work, "").await, Ok("work".to_owned()));
        let theirs = [key, ("x-warp-team-uid", "theirs")];
        assert_eq!(
            ask(&ledger, &theirs, "").await,
            Err(NoPayer::NotTheirs(team("theirs")))
        );
        let mut left = self::ledger(Some("home"), &["work"]);
        assert_eq!(
            ask(&left, &[key], "").await,
            Err(NoPayer::NotTheirs(team("home")))
        );
        left.fact.teams = Some(Vec::new());
        assert_eq!(
            ask(&left, &[key], "").await,
            Err(NoPayer::NotTheirs(team("home")))
        );
        let nonsense = [key, ("x-warp-team-uid", "a b")];
        assert!(matches!(
            ask(&ledger, &nonsense, "").await,
            Err(NoPayer::Invalid(_))
        ));
    }

    #[tokio::test]
    async fn a_key_decides_before_the_header_and_unknown_is_unknown() {
        let ledger = ledger(Some("acme"), &[]);
        let both = [("authorization", "Bearer no"), ("x-team-id", "acme")];
        assert_eq!(
            ask(&ledger, &both, "10.1.2.3").await,
            Err(NoPayer::Unauthenticated)
        );
        let basic = [("authorization", "Basic abc"), ("x-team-id", "other")];
        assert_eq!(
            ask(&ledger, &basic, "10.1.2.3").await,
            Ok("other".to_owned())
        );
        assert_eq!(
            ask(&ledger, &basic, "192.0.2.1").await,
            Err(NoPayer::Unauthenticated)
        );
        assert_eq!(
            ask(&ledger, &[], "10.1.2.3").await,
            Err(NoPayer::Unauthenticated)
        );
        let empty = [("authorization", "Bearer ")];
        assert_eq!(
            ask(&ledger, &empty, "").await,
            Err(NoPayer::Unauthenticated)
        );
    }

    #[tokio::test]
    async fn a_known_key_is_remembered_and_an_unknown_one_is_not() {
        let ledger = ledger(Some("acme"), &[]);
        for (cache, token, asked) in [("2s", "wk-1", 1), ("0s", "wk-1", 2), ("2s", "no", 2)] {
            ledger.asked.store(0, Ordering::Relaxed);
            let identities = identities(cache);
            let value = format!("Bearer {token}").parse().unwrap();
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            for _ in 0..2 {
                let _ = identities
                    .payer(caller(&headers, None), &ledger, &mut Instant::now())
                    .await;
            }
            assert_eq!(
                ledger.asked.load(Ordering::Relaxed),
                asked,
                "{cache} {token}"
            );
        }
    }
}
