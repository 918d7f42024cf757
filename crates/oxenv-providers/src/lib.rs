//! Ways to start an environment server somewhere: as a process of this machine, in a container.
//!
//! Invariant: an instance that was started is ended exactly once: by [`Instance::stop`], or by its drop.

#[cfg(feature = "docker")]
pub mod docker;
mod error;
mod health;
mod instance;
mod logs;
mod owner;
mod port_forward;
pub mod process;
mod spec;
mod validate;

pub use error::{ProviderCode, ProviderError};
pub use instance::{Instance, InstanceInfo, Provider, ProviderFuture};
pub use spec::{InstanceSpec, ListenAddress, Mount, PullPolicy, ResourceLimits, SecretText};
