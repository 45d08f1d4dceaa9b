//! JSON Web Tokens (RFC 7519): which identity a token is the business of, and
//! who pays by it.
//!
//! A token counts if its issuer is the configured one, to the letter; it is
//! for the configured audience; its time has come and is not over; and a key
//! of the issuer's says that its signature holds. Until all of that is known,
//! nothing it says decides anything but whose business it is.
//!
//! Signatures are verified with `ring` and the forms are read here, in
//! [`token`] and [`super::keyring::keys`], rather than by a library of tokens:
//! those take a list for `iss`, read the clock themselves, or keep their
//! cryptography in a global that panics where nobody has put it. What is left
//! of them is three JSON objects.

pub mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::token::{Object, Parts, Token, Unreadable};
pub use super::keyring::Waited;
use super::keyring::keys::{Keys, Mismatch};
use super::keyring::{Keyring, Word};
use super::{NoPayer, Payer};
use crate::billing::team::{Principal, TeamId};
use crate::config::JwtIdentity;

/// Tokens remembered at most, and for how long: as long as what an API key
/// stands for may be.
const REMEMBERED_MAX: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(2);

/// What is said where it cannot be known which tokens are over.
const NO_CLOCK: &str = "the clock of this machine stands before 1970";

/// The issuer was not reached since the gateway was started.
const NEVER_LOADED: &str = "the token issuer's keys were never loaded";

/// What is said where the issuer of an unknown key does not answer.
const UNHEARD: &str = "a token's key is not known, and its issuer does not say what its keys are";

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// It cannot be used, whoever signed it.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is another issuer's.
    #[error("its iss is not the configured issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("its aud is not the configured audience and does not contain it")]
    Audience,
    /// It does not say when it ends, or when it begins is no number.
    #[error("its exp is not there, or exp or nbf is not a number")]
    Times,
    /// Its time is over.
    #[error("its exp is past")]
    Expired,
    /// Its time has not come.
    #[error("its nbf is not reached")]
    Early,
    /// The issuer has no key of that name.
    #[error("its kid is none of the issuer's")]
    UnknownKey,
    /// The issuer has no key that fits its algorithm; without a `kid`, not
    /// exactly one.
    #[error("no key of the issuer's fits its alg, or it has no kid and more than one does")]
    NoKey,
    /// By none of the keys that fit does its signature hold.
    #[error("its signature does not hold")]
    Signature,
    /// The issuer's keys were never loaded: nobody can say.
    #[error("{NEVER_LOADED}")]
    NeverLoaded,
    /// Its key is not known, and the issuer does not say whether it is new.
    #[error("its kid is not known, and the issuer does not say what its keys are")]
    Unheard,
}

/// One issuer whose tokens say who pays.
pub struct Jwt {
    issuer: String,
    audiences: Vec<String>,
    team_claim: String,
    principal_claim: String,
    leeway: Duration,
    keyring: Keyring,
    /// Tokens whose signature held, by their digest, and the keys by which it
    /// did. Everything else about them is looked at each time, and keys that
    /// replace those make it nothing. Measured on one core of a small server,
    /// `ring` takes 21 (RS256 with 2048 bits) to 60 microseconds (ES256, EdDSA)
    /// to verify a signature, and the digest of 700 bytes takes half of one:
    /// this is for a client that tries again and again.
    held: Cache<[u8; 32], Arc<Keys>>,
}

impl Jwt {
    /// Takes the identity as configured, and its issuer's keys.
    #[must_use]
    pub fn new(configured: &JwtIdentity, keyring: Keyring) -> Self {
        let audiences = configured.audience.as_slice().iter();
        Jwt {
            issuer: configured.issuer.as_str().to_owned(),
            audiences: audiences.map(|text| text.as_str().to_owned()).collect(),
            team_claim: configured.team_claim.clone(),
            principal_claim: configured.principal_claim.clone(),
            leeway: configured.leeway.duration(),
            keyring,
            held: Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .time_to_live(REMEMBERED_FOR)
                .build(),
        }
    }

    /// Whether the token says that it is this issuer's.
    #[must_use]
    pub fn is_named_by(&self, token: &Token<'_>) -> bool {
        token.issuer() == Some(&self.issuer)
    }

