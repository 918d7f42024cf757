//! The one place where environment variables are read.
//!
//! Invariant: an empty variable counts as unset, but for those that a manifest or a child process asks for.

use std::ffi::OsString;

/// A variable that a manifest or a child process asks for.
pub(crate) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable that is set to something.
pub(crate) fn set(name: &str) -> Option<String> {
    lookup(name).filter(|value| !value.is_empty())
}

/// The variables that a Python environment inherits: all but this command's own, which may be
/// secret.
pub(crate) fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("OXENV_")).collect()
}

/// The token that clients send if they are given no other.
pub(crate) fn token() -> Option<String> {
    set("OXENV_TOKEN")
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
        api_key: set("FLEET_API_KEY"),
        base_url: set("FLEET_BASE_URL"),
        runner_token: set("RUNNER_AUTH_TOKEN"),
    }
}

/// The Docker daemon to use, where it is not the machine's own.
pub(crate) fn docker_host() -> Option<String> {
    set("OXENV_DOCKER_HOST").or_else(|| set("DOCKER_HOST"))
}
