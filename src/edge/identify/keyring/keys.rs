//! Keys (RFC 7517), and whether a signature holds by one of them.
//!
//! Four algorithms of RFC 7518 and RFC 8037 and no other: RS256, ES256,
//! EdDSA with Ed25519, and HS256. A key has exactly one of them, which it got
//! before any token was seen, so that no token can choose what it is verified
//! with. Public keys and the secret of HS256 are different kinds of [`Keys`]:
//! there is no way from one to the other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self, UnparsedPublicKey};
use ring::{error, hmac};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Moduli of RSA keys that are believed, in bits: shorter ones can be broken,
/// longer ones are not computed with.
const RSA_MIN_BITS: usize = 2048;
const RSA_MAX_BITS: usize = 8192;

/// The most keys of an issuer that counts: ten times what anybody shows at
/// once. With more of one name a single bad token could cost seconds.
const KEYS_MAX: usize = 100;

/// A coordinate of a point on P-256, and a key of Ed25519, in bytes.
const POINT_BYTES: usize = 32;

/// What begins a point that is written as both coordinates (SEC 1, 2.3.3).
const BOTH_COORDINATES: u8 = 4;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// EdDSA with Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// The algorithm of this name, if it is one of the four. RFC 9864 gave
    /// EdDSA with Ed25519 a second name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
            "HS256" => Some(Algorithm::Hs256),
            _ => None,
        }
    }
}

/// Why a text gives no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is no JWK set.
    #[error("it is not a JSON object with a list called keys (RFC 7517, section 5)")]
    NotASet,
    /// It has more keys than are looked through for a token.
    #[error("it has more than {KEYS_MAX} keys that can be used")]
    TooMany,
    /// None of its keys can be used.
    #[error(
        "none of its keys can be used: write public keys for RS256 (RSA, 2048 to 8192 bits), ES256 (EC, P-256) or EdDSA (OKP, Ed25519), not for encryption"
    )]
    NoneUsable,
}

/// Why no key says that a signature holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// No key fits, or, without a `kid`, more than one does.
    NoKey,
    /// By none of the keys that fit does the signature hold.
    Signature,
}

/// The keys of an issuer.
pub enum Keys {
    /// Public keys, as the issuer shows them.
    Public(Vec<PublicKey>),
    /// The secret that is shared with the issuer.
    Secret(hmac::Key),
}

/// One public key.
pub struct PublicKey {
    kid: Option<String>,
    material: Material,
}

enum Material {
    Rs256(PublicKeyComponents<Vec<u8>>),
    Es256(UnparsedPublicKey<Vec<u8>>),
    EdDsa(UnparsedPublicKey<Vec<u8>>),
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

/// A JWK, as far as it decides anything here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private half.
    d: Option<IgnoredAny>,
}

impl Keys {
    /// Reads a JWK set. Members that cannot be used are left out (RFC 7517,
    /// section 5).
    ///
    /// # Errors
    /// If there is nothing in it to verify with.
    pub fn read(json: &[u8]) -> Result<Self, KeysError> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| KeysError::NotASet)?;
        let usable = |member| PublicKey::of(serde_json::from_value(member).ok()?);
        let keys: Vec<PublicKey> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(KeysError::NoneUsable);
        }
        if keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        Ok(Keys::Public(keys))
    }

    /// The secret of HS256 tokens.
    #[must_use]
    pub fn of_secret(secret: &[u8]) -> Self {
        Keys::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Whether a token may name its key so. A secret has no name, and whatever
    /// a token calls it, it is that one.
    #[must_use]
    pub fn knows(&self, kid: &str) -> bool {
        match self {
            Keys::Public(keys) => keys.iter().any(|key| key.kid.as_deref() == Some(kid)),
            Keys::Secret(_) => true,
        }
    }

    /// Verifies a signature.
    ///
    /// Where several keys have one `kid` (RFC 7517, section 4.5, asks issuers
    /// not to do that, and does not forbid it), any of them that fits will do.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Mismatch> {
        let keys = match (self, algorithm) {
            (Keys::Public(keys), _) => keys,
            (Keys::Secret(secret), Algorithm::Hs256) => {
                return hmac::verify(secret, signed, signature).map_err(|_| Mismatch::Signature);
            }
            (Keys::Secret(_), _) => return Err(Mismatch::NoKey),
        };
        let fits = |key: &&PublicKey| {
            key.material.algorithm() == algorithm && (kid.is_none() || key.kid.as_deref() == kid)
        };
        let fitting: Vec<&PublicKey> = keys.iter().filter(fits).collect();
        if fitting.is_empty() || (kid.is_none() && fitting.len() > 1) {
            return Err(Mismatch::NoKey);
        }
        let holds = |key: &PublicKey| key.material.verify(signed, signature).is_ok();
        match fitting.into_iter().any(holds) {
            true => Ok(()),
            false => Err(Mismatch::Signature),
        }
    }
}

