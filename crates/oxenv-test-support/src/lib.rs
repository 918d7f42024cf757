//! What the tests of several crates share.
//!
//! Clients that can be wrong: [`http`](fn@http) as bytes, [`RawWs`] with frames by hand, beside [`Ws`],
//! which is right, and [`BlockingSocket`] for tests without a runtime. [`TempFolder`], waits that end, and
//! [`tally`], which counts the tries of a fault.
//! Invariant: no crate of ours is used here, so that each can use it.

mod blocking_socket;
mod frame;
mod http;
pub mod tally;
mod temp_folder;
#[cfg(feature = "tls")]
mod tls;
mod wait;
mod websocket;

pub use blocking_socket::{BlockingSocket, Received};
pub use frame::{masked_frame, upgrade_request};
pub use http::{Reply, get, http, post, post_text, raw, rpc, rpc_code};
pub use temp_folder::{TempFolder, unique};
#[cfg(feature = "tls")]
pub use tls::{pem, tls_acceptor};
pub use wait::{WAIT_TIMEOUT, block_until, soon, until};
pub use websocket::{RawWs, Ws, code};
