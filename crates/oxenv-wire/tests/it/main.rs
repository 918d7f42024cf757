//! Tests of the messages: golden files, properties, recorded transcripts, and the fuzz targets'
//! bodies on a stable toolchain.
//!
//! Entry point for reading: `golden.rs`, which says how the files under `tests/golden/` hold the set
//! of messages. `UPDATE_EXPECT=1 cargo test -p oxenv-wire` rewrites those files.

#[path = "../../../../fuzz/bodies.rs"]
#[allow(unreachable_pub, reason = "the file is a library of its own for the fuzz targets")]
mod bodies;
mod catalogue;
mod enumerations;
mod errors;
mod fuzz;
mod golden;
mod malformed;
mod multi;
mod observations;
mod pretty;
mod properties;
mod protocol;
mod refusals;
mod requests;
mod results;
mod rpc;
mod transcripts;
