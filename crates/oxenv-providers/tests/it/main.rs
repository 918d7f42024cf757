//! The providers, against real processes and a real daemon.
//!
//! Invariant: what needs a Docker daemon runs if OXENV_DOCKER_HOST names one, and else says on stderr that it
//! was skipped; `scripts/with-docker` gives one.

mod contract;
mod docker;
mod docker_faults;
mod process;
mod support;
