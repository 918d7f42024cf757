//! The one place where environment variables are read.
//!
//! Invariant: an empty variable counts as unset, but for those that a manifest or a child process asks for.

use std::ffi::OsString;

/// A variable that a manifest or a child process asks for.
pub(crate) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable; an empty one counts as not set.
pub(crate) fn nonempty(name: &str) -> Option<String> {
    lookup(name).filter(|value| !value.is_empty())
}

/// The variables that a Python environment inherits: all but this command's own, which may be
/// secret.
pub(crate) fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("OXENV_")).collect()
}

/// The token that clients send if they are given no other.
pub(crate) fn token() -> Option<String> {
    nonempty("OXENV_TOKEN")
}

/// The environment variables for Fleet.
pub(crate) struct FleetVariables {
    /// The API key.
    pub(crate) api_key: Option<String>,
    /// The control plane's URL.
    pub(crate) base_url: Option<String>,
    /// The token of instances' runners.
    pub(crate) runner_token: Option<String>,
}

/// What Fleet's own SDK reads of the environment.
pub(crate) fn fleet() -> FleetVariables {
    FleetVariables {
        api_key: nonempty("FLEET_API_KEY"),
        base_url: nonempty("FLEET_BASE_URL"),
        runner_token: nonempty("RUNNER_AUTH_TOKEN"),
    }
}

/// The Docker daemon to use, where it is not the machine's own.
pub(crate) fn docker_host() -> Option<String> {
    nonempty("OXENV_DOCKER_HOST").or_else(|| nonempty("DOCKER_HOST"))
}
