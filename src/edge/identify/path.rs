//! Who pays by what a path says: `team_from`.
//!
//! A parameter of the path names something, such as a run or a webhook, and
//! the ledger knows whose it is. Where the ledger says so, a token in the path
//! has to show that the caller may start it. A token that is wrong and a thing
//! that nobody knows are answered alike, so that nothing can be found out by
//! trying.

use std::time::Instant;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{NoPayer, Payer};
use crate::edge::live::PathPayer;
use crate::edge::route::Parameters;
use crate::edge::trace::hex;
use crate::ledger::{Ledger, LedgerError, Proof, TeamFact};

/// The longest value of a parameter that is looked up, in bytes.
const VALUE_MAX_BYTES: usize = 256;

/// What is said where readings of a path disagree.
const AMBIGUOUS: &str = "readings disagree about a path parameter that decides who pays";

/// What is said of a value that nothing can be looked up with.
const UNFIT: &str = "the path parameter that decides who pays must be 1 to 256 bytes of UTF-8 without control characters";

/// What is said where there is nothing to compare a token with.
const NO_DIGEST: &str = "a hash without token_sha256, and its route asks for a token: write the hex SHA-256 of the token there";

/// Finds out who pays for a start on this route; `None` where the ledger does
/// not know what the path names. Whether somebody else pays then is for the
/// caller to see ([`PathPayer::otherwise`]).
///
/// # Errors
/// Why nobody pays: the path cannot be understood, the token does not fit, or
/// the ledger cannot say.
pub async fn payer(
    rule: &PathPayer,
    target: &[u8],
    ledger: &dyn Ledger,
    until: Instant,
) -> Result<Option<Payer>, NoPayer> {
    let (value, token) = named(rule, target)?;
    let key = rule.team_key.render(&value);
    let fact = ledger.team_fact_by(&key, until).await;
    let Some(fact) = fact.map_err(NoPayer::Unknown)? else {
        return Ok(None);
    };
    prove(&fact, token.as_deref())?;
    Ok(Some(Payer {
        team: fact.team,
        principal: None,
    }))
}

/// What the path names, and the hex SHA-256 of the token in it, if the route
/// asks for one.
fn named(rule: &PathPayer, target: &[u8]) -> Result<(String, Option<String>), NoPayer> {
    let parameters = Parameters::of(&rule.pattern, target);
    let read = |name: &str| parameters.value(name).ok_or(NoPayer::Invalid(AMBIGUOUS));
    let value = String::from_utf8(read(&rule.path)?);
    let value = value.map_err(|_| NoPayer::Invalid(UNFIT))?;
    let fits = (1..=VALUE_MAX_BYTES).contains(&value.len()) && !value.chars().any(char::is_control);
    if !fits {
        return Err(NoPayer::Invalid(UNFIT));
    }
    let token = rule.token.as_deref().map(read).transpose()?;
    Ok((value, token.map(|token| hex(&Sha256::digest(token)))))
}

