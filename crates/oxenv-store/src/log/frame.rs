//! Frames: each record is one line, `LENGTH CRC32 JSON`, the numbers in 8 hexadecimal digits each.
//!
//! Invariant: a frame is given only when its length and its checksum fit; its text holds no line
//! end, so after any damage reading goes on behind the next one.

use std::io::{self, Read};
use std::ops::Range;

/// `LENGTH CRC32 `, in bytes.
const PREFIX: usize = 18;
/// Files are read in pieces of so many bytes; a longer frame gets longer pieces.
const PIECE: usize = 256 * 1024;

/// What stands at some place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A frame.
    Frame {
        /// Where it begins, in bytes from where reading began.
        offset: u64,
        /// Where its text is, for [`Frames::text`], until the next piece is asked for.
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
    /// Where damage began that was not told yet.
    damage: Option<u64>,
}

/// What the first bytes of a text are.
enum Scan {
    /// A frame of so many bytes, its ends included.
    Frame(usize),
    /// The beginning of one, as far as can be seen.
    Torn,
    /// No frame; the next line begins after so many bytes.
    Damage(usize),
}

/// Appends a frame around the text that `write` appends. Line ends in it become spaces: outside of
/// JSON's strings they mean the same, inside they are never bare.
pub(crate) fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + PREFIX, b' ');
    write(out);
    let (prefix, payload) = out[start..].split_at_mut(PREFIX);
    for byte in payload.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    // A text of 4 GiB or more gets a length that does not fit, so it is never taken for a frame.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    put_hex(&mut prefix[..8], length);
    put_hex(&mut prefix[9..17], crc32fast::hash(payload));
    out.push(b'\n');
}

/// How many bytes a frame takes around so many bytes of text.
pub(crate) fn framed(text: usize) -> usize {
    PREFIX + text + 1
}

/// The text of the frame that these bytes are.
pub(crate) fn only(bytes: &[u8]) -> Option<&[u8]> {
    match scan(bytes) {
        Scan::Frame(length) if length == bytes.len() => Some(&bytes[PREFIX..length - 1]),
        _ => None,
    }
}

impl<R: Read> Frames<R> {
    /// Reads on from where the source stands, which is `base` bytes into the file.
    pub(crate) fn new(source: R, base: u64) -> Self {
        Frames { source, buffer: Vec::new(), used: 0, base, damage: None }
    }

    /// Where the next piece begins; after the last one, where what is whole ends.
    pub(crate) fn offset(&self) -> u64 {
        self.damage.unwrap_or(self.base + self.used as u64)
    }

    /// How many bytes were read behind [`Frames::offset`]: at the end, the torn tail.
    pub(crate) fn rest(&self) -> u64 {
        self.base + self.buffer.len() as u64 - self.offset()
    }

    /// The next piece; none at the end and at a torn tail. Asked again, it looks for what has been
    /// written since.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            match scan(&self.buffer[self.used..]) {
                Scan::Frame(length) => {
                    let offset = self.base + self.used as u64;
                    if let Some(begin) = self.damage.take() {
                        return Ok(Some(Piece::Damage { offset: begin, bytes: offset - begin }));
                    }
                    let text = self.used + PREFIX..self.used + length - 1;
                    self.used += length;
                    return Ok(Some(Piece::Frame { offset, text }));
                }
                Scan::Damage(length) => {
                    self.damage.get_or_insert(self.base + self.used as u64);
                    self.used += length;
                }
                Scan::Torn => {
                    if self.fill()? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The text of the frame that was given last.
    pub(crate) fn text(&self, text: Range<usize>) -> &[u8] {
        &self.buffer[text]
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.used);
        self.base += self.used as u64;
        self.used = 0;
        let piece = PIECE.max(self.buffer.len()) as u64;
        self.source.by_ref().take(piece).read_to_end(&mut self.buffer)
    }
}

fn scan(bytes: &[u8]) -> Scan {
    if let Some((length, checksum)) = prefix(bytes) {
        let end = PREFIX + length;
        if bytes.len() > end && crc32fast::hash(&bytes[PREFIX..end]) == checksum {
            return Scan::Frame(end + 1);
        }
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => Scan::Damage(at + 1),
        None => Scan::Torn,
    }
}

fn prefix(bytes: &[u8]) -> Option<(usize, u32)> {
    let bytes = bytes.get(..PREFIX)?;
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
