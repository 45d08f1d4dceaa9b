//! Token issuers of a test's own: their keys, what they show of them, and the
//! tokens that they sign.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};

/// Who has issued the tokens of tests that do not say otherwise.
pub const ISSUER: &str = "https://issuer.example/";

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// The claims of a token that is good for five minutes.
pub fn claims(team: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": "tasks",
        "exp": now() + 300,
        "nbf": now() - 1,
        "sub": "ann@example.com",
        "team_id": team,
    })
}

/// The claims with one of them changed; null leaves it out.
pub fn claims_with(team: &str, name: &str, value: Value) -> Value {
    let mut claims = claims(team);
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// What an issuer shows of its keys.
pub fn jwks(signers: &[&Signer]) -> String {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// A key that signs, and its name.
pub struct Signer {
    kid: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(hmac::Key),
}

impl Signer {
    /// RSA, made by openssl: ring makes no such keys.
    pub fn rs256(kid: &str) -> Self {
        let key = openssl(
            &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"],
            rsa_pem(),
        );
        Signer {
            kid: kid.to_owned(),
            key: Key::Rsa(RsaKeyPair::from_pkcs8(&key).unwrap()),
        }
    }

    /// ECDSA on P-256.
    pub fn es256(kid: &str) -> Self {
        let (random, how) = (
            SystemRandom::new(),
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        );
        let key = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).unwrap();
        Signer {
            kid: kid.to_owned(),
            key: Key::P256(key),
        }
    }

    /// Ed25519.
    pub fn eddsa(kid: &str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer {
            kid: kid.to_owned(),
            key: Key::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap()),
        }
    }

    /// A secret.
    pub fn hs256(kid: &str, secret: &[u8]) -> Self {
        Signer {
            kid: kid.to_owned(),
            key: Key::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)),
        }
    }

    fn alg(&self) -> &'static str {
        match &self.key {
            Key::Rsa(_) => "RS256",
            Key::P256(_) => "ES256",
            Key::Ed25519(_) => "EdDSA",
            Key::Secret(_) => "HS256",
        }
    }

    /// What everybody may see of the key.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let parts = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": encoded(parts.n), "e": encoded(parts.e)})
            }
            Key::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)})
            }
            Key::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(key.public_key())})
            }
            Key::Secret(_) => panic!("a secret is not shown"),
        };
        jwk["kid"] = self.kid.clone().into();
        jwk["alg"] = self.alg().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.alg(), "typ": "JWT", "kid": self.kid});
        self.token_under(&header, claims)
    }

    /// A token with this header, whatever it says.
    pub fn token_under(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let (how, random) = (&signature::RSA_PKCS1_SHA256, SystemRandom::new());
                key.sign(how, &random, signed.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
            Key::P256(key) => {
                let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
                signature.unwrap().as_ref().to_vec()
            }
            Key::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Key::Secret(key) => hmac::sign(key, signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", encoded(signature))
    }
}

/// Header and claims of a token, without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| encoded(part.to_string()));
    format!("{header}.{claims}")
}

/// The RSA key that all tests share: making one takes long.
fn rsa_pem() -> &'static [u8] {
    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    PEM.get_or_init(|| {
        let wanted = [
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ];
        openssl(&wanted, b"")
    })
}

/// What everybody may see of the RSA key, as people keep it in files.
pub fn rsa_public_pem() -> Vec<u8> {
    openssl(&["pkey", "-pubout"], rsa_pem())
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl, which makes RSA keys, is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
