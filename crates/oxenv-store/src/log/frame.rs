//! Frames: each record is one line, `LENGTH CRC32 JSON`, the numbers in 8 hexadecimal digits each.
//!
//! Invariant: a frame is given only when its length and its checksum fit; its text holds no line
//! end, so after any damage reading goes on behind the next one. Only what has no line end yet can be
//! a frame whose writing was cut off.

use std::io::{self, Read};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// `LENGTH CRC32 `, in bytes.
const PREFIX_BYTES: usize = 18;
/// Bytes of the pieces in which files are read; a longer frame gets longer pieces.
const READ_BYTES: usize = 256 * 1024;

/// What stands at some place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FramePiece {
    /// A frame.
    Frame {
        /// Where it begins, in bytes from where reading began.
        offset: u64,
        /// Where its text is, for [`Frames::text`], until the next piece is read.
        text: Range<usize>,
    },
    /// Bytes that are no frame, between frames.
    Damage {
        /// Where they begin.
        offset: u64,
        /// How many they are.
        bytes: u64,
    },
}

/// Reads frames from a file.
pub(crate) struct Frames<R> {
    source: R,
    buffer: Vec<u8>,
    /// What of the buffer was given already.
    used: usize,
    /// The place of the buffer's beginning in the file.
    base: u64,
    /// Where damage began that was not reported yet.
    damage: Option<u64>,
    /// The checksum of everything before the next piece.
    checksum: crc32fast::Hasher,
}

/// The content of a file, or of its first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Their CRC-32.
    #[serde(with = "hex")]
    pub(crate) crc32: u32,
}

/// What the first bytes of a text are.
enum PrefixScan {
    /// A frame; its length in bytes, its ends included.
    Frame(usize),
    /// The beginning of one, as far as can be seen.
    Torn,
    /// No frame; the number of bytes before the next line.
    Damage(usize),
}

/// Appends a frame around the text that `write` appends. Line ends in it become spaces: outside of
/// JSON's strings they mean the same, inside they are never bare.
pub(crate) fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + PREFIX_BYTES, b' ');
    write(out);
    let (prefix, payload) = out[start..].split_at_mut(PREFIX_BYTES);
    for byte in payload.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    // A text of 4 GiB or more gets a length that does not fit, so it is never taken for a frame.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    put_hex(&mut prefix[..8], length);
    put_hex(&mut prefix[9..17], crc32fast::hash(payload));
    out.push(b'\n');
}

/// The length in bytes of the frame around a text of that length.
pub(crate) fn framed(text: usize) -> usize {
    PREFIX_BYTES + text + 1
}

/// The text of the frame that these bytes are.
pub(crate) fn only(bytes: &[u8]) -> Option<&[u8]> {
    match scan(bytes) {
        PrefixScan::Frame(length) if length == bytes.len() => Some(&bytes[PREFIX_BYTES..length - 1]),
        _ => None,
    }
}

/// Whether these bytes, which end a file, can be the beginning of a frame that was never finished.
pub(crate) fn is_unfinished(rest: &[u8]) -> bool {
    let (head, text) = rest.split_at(rest.len().min(PREFIX_BYTES));
    let fits = |(at, byte): (usize, &u8)| match at {
        8 | 17 => *byte == b' ',
        _ => get_hex(std::slice::from_ref(byte)).is_some(),
    };
    if !head.iter().enumerate().all(fits) {
        return false;
    }
    // Text has no control characters, such as the zeros of a lost page.
    let Some((length, checksum)) = prefix(rest) else { return true };
    text.iter().all(|byte| *byte >= b' ')
        && (text.len() < length || text.len() == length && crc32fast::hash(text) == checksum)
}

impl Content {
    /// Of a file that is empty.
    pub(crate) const NONE: Content = Content { bytes: 0, crc32: 0 };

