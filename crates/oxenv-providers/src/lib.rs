//! Ways to start an environment server somewhere: as a process of this machine, in a container.
//!
//! Invariant: an instance that was started is ended exactly once: by [`Instance::stop`], or by its drop.

mod bridge;
mod checked;
#[cfg(feature = "docker")]
pub mod docker;
mod error;
mod health;
mod instance;
mod owner;
pub mod process;
mod spec;
mod words;

pub use error::{ProviderCode, ProviderError};
pub use instance::{Instance, InstanceInfo, Provider, Running};
pub use spec::{Door, InstanceSpec, Limits, Mount, PullPolicy, SecretText};
