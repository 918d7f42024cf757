//! The WebSocket frames that a load generator needs (RFC 6455, section 5).
//!
//! tungstenite masks each message when it is sent. Here a frame is masked once and sent many times, so that
//! the load generator costs less than the server. The masking key is constant: masking protects proxies, and
//! none is measured.

use std::ops::Range;

use anyhow::bail;

/// The key of the RFC's example; it is not zero, so that the server has to unmask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Maximum payload of a received frame; a longer one is taken for a framing error.
const MAX_PAYLOAD_BYTES: u64 = 100 << 20;

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xa;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Close,
    Ping,
    Pong,
}

/// A complete frame: its kind, and where its payload is in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: Opcode,
    pub(crate) payload: Range<usize>,
}

/// A masked text frame.
pub(crate) fn text(payload: &[u8]) -> Vec<u8> {
    masked(TEXT, payload)
}

/// A masked pong that answers a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    masked(PONG, payload)
}

/// A masked close frame with code 1000.
pub(crate) fn close() -> Vec<u8> {
    masked(CLOSE, &1000_u16.to_be_bytes())
}

/// Parses the frame at `start`; `None` while it is incomplete.
///
/// # Errors
/// For masked frames, which a server must not send, and for fragmented, compressed and binary ones, which are
/// not supported.
pub(crate) fn read(bytes: &[u8], start: usize) -> anyhow::Result<Option<Frame>> {
    let Some(&[first, second]) = bytes.get(start..start + 2) else { return Ok(None) };
    if second & 0x80 != 0 {
        bail!("the server sent a masked frame");
    }
    let opcode = match first {
        0x81 => Opcode::Text,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        other => {
            bail!(
                "the server sent a frame that begins with {other:#04x}; only unfragmented text is supported"
            )
        }
    };
    let extended_bytes = match second {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(extended) = bytes.get(start + 2..start + 2 + extended_bytes) else { return Ok(None) };
    let length = match extended_bytes {
        0 => u64::from(second),
        _ => extended.iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
    };
    if length > MAX_PAYLOAD_BYTES {
        bail!("the server sent a frame of {length} bytes; at most {MAX_PAYLOAD_BYTES} are supported");
    }
    let begin = start + 2 + extended_bytes;
    let end = begin + usize::try_from(length)?;
    Ok((end <= bytes.len()).then_some(Frame { opcode, payload: begin..end }))
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455, section 5.7: a single-frame masked text message.
    #[test]
    fn text_is_masked_as_in_the_rfc() {
        assert_eq!(text(b"Hello"), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn long_payloads_have_wide_lengths() {
        assert_eq!(text(&[0; 126])[1..4], [0x80 | 126, 0, 126]);
        assert_eq!(text(&[0; 65_536])[1..10], [0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn frames_are_read_only_when_whole() {
        let mut bytes = vec![0x81, 126, 0, 200];
        bytes.extend([b'x'; 200]);
        bytes.extend([0x89, 1, b'p']);
        for cut in 0..204 {
            assert_eq!(read(&bytes[..cut], 0).unwrap(), None, "at {cut}");
        }
        let first = read(&bytes, 0).unwrap().unwrap();
        assert_eq!(first, Frame { opcode: Opcode::Text, payload: 4..204 });
        assert_eq!(read(&bytes, 204).unwrap().unwrap(), Frame { opcode: Opcode::Ping, payload: 206..207 });
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bytes in [[0x01, 0], [0x82, 0], [0xc1, 0], [0x81, 0x80]] {
            assert!(read(&bytes, 0).is_err(), "{bytes:x?}");
        }
        assert!(read(&[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0], 0).is_err());
    }
}