    /// Who pays by this token, now.
    pub async fn payer(&self, token: &Token<'_>) -> (Result<Payer, NoPayer>, Waited) {
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
            // By such a clock no token would ever be over.
            return (Err(NoPayer::Unvouched(NO_CLOCK)), Waited::No);
        };
        let (verified, waited) = self.verify(token, now).await;
        let payer = match verified {
            Ok(claims) => self.paid_by(claims),
            Err(NotVerified::NeverLoaded) => Err(NoPayer::Unvouched(NEVER_LOADED)),
            Err(NotVerified::Unheard) => Err(NoPayer::Unvouched(UNHEARD)),
            Err(why) => {
                tracing::debug!(issuer = self.issuer, reason = %why, "a token does not count");
                Err(NoPayer::Unauthenticated)
            }
        };
        (payer, waited)
    }

    /// The claims of a token that counts at this time (since 1970).
    ///
    /// # Errors
    /// Why it does not count.
    pub async fn verify<'t>(
        &self,
        token: &'t Token<'_>,
        now: Duration,
    ) -> (Result<&'t Object, NotVerified>, Waited) {
        let parts = match token.parts() {
            Ok(parts) => parts,
            Err(error) => return (Err(error.into()), Waited::No),
        };
        // First what costs nothing: a token that is over asks for no key.
        if let Err(why) = self.check_claims(&parts.claims, now) {
            return (Err(why), Waited::No);
        }
        let (keys, waited) = self.keys(parts.kid.as_deref()).await;
        let held = keys.and_then(|keys| self.check_signature(token.text, parts, keys));
        (held.map(|()| &parts.claims), waited)
    }

    fn check_claims(&self, claims: &Object, now: Duration) -> Result<(), NotVerified> {
        if claims.text("iss") != Some(&self.issuer) {
            return Err(NotVerified::Issuer);
        }
        let is_ours = |audience: &str| self.audiences.iter().any(|ours| ours == audience);
        let for_us = match claims.get("aud") {
            Some(Value::String(audience)) => is_ours(audience),
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string)
                    && all.iter().filter_map(Value::as_str).any(is_ours)
            }
            _ => false,
        };
        if !for_us {
            return Err(NotVerified::Audience);
        }
        // NumericDate is a number of seconds, and need not be an integer (RFC
        // 7519, section 2).
        let (now, leeway) = (now.as_secs_f64(), self.leeway.as_secs_f64());
        let expires = claims.get("exp").and_then(Value::as_f64);
        let begins = match claims.get("nbf") {
            None => f64::NEG_INFINITY,
            Some(begins) => begins.as_f64().ok_or(NotVerified::Times)?,
        };
        if now >= expires.ok_or(NotVerified::Times)? + leeway {
            return Err(NotVerified::Expired);
        }
        if now + leeway < begins {
            return Err(NotVerified::Early);
        }
        Ok(())
    }

    /// The issuer's keys, once the named one is among them.
    async fn keys(&self, kid: Option<&str>) -> (Result<Arc<Keys>, NotVerified>, Waited) {
        let Some(keys) = self.keyring.keys() else {
            return (Err(NotVerified::NeverLoaded), Waited::No);
        };
        let knows = |keys: &Keys| kid.is_none_or(|kid| keys.knows(kid));
        if knows(&keys) {
            return (Ok(keys), Waited::No);
        }
        let looked = self.keyring.look_again().await;
        let keys = self.keyring.keys().filter(|keys| knows(keys));
        let why = match looked.word {
            Word::Given => NotVerified::UnknownKey,
            Word::Missing => NotVerified::Unheard,
        };
        (keys.ok_or(why), looked.waited)
    }

    fn check_signature(
        &self,
        text: &[u8],
        parts: &Parts<'_>,
        keys: Arc<Keys>,
    ) -> Result<(), NotVerified> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let by = self.held.get(&digest);
        if by.is_some_and(|by| Arc::ptr_eq(&by, &keys)) {
            return Ok(());
        }
        let kid = parts.kid.as_deref();
        keys.verify(parts.algorithm, kid, parts.signed, &parts.signature)
            .map_err(|why| match why {
                Mismatch::NoKey => NotVerified::NoKey,
                Mismatch::Signature => NotVerified::Signature,
            })?;
        self.held.insert(digest, keys);
        Ok(())
    }

    /// Who pays by claims that were verified.
    ///
    /// # Errors
    /// They do not say which team does.
    pub fn paid_by(&self, claims: &Object) -> Result<Payer, NoPayer> {
        let team = claims.text(&self.team_claim).ok_or(NoPayer::Invalid(
            "the token does not say which team pays, or not as a string",
        ))?;
        let team = TeamId::parse(team.as_bytes())
            .map_err(|_| NoPayer::Invalid("the token's team is not a team id"))?;
        let principal = claims.text(&self.principal_claim);
        Ok(Payer {
            team,
            principal: principal
                .filter(|name| !name.is_empty())
                .map(Principal::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::hmac;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;
    const NOW_SECONDS: f64 = 1_800_000_000.0;
    const BASE64URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(seed: u8, kid: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(key(seed).public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid})
    }

    fn keys(members: &[Value]) -> Keys {
        Keys::read(json!({"keys": members}).to_string().as_bytes()).unwrap()
    }

    fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signature = URL_SAFE_NO_PAD.encode(sign(format!("{header}.{claims}").as_bytes()));
        format!("{header}.{claims}.{signature}")
    }

    /// A token of the key `a`.
    fn token_of(claims: &str) -> String {
        signed(r#"{"alg":"EdDSA","kid":"a"}"#, claims, |text| {
            key(1).sign(text).as_ref().to_vec()
        })
    }

    fn claims() -> Value {
        json!({
            "iss": "https://issuer.example",
            "aud": "tasks",
            "exp": NOW + 300,
            "team_id": "acme",
            "sub": "ann",
        })
    }

    /// The claims with one of them changed; null leaves it out.
    fn claims_with(name: &str, value: Value) -> String {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        claims.to_string()
    }

    fn configured() -> JwtIdentity {
        serde_json::from_value(json!({
            "jwks": "/somewhere",
            "issuer": "https://issuer.example",
            "audience": ["tasks", "also-tasks"],
            "team_claim": "team_id",
        }))
        .unwrap()
    }

    fn jwt() -> Jwt {
        let keys = keys(&[public(1, "a"), public(2, "b")]);
        Jwt::new(&configured(), Keyring::fixed(keys))
    }

    async fn why_not_by(jwt: &Jwt, token: &str, now: f64) -> Option<NotVerified> {
        let token = Token::read(token.as_bytes()).expect("the form of a token");
        let now = Duration::from_secs_f64(now);
        jwt.verify(&token, now).await.0.err()
    }

    /// Why a token does not count; `None` if it does.
    async fn why_not(token: &str) -> Option<NotVerified> {
        why_not_by(&jwt(), token, NOW_SECONDS).await
    }

    #[tokio::test]
    async fn a_token_counts_for_its_issuer_and_audience_alone() {
        assert_eq!(why_not(&token_of(&claims().to_string())).await, None);
        let (issuer, audience) = (Some(NotVerified::Issuer), Some(NotVerified::Audience));
        for (name, value, why) in [
            ("iss", json!(null), issuer),
            ("iss", json!("https://issuer.example/"), issuer),
            ("iss", json!("HTTPS://issuer.example"), issuer),
            ("iss", json!(["https://issuer.example"]), issuer),
            ("aud", json!(null), audience),
            ("aud", json!("tasks "), audience),
            ("aud", json!("other"), audience),
            ("aud", json!([]), audience),
            ("aud", json!(["other"]), audience),
            ("aud", json!(["tasks", 7]), audience),
            ("aud", json!({"tasks": true}), audience),
            ("aud", json!(["other", "tasks"]), None),
            ("aud", json!("also-tasks"), None),
        ] {
            let token = token_of(&claims_with(name, value.clone()));
            assert_eq!(why_not(&token).await, why, "{name} {value}");
        }
    }

    #[tokio::test]
    async fn a_token_has_its_time_give_or_take_the_leeway() {
        let now = NOW_SECONDS;
        let (expired, early) = (Some(NotVerified::Expired), Some(NotVerified::Early));
        let times = Some(NotVerified::Times);
        for (name, value, why) in [
            ("exp", json!(NOW), None),
            ("exp", json!(NOW - 59), None),
            ("exp", json!(NOW - 60), expired),
            ("exp", json!(now - 59.5), None),
            ("exp", json!(now - 60.5), expired),
            ("exp", json!(0), expired),
            ("exp", json!(-1), expired),
            ("exp", json!(1e300), None),
            ("exp", json!(null), times),
            ("exp", json!((NOW + 300).to_string()), times),
            ("exp", json!([NOW + 300]), times),
            ("nbf", json!(NOW), None),
            ("nbf", json!(NOW + 60), None),
            ("nbf", json!(NOW + 61), early),
            ("nbf", json!(now + 60.5), early),
            ("nbf", json!(-1e300), None),
            ("nbf", json!("0"), times),
            ("nbf", json!(true), times),
            ("iat", json!(NOW + 10_000), None),
        ] {
            let token = token_of(&claims_with(name, value.clone()));
            assert_eq!(why_not(&token).await, why, "{name} {value}");
        }
        let null = claims().to_string().replace("{", r#"{"nbf":null,"#);
        assert_eq!(
            why_not(&token_of(&null)).await,
            times,
            "there, and no number"
        );
    }

    #[tokio::test]
    async fn only_a_known_key_makes_a_token_count() {
        let claims = claims().to_string();
        let by = |header: &'static str, seed: u8| {
            signed(header, &claims, move |text| {
                key(seed).sign(text).as_ref().to_vec()
            })
        };
        for (token, why) in [
            (by(r#"{"alg":"EdDSA","kid":"b"}"#, 2), None),
            (by(r#"{"alg":"Ed25519","kid":"b"}"#, 2), None),
            (
                by(r#"{"alg":"EdDSA","kid":"b"}"#, 1),
                Some(NotVerified::Signature),
            ),
            (
                by(r#"{"alg":"EdDSA","kid":"c"}"#, 1),
                Some(NotVerified::UnknownKey),
            ),
            (
                by(r#"{"alg":"EdDSA","kid":""}"#, 1),
                Some(NotVerified::UnknownKey),
            ),
            (by(r#"{"alg":"EdDSA"}"#, 1), Some(NotVerified::NoKey)),
            (
                by(r#"{"alg":"RS256","kid":"a"}"#, 1),
                Some(NotVerified::NoKey),
            ),
            (
                by(r#"{"alg":"ES256","kid":"a"}"#, 1),
                Some(NotVerified::NoKey),
            ),
            (
                by(r#"{"alg":"HS256","kid":"a"}"#, 1),
                Some(NotVerified::NoKey),
            ),
        ] {
            assert_eq!(why_not(&token).await, why, "{token}");
        }
        let alone = Jwt::new(&configured(), Keyring::fixed(keys(&[public(1, "a")])));
        let nameless = by(r#"{"alg":"EdDSA"}"#, 1);
        assert_eq!(why_not_by(&alone, &nameless, NOW_SECONDS).await, None);
    }

    #[tokio::test]
    async fn none_and_confused_keys_are_refused() {
        let claims = claims().to_string();
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":""}"#,
            r#"{"alg":"RS512"}"#,
            r#"{"alg":"HS512","kid":"a"}"#,
            r#"{"alg":null}"#,
            r#"{"alg":["EdDSA"]}"#,
        ] {
            let refused = Some(Unreadable::Algorithm.into());
            let unsigned = signed(header, &claims, |_| Vec::new());
            assert_eq!(why_not(&unsigned).await, refused, "{header}");
        }
        // The public key as everybody has it, in every form it is written in.
        let shown = public(1, "a");
        let x = shown["x"].as_str().unwrap().to_owned();
        let set = json!({"keys": [shown]}).to_string();
        for secret in [
            URL_SAFE_NO_PAD.decode(&x).unwrap(),
            x.into_bytes(),
            set.into_bytes(),
            Vec::new(),
        ] {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            for header in [r#"{"alg":"HS256","kid":"a"}"#, r#"{"alg":"HS256"}"#] {
                let token = signed(header, &claims, |text| {
                    hmac::sign(&secret, text).as_ref().to_vec()
                });
                assert_eq!(why_not(&token).await, Some(NotVerified::NoKey), "{header}");
            }
        }
    }

    #[tokio::test]
    async fn a_secret_is_for_hs256_alone_whatever_the_key_is_called() {
        let secret = b"a secret of at least 32 bytes ...";
        let jwt = Jwt::new(&configured(), Keyring::fixed(Keys::of_secret(secret)));
        let claims = claims().to_string();
        let mac = |text: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            hmac::sign(&key, text).as_ref().to_vec()
        };
        for (header, why) in [
            (r#"{"alg":"HS256"}"#, None),
            (r#"{"alg":"HS256","kid":"2026"}"#, None),
            (r#"{"alg":"RS256"}"#, Some(NotVerified::NoKey)),
            (r#"{"alg":"EdDSA"}"#, Some(NotVerified::NoKey)),
        ] {
            let token = signed(header, &claims, mac);
            assert_eq!(why_not_by(&jwt, &token, NOW_SECONDS).await, why, "{header}");
        }
    }

    #[tokio::test]
    async fn what_could_be_read_in_two_ways_is_not_read() {
        let claims = claims().to_string();
        let twice = |name: &str| claims.replacen('{', &format!(r#"{{"{name}":"x","#), 1);
        for name in ["iss", "aud", "exp", "team_id", "sub"] {
            let refused = Some(Unreadable::Claims.into());
            assert_eq!(why_not(&token_of(&twice(name))).await, refused, "{name}");
        }
        for (header, why) in [
            (
                r#"{"alg":"none","alg":"EdDSA","kid":"a"}"#,
                Unreadable::Header,
            ),
            (r#"{"alg":"EdDSA","kid":"b","kid":"a"}"#, Unreadable::Header),
            (r#"{"alg":"EdDSA","kid":7}"#, Unreadable::Header),
            (r#"{"alg":"EdDSA","kid":null}"#, Unreadable::Header),
            (
                r#"{"alg":"EdDSA","kid":"a","crit":["exp"]}"#,
                Unreadable::Critical,
            ),
            (
                r#"{"alg":"EdDSA","kid":"a","crit":null}"#,
                Unreadable::Critical,
            ),
        ] {
            let token = signed(header, &claims, |text| key(1).sign(text).as_ref().to_vec());
            assert_eq!(why_not(&token).await, Some(why.into()), "{header}");
        }
        for claims in ["", "[]", "null", "{} {}", "{\"iss\":", "\"x\""] {
            let refused = Some(Unreadable::Claims.into());
            assert_eq!(why_not(&token_of(claims)).await, refused, "{claims}");
        }
        // Names are the same, however they are escaped.
        for (header, why) in [
            (
                r#"{"alg":"EdDSA","\u0061lg":"none","kid":"a"}"#,
                Unreadable::Header,
            ),
            (
                r#"{"alg":"EdDSA","kid":"a","\u0063rit":[]}"#,
                Unreadable::Critical,
            ),
        ] {
            let token = signed(header, &claims, |text| key(1).sign(text).as_ref().to_vec());
            assert_eq!(why_not(&token).await, Some(why.into()), "{header}");
        }
        for more in [
            r#""\u0065xp":1"#.to_owned(),
            r#""nbf":1e400"#.to_owned(),
            r#""nbf":NaN"#.to_owned(),
            r#""more":"\ud800""#.to_owned(),
            format!(r#""more":{}1{}"#, "[".repeat(200), "]".repeat(200)),
        ] {
            let claims = claims.replacen('{', &format!("{{{more},"), 1);
            let refused = Some(Unreadable::Claims.into());
            assert_eq!(why_not(&token_of(&claims)).await, refused, "{more}");
        }
        let good = token_of(&claims);
        let padded = why_not(&format!("{good}==")).await;
        assert_eq!(padded, Some(Unreadable::Signature.into()));
        let long = token_of(&claims_with("more", json!("x".repeat(8 * 1024))));
        assert_eq!(why_not(&long).await, Some(Unreadable::TooLong.into()));
    }

    #[tokio::test]
    async fn a_signature_is_base64url_to_the_last_bit() {
        let claims = claims().to_string();
        let good = token_of(&claims);
        // 64 bytes leave four bits of the last letter: they are zero.
        let last = good.chars().last().unwrap();
        let at = BASE64URL.find(last).unwrap();
        let beside = &good[..good.len() - 1];
        for bits in 1..16 {
            let other = format!("{beside}{}", &BASE64URL[at + bits..=at + bits]);
            let why = why_not(&other).await;
            assert_eq!(why, Some(Unreadable::Signature.into()), "{other}");
        }
        for strange in ["\n", " ", "+", "/", "%3D", "\0"] {
            let why = why_not(&format!("{good}{strange}")).await;
            assert_eq!(why, Some(Unreadable::Signature.into()), "{strange:?}");
        }
    }

    #[tokio::test]
    async fn the_claims_say_which_team_pays_and_who_asked() {
        let jwt = jwt();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let exp = now.unwrap().as_secs() + 300;
        for (name, value, team, principal) in [
            ("team_id", json!("acme"), Some("acme"), Some("ann")),
            ("team_id", json!("a b"), None, None),
            ("team_id", json!(""), None, None),
            ("team_id", json!(7), None, None),
            ("team_id", json!(["acme"]), None, None),
            ("team_id", json!(null), None, None),
            ("sub", json!(null), Some("acme"), None),
            ("sub", json!(7), Some("acme"), None),
            ("sub", json!(""), Some("acme"), None),
            ("sub", json!("a\nb"), Some("acme"), Some("a_b")),
        ] {
            let mut claims: Value =
                serde_json::from_str(&claims_with(name, value.clone())).unwrap();
            claims["exp"] = exp.into();
            let token = token_of(&claims.to_string());
            let token = Token::read(token.as_bytes()).unwrap();
            let (payer, waited) = jwt.payer(&token).await;
            assert_eq!(waited, Waited::No);
            match (payer, team) {
                (Ok(payer), Some(team)) => {
                    assert_eq!(payer.team.as_str(), team);
                    let asked = payer.principal.as_ref().map(Principal::as_str);
                    assert_eq!(asked, principal, "{value}");
                }
                (Err(NoPayer::Invalid(_)), None) => {}
                (other, _) => panic!("{name} {value}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_remembered_token_is_looked_at_again_in_everything_but_its_signature() {
        let jwt = jwt();
        let token = token_of(&claims().to_string());
        let now = NOW_SECONDS;
        for _ in 0..3 {
            assert_eq!(why_not_by(&jwt, &token, now).await, None);
        }
        assert_eq!(jwt.held.iter().count(), 1);
        let later = why_not_by(&jwt, &token, now + 361.0).await;
        assert_eq!(later, Some(NotVerified::Expired));
        // The same header and claims, another signature: not the same token.
        let (unsigned, signature) = token.rsplit_once('.').unwrap();
        let other = signature.chars().rev().collect::<String>();
        let forged = why_not_by(&jwt, &format!("{unsigned}.{other}"), now).await;
        assert!(matches!(
            forged,
            Some(NotVerified::Signature | NotVerified::Unreadable(Unreadable::Signature))
        ));
        // The issuer's keys are others now.
        let without = Jwt {
            keyring: Keyring::fixed(keys(&[public(2, "a")])),
            held: jwt.held.clone(),
            ..self::jwt()
        };
        let removed = why_not_by(&without, &token, now).await;
        assert_eq!(removed, Some(NotVerified::Signature));
    }

    #[tokio::test]
    async fn nobody_can_say_while_the_keys_were_never_loaded() {
        let jwt = Jwt::new(&configured(), Keyring::empty());
        let text = token_of(&claims_with("exp", json!(1e12)));
        let token = Token::read(text.as_bytes()).unwrap();
        let (payer, _) = jwt.payer(&token).await;
        assert_eq!(payer, Err(NoPayer::Unvouched(NEVER_LOADED)));
        let over = token_of(&claims_with("exp", json!(1)));
        let over = Token::read(over.as_bytes()).unwrap();
        let (payer, _) = jwt.payer(&over).await;
        assert_eq!(payer, Err(NoPayer::Unauthenticated), "whoever signed it");
    }
}
