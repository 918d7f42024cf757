//! The text of an answer as messages repeat it.
//!
//! Invariant: one line, and never a page of HTML.

/// Characters of an answer that are shown.
const MAX_MESSAGE_CHARS: usize = 300;

/// A text in one line of at most 300 characters; of a page only its text.
pub(super) fn shorten(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16 << 10)]);
    let is_page = text.trim_start().starts_with('<');
    let words = if is_page { page_text(&text) } else { text.into_owned() };
    let line = words.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let line = line.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "no text".to_owned(),
        None => line,
    }
}

/// What stands outside of a page's tags.
fn page_text(page: &str) -> String {
    let mut words = String::new();
    let mut inside = false;
    for letter in page.chars() {
        match letter {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                words.push(' ');
            }
            _ if !inside => words.push(letter),
            _ => {}
        }
    }
    words
}