impl PublicKey {
    /// The key of a JWK, if it is for signatures of one algorithm known here.
    fn of(jwk: Jwk) -> Option<Self> {
        let for_signatures = jwk
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig");
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if !for_signatures || !jwk.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        // Whoever has seen it could have signed anything.
        if jwk.d.is_some() {
            return None;
        }
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Material::rs256(jwk.n.as_deref()?, jwk.e.as_deref()?),
            ("EC", Some("P-256")) => Material::es256(jwk.x.as_deref()?, jwk.y.as_deref()?),
            ("OKP", Some("Ed25519")) => Material::eddsa(jwk.x.as_deref()?),
            _ => None,
        }?;
        let says = |name: &String| Algorithm::named(name) == Some(material.algorithm());
        jwk.alg.as_ref().is_none_or(says).then_some(PublicKey {
            kid: jwk.kid,
            material,
        })
    }
}

impl Material {
    fn rs256(n: &str, e: &str) -> Option<Self> {
        let (n, e) = (integer(n)?, integer(e)?);
        let unused_bits = usize::try_from(n.first()?.leading_zeros()).ok()?;
        let bits = n.len().checked_mul(8)?.checked_sub(unused_bits)?;
        let believed = (RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits);
        believed.then_some(Material::Rs256(PublicKeyComponents { n, e }))
    }

    fn es256(x: &str, y: &str) -> Option<Self> {
        let point = [vec![BOTH_COORDINATES], bytes32(x)?, bytes32(y)?].concat();
        let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
        Some(Material::Es256(key))
    }

    fn eddsa(x: &str) -> Option<Self> {
        let key = UnparsedPublicKey::new(&signature::ED25519, bytes32(x)?);
        Some(Material::EdDsa(key))
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Material::Rs256(_) => Algorithm::Rs256,
            Material::Es256(_) => Algorithm::Es256,
            Material::EdDsa(_) => Algorithm::EdDsa,
        }
    }

    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), error::Unspecified> {
        match self {
            Material::Rs256(key) => {
                let how = &signature::RSA_PKCS1_2048_8192_SHA256;
                key.verify(how, signed, signature)
            }
            Material::Es256(key) | Material::EdDsa(key) => key.verify(signed, signature),
        }
    }
}

