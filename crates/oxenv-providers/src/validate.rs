//! Checks of a spec before anything is started.
//!
//! Invariant: no value of a variable is in a message.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{ProviderCode, ProviderError};
use crate::spec::InstanceSpec;

/// The longest name, in bytes; with what is put before it, a host's name may be 63.
const MAX_NAME_BYTES: usize = 56;

/// The error for a spec that cannot be started.
pub(crate) fn invalid_spec(why: impl Into<String>) -> ProviderError {
    ProviderError::new(ProviderCode::InvalidSpec, why)
}

/// The instance's name: the given one, or one that is made up.
pub(crate) fn instance_name(spec: &InstanceSpec) -> Result<String, ProviderError> {
    let Some(name) = &spec.name else {
        return Ok(format!("env-{}", &Uuid::new_v4().simple().to_string()[..8]));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !begins || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(invalid_spec(format!(
            "'{name}' is no name for an instance: use up to {MAX_NAME_BYTES} letters, digits, '-', '_' and \
             '.', the first a letter or a digit"
        )));
    }
    Ok(name.clone())
}

/// Whether all variables can be set.
pub(crate) fn check_variables(spec: &InstanceSpec) -> Result<(), ProviderError> {
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid_spec(format!(
                "'{}' is no name of a variable",
                name.replace('\0', "\u{fffd}")
            )));
        }
        if value.expose().contains('\0') {
            return Err(invalid_spec(format!(
                "the value of {name} has a NUL in it, which no variable can have"
            )));
        }
    }
    Ok(())
}

/// Whether the limits can be kept by anyone.
pub(crate) fn check_limits(spec: &InstanceSpec) -> Result<(), ProviderError> {
    let limits = spec.limits;
    if limits.cpus.is_some_and(|cpus| !cpus.is_finite() || cpus < 0.01) {
        return Err(invalid_spec("cpus must be 0.01 or more"));
    }
    if limits.pids == Some(0) || limits.memory == Some(0) {
        return Err(invalid_spec("a limit of 0 leaves nothing to run with"));
    }
    Ok(())
}

/// A folder of this machine, absolute and without links.
pub(crate) fn resolve_folder(what: &str, path: &Path) -> Result<PathBuf, ProviderError> {
    let shown = path.display();
    match path.canonicalize() {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => Err(invalid_spec(format!("the {what} '{shown}' is no folder"))),
        Err(error) => Err(invalid_spec(format!("the {what} '{shown}' cannot be used: {error}"))),
    }
}

/// Checks that a port of the loopback address is free, so that no other server is taken for the new one.
pub(crate) fn check_port_free(port: u16) -> Result<(), ProviderError> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("port {port} of 127.0.0.1 cannot be had: {error}; choose another");
            Err(ProviderError::new(ProviderCode::StartFailed, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ResourceLimits, SecretText};

    #[test]
    fn names_are_plain() {
        let named = |name: &str| {
            super::instance_name(&InstanceSpec { name: Some(name.to_owned()), ..Default::default() })
        };
        assert_eq!(named("my-env_1.2").unwrap(), "my-env_1.2");
        for bad in ["", "-x", "a/b", "a b", "é", &"x".repeat(57)] {
            assert_eq!(named(bad).unwrap_err().code, ProviderCode::InvalidSpec, "{bad}");
        }
        assert_ne!(
            super::instance_name(&InstanceSpec::default()).unwrap(),
            super::instance_name(&InstanceSpec::default()).unwrap()
        );
    }

    #[test]
    fn variables_are_judged_without_their_values() {
        let spec = |name: &str, value: &str| InstanceSpec {
            env: vec![(name.to_owned(), SecretText::new(value))],
            ..Default::default()
        };
        assert!(check_variables(&spec("A", "b=c")).is_ok());
        assert!(
            check_variables(&spec("A=", "hunter22")).is_err() && check_variables(&spec("", "x")).is_err()
        );
        let error = check_variables(&spec("A", "hunter22\0")).unwrap_err();
        assert!(!error.to_string().contains("hunter22"), "{error}");
    }

    #[test]
    fn limits_leave_something() {
        let limited = |limits| super::check_limits(&InstanceSpec { limits, ..Default::default() }).is_ok();
        assert!(limited(ResourceLimits { memory: Some(1), cpus: Some(0.5), pids: Some(1) }));
        assert!(!limited(ResourceLimits { cpus: Some(f64::NAN), ..ResourceLimits::default() }));
        assert!(!limited(ResourceLimits { cpus: Some(-1.0), ..ResourceLimits::default() }));
        assert!(!limited(ResourceLimits { pids: Some(0), ..ResourceLimits::default() }));
    }
}
