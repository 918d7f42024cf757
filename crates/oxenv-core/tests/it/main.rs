//! Sessions, their store and their tools, driven through the crate's public door by environments
//! that do what a test says.
//!
//! Every test of sessions ends with [`support::settled`]: no slot taken, no environment alive, nothing stuck.

mod audit;
mod capacity;
mod default_session;
mod drain;
mod failures;
mod leases;
mod panics;
mod policy;
mod policy_rates;
mod reads;
mod resets;
mod seeds;
mod stage;
mod steps;
mod support;
mod tools;
