//! TLS client certificates: what of one says who pays.
//!
//! A certificate is looked into once, when its connection is made
//! ([`ReadsCertificates`]), and never trusted for itself: rustls has verified
//! it against `server.tls.client_ca` before, in every handshake. From then on
//! it speaks for its connection, however long that lives. What cannot be
//! understood, or is too much, says nothing.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::listeners::TlsAccept;
use pingora_core::protocols::Digest;
use pingora_core::protocols::tls::TlsRef;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::{NoPayer, Payer};
use crate::billing::team::{Principal, TeamId};
use crate::config::{CertificateField, MtlsIdentity};

/// The most URIs of a certificate. One with more is not understood: with some
/// of them left out, it could not be seen that they name two teams.
const URIS_MAX: usize = 32;

/// The most bytes of a URI or a common name: SPIFFE's bound on its ids.
const NAME_MAX_BYTES: usize = 2048;

/// What a client certificate says of its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The URIs among the subject's alternative names.
    pub san_uris: Vec<String>,
    /// The subject's common name, if it has exactly one.
    pub subject_cn: Option<String>,
}

impl Certificate {
    /// Reads a certificate (RFC 5280, DER), or nothing if it is malformed or
    /// says more than anybody should have to remember.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let parsed = parse(der)?;
        let mut san_uris = Vec::new();
        let names = parsed.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) if san_uris.len() < URIS_MAX => san_uris.push(bounded(uri)?),
                // Nobody can tell what it would have said.
                GeneralName::URI(_) => return None,
                _ => {}
            }
        }
        let mut common_names = parsed.subject().iter_common_name();
        let subject_cn = match (common_names.next(), common_names.next()) {
            (Some(name), None) => name.as_str().ok().and_then(bounded),
            _ => None,
        };
        Some(Certificate {
            san_uris,
            subject_cn,
        })
    }

    /// Whether the form of a certificate is understood at all. Pingora reads it
    /// with the same parser and panics over one whose form is not, so such a
    /// client is to be refused before.
    #[must_use]
    pub fn is_readable(der: &[u8]) -> bool {
        parse(der).is_some()
    }

    /// What the client of a connection showed, if anything.
    #[must_use]
    pub fn of(connection: &Digest) -> Option<Arc<Self>> {
        let tls = connection.ssl_digest.as_ref()?;
        tls.extension.get::<Arc<Self>>().cloned()
    }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(parsed)
}

fn bounded(name: &str) -> Option<String> {
    (name.len() <= NAME_MAX_BYTES).then(|| name.to_owned())
}

/// Reads the client's certificate at the end of each handshake, and leaves it
/// with the connection for [`Certificate::of`].
pub struct ReadsCertificates;

#[async_trait]
impl TlsAccept for ReadsCertificates {
    async fn handshake_complete_callback(
        &self,
        tls: &TlsRef,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        let certificate = Certificate::read(tls.peer_certificate_der()?)?;
        // Pingora lends what it keeps; requests take a share of their own.
        Some(Arc::new(Arc::new(certificate)))
    }
}

/// The identity `mtls`: where in a certificate the team stands.
pub struct Mtls {
    field: CertificateField,
    prefix: Option<String>,
}

impl Mtls {
    /// Takes the identity as configured.
    #[must_use]
    pub fn new(configured: &MtlsIdentity) -> Self {
        let prefix = configured.prefix.as_ref();
        Mtls {
            field: configured.team_from,
            prefix: prefix.map(ToString::to_string),
        }
    }

    /// Who pays for the requests of a connection, if its certificate says so.
    #[must_use]
    pub fn payer(&self, certificate: Option<&Certificate>) -> Option<Result<Payer, NoPayer>> {
        let certificate = certificate?;
        let names = match self.field {
            CertificateField::SanUri => certificate.san_uris.as_slice(),
            CertificateField::SubjectCn => certificate.subject_cn.as_slice(),
        };
        let mut found: Option<Payer> = None;
        let mut malformed = false;
        for name in names {
            let Some(said) = self.said(name) else {
                continue;
            };
            match (TeamId::parse(said.as_bytes()), &found) {
                (Err(_), _) => malformed = true,
                (Ok(team), None) => {
                    let principal = Some(Principal::new(name));
                    found = Some(Payer { team, principal });
                }
                (Ok(team), Some(first)) if first.team == team => {}
                (Ok(_), Some(_)) => {
                    return Some(Err(NoPayer::Invalid(
                        "the client certificate names two teams",
                    )));
                }
            }
        }
        let nobody = NoPayer::Invalid("the client certificate does not hold a team id");
        match found {
            None => malformed.then_some(Err(nobody)),
            Some(payer) => Some(Ok(payer)),
        }
    }

