//! Certificate authorities, certificates and rustls configurations.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SigningKey as _,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::process::Folder;

/// A certificate authority of a test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Certified {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The key, PEM.
    pub key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, super::redis::fresh("test authority"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names or IP addresses.
    pub fn issue(&self, names: &[&str]) -> Certified {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, super::redis::fresh("certificate"));
        self.sign(params)
    }

    /// The certificate that these parameters describe.
    pub fn sign(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified {
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A client that trusts this authority, offers these protocols and shows
    /// this certificate.
    pub fn client(&self, alpn: &[&str], shown: Option<&Certified>) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS, alpn, shown)
    }

    /// The same, with these versions of TLS alone.
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
        shown: Option<&Certified>,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match shown {
            // As it is: rustls would not show one that is malformed.
            Some(shown) => builder.with_client_cert_resolver(shown.as_it_is()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// The same certificate with `from` in its content replaced by `to`, which
    /// is as long, and signed again: good, but perhaps malformed.
    pub fn sign_bent(&self, certified: &Certified, from: &[u8], to: &[u8]) -> Certified {
        /// The signature algorithm, ecdsa-with-SHA256, between content and
        /// signature (RFC 5758, section 3.2).
        const ALGORITHM: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
        assert_eq!(from.len(), to.len());
        let whole: &[u8] = &certified.chain[0];
        // Both begin with a tag and a length of two bytes.
        assert_eq!((whole[1], whole[5]), (0x82, 0x82), "a longer certificate");
        let length = usize::from(u16::from_be_bytes([whole[6], whole[7]]));
        let mut content = whole[4..8 + length].to_vec();
        let mut places = content.windows(from.len());
        let at = places
            .rposition(|place| place == from)
            .expect("it is there");
        content[at..at + to.len()].copy_from_slice(to);
        let signature = self.issuer.key().sign(&content).unwrap();
        let bits = [3, u8::try_from(signature.len() + 1).unwrap(), 0];
        let body = [&content[..], ALGORITHM, &bits, &signature].concat();
        let head = u16::try_from(body.len()).unwrap().to_be_bytes();
        let der = [&[0x30, 0x82], &head[..], &body].concat();
        Certified {
            cert_pem: String::new(),
            key_pem: certified.key_pem.clone(),
            chain: vec![der.into()],
            key: certified.key.clone_key(),
        }
    }
}

impl Certified {
    fn as_it_is(&self) -> Arc<SingleCertAndKey> {
        let key = provider()
            .key_provider
            .load_private_key(self.key.clone_key());
        let certified = CertifiedKey::new(self.chain.clone(), key.unwrap());
        Arc::new(SingleCertAndKey::from(certified))
    }

    /// A server that shows this certificate; with `clients`, one of theirs is
    /// required.
    pub fn server(&self, alpn: &[&str], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(clients.roots(), provider())
                    .build()
                    .unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// Writes `STEM.crt` and `STEM.key`.
    pub fn write(&self, folder: &Folder, stem: &str) -> (PathBuf, PathBuf) {
        let cert = folder.write(&format!("{stem}.crt"), &self.cert_pem);
        let key = folder.write(&format!("{stem}.key"), &self.key_pem);
        (cert, key)
    }
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}