    /// This content with more bytes at the end.
    pub(crate) fn with(self, more: &[u8]) -> Content {
        let mut checksum = crc32fast::Hasher::new_with_initial(self.crc32);
        checksum.update(more);
        Content { bytes: self.bytes + more.len() as u64, crc32: checksum.finalize() }
    }
}

impl<R: Read> Frames<R> {
    /// Reads on from where the source stands, which is behind what was read before.
    pub(crate) fn new(source: R, before: Content) -> Self {
        let checksum = crc32fast::Hasher::new_with_initial(before.crc32);
        Frames { source, buffer: Vec::new(), used: 0, base: before.bytes, damage: None, checksum }
    }

    /// Everything before the next piece; after the last one, what is whole.
    pub(crate) fn content(&self) -> Content {
        Content { bytes: self.base + self.used as u64, crc32: self.checksum.clone().finalize() }
    }

    /// What was read behind [`Frames::content`]: at the end, the torn tail.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// The next piece; none at the end and at a torn tail. Asked again, it looks for what has been
    /// written since.
    pub(crate) fn next(&mut self) -> io::Result<Option<FramePiece>> {
        loop {
            match scan(&self.buffer[self.used..]) {
                PrefixScan::Frame(length) => {
                    let offset = self.base + self.used as u64;
                    if let Some(begin) = self.damage.take() {
                        return Ok(Some(FramePiece::Damage { offset: begin, bytes: offset - begin }));
                    }
                    let text = self.used + PREFIX_BYTES..self.used + length - 1;
                    self.pass(length);
                    return Ok(Some(FramePiece::Frame { offset, text }));
                }
                PrefixScan::Damage(length) => {
                    self.damage.get_or_insert(self.base + self.used as u64);
                    self.pass(length);
                }
                PrefixScan::Torn => {
                    if self.fill()? == 0 {
                        // A line that has its end was written whole, so it is damaged also where it is the
                        // last.
                        let end = self.base + self.used as u64;
                        return Ok(self
                            .damage
                            .take()
                            .map(|offset| FramePiece::Damage { offset, bytes: end - offset }));
                    }
                }
            }
        }
    }

    /// The text of the frame that was given last.
    pub(crate) fn text(&self, text: Range<usize>) -> &[u8] {
        &self.buffer[text]
    }

    fn pass(&mut self, length: usize) {
        self.checksum.update(&self.buffer[self.used..self.used + length]);
        self.used += length;
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.used);
        self.base += self.used as u64;
        self.used = 0;
        let piece = READ_BYTES.max(self.buffer.len()) as u64;
        self.source.by_ref().take(piece).read_to_end(&mut self.buffer)
    }
}

fn scan(bytes: &[u8]) -> PrefixScan {
    if let Some((length, checksum)) = prefix(bytes) {
        let end = PREFIX_BYTES + length;
        if bytes.len() > end && crc32fast::hash(&bytes[PREFIX_BYTES..end]) == checksum {
            return PrefixScan::Frame(end + 1);
        }
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => PrefixScan::Damage(at + 1),
        None => PrefixScan::Torn,
    }
}

fn prefix(bytes: &[u8]) -> Option<(usize, u32)> {
    let bytes = bytes.get(..PREFIX_BYTES)?;
    let spaced = bytes[8] == b' ' && bytes[17] == b' ';
    let length = get_hex(&bytes[..8]).filter(|_| spaced)?;
    Some((length as usize, get_hex(&bytes[9..17])?))
}

fn put_hex(out: &mut [u8], number: u32) {
    for (at, digit) in out.iter_mut().enumerate() {
        let nibble = (number >> (28 - 4 * at)) as u8 & 0xf;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
}

fn get_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(nibble))
    })
}

/// A checksum as 8 hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:08x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let digits = String::deserialize(deserializer)?;
        super::get_hex(digits.as_bytes()).ok_or_else(|| D::Error::custom("no checksum in hexadecimal digits"))
    }
}
