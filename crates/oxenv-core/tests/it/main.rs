//! Sessions, their store and their tools, driven through the crate's public door by environments
//! that do what a test says.
//!
//! Every test of sessions ends with [`support::settled`]: no slot taken, no environment alive, nothing stuck.

mod audit;
mod capacity;
mod changes;
mod contracts;
mod copies;
mod cut_off;
mod default_session;
mod drain;
mod failures;
mod forks;
mod graph;
mod graph_references;
mod leases;
mod once;
mod panics;
mod policy;
mod policy_rates;
mod queue;
mod reads;
mod records;
mod resets;
mod results;
mod rubric_components;
mod rubric_docs;
mod rubric_judge;
mod rubric_scored;
mod rubric_spec;
mod rubric_support;
mod schemas;
mod seeds;
mod stage;
mod steps;
mod support;
mod tool_environment;
mod toolbox_arguments;
mod toolbox_audit;
mod toolbox_changes;
mod toolbox_extras;
mod toolbox_names;
mod toolbox_policy;
mod toolbox_results;
mod toolbox_support;
mod toolbox_unavailable;
mod tools;
mod workspace;
mod workspace_archives;
mod workspace_deep;
mod workspace_forks;
mod workspace_hostile;
#[cfg(feature = "nightly-tests")]
mod workspace_nightly;
mod workspace_sessions;
mod workspace_trees;
