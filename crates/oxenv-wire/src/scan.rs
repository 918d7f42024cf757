//! The one reader of JSON's grammar (RFC 8259) on the way in: it checks a text and splits an object
//! in a single pass, a list of objects within it included.
//!
//! Invariant: no recursion beyond the fifth level and, up to 16 levels, no allocation; accepts exactly what
//! serde_json accepts as a raw value. Its errors have CPython's messages and positions.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

/// Why a text is not JSON.
#[derive(Debug)]
pub(crate) struct SyntaxFault {
    /// What was expected or found.
    pub(crate) message: String,
    /// At which byte.
    pub(crate) at: usize,
}

/// Elements of a list that are split; those behind them are only checked.
pub(crate) const MAX_SPLIT_ELEMENTS: usize = 4097;

/// The most keys of an object that is split: more would cost many times the bytes that they are sent as.
const MAX_FIELDS: usize = 1 << 16;
/// An object within an object is only split with it if it has no more keys than this; else when it is read
/// itself.
const MAX_INNER_FIELDS: usize = 1 << 10;
/// The most fields and elements that are noted of one text.
const MAX_SPANS: usize = 1 << 20;
/// Beyond this number, nested objects are no longer split with them.
const MAX_INNER_SPANS: usize = 1 << 18;

const TOO_MANY_KEYS: &str = "Too many keys: an object that is split has at most 65536";

/// A field of an object, its key as it is spelled; or an element of a list, which has no key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    /// [`FIELD_DEPTH`] for a field of the object itself, one more for a field of that field;
    /// [`ELEMENT_DEPTH`] for an element of the list that is split, and again one and two more for the fields
    /// of that element.
    pub(crate) depth: u8,
    pub(crate) key: &'a str,
    pub(crate) value: &'a str,
}

/// The fields of an object, each followed by those of its value if that is an object too.
pub(crate) type Spans<'a> = SmallVec<[Span<'a>; 8]>;

/// The depth of a field of the object that is split.
pub(crate) const FIELD_DEPTH: u8 = 1;
/// The depth of an element of the list in it that is split too.
pub(crate) const ELEMENT_DEPTH: u8 = 3;

/// A part of a value.
pub(crate) struct Member<'a> {
    /// Its text; absent if there is no such part.
    pub(crate) value: Option<&'a str>,
    /// Bytes that were looked through.
    pub(crate) scanned: usize,
}

/// A string within a JSON text.
pub(crate) struct StringAt {
    /// Where it stands, its quotes included.
    pub(crate) range: Range<usize>,
    /// Whether it is the key of an object's field.
    pub(crate) is_key: bool,
}

/// A position in a text.
pub(crate) struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// The depth at which a list called `items` is split.
    items: Option<u8>,
}

