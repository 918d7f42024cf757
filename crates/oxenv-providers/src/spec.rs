//! What to start, the same for every provider.
//!
//! Invariant: values of variables are secrets: they are shown nowhere, not even by `Debug`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The value of a variable, which no log shows.
pub use oxenv_process::secret::Secret as SecretText;

/// How an instance is talked to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListenAddress {
    /// A free port of the loopback address.
    #[default]
    FreePort,
    /// This port of the loopback address.
    Port(u16),
    /// A Unix socket in this folder, which must exist; a free port of the loopback address is bridged to it,
    /// so that every client can talk to it. The server finds the socket's path in `OXENV_UDS`. A container
    /// has no other network then.
    Socket(PathBuf),
}

/// Whether an image may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Never: the image must be here.
    Never,
    /// If it is not here.
    #[default]
    Missing,
    /// Each time.
    Always,
}

/// What an instance may use. `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResourceLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors; 1.5 is one and a half.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A folder of this machine that an instance sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is here. It is never cleared, and its ownership never changed.
    pub from: PathBuf,
    /// Where the instance sees it.
    pub to: PathBuf,
    /// Whether the instance may only read it.
    pub read_only: bool,
}

/// An instance to start.
#[derive(Debug, Clone, Default)]
pub struct InstanceSpec {
    /// The image, for providers that have images.
    pub image: Option<String>,
    /// The command with its arguments; empty: the image's own command. In each, `{port}` stands for the
    /// port to listen on, and `{socket}` for the path of the socket, where there is one.
    pub command: Vec<OsString>,
    /// A name for people and for `oxenv ps`; made up if there is none.
    pub name: Option<String>,
    /// Variables of its environment.
    pub env: Vec<(String, SecretText)>,
    /// The folder that it works in, which is seen at `/workspace` in a container.
    pub workspace: Option<PathBuf>,
    /// More folders.
    pub mounts: Vec<Mount>,
    /// How it is talked to.
    pub listen: ListenAddress,
    /// Its limits.
    pub limits: ResourceLimits,
    /// Whether an image may be fetched.
    pub pull: PullPolicy,
    /// Let a container write outside its workspace and `/tmp`, keep its capabilities, and run as the image's
    /// own user, regardless of the workspace's owner; some images need it.
    pub privileged_root: bool,
    /// Let a container share the machine's network, for daemons that have none for containers. It then
    /// listens on every address that its own command names.
    pub host_network: bool,
    /// Bytes that a container may put into `/tmp`, which is memory; 0: 1 GiB.
    pub tmp_bytes: u64,
    /// How long it may take until it is healthy; 0: 30 s.
    pub start_timeout: Duration,
    /// How long it has to end by itself once it is asked to; 0: 5 s.
    pub stop_grace: Duration,
    /// Whether it goes on when its [`Instance`](crate::Instance) is dropped, until `oxenv down` ends it.
    pub detached: bool,
}

impl InstanceSpec {
    /// How long it may take until it is healthy.
    #[must_use]
    pub fn start_deadline(&self) -> Duration {
        if self.start_timeout.is_zero() { Duration::from_secs(30) } else { self.start_timeout }
    }

    /// How long it has to end by itself.
    #[must_use]
    pub fn grace(&self) -> Duration {
        if self.stop_grace.is_zero() { Duration::from_secs(5) } else { self.stop_grace }
    }
}