/// Sees whether what the ledger asks for was shown.
fn prove(fact: &TeamFact, shown: Option<&str>) -> Result<(), NoPayer> {
    match (&fact.proof, shown) {
        (Proof::Nothing, _) | (Proof::NotSaid, None) => Ok(()),
        (Proof::NotSaid, Some(_)) => {
            let why = LedgerError::Corrupt(NO_DIGEST.to_owned());
            Err(NoPayer::Unknown(why))
        }
        (Proof::TokenSha256(digest), Some(shown)) => {
            let digest = digest.to_ascii_lowercase();
            let is_same: bool = digest.as_bytes().ct_eq(shown.as_bytes()).into();
            is_same.then_some(()).ok_or(NoPayer::Unauthenticated)
        }
        (Proof::TokenSha256(_), None) => Err(NoPayer::Unauthenticated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::credits::Credits;
    use crate::billing::team::TeamId;
    use crate::config::Otherwise;
    use crate::ledger::{Health, KeyFact, Mark};
    use std::sync::Mutex;
    use std::time::Duration;

    /// The SHA-256 of `sesame`.
    const SESAME: &str = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";

    /// A ledger that says this of whatever it is asked, and remembers what.
    struct Says {
        fact: Result<Option<TeamFact>, LedgerError>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait::async_trait]
    impl Ledger for Says {
        fn until(&self) -> Instant {
            Instant::now()
        }
        async fn balance_by(&self, _: &TeamId, _: Instant) -> Result<Option<Credits>, LedgerError> {
            Ok(None)
        }
        async fn key_fact_by(&self, _: &str, _: Instant) -> Result<Option<KeyFact>, LedgerError> {
            Ok(None)
        }
        async fn team_fact_by(
            &self,
            key: &str,
            _: Instant,
        ) -> Result<Option<TeamFact>, LedgerError> {
            self.asked.lock().unwrap().push(key.to_owned());
            self.fact.clone()
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

    fn says(fact: Result<Option<Proof>, LedgerError>) -> Says {
        let team = TeamId::parse(b"acme").unwrap();
        Says {
            fact: fact.map(|proof| proof.map(|proof| TeamFact { team, proof })),
            asked: Mutex::default(),
        }
    }

    fn rule(token: Option<&str>) -> PathPayer {
        PathPayer {
            pattern: "POST /w/{uid}/{token}".parse().unwrap(),
            path: "uid".to_owned(),
            team_key: "webhook:<uid>".parse().unwrap(),
            token: token.map(str::to_owned),
            otherwise: Some(Otherwise::Identity),
        }
    }

    async fn ask(
        ledger: &Says,
        token: Option<&str>,
        target: &str,
    ) -> Result<Option<Payer>, NoPayer> {
        payer(&rule(token), target.as_bytes(), ledger, Instant::now()).await
    }

    #[tokio::test]
    async fn a_token_has_to_fit_where_the_ledger_or_the_route_asks_for_one() {
        let proof = || Proof::TokenSha256(SESAME.to_owned());
        let upper = || Proof::TokenSha256(SESAME.to_ascii_uppercase());
        for (proof, token, target, pays) in [
            (Proof::Nothing, Some("token"), "/w/u1/wrong", true),
            (Proof::Nothing, None, "/w/u1/wrong", true),
            (Proof::NotSaid, None, "/w/u1/wrong", true),
            (proof(), Some("token"), "/w/u1/sesame", true),
            (proof(), Some("token"), "/w/u1/%73esame", true),
            (upper(), Some("token"), "/w/u1/sesame", true),
            (proof(), Some("token"), "/w/u1/Sesame", false),
            (proof(), Some("token"), "/w/u1/sesam", false),
            (proof(), Some("token"), "/w/u1/sesamee", false),
            (proof(), Some("token"), &format!("/w/u1/{SESAME}"), false),
            (proof(), None, "/w/u1/sesame", false),
        ] {
            let found = ask(&says(Ok(Some(proof.clone()))), token, target).await;
            let expected = match pays {
                true => Ok(Some("acme".to_owned())),
                false => Err(NoPayer::Unauthenticated),
            };
            let team = found.map(|payer| payer.map(|payer| payer.team.as_str().to_owned()));
            assert_eq!(team, expected, "{proof:?} {token:?} {target}");
        }
    }

    #[tokio::test]
    async fn what_the_ledger_cannot_say_is_neither_a_team_nor_nobody() {
        let unknown = ask(&says(Ok(None)), Some("token"), "/w/u1/t").await;
        assert_eq!(unknown, Ok(None));
        let without = ask(&says(Ok(Some(Proof::NotSaid))), Some("token"), "/w/u1/t").await;
        assert!(
            matches!(without, Err(NoPayer::Unknown(LedgerError::Corrupt(_)))),
            "{without:?}"
        );
        let outage = LedgerError::Outage("gone".to_owned());
        let away = ask(&says(Err(outage.clone())), Some("token"), "/w/u1/t").await;
        assert_eq!(away, Err(NoPayer::Unknown(outage)));
    }

    #[tokio::test]
    async fn what_can_be_looked_up_is_and_nothing_else() {
        let long = "x".repeat(256);
        for (value, key) in [
            ("u1", "webhook:u1"),
            ("a%2Fb", "webhook:a/b"),
            ("caf%C3%A9", "webhook:café"),
            ("%7Ba%7D", "webhook:{a}"),
            (&long, &format!("webhook:{long}")),
        ] {
            let ledger = says(Ok(None));
            let target = format!("/w/{value}/t");
            assert_eq!(ask(&ledger, Some("token"), &target).await, Ok(None));
            assert_eq!(*ledger.asked.lock().unwrap(), [key]);
        }
        let longer = "x".repeat(257);
        for value in [
            "", "%FF", "a%0Ab", "a%7F", "a%C2%85", "a;b", "a%2Fb%3B", &longer,
        ] {
            let ledger = says(Ok(Some(Proof::Nothing)));
            let target = format!("/w/{value}/t");
            let found = ask(&ledger, Some("token"), &target).await;
            assert!(matches!(found, Err(NoPayer::Invalid(_))), "{value}");
            assert!(ledger.asked.lock().unwrap().is_empty(), "{value}");
        }
        // The token is read as carefully as the id.
        let ledger = says(Ok(Some(Proof::Nothing)));
        let found = ask(&ledger, Some("token"), "/w/u1/sesame%253f").await;
        assert_eq!(found, Err(NoPayer::Invalid(AMBIGUOUS)));
    }
}