/// What is written in base64url (RFC 7515, section 2).
pub fn decoded(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// An integer without zeros before it, which some issuers write.
fn integer(text: &str) -> Option<Vec<u8>> {
    let bytes = decoded(text)?;
    let from = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(from..).map(<[u8]>::to_vec)
}

fn bytes32(text: &str) -> Option<Vec<u8>> {
    decoded(text).filter(|bytes| bytes.len() == POINT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The payload of RFC 7515, appendix A.
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    const ES256: &str =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const ED25519: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const EDDSA: &str =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    const SECRET: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    const HS256: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    fn rsa() -> Value {
        json!({"kty": "RSA", "n": N, "e": "AQAB"})
    }

    fn p256() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y})
    }

    fn ed25519() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519})
    }

    /// A key with more said about it.
    fn with(mut key: Value, more: &[(&str, &str)]) -> Value {
        for (name, value) in more {
            key[*name] = (*value).into();
        }
        key
    }

    fn set(keys: &[Value]) -> Keys {
        Keys::read(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    fn is_usable(key: &Value) -> bool {
        Keys::read(json!({"keys": [key]}).to_string().as_bytes()).is_ok()
    }

    fn rs256_by(keys: &Keys, kid: Option<&str>) -> Result<(), Mismatch> {
        let signed = format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}");
        let signature = decoded(RS256).unwrap();
        keys.verify(Algorithm::Rs256, kid, signed.as_bytes(), &signature)
    }

    #[test]
    fn the_signatures_of_rfc_7515_and_rfc_8037_hold_and_no_other() {
        let secret = || Keys::of_secret(&decoded(SECRET).unwrap());
        for (algorithm, keys, header, claims, signature) in [
            (
                Algorithm::Rs256,
                set(&[rsa()]),
                "eyJhbGciOiJSUzI1NiJ9",
                CLAIMS,
                RS256,
            ),
            (
                Algorithm::Es256,
                set(&[p256()]),
                "eyJhbGciOiJFUzI1NiJ9",
                CLAIMS,
                ES256,
            ),
            (
                Algorithm::EdDsa,
                set(&[ed25519()]),
                "eyJhbGciOiJFZERTQSJ9",
                "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                EDDSA,
            ),
            (
                Algorithm::Hs256,
                secret(),
                "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
                CLAIMS,
                HS256,
            ),
        ] {
            let signed = format!("{header}.{claims}");
            let good = decoded(signature).unwrap();
            let verify = |signed: &str, signature: &[u8]| {
                keys.verify(algorithm, None, signed.as_bytes(), signature)
            };
            assert_eq!(verify(&signed, &good), Ok(()), "{algorithm:?}");
            let other = format!("{signed}x");
            assert_eq!(verify(&other, &good), Err(Mismatch::Signature));
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert_eq!(verify(&signed, &bad), Err(Mismatch::Signature), "{at}");
            }
            for length in [0, 1, good.len() - 1] {
                assert_eq!(verify(&signed, &good[..length]), Err(Mismatch::Signature));
            }
            for wrong in [
                Algorithm::Rs256,
                Algorithm::Es256,
                Algorithm::EdDsa,
                Algorithm::Hs256,
            ] {
                if wrong != algorithm {
                    let by = keys.verify(wrong, None, signed.as_bytes(), &good);
                    assert_eq!(by, Err(Mismatch::NoKey), "{algorithm:?} as {wrong:?}");
                }
            }
        }
    }

    /// The order of P-256 (SEC 2, section 2.4.2), and that of the base point of
    /// Ed25519, whose digits stand the other way round (RFC 8032, section 5.1).
    const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().collect();
        let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn numbers_that_fit_any_key_are_no_signature_of_es256() {
        let keys = set(&[p256()]);
        let signed = format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}");
        let by =
            |signature: &[u8]| keys.verify(Algorithm::Es256, None, signed.as_bytes(), signature);
        let good = decoded(ES256).unwrap();
        let (r, s) = good.split_at(POINT_BYTES);
        let number = |last: u8| {
            let mut number = vec![0; POINT_BYTES];
            number[POINT_BYTES - 1] = last;
            number
        };
        let order = bytes(P256_ORDER);
        let max = vec![0xff; POINT_BYTES];
        for special in [number(0), number(1), order, max] {
            for other in [&special, &r.to_vec(), &s.to_vec(), &number(1)] {
                for pair in [[&special[..], other], [other, &special]] {
                    assert_eq!(by(&pair.concat()), Err(Mismatch::Signature), "{pair:?}");
                }
            }
        }
        // The same two numbers, written in other ways.
        let der = |number: &[u8]| {
            let sign = vec![0; usize::from(number[0] >> 7)];
            let length = u8::try_from(number.len() + sign.len()).unwrap();
            [vec![2, length], sign, number.to_vec()].concat()
        };
        let both = [der(r), der(s)].concat();
        let der = [vec![0x30, u8::try_from(both.len()).unwrap()], both].concat();
        let long = [&[0][..], r, &[0], s].concat();
        for other in [der, long, [s, r].concat(), [&good[..], &[0]].concat()] {
            assert_eq!(by(&other), Err(Mismatch::Signature), "{other:?}");
        }
    }

    #[test]
    fn a_signature_of_eddsa_is_written_in_one_way() {
        let keys = set(&[ed25519()]);
        let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let by = |signature: &[u8]| keys.verify(Algorithm::EdDsa, None, signed, signature);
        let good = decoded(EDDSA).unwrap();
        let (point, number) = good.split_at(POINT_BYTES);
        // The number and the order: the same modulo the order.
        let mut carry = 0_u16;
        let more = number.iter().zip(bytes(ED25519_ORDER)).map(|(one, other)| {
            let sum = u16::from(*one) + u16::from(other) + carry;
            carry = sum >> 8;
            u8::try_from(sum & 0xff).unwrap()
        });
        let more: Vec<u8> = more.collect();
        assert_eq!(by(&[point, &more].concat()), Err(Mismatch::Signature));
        let mut neutral = vec![0; POINT_BYTES];
        neutral[0] = 1;
        let zero = vec![0; POINT_BYTES];
        for (point, number) in [(&neutral, &zero), (&zero, &zero), (&neutral, &neutral)] {
            let forged = [&point[..], number].concat();
            assert_eq!(by(&forged), Err(Mismatch::Signature));
        }
        assert_eq!(by(&[&good[..], &[0]].concat()), Err(Mismatch::Signature));
    }

    #[test]
    fn an_rsa_key_with_a_weak_exponent_vouches_for_nothing_forged() {
        /// A number whose third power begins as a signed digest of the text
        /// would, if what follows the digest were not looked at.
        const CUBE_ROOT: &str = "Msv9SnrceQVYPXZ1IPUWQHWRdtN4JvLvY649x6y_s7eA5m3UVD5JKhqkCKltifXBMSg9rIQgh5DVx4GgQz4ThI06VclfN1N__nOEWDjfgSKrkglL5g";
        let signed = format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}");
        let digest = ring::digest::digest(&ring::digest::SHA256, signed.as_bytes());
        let said = [
            bytes("3031300d060960864801650304020105000420"),
            digest.as_ref().to_vec(),
        ]
        .concat();
        // What a key whose exponent is 1 makes of itself.
        let padding = vec![0xff; 256 - 3 - said.len()];
        let plain = [vec![0, 1], padding, vec![0], said].concat();
        let root = decoded(CUBE_ROOT).unwrap();
        let root = [vec![0; 256 - root.len()], root].concat();
        let n = integer(N).unwrap();
        let mut before = n.clone();
        before[255] -= 1;
        for e in ["AQ", "Ag", "Aw", "BA", "AQAB", "AAEAAQ", "AQAAAAAB"] {
            let Ok(keys) = Keys::read(
                json!({"keys": [with(rsa(), &[("e", e)])]})
                    .to_string()
                    .as_bytes(),
            ) else {
                continue;
            };
            for forged in [&plain, &root, &n, &before, &vec![0; 256], &vec![1; 256]] {
                let by = keys.verify(Algorithm::Rs256, None, signed.as_bytes(), forged);
                assert_eq!(by, Err(Mismatch::Signature), "{e}");
            }
        }
        // The good one is as long as the modulus, and no longer.
        let good = decoded(RS256).unwrap();
        let keys = set(&[rsa()]);
        for other in [[&[0][..], &good].concat(), [&good[..], &[0]].concat()] {
            let by = keys.verify(Algorithm::Rs256, None, signed.as_bytes(), &other);
            assert_eq!(by, Err(Mismatch::Signature));
        }
    }

    #[test]
    fn so_many_keys_are_looked_through_and_no_more() {
        let many = |count| json!({"keys": vec![p256(); count]}).to_string();
        assert!(Keys::read(many(KEYS_MAX).as_bytes()).is_ok());
        let more = Keys::read(many(KEYS_MAX + 1).as_bytes()).err();
        assert_eq!(more, Some(KeysError::TooMany));
    }

    #[test]
    fn a_key_has_one_algorithm_and_says_so() {
        for (key, fits) in [
            (rsa(), ["RS256"].as_slice()),
            (p256(), &["ES256"]),
            (ed25519(), &["EdDSA", "Ed25519"]),
        ] {
            for alg in [
                "RS256", "ES256", "EdDSA", "Ed25519", "HS256", "RS384", "PS256", "ES384", "none",
                "", "RSA-OAEP", "rs256",
            ] {
                assert_eq!(
                    is_usable(&with(key.clone(), &[("alg", alg)])),
                    fits.contains(&alg),
                    "{alg}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_for_signatures_is_left_out() {
        assert!(is_usable(&with(rsa(), &[("use", "sig")])));
        assert!(!is_usable(&with(rsa(), &[("use", "enc")])));
        assert!(!is_usable(&with(rsa(), &[("use", "")])));
        for (ops, usable) in [
            (json!(["verify"]), true),
            (json!(["sign", "verify"]), true),
            (json!(["encrypt", "wrapKey"]), false),
            (json!([]), false),
            (json!("verify"), false),
        ] {
            let mut key = p256();
            key["key_ops"] = ops.clone();
            assert_eq!(is_usable(&key), usable, "{ops}");
        }
        for key in [
            json!({"kty": "oct", "k": SECRET}),
            json!({"kty": "oct", "k": SECRET, "alg": "HS256"}),
            with(p256(), &[("crv", "P-384")]),
            with(p256(), &[("crv", "secp256k1")]),
            with(ed25519(), &[("crv", "Ed448")]),
            with(ed25519(), &[("crv", "X25519")]),
            with(ed25519(), &[("kty", "EC")]),
            with(p256(), &[("kty", "OKP")]),
            with(p256(), &[("x", "AQAB")]),
            with(ed25519(), &[("x", "not base64url!")]),
            json!({"kty": "RSA", "n": N}),
            with(rsa(), &[("d", "AQAB")]),
            with(
                ed25519(),
                &[("d", "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")],
            ),
            json!({"kid": "a"}),
            json!(null),
            json!([]),
        ] {
            assert!(!is_usable(&key), "{key}");
        }
    }

    #[test]
    fn short_rsa_keys_are_left_out_however_they_are_written() {
        let modulus = |bits: usize, zeros: usize| {
            let mut bytes = vec![0; zeros];
            bytes.extend(std::iter::repeat_n(0xff, bits.div_ceil(8)));
            bytes[zeros] = 0xff_u8 >> (8 - (bits - 1) % 8 - 1);
            with(rsa(), &[("n", &URL_SAFE_NO_PAD.encode(bytes))])
        };
        for (bits, usable) in [
            (512, false),
            (1024, false),
            (2047, false),
            (2048, true),
            (3072, true),
            (8192, true),
            (8193, false),
        ] {
            for zeros in [0, 1, 200] {
                assert_eq!(is_usable(&modulus(bits, zeros)), usable, "{bits} {zeros}");
            }
        }
        assert!(!is_usable(&with(rsa(), &[("n", "AAAA")])));
        assert!(!is_usable(&with(rsa(), &[("e", "")])));
        let zeros = [&[0_u8, 0][..], &decoded(N).unwrap()].concat();
        let padded = with(rsa(), &[("n", &URL_SAFE_NO_PAD.encode(zeros))]);
        assert_eq!(rs256_by(&set(&[padded]), None), Ok(()));
    }

    #[test]
    fn a_key_that_cannot_be_used_does_not_spoil_the_others() {
        let keys = set(&[json!(7), json!({"kty": "oct", "k": SECRET}), rsa()]);
        assert_eq!(rs256_by(&keys, None), Ok(()));
        for (text, error) in [
            ("", KeysError::NotASet),
            ("[]", KeysError::NotASet),
            ("{}", KeysError::NotASet),
            (r#"{"keys": {}}"#, KeysError::NotASet),
            (r#"{"keys": []} x"#, KeysError::NotASet),
            (r#"{"keys": []}"#, KeysError::NoneUsable),
            (
                r#"{"keys": [{"kty": "oct", "k": "AQAB"}]}"#,
                KeysError::NoneUsable,
            ),
        ] {
            assert_eq!(Keys::read(text.as_bytes()).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn a_kid_has_to_be_known_and_without_one_exactly_one_key_fits() {
        let named = |kid| with(rsa(), &[("kid", kid)]);
        let keys = set(&[named("a"), with(p256(), &[("kid", "b")])]);
        assert!(keys.knows("a") && keys.knows("b") && !keys.knows("c") && !keys.knows(""));
        assert_eq!(rs256_by(&keys, Some("a")), Ok(()));
        assert_eq!(rs256_by(&keys, None), Ok(()), "one of them is for RS256");
        assert_eq!(
            rs256_by(&keys, Some("b")),
            Err(Mismatch::NoKey),
            "for ES256"
        );
        assert_eq!(
            rs256_by(&keys, Some("A")),
            Err(Mismatch::NoKey),
            "case counts"
        );
        let two = set(&[named("a"), named("b")]);
        assert_eq!(rs256_by(&two, None), Err(Mismatch::NoKey), "which?");
        assert_eq!(rs256_by(&two, Some("b")), Ok(()));
        let nameless = set(&[rsa()]);
        assert_eq!(rs256_by(&nameless, Some("a")), Err(Mismatch::NoKey));
    }

    #[test]
    fn of_keys_that_share_a_name_any_that_fits_will_do() {
        let other = decoded(N)
            .unwrap()
            .iter()
            .rev()
            .copied()
            .collect::<Vec<u8>>();
        let other = with(
            rsa(),
            &[("n", &URL_SAFE_NO_PAD.encode(other)), ("kid", "a")],
        );
        let ours = with(rsa(), &[("kid", "a")]);
        let curve = with(p256(), &[("kid", "a")]);
        for keys in [
            [other.clone(), curve.clone(), ours.clone()],
            [ours, curve.clone(), other.clone()],
        ] {
            assert_eq!(rs256_by(&set(&keys), Some("a")), Ok(()));
        }
        let without = set(&[other, curve]);
        assert_eq!(rs256_by(&without, Some("a")), Err(Mismatch::Signature));
    }
}
