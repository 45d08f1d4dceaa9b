//! The compact form of a signed token (RFC 7515, section 7.1), taken apart.
//!
//! Reading believes nothing: what is read here was written by whoever sent the
//! request, until [`super::Jwt`] has verified it. What might be read in two
//! ways is not read at all: a name that stands twice in the header or the
//! claims makes the token unfit (RFC 7519, section 4, allows that), as does
//! anything that is not base64url to the last bit.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::keyring::keys::{Algorithm, decoded};

/// The longest token that is read, in bytes. Heads may be longer; a token has
/// no reason to be.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Why a token cannot be used, whoever signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is too long.
    #[error("it is longer than 8 KiB")]
    TooLong,
    /// Its claims are no JSON object whose names all differ.
    #[error("its claims are not base64url of a JSON object without a repeated name")]
    Claims,
    /// Its header is no JSON object whose names all differ, or its `kid` is no
    /// string.
    #[error("its header is not a JSON object without a repeated name, or its kid is not a string")]
    Header,
    /// Its signature is no base64url.
    #[error("its signature is not base64url")]
    Signature,
    /// Its algorithm is none of the four, or `none`.
    #[error("its algorithm is not RS256, ES256, EdDSA or HS256")]
    Algorithm,
    /// It must not be used by who does not know some extension (RFC 7515,
    /// section 4.1.11), and no extension is known here.
    #[error("its header has crit, and no extension is known here")]
    Critical,
}

/// A token, taken apart.
pub struct Token<'a> {
    /// All of it, as it came.
    pub text: &'a [u8],
    parts: Result<Parts<'a>, Unreadable>,
}

/// What a token is made of.
pub struct Parts<'a> {
    /// How it says that it is signed.
    pub algorithm: Algorithm,
    /// The key that it names.
    pub kid: Option<String>,
    /// Its claims.
    pub claims: Object,
    /// What is signed.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes a bearer token apart, if it has the form of a signed token: three
    /// parts between dots, the first of them base64url of a JSON object with
    /// `alg`. Nothing else is one, whatever it is.
    #[must_use]
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let (signed, signature) = cut_last(text)?;
        let (header, claims) = cut_last(signed)?;
        if header.contains(&b'.') {
            return None;
        }
        if text.len() > TOKEN_MAX_BYTES {
            // Three parts, and too long to be looked into.
            let parts = Err(Unreadable::TooLong);
            return Some(Token { text, parts });
        }
        let header = decoded(header)?;
        // As forgiving as anybody might be: what looks like a token to somebody
        // must not be taken for a key here.
        let looks = serde_json::from_slice::<BTreeMap<String, Value>>(&header).ok()?;
        if !looks.contains_key("alg") {
            return None;
        }
        let parts = Parts::read(&header, claims, signed, signature);
        Some(Token { text, parts })
    }

    /// What it is made of.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parts(&self) -> Result<&Parts<'a>, Unreadable> {
        self.parts.as_ref().map_err(|error| *error)
    }

    /// Who it says has issued it. Nobody has verified that.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.parts.as_ref().ok()?.claims.text("iss")
    }
}

impl<'a> Parts<'a> {
    fn read(
        header: &[u8],
        claims: &[u8],
        signed: &'a [u8],
        signature: &[u8],
    ) -> Result<Self, Unreadable> {
        let header = Object::read(header).ok_or(Unreadable::Header)?;
        if header.get("crit").is_some() {
            return Err(Unreadable::Critical);
        }
        let algorithm = header.text("alg").and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(Unreadable::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Unreadable::Header),
        };
        let claims = decoded(claims).and_then(|json| Object::read(&json));
        Ok(Parts {
            algorithm,
            kid,
            claims: claims.ok_or(Unreadable::Claims)?,
            signed,
            signature: decoded(signature).ok_or(Unreadable::Signature)?,
        })
    }
}

/// What is before the last dot, and what is after it.
fn cut_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = text.iter().rposition(|byte| *byte == b'.')?;
    Some((text.get(..dot)?, text.get(dot.saturating_add(1)..)?))
}

/// A JSON object whose names all differ.
#[derive(Debug)]
pub struct Object(BTreeMap<String, Value>);

impl Object {
    fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value of a name, if it is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose names all differ")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Object, M::Error> {
                let mut names = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if names.insert(name, value).is_some() {
                        return Err(M::Error::custom("a name stands twice"));
                    }
                }
                Ok(Object(names))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    fn encoded(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn has_the_form(text: &str) -> bool {
        Token::read(text.as_bytes()).is_some()
    }

    #[test]
    fn a_token_is_three_parts_whose_first_is_an_object_with_alg() {
        let header = encoded(r#"{"alg":"none"}"#);
        for token in [
            format!("{header}.e30.AA"),
            format!("{header}.."),
            format!("{header}.!!!.???"),
            format!("{}..", encoded(r#" {"typ":1,"alg":null} "#)),
            format!("{}..", encoded(r#"{"alg":1,"alg":2}"#)),
        ] {
            assert!(has_the_form(&token), "{token}");
        }
        for key in [
            String::new(),
            "wk-1234567890".to_owned(),
            "wk.12.34".to_owned(),
            "..".to_owned(),
            header.clone(),
            format!("{header}."),
            format!("{header}.e30"),
            format!("{header}.e30.AA.AA"),
            format!("{header}.e30.AA.AA.AA"),
            format!("{header}=.e30.AA"),
            format!("x{header}.e30.AA"),
            format!("{}.e30.AA", encoded(r#"{"typ":"JWT"}"#)),
            format!("{}.e30.AA", encoded(r#"["alg"]"#)),
            format!("{}.e30.AA", encoded(r#"{"alg":"#)),
        ] {
            assert!(!has_the_form(&key), "{key}");
        }
    }

    #[test]
    fn a_token_cut_at_any_byte_is_no_token_that_can_be_used_but_by_its_signature() {
        let header = encoded(r#"{"alg":"EdDSA","kid":"a"}"#);
        let claims = encoded(r#"{"iss":"me"}"#);
        let token = format!("{header}.{claims}.{}", encoded("a signature"));
        assert_eq!(Token::read(token.as_bytes()).unwrap().issuer(), Some("me"));
        for length in 0..token.len() {
            let cut = Token::read(&token.as_bytes()[..length]);
            let whole_claims = length > header.len() + claims.len() + 1;
            assert_eq!(cut.is_some(), whole_claims, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(text in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Token::read(&text);
        }

        #[test]
        fn no_parts_make_reading_panic(
            header in r#"\{"alg":"(EdDSA|none|RS256)"(,"kid":"[a-z]{0,3}")?(,"\PC{0,9}":[0-9e.]{0,9})?\}?"#,
            claims in r#"\{("(iss|aud|exp)":("\PC{0,9}"|-?[0-9]{1,400}|\[{0,300}),?){0,4}\}?"#,
            signature in "[A-Za-z0-9_=-]{0,90}",
        ) {
            let text = format!("{}.{}.{signature}", encoded(&header), encoded(&claims));
            if let Some(token) = Token::read(text.as_bytes()) {
                let _ = (token.issuer(), token.parts().is_ok());
            }
        }
    }
}
