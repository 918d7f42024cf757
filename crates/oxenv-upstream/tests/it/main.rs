//! Tests of upstreams: manifests, child processes, clients.
//!
//! Invariant: one binary; processes that tests start are real ones.

mod forks;
mod forks_saved;
mod forks_support;
mod manifest;
mod manifest_fuzz;
mod manifest_import;
mod manifest_problems;
mod manifest_schema;
mod upstream_calls;
mod upstream_faults;
mod upstream_floods;
mod upstream_http;
mod upstream_seeds;
mod upstream_sessions;
mod upstream_support;
