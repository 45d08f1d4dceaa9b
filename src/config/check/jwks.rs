//! The file of an issuer's keys (RFC 7517): there, readable, public keys alone
//! and at least one that can be used.
//!
//! Only as much is read as tells a slip from a set of keys; the keys
//! themselves are read where tokens are verified.

use std::path::Path;

use serde_json::{Map, Value};

use super::super::fill::read_bounded;
use super::Report;

/// The members of a key that only its owner may know (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub fn check(at: &str, path: &Path, report: &mut Report) {
    let message = match read_bounded(path) {
        Ok(bytes) => mistake(&bytes),
        Err(why) => Some(format!("cannot be read: {why}")),
    };
    if let Some(message) = message {
        report.shown(at, path.display().to_string(), message);
    }
}

/// What is wrong with the file, if something is. Nothing of it is shown.
fn mistake(bytes: &[u8]) -> Option<String> {
    const WANTED: &str = "write the issuer's JWKS as it is published, `{\"keys\": […]}`";
    let Ok(Value::Object(set)) = serde_json::from_slice(bytes) else {
        return Some(format!("is no JSON object: {WANTED}"));
    };
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Some(format!("has no list `keys`: {WANTED}"));
    };
    let has_kind = |key: &Value| key.get("kty").is_some_and(Value::is_string);
    if let Some(place) = keys.iter().position(|key| !has_kind(key)) {
        return Some(format!(
            "holds something at `keys[{place}]` that is no key, it has no `kty`: {WANTED}"
        ));
    }
    let keys = || keys.iter().filter_map(Value::as_object);
    let is_private = |key: &Map<String, Value>| PRIVATE.iter().any(|name| key.contains_key(*name));
    if let Some(place) = keys().position(is_private) {
        return Some(format!(
            "holds a private key at `keys[{place}]`, with which anyone can make tokens: write public keys alone, and replace that one; a secret of HS256 goes under `secret`"
        ));
    }
    (!keys().any(is_usable)).then(|| {
        "holds no key that can be used: write one for RS256 (`kty: RSA`), ES256 (`kty: EC`, `crv: P-256`) or EdDSA (`kty: OKP`, `crv: Ed25519`), for signatures".to_owned()
    })
}

/// Whether a key verifies RS256, ES256 or EdDSA.
fn is_usable(key: &Map<String, Value>) -> bool {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let has = |name: &str| text(name).is_some_and(|text| !text.is_empty());
    let algorithm = match (text("kty"), text("crv")) {
        (Some("RSA"), _) if has("n") && has("e") => "RS256",
        (Some("EC"), Some("P-256")) if has("x") && has("y") => "ES256",
        (Some("OKP"), Some("Ed25519")) if has("x") => "EdDSA",
        _ => return false,
    };
    let fits = |name: &str, wanted: &str| text(name).is_none_or(|said| said == wanted);
    fits("use", "sig") && fits("alg", algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_public_keys_from_anything_else() {
        let rsa = r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#;
        for (text, expected) in [
            (format!("{{\"keys\": [{rsa}]}}"), None),
            (format!("{{\"keys\": [{{\"kty\": \"EC\", \"crv\": \"P-521\"}}, {rsa}]}}"), None),
            (r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b", "alg": "ES256", "use": "sig"}]}"#.to_owned(), None),
            (r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "a", "kid": "1"}]}"#.to_owned(), None),
            (String::new(), Some("is no JSON object")),
            ("[]".to_owned(), Some("is no JSON object")),
            (rsa.to_owned(), Some("has no list `keys`")),
            (r#"{"keys": {}}"#.to_owned(), Some("has no list `keys`")),
            (r#"{"keys": [7]}"#.to_owned(), Some("that is no key")),
            (r#"{"keys": [{"kty": 7}]}"#.to_owned(), Some("that is no key")),
            (r#"{"keys": []}"#.to_owned(), Some("no key that can be used")),
            (r#"{"keys": [{"kty": "RSA", "n": "a", "e": "b", "use": "enc"}]}"#.to_owned(), Some("no key that can be used")),
            (r#"{"keys": [{"kty": "RSA", "n": "a", "e": "b", "alg": "HS256"}]}"#.to_owned(), Some("no key that can be used")),
            (r#"{"keys": [{"kty": "EC", "crv": "P-384", "x": "a", "y": "b"}]}"#.to_owned(), Some("no key that can be used")),
            (r#"{"keys": [{"kty": "oct", "k": "hunter2"}]}"#.to_owned(), Some("a private key at `keys[0]`")),
            (r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "a", "d": "hunter2"}]}"#.to_owned(), Some("a private key at `keys[0]`")),
        ] {
            let said = mistake(text.as_bytes());
            let fits = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected) && !said.contains("hunter2"),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{text}: {said:?}");
        }
    }
}
