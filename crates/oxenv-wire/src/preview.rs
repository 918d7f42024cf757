//! Names and texts of unknown origin, as messages repeat them.
//!
//! Invariant: a message is short however long the name or the text is.

use std::borrow::Cow;

/// The characters of a name that are repeated.
const PREVIEW_CHARS: usize = 256;
/// Bytes of a panic's text that are kept: it may repeat an action, and ended sessions keep it.
const MAX_PANIC_TEXT: usize = 4 << 10;

/// The beginning of a name, with `…` for the rest.
#[must_use]
pub fn preview(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(PREVIEW_CHARS) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
    }
}

/// A panic's message.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    text[..text.floor_char_boundary(MAX_PANIC_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_said_is_kept_up_to_a_length() {
        let said = |text: &str| panic_text(&text.to_owned());
        assert_eq!(said("no such cell"), "no such cell");
        assert_eq!(said(&"é".repeat(1 << 20)).len(), MAX_PANIC_TEXT);
        assert_eq!((panic_text(&"static"), panic_text(&7)), ("static".to_owned(), "no message".to_owned()));
    }
}
