//! The fixture over stdio: `upstream-stdio [modern]`. As `modern` it knows no handshake.
//!
//! Invariant: it ends with its input.

mod fixture;

use fixture::Fixture;
use rmcp::ServiceExt;
use rmcp::model::ProtocolVersion;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let modern = std::env::args().nth(1).as_deref() == Some("modern");
    let versions: &[ProtocolVersion] =
        if modern { &[ProtocolVersion::V_2026_07_28] } else { ProtocolVersion::KNOWN_VERSIONS };
    let serving = Fixture::new(versions).serve(rmcp::transport::stdio()).await;
    if let Ok(serving) = serving {
        let _ = serving.waiting().await;
    }
}
