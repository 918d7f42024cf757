//! Tests of upstreams: manifests, child processes, clients.
//!
//! Invariant: one binary; processes that tests start are real ones.

mod manifest;
mod manifest_fuzz;
mod manifest_import;
mod manifest_problems;
mod manifest_schema;
