//! From the files of `server.tls` to what accepts HTTPS.

use std::path::Path;
use std::sync::Arc;

use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::BuildError;
use crate::config;

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
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| mistake(file, &error))?)
        }
    };
    let server = builder.with_single_cert(certificates(&tls.cert)?, key);
    let mut server = server.map_err(|error| mistake(&tls.cert, &error))?;
    server.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Acceptor::from_server_config(Arc::new(server)))
}