    /// What of a name should be a team's id, if it says whose it is at all.
    fn said<'a>(&self, name: &'a str) -> Option<&'a str> {
        match (&self.prefix, self.field) {
            (Some(prefix), _) => name.strip_prefix(prefix.as_str()),
            (None, CertificateField::SanUri) => {
                Some(name.rsplit_once('/').map_or(name, |(_, last)| last))
            }
            (None, CertificateField::SubjectCn) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType,
    };

    /// The subject's alternative names (RFC 5280, section 4.2.1.6).
    const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

    fn params(uris: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "agent");
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params
    }

    fn der(params: CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    /// A certificate whose alternative names are these bytes.
    fn with_names(names: &[u8]) -> Vec<u8> {
        let mut params = params(&[]);
        let names = CustomExtension::from_oid_content(SUBJECT_ALT_NAME, names.to_vec());
        params.custom_extensions.push(names);
        der(params)
    }

    fn says(uris: &[&str], cn: Option<&str>) -> Certificate {
        Certificate {
            san_uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            subject_cn: cn.map(str::to_owned),
        }
    }

    #[test]
    fn uris_and_the_common_name_are_read_and_nothing_else() {
        let mut params = params(&["spiffe://acme.example/team/acme", "urn:team:b"]);
        let name = "mail@acme.example".try_into().unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(name));
        let name = "acme.example".try_into().unwrap();
        params.subject_alt_names.push(SanType::DnsName(name));
        let expected = says(
            &["spiffe://acme.example/team/acme", "urn:team:b"],
            Some("agent"),
        );
        assert_eq!(Certificate::read(&der(params)), Some(expected));
        assert_eq!(
            Certificate::read(&der(self::params(&[]))),
            Some(says(&[], Some("agent")))
        );
        let mut two = self::params(&[]);
        let another = DnType::CustomDnType(vec![2, 5, 4, 3]);
        two.distinguished_name.push(another, "another");
        assert_eq!(Certificate::read(&der(two)), Some(says(&[], None)));
    }

    #[test]
    fn a_common_name_is_text_of_a_kind_that_everybody_reads_alike() {
        let named = |name: DnValue| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            Certificate::read(&der(params)).unwrap().subject_cn
        };
        let acme = || Some("acme".to_owned());
        assert_eq!(named(DnValue::Utf8String("acme".to_owned())), acme());
        let printable = "acme".try_into().unwrap();
        assert_eq!(named(DnValue::PrintableString(printable)), acme());
        // Two and four bytes a letter: bytes that are another text in ASCII.
        let wide = "\u{6163}\u{6d65}".try_into().unwrap();
        assert_eq!(named(DnValue::BmpString(wide)), None);
        let wider = "acme".try_into().unwrap();
        assert_eq!(named(DnValue::UniversalString(wider)), None);
        let nul = DnValue::Utf8String("acme\0".to_owned());
        assert_eq!(named(nul).as_deref(), Some("acme\0"));
    }

    #[test]
    fn a_certificate_cut_off_anywhere_says_nothing() {
        let whole = der(params(&["spiffe://acme.example/team/acme"]));
        assert!(Certificate::read(&whole).is_some());
        for end in 0..whole.len() {
            let cut = whole.get(..end).unwrap();
            assert_eq!(Certificate::read(cut), None, "{end}");
            assert!(!Certificate::is_readable(cut), "{end}");
        }
        let longer = [whole.as_slice(), b"\0"].concat();
        assert_eq!(Certificate::read(&longer), None);
    }

    #[test]
    fn a_byte_that_is_wrong_anywhere_breaks_nothing() {
        let whole = der(params(&["spiffe://acme.example/team/acme"]));
        for at in 0..whole.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut bent = whole.clone();
                *bent.get_mut(at).unwrap() ^= flip;
                let _ = Certificate::read(&bent);
            }
        }
    }

    #[test]
    fn names_that_cannot_be_understood_or_are_too_many_say_nothing() {
        // A list of one URI, in UTF-8 and not; then no list at all.
        assert!(Certificate::read(&with_names(b"\x30\x04\x86\x02a:")).is_some());
        for names in [
            &b"\x30\x04\x86\x02\xff\xfe"[..],
            b"\x30\x04\x86",
            b"",
            b"\x05\x00",
        ] {
            let der = with_names(names);
            assert_eq!(Certificate::read(&der), None, "{names:?}");
        }
        let uris: Vec<String> = (0..=URIS_MAX).map(|n| format!("urn:{n}")).collect();
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        let (_, most) = uris.split_first().unwrap();
        assert!(Certificate::read(&der(params(most))).is_some());
        assert_eq!(Certificate::read(&der(params(&uris))), None);
        let longest = format!("urn:{}", "a".repeat(NAME_MAX_BYTES - 4));
        assert!(Certificate::read(&der(params(&[&longest]))).is_some());
        assert_eq!(
            Certificate::read(&der(params(&[&format!("{longest}a")]))),
            None
        );
    }

    /// A team, nobody, or why not.
    type Found<'a> = Result<Option<&'a str>, &'static str>;

    const TWO: Found<'_> = Err("the client certificate names two teams");
    const NO_ID: Found<'_> = Err("the client certificate does not hold a team id");

    #[track_caller]
    fn assert_found(
        (team_from, prefix): (CertificateField, Option<&str>),
        certificate: &Certificate,
        expected: Found<'_>,
    ) {
        let mtls = Mtls::new(&MtlsIdentity {
            team_from,
            prefix: prefix.map(|prefix| prefix.parse().unwrap()),
        });
        assert_eq!(mtls.payer(None), None);
        let payer = mtls.payer(Some(certificate)).transpose();
        let found = match &payer {
            Ok(payer) => Ok(payer.as_ref().map(|payer| payer.team.as_str())),
            Err(NoPayer::Invalid(why)) => Err(*why),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{prefix:?} {certificate:?}");
    }

    #[test]
    fn the_team_is_what_the_uris_say_in_one_voice() {
        let last = (CertificateField::SanUri, None);
        for (uris, expected) in [
            (&["spiffe://a.example/team/acme"][..], Ok(Some("acme"))),
            (&["acme"], Ok(Some("acme"))),
            (&["urn:team:acme"], Ok(Some("urn:team:acme"))),
            (&[], Ok(None)),
            (&["https://a.example/"], NO_ID),
            (&["https://a.example/a%20b"], NO_ID),
            (&["https://a.example/acme\0"], NO_ID),
            (&["https://a.example/acme\0.b.example"], NO_ID),
            (&["https://a.example/acme?x"], NO_ID),
            (&["https://a.example/acmé"], NO_ID),
            (&["https://a.example/acme "], NO_ID),
            (&["https://a.example/ACME", "a://b/acme"], TWO),
            (&["https://a.example/", "b://b/b"], Ok(Some("b"))),
            (&["a://1/b", "b://2/b"], Ok(Some("b"))),
            (&["a://1/b", "a://1/c"], TWO),
        ] {
            assert_found(last, &says(uris, Some("other")), expected);
        }
        let prefix = "spiffe://acme.example/team/";
        let after = (CertificateField::SanUri, Some(prefix));
        for (uris, expected) in [
            (&["spiffe://acme.example/team/b"][..], Ok(Some("b"))),
            (&["spiffe://acme.example/ns/b", "urn:b"], Ok(None)),
            (&["urn:c", "spiffe://acme.example/team/b"], Ok(Some("b"))),
            (&["spiffe://acme.example/team/a/b"], NO_ID),
            (&["SPIFFE://acme.example/team/b"], Ok(None)),
        ] {
            assert_found(after, &says(uris, Some("other")), expected);
        }
    }

    #[test]
    fn the_team_is_what_the_common_name_says() {
        for (prefix, name, expected) in [
            (None, Some("acme"), Ok(Some("acme"))),
            (None, Some("a/acme"), NO_ID),
            (None, Some("acme\0"), NO_ID),
            (None, None, Ok(None)),
            (Some("team-"), Some("team-acme"), Ok(Some("acme"))),
            (Some("team-"), Some("acme"), Ok(None)),
        ] {
            let certificate = says(&["urn:b"], name);
            assert_found(
                (CertificateField::SubjectCn, prefix),
                &certificate,
                expected,
            );
        }
    }
}
