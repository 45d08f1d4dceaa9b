//! Identities that prove themselves: JSON Web Tokens and client certificates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{FileOrUrl, HeaderText, OneOrMore, Secret, Span};

/// A JSON Web Token (RFC 7519) as bearer token.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["jwks"]}, {"required": ["secret"]}]))]
pub struct JwtIdentity {
    /// The issuer's keys (RFC 7517): a file, or an `https` URL that is asked
    /// again in the background. RS256, ES256 and EdDSA.
    pub jwks: Option<FileOrUrl>,
    /// The secret of HS256 tokens, in place of `jwks`; at least 32 bytes.
    pub secret: Option<Secret>,
    /// What `iss` must be.
    pub issuer: HeaderText,
    /// What `aud` must be or contain; several: one of them.
    pub audience: OneOrMore<HeaderText>,
    /// The claim with the team's id.
    pub team_claim: String,
    /// The claim that names who asks.
    #[serde(default = "defaults::principal_claim")]
    pub principal_claim: String,
    /// By how much clocks may differ; at most 5m.
    #[serde(default = "defaults::leeway")]
    pub leeway: Span,
    /// How often a URL's keys are asked for again.
    #[serde(default = "defaults::refresh")]
    pub refresh: Span,
}

/// A TLS client certificate, where the listener asks for one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MtlsIdentity {
    /// Where in the certificate the team stands.
    pub team_from: CertificateField,
    /// What stands before the team's id there; what does not begin so says
    /// nothing. Left out: the id is what follows the last slash.
    pub prefix: Option<HeaderText>,
}

/// Where in a certificate a team stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum CertificateField {
    /// A URI among the subject's alternative names, as SPIFFE has it.
    SanUri,
    /// The subject's common name.
    SubjectCn,
}

mod defaults {
    use super::Span;

    pub fn principal_claim() -> String {
        "sub".to_owned()
    }
    pub fn leeway() -> Span {
        Span::from_secs(60)
    }
    pub fn refresh() -> Span {
        Span::from_secs(5 * 60)
    }
}
