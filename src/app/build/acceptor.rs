//! From the files of `server.tls` to what accepts HTTPS.

use std::path::Path;
use std::sync::Arc;

use pingora_core::listeners::tls::{Acceptor, TlsSettings};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig};
use rustls::{Error, SignatureScheme};

use super::BuildError;
use crate::config::{self, ClientAuth};
use crate::edge::identify::certificate::{Certificate, ReadsCertificates};

/// Protocols offered by ALPN, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Builds the acceptor of the HTTPS listeners from its files.
///
/// # Errors
/// [`BuildError::Tls`].
pub fn acceptor(tls: &config::ServerTls) -> Result<Acceptor, BuildError> {
    let mistake = |file: &Path, why: &dyn std::fmt::Display| {
        BuildError::Tls(format!("{}: {why}", file.display()))
    };
    let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>, BuildError> {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        read.map_err(|error| mistake(file, &error))
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| mistake(&tls.key, &error))?;
    let builder = ServerConfig::builder();
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for ca in certificates(file)? {
                roots.add(ca).map_err(|error| mistake(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            let verifier = match tls.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| mistake(file, &error))?;
            builder.with_client_cert_verifier(Arc::new(Readable(verifier)))
        }
    };
    let server = builder.with_single_cert(certificates(&tls.cert)?, key);
    let mut server = server.map_err(|error| mistake(&tls.cert, &error))?;
    server.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    if tls.client_ca.is_none() {
        return Ok(Acceptor::from_server_config(Arc::new(server)));
    }
    // A resumed session would bring back a certificate that nobody verifies
    // again, however long it has expired.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let settings = TlsSettings::with_callbacks(Box::new(ReadsCertificates));
    let mut settings = settings.map_err(|error| BuildError::Tls(error.to_string()))?;
    settings.set_cert_resolver(Arc::clone(&server.cert_resolver));
    let mut acceptor = settings.build();
    // Pingora takes callbacks, or a rustls configuration, but not both: this
    // puts ours in the place of the one that it has just made up.
    acceptor.acceptor = Arc::new(server).into();
    Ok(acceptor)
}

/// Refuses, of the certificates that are good, those that cannot be read: after
/// the handshake Pingora reads them too, and panics where it cannot.
#[derive(Debug)]
struct Readable(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Readable {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        if Certificate::is_readable(leaf) {
            Ok(verified)
        } else {
            Err(CertificateError::BadEncoding.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.0;
        verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.0;
        verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SigningKey};

    /// ecdsa-with-SHA256 (RFC 5758, section 3.2), between content and
    /// signature.
    const ALGORITHM: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";

    /// A public key's algorithm, and the same with a tag that says nothing.
    const KEY_ALGORITHM: &[u8] = b"\x30\x13\x06\x07";
    const NO_ALGORITHM: &[u8] = b"\x00\x13\x06\x07";

    #[test]
    fn a_good_certificate_that_cannot_be_read_is_refused() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let webpki = webpki.build().unwrap();
        let ours = Readable(Arc::clone(&webpki));

        let params = CertificateParams::new(vec!["x".repeat(200)]).unwrap();
        let good = params.signed_by(&KeyPair::generate().unwrap(), &authority);
        let good = good.unwrap().der().clone();
        let content = good.get(4..8 + usize::from(u16::from_be_bytes([good[6], good[7]])));
        let mut content = content.unwrap().to_vec();
        let mut places = content.windows(KEY_ALGORITHM.len());
        let at = places.position(|place| place == KEY_ALGORITHM).unwrap();
        content.splice(at..at + NO_ALGORITHM.len(), NO_ALGORITHM.iter().copied());
        let signature = authority.key().sign(&content).unwrap();
        let bits = [3, u8::try_from(signature.len() + 1).unwrap(), 0];
        let body = [&content[..], ALGORITHM, &bits, &signature].concat();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let bent = CertificateDer::from([&[0x30, 0x82], &length[..], &body].concat());

        let now = UnixTime::now();
        let bad_form = Err(CertificateError::BadEncoding.into());
        for (certificate, of_webpki, of_ours) in
            [(&good, Ok(()), Ok(())), (&bent, Ok(()), bad_form)]
        {
            let verified = webpki.verify_client_cert(certificate, &[], now);
            assert_eq!(verified.map(drop), of_webpki);
            let verified = ours.verify_client_cert(certificate, &[], now);
            assert_eq!(verified.map(drop), of_ours);
        }
    }
}
