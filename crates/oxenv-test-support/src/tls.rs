//! A certificate of `localhost`, and what ends TLS with it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The path of `cert.pem`, of its `key.pem`, or of `ca.pem`, which signed it.
pub fn pem(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tls", name].iter().collect()
}

/// Accepts TLS with the certificate of `localhost`.
pub fn tls_acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(pem("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
