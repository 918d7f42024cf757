//! The fixture over stdio: `upstream-stdio [modern]`. As `modern` it knows no handshake. `upstream-stdio
//! supervise` is the supervisor of this crate's tests.
//!
//! Invariant: it ends with its input.

mod fixture;

use std::process::ExitCode;

use fixture::Fixture;
use rmcp::ServiceExt;
use rmcp::model::ProtocolVersion;

fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    if mode.as_deref() == Some("supervise") {
        return oxenv_process::supervise::main(&["supervise"]);
    }
    serve(mode.as_deref() == Some("modern"));
    ExitCode::SUCCESS
}

#[tokio::main(flavor = "current_thread")]
async fn serve(modern: bool) {
    let versions: &[ProtocolVersion] =
        if modern { &[ProtocolVersion::V_2026_07_28] } else { ProtocolVersion::KNOWN_VERSIONS };
    let serving = Fixture::new(versions).serve(rmcp::transport::stdio()).await;
    if let Ok(serving) = serving {
        let _ = serving.waiting().await;
    }
}
