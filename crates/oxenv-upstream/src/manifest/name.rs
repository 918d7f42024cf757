//! The names of toolsets.

/// Names that stand for something else in records and lists.
pub(super) const RESERVED: [&str; 4] = ["environment", "native", "oxenv", "openenv"];
/// The longest name of a toolset, in characters.
pub(super) const MAX_NAME: usize = 64;

/// Why a text is not a name, if it is not one.
pub(super) fn check_name(name: &str, longest: usize) -> Result<(), String> {
    let length = name.chars().count();
    if length == 0 || length > longest {
        return Err(format!("has {length} characters; a name has 1 to {longest}"));
    }
    match name.chars().find(|c| !is_name_character(*c)) {
        Some(c) => Err(format!("holds {c:?}; a name is made of letters, digits, '_', '-' and '.'")),
        None => Ok(()),
    }
}

/// Whether names of toolsets may hold it.
pub(super) fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}