/// What the scanner is inside of: an array or an object.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Array,
    Object,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Scan { text, bytes: text.as_bytes(), at: 0, items: None }
    }

    /// Also splits the objects of a list called `items` that is found at that depth.
    pub(crate) fn splitting_items(self, depth: u8) -> Self {
        Scan { items: Some(depth), ..self }
    }

    /// Checks that the whole text is one JSON value.
    pub(crate) fn document(&mut self) -> Result<(), SyntaxFault> {
        self.space();
        self.tree()?;
        self.end()
    }

    /// Splits a text that is one JSON object, two levels deep, as every message has its parts;
    /// `None` when it begins with anything but a brace.
    pub(crate) fn object(&mut self) -> Result<Option<Spans<'a>>, SyntaxFault> {
        let mut spans = Spans::new();
        self.space();
        if self.peek() != Some(b'{') {
            return Ok(None);
        }
        self.fields(&mut spans, FIELD_DEPTH)?;
        self.end()?;
        Ok(Some(spans))
    }

    /// The value of a key, or of an index, in the object or list that the text is. Of a key that is there
    /// twice, the last value counts, as for every reader that keeps one.
    pub(crate) fn member(mut self, step: &str) -> Member<'a> {
        self.space();
        let found = match self.peek() {
            Some(b'{') => self.value_of(step),
            Some(b'[') => step.parse().map_or(Ok(None), |index| self.element(index)),
            _ => Ok(None),
        };
        // The text was checked before, so nothing in it fails.
        Member { value: found.unwrap_or_default(), scanned: self.at }
    }

    fn value_of(&mut self, name: &str) -> Result<Option<&'a str>, SyntaxFault> {
        self.at += 1;
        self.space();
        let (mut found, mut more) = (None, self.peek() != Some(b'}'));
        while more {
            let from = self.at;
            let to = self.key()?;
            self.space();
            let value = self.at;
            self.tree()?;
            if string_text(&self.text[from..to]).as_deref() == Some(name) {
                found = Some(&self.text[value..self.at]);
            }
            self.space();
            more = self.goes_on(b'}')?;
        }
        Ok(found)
    }

    fn element(&mut self, mut index: usize) -> Result<Option<&'a str>, SyntaxFault> {
        self.at += 1;
        self.space();
        let mut more = self.peek() != Some(b']');
        while more {
            let value = self.at;
            self.tree()?;
            if index == 0 {
                return Ok(Some(&self.text[value..self.at]));
            }
            index -= 1;
            self.space();
            more = self.goes_on(b']')?;
        }
        Ok(None)
    }

    /// The fields of the object that begins here.
    fn fields(&mut self, spans: &mut Spans<'a>, depth: u8) -> Result<(), SyntaxFault> {
        let outer = depth == FIELD_DEPTH || depth == ELEMENT_DEPTH + 1;
        let (begin, mut room) = (spans.len(), if outer { MAX_FIELDS } else { inner_room(spans) });
        self.at += 1;
        self.space();
        let mut more = self.peek() != Some(b'}');
        while more {
            let from = self.at;
            let to = self.key()?;
            self.space();
            if room == 0 || spans.len() == MAX_SPANS {
                if outer {
                    self.at = from;
                    return self.fail(TOO_MANY_KEYS);
                }
                return self.unsplit(spans, begin);
            }
            room -= 1;
            let (index, value) = (spans.len(), self.at);
            spans.push(Span { depth, key: &self.text[from..to], value: "" });
            match self.peek() {
                Some(b'{') if outer => self.fields(spans, depth + 1)?,
                Some(b'[') if self.items == Some(depth) && spans[index].key == "\"items\"" => {
                    self.elements(spans)?;
                }
                _ => self.tree()?,
            }
            spans[index].value = &self.text[value..self.at];
            self.space();
            more = self.goes_on(b'}')?;
        }
        self.at += 1;
        Ok(())
    }

    /// Checks the rest of an object from the value of one of its fields on, and forgets the fields before it.
    #[cold]
    fn unsplit(&mut self, spans: &mut Spans<'a>, begin: usize) -> Result<(), SyntaxFault> {
        spans.truncate(begin);
        loop {
            self.tree()?;
            self.space();
            if !self.goes_on(b'}')? {
                self.at += 1;
                return Ok(());
            }
            self.key()?;
            self.space();
        }
    }

    /// Whether another field or element follows; then it is the next thing here.
    fn goes_on(&mut self, end: u8) -> Result<bool, SyntaxFault> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == end => Ok(false),
            _ => self.fail("Expecting ',' delimiter"),
        }
    }

    /// The elements of the list that begins here.
    fn elements(&mut self, spans: &mut Spans<'a>) -> Result<(), SyntaxFault> {
        self.at += 1;
        self.space();
        let (mut count, mut more) = (0, self.peek() != Some(b']'));
        while more {
            let (index, value) = (spans.len(), self.at);
            count += 1;
            if count > MAX_SPLIT_ELEMENTS {
                self.tree()?;
            } else {
                spans.push(Span { depth: ELEMENT_DEPTH, key: "", value: "" });
                match self.peek() {
                    Some(b'{') => self.fields(spans, ELEMENT_DEPTH + 1)?,
                    _ => self.tree()?,
                }
                spans[index].value = &self.text[value..self.at];
            }
            self.space();
            more = self.goes_on(b']')?;
        }
        self.at += 1;
        Ok(())
    }

    /// One value with all that is in it.
    fn tree(&mut self) -> Result<(), SyntaxFault> {
        let mut stack: SmallVec<[Inside; 16]> = SmallVec::new();
        loop {
            self.space();
            let opened = self.value(&mut stack)?;
            if !opened && !self.close(&mut stack)? {
                return Ok(());
            }
        }
    }

    fn end(&mut self) -> Result<(), SyntaxFault> {
        self.space();
        if self.at < self.bytes.len() {
            Err(SyntaxFault { message: "Extra data".to_owned(), at: self.at })
        } else {
            Ok(())
        }
    }

    /// Reads one scalar, or opens one container; true when a value is expected next.
    fn value(&mut self, stack: &mut SmallVec<[Inside; 16]>) -> Result<bool, SyntaxFault> {
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.space();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(false);
                }
                stack.push(Inside::Object);
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.at += 1;
                self.space();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(false);
                }
                stack.push(Inside::Array);
                Ok(true)
            }
            Some(b'"') => self.string().map(|()| false),
            _ => self.word().map(|()| false),
        }
    }

    /// After a value: closes containers; true when another value follows, false at the end.
    fn close(&mut self, stack: &mut SmallVec<[Inside; 16]>) -> Result<bool, SyntaxFault> {
        while let Some(&inside) = stack.last() {
            self.space();
            match (self.peek(), inside) {
                (Some(b']'), Inside::Array) | (Some(b'}'), Inside::Object) => {
                    self.at += 1;
                    stack.pop();
                }
                (Some(b','), _) => {
                    self.at += 1;
                    self.space();
                    if inside == Inside::Object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                _ => return self.fail("Expecting ',' delimiter"),
            }
        }
        Ok(false)
    }

    /// A key and its colon; the byte after the key.
    fn key(&mut self) -> Result<usize, SyntaxFault> {
        if self.peek() != Some(b'"') {
            return self.fail("Expecting property name enclosed in double quotes");
        }
        self.string()?;
        let to = self.at;
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("Expecting ':' delimiter");
        }
        self.at += 1;
        Ok(to)
    }

    fn string(&mut self) -> Result<(), SyntaxFault> {
        let start = self.at;
        self.at += 1;
        loop {
            self.at += plain(&self.bytes[self.at..]);
            match self.peek() {
                None => {
                    return Err(SyntaxFault {
                        message: "Unterminated string starting at".to_owned(),
                        at: start,
                    });
                }
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(start)?,
                Some(_) => return self.fail("Invalid control character at"),
            }
        }
    }

    fn escape(&mut self, start: usize) -> Result<(), SyntaxFault> {
        match self.bytes.get(self.at + 1) {
            None => Err(SyntaxFault { message: "Unterminated string starting at".to_owned(), at: start }),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
                if digits.len() == 4 && digits.iter().all(u8::is_ascii_hexdigit) {
                    self.at += 6;
                    return Ok(());
                }
                Err(SyntaxFault { message: "Invalid \\uXXXX escape".to_owned(), at: self.at + 2 })
            }
            Some(_) => self.fail("Invalid \\escape"),
        }
    }

    /// `true`, `false`, `null`, a number, or one of Python's literals that JSON does not have.
    fn word(&mut self) -> Result<(), SyntaxFault> {
        let rest = &self.bytes[self.at..];
        for word in ["true", "false", "null"] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        for word in ["NaN", "Infinity", "-Infinity"] {
            if rest.starts_with(word.as_bytes()) {
                return self.fail(&format!("{word} is not JSON (RFC 8259); send null or a string instead"));
            }
        }
        self.number()
    }

    fn number(&mut self) -> Result<(), SyntaxFault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.digits();
        if whole == 0 {
            return Err(SyntaxFault { message: "Expecting value".to_owned(), at: start });
        }
        if whole > 1 && self.bytes[self.at - whole] == b'0' {
            // Python reads the zero as a whole number and trips over what follows it.
            self.at = self.at - whole + 1;
            return Ok(());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                self.at -= 1;
                return Ok(());
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let mark = self.at;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                self.at = mark;
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&self, message: &str) -> Result<T, SyntaxFault> {
        Err(SyntaxFault { message: message.to_owned(), at: self.at })
    }
}

