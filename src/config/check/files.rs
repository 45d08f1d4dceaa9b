//! PEM files: there, readable, of the right kind, and going together.

use std::path::Path;

use rustls::InconsistentKeys;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::super::fill::read_bounded;
use super::Report;

/// A certificate chain and its key, both given or neither.
pub fn optional_pair(block: &str, cert: Option<&Path>, key: Option<&Path>, report: &mut Report) {
    let (cert_at, key_at) = (format!("{block}.cert"), format!("{block}.key"));
    match (cert, key) {
        (Some(cert), Some(key)) => pair((&cert_at, cert), (&key_at, key), report),
        (Some(_), None) => report.key(
            &cert_at,
            &[&cert_at, &key_at],
            format!("`{cert_at}` needs `{key_at}`: write the PEM file with its private key"),
        ),
        (None, Some(_)) => report.key(
            &key_at,
            &[&cert_at, &key_at],
            format!("`{key_at}` needs `{cert_at}`: write the PEM file with its certificate chain"),
        ),
        (None, None) => {}
    }
}

/// A certificate chain and its key.
pub fn pair((cert_at, cert): (&str, &Path), (key_at, key): (&str, &Path), report: &mut Report) {
    let chain = certificates(cert_at, cert, report);
    let key = private_key(key_at, key, report);
    let (Some(chain), Some(key)) = (chain, key) else {
        return;
    };
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => report.clash(
            key_at,
            cert_at,
            format!("the key in `{key_at}` does not belong to the certificate in `{cert_at}`: write the two files that were made together, the server's own certificate first in its file"),
        ),
        Err(error) => report.clash(
            key_at,
            cert_at,
            format!("`{cert_at}` and `{key_at}` cannot be used: {error}"),
        ),
    }
}

/// Certificates of authorities.
pub fn authorities(at: &str, path: &Path, report: &mut Report) {
    let Some(certificates) = certificates(at, path, report) else {
        return;
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        if let Err(error) = roots.add(certificate) {
            let message = format!("holds a certificate that cannot be trusted as a CA: {error}");
            report.shown(at, path.display().to_string(), message);
            return;
        }
    }
}

fn certificates(
    at: &str,
    path: &Path,
    report: &mut Report,
) -> Option<Vec<CertificateDer<'static>>> {
    let pem = read(at, path, report)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let message = match found {
        Ok(certificates) if !certificates.is_empty() => return Some(certificates),
        Ok(_) => {
            "holds no certificate: write a PEM file with `-----BEGIN CERTIFICATE-----`".to_owned()
        }
        Err(error) => format!("is not a readable PEM file: {error}"),
    };
    report.shown(at, path.display().to_string(), message);
    None
}

fn private_key(at: &str, path: &Path, report: &mut Report) -> Option<PrivateKeyDer<'static>> {
    let pem = read(at, path, report)?;
    let message = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => return Some(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            "holds no private key: write a PEM file with `-----BEGIN PRIVATE KEY-----`, not encrypted".to_owned()
        }
        Err(_) => "is not a readable PEM file".to_owned(),
    };
    report.shown(at, path.display().to_string(), message);
    None
}

fn read(at: &str, path: &Path, report: &mut Report) -> Option<Vec<u8>> {
    match read_bounded(path) {
        Ok(bytes) => Some(bytes),
        Err(why) => {
            report.shown(
                at,
                path.display().to_string(),
                format!("cannot be read: {why}"),
            );
            None
        }
    }
}
