//! The message in a complete stream of server-sent events (SSE).
//!
//! Only the last event with data counts: notifications, and the event to resume at, come before the result of
//! a call.

use anyhow::Context;

/// The data of the last event with data. Data on several lines is not joined: JSON-RPC messages are on one
/// line.
pub(crate) fn last_message(stream: &[u8]) -> anyhow::Result<&[u8]> {
    stream
        .rsplit(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"data:"))
        .map(<[u8]>::trim_ascii)
        .find(|data| !data.is_empty())
        .context("a stream of events without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_with_data_is_the_message() {
        let stream = b"id: 0\nretry: 3000\ndata:\n\ndata: {\"n\":1}\n\n\
            event: message\r\ndata:{\"n\":2}\r\nid: 1\r\n\r\n:ping\n\n";
        assert_eq!(last_message(stream).unwrap(), b"{\"n\":2}");
        assert!(last_message(b"id: 0\ndata:\n\n").is_err());
    }
}