/// How many fields of an object within another are noted.
fn inner_room(spans: &[Span<'_>]) -> usize {
    if spans.len() < MAX_INNER_SPANS { MAX_INNER_FIELDS } else { 0 }
}

/// The text of a string as it is spelled in JSON, borrowed unless it has escapes; `None` for any other value,
/// and for a string with a lone surrogate.
pub(crate) fn string_text(spelled: &str) -> Option<Cow<'_, str>> {
    let inner = spelled.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(spelled).ok().map(Cow::Owned)
}

/// The strings of a JSON text, which was checked before, in their order.
pub(crate) fn strings(text: &str) -> impl Iterator<Item = StringAt> {
    let mut scan = Scan::new(text);
    std::iter::from_fn(move || {
        // Outside of strings a quote begins one.
        let start = scan.at + scan.bytes.get(scan.at..)?.iter().position(|byte| *byte == b'"')?;
        scan.at = start;
        scan.string().ok()?;
        let range = start..scan.at;
        scan.space();
        Some(StringAt { range, is_key: scan.peek() == Some(b':') })
    })
}

/// How many bytes of a string come before a quote, a backslash or a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES << 7;
    let mut chunks = bytes.chunks_exact(8);
    let mut done = 0;
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        // A byte's high bit is set where the byte is looked for; bits above the first such byte may
        // be wrong, and are not looked at ("Determine if a word has a byte less than n", S. Anderson,
        // Bit Twiddling Hacks).
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
        let found = below(word, 0x20) | below(word ^ (ONES * 0x22), 1) | below(word ^ (ONES * 0x5c), 1);
        if found & HIGH != 0 {
            return done + (found & HIGH).trailing_zeros() as usize / 8;
        }
        done += 8;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let rest = chunks.remainder();
    done + rest.iter().position(special).unwrap_or(rest.len())
}
