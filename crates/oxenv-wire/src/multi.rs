//! Frames of the subprotocol `oxenv.1`: one socket, many sessions, several requests in flight; and the
//! items of a batch, which are the same requests without an id.
//!
//! Invariant: the envelope is strict. A key that is unknown, or that the request's type does not have,
//! is refused, so a promise that would not be kept (`expected_step` on a fork) is never taken.

mod reply;
mod request;

pub use reply::{
    MultiError, MultiReply, ReplyHead, ReplyKind, write_batch_data, write_multi_error, write_multi_reply,
};
pub use request::{
    BatchItem, BatchRequest, MAX_BATCH_ITEMS, MultiFrame, MultiFrameError, MultiRequest, MultiWork, Operation,
};

/// The name of the subprotocol, as a client offers it in `Sec-WebSocket-Protocol`.
pub const MULTI_PROTOCOL: &str = "oxenv.1";
