//! Child processes that end with everything they started, and secrets kept out of what they write.
//!
//! Entry point: [`Supervisor`](child::Supervisor), which starts commands.
//!
//! ```standalone_crate
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use oxenv_process::child::{ChildSpec, Supervisor};
//! use oxenv_process::secret::{Redactor, Secret};
//! use tokio::io::AsyncWriteExt;
//! use tokio::net::UnixStream;
//!
//! fn main() -> ExitCode {
//!     // Before any runtime: the supervisor of what a program starts can be the program itself.
//!     if std::env::args().nth(1).is_some_and(|first| first == "supervise") {
//!         return oxenv_process::supervise::main(&["supervise"]);
//!     }
//!     tokio::runtime::Runtime::new().unwrap().block_on(run_worker());
//!     ExitCode::SUCCESS
//! }
//!
//! async fn run_worker() {
//!     let supervisor = Supervisor::new(std::env::current_exe().unwrap(), ["supervise"]);
//!     let spec = ChildSpec {
//!         label: "worker".to_owned(),
//!         program: "sh".into(),
//!         arguments: vec!["-c".into(), "read code; echo the token is $TOKEN; exit $code".into()],
//!         environment: vec![
//!             ("PATH".into(), "/usr/bin:/bin".into()),
//!             ("TOKEN".into(), "hunter22".into()),
//!         ],
//!         folder: None,
//!         grace: Duration::from_secs(1),
//!     };
//!     let (mut socket, theirs) = UnixStream::pair().unwrap();
//!     let theirs = theirs.into_std().unwrap();
//!     theirs.set_nonblocking(false).unwrap();
//!     let redactor = Redactor::new([&Secret::new("hunter22")]);
//!     let child = supervisor.spawn_with_socket(spec, theirs, redactor).unwrap();
//!     socket.write_all(b"3\n").await.unwrap();
//!     assert_eq!(child.describe_end().await, "exited with code 3: the token is ***");
//! }
//! ```
//!
//! Invariant: this crate alone starts processes (held by `tidy.rs`), and nothing that it started survives
//! this process, unless it was started to.

pub mod child;
pub mod run;
pub mod secret;
pub mod supervise;
pub mod tail;
