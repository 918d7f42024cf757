//! Tests of child processes and their supervisor.
//!
//! Invariant: one binary; processes that tests start are real ones.

mod children;
mod children_end;
mod children_support;
