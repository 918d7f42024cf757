//! Names that somebody else chose, as messages repeat them.
//!
//! Invariant: a message is short however long the name is.

use std::borrow::Cow;

/// The characters of a name that are repeated.
const PREVIEW_CHARS: usize = 256;

/// The beginning of a name, with `…` for the rest.
#[must_use]
pub fn preview(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(PREVIEW_CHARS) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
    }
}
