//! The TLS handshake, with the roots that the machine trusts.
//!
//! Invariant: the same roots and the same provider of cryptography as reqwest has, named here, so that what
//! the process has for a default does not matter.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, InvalidMessage};

use crate::error::{ClientError, Code, Result};
use crate::server_address::ServerAddress;

pub(super) async fn handshake(target: &ServerAddress, tcp: TcpStream) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| tls_failed(target, "the host is no name that a certificate can have"))?;
    let config = client_config().map_err(|error| tls_failed(target, &error))?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|error| tls_failed(target, &describe(&error)))
}

/// Made once: reading the roots takes milliseconds.
pub(crate) fn client_config() -> std::result::Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let made = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(made)).clone())
}

fn describe(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the server does not speak TLS on that port; use http:// or another port".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("its certificate is refused: {reason}; trust its issuer, or check the host's name")
        }
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server hung up; it may not speak TLS on that port".to_owned()
        }
        None => error.to_string(),
    }
}

fn tls_failed(target: &ServerAddress, why: &str) -> ClientError {
    ClientError::new(Code::TlsFailed, format!("no safe connection to {target}: {why}"))
}
