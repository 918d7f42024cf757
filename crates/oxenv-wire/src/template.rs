//! The references `${id.path}` within a JSON text: where they stand, and the text with results in their
//! places.
//!
//! Invariant: texts are scanned and never built as values, so memory grows with the bytes of a text and not
//! with the number of values in it, and nesting costs no stack. What was put in is not looked at for
//! references again.

use crate::json::Json;
use crate::readable::check_readable;
use crate::result::push_escaped;
use crate::scan::{Scan, strings};

/// The most references that one text may hold.
pub const MAX_REFERENCES: usize = 1024;

/// A JSON text with references in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// The text without its references; `$${` is already the `${` that it stands for.
    text: String,
    references: Vec<Reference>,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What stands between `${` and `}`: an id, and behind dots the keys or indices that lead to a part of
    /// its result.
    path: String,
    /// Where in the template's text the value goes.
    at: usize,
    /// Whether the reference is a whole JSON string, so that the value takes the string's place.
    whole: bool,
}

/// A text holds more than [`MAX_REFERENCES`] references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyReferences;

/// What filling in may still cost, in bytes. One budget is shared by all calls of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillBudget {
    /// Bytes that references may put into texts.
    pub inserted: usize,
    /// Bytes of results that may be looked through on the way to what references name.
    pub scanned: usize,
}

/// Why a reference has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillError {
    /// The result has no such part; holds the key or index that is not there.
    Missing(String),
    /// The part is JSON that not every reader takes: a number beyond all floats, a lone surrogate, deep
    /// nesting.
    Unreadable(String),
    /// The budget of inserted bytes is used up.
    TooLarge,
    /// The budget of scanned bytes is used up.
    TooFar,
}

impl Reference {
    /// The whole reference: `id.path`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The id of the call with the result that it refers to.
    #[must_use]
    pub fn id(&self) -> &str {
        self.path.split('.').next().unwrap_or_default()
    }
}

impl Template {
    /// Finds the references within the string values of a JSON text; keys are never looked at. `None` when
    /// the text has neither a reference nor a `$${`: then it stands for itself.
    ///
    /// ```
    /// use oxenv_wire::{FillBudget, Json, Template};
    ///
    /// let sent = Json::parse(r#"{"a": "${one.sum}", "b": "x"}"#).unwrap();
    /// let template = Template::parse(sent).unwrap().unwrap();
    /// let [reference] = template.references() else { panic!() };
    /// assert_eq!((reference.id(), reference.path()), ("one", "one.sum"));
    ///
    /// let mut budget = FillBudget { inserted: 1024, scanned: 1024 };
    /// let result = Json::parse(r#"{"sum": 3}"#).unwrap();
    /// let value = reference.find(result, &mut budget).unwrap();
    /// assert_eq!(value.get(), "3");
    /// ```
    ///
    /// # Errors
    /// When there are more than [`MAX_REFERENCES`].
    pub fn parse(json: Json<'_>) -> Result<Option<Self>, TooManyReferences> {
        let sent = json.get();
        let (mut template, mut copied) = (Template::default(), 0);
        for string in strings(sent).filter(|string| !string.is_key) {
            let text = &sent[string.range.clone()];
            // `$` and `{` have no escapes but these.
            if !text.contains("${") && !text.contains("\\u") {
                continue;
            }
            let Some(text) = Json::from_checked(text).text().filter(|text| has_reference(text)) else {
                continue;
            };
            template.text.push_str(&sent[copied..string.range.start]);
            template.add_string(&text)?;
            copied = string.range.end;
        }
        if copied == 0 {
            return Ok(None);
        }
        template.text.push_str(&sent[copied..]);
        Ok(Some(template))
    }

    /// The references in the order of the text.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The text with each reference replaced; `value` gives the JSON text of one. A string that is one
    /// reference becomes the value; within a longer string, strings stand as they are and other values as
    /// JSON.
    ///
    /// # Errors
    /// The first fault, with the reference that it is about.
    pub fn fill<'v>(
        &self,
        budget: &mut FillBudget,
        mut value: impl FnMut(&Reference, &mut FillBudget) -> Result<Json<'v>, FillError>,
    ) -> Result<String, (&Reference, FillError)> {
        let (mut out, mut copied) = (String::with_capacity(self.text.len()), 0);
        for reference in &self.references {
            out.push_str(&self.text[copied..reference.at]);
            copied = reference.at;
            let filled = value(reference, budget).and_then(|value| reference.push(&mut out, value, budget));
            filled.map_err(|fault| (reference, fault))?;
        }
        out.push_str(&self.text[copied..]);
        Ok(out)
    }

    /// Adds a string that has a reference or a `$${`.
    fn add_string(&mut self, text: &str) -> Result<(), TooManyReferences> {
        if let Some(path) = whole_reference(text) {
            return self.add(path, true);
        }
        self.text.push('"');
        let mut rest = text;
        while let Some(begin) = rest.find("${") {
            if rest[..begin].ends_with('$') {
                push_escaped(&mut self.text, &rest[..begin - 1]);
                self.text.push_str("${");
                rest = &rest[begin + 2..];
                continue;
            }
            let Some(end) = rest[begin..].find('}') else { break };
            push_escaped(&mut self.text, &rest[..begin]);
            self.add(&rest[begin + 2..begin + end], false)?;
            rest = &rest[begin + end + 1..];
        }
        push_escaped(&mut self.text, rest);
        self.text.push('"');
        Ok(())
    }

    fn add(&mut self, path: &str, whole: bool) -> Result<(), TooManyReferences> {
        if self.references.len() == MAX_REFERENCES {
            return Err(TooManyReferences);
        }
        self.references.push(Reference { path: path.to_owned(), at: self.text.len(), whole });
        Ok(())
    }
}

impl Reference {
    /// The part of a result, a JSON text, that the reference names behind its id.
    ///
    /// # Errors
    /// When there is no such part, or the budget is used up.
    pub fn find<'v>(&self, result: Json<'v>, budget: &mut FillBudget) -> Result<Json<'v>, FillError> {
        let mut value = result;
        for step in self.path.split('.').skip(1) {
            let found = Scan::new(value.get()).member(step);
            budget.scanned = budget.scanned.checked_sub(found.scanned).ok_or(FillError::TooFar)?;
            value = found.value.map(Json::from_checked).ok_or_else(|| FillError::Missing(step.to_owned()))?;
        }
        Ok(value)
    }

    fn push(&self, out: &mut String, value: Json<'_>, budget: &mut FillBudget) -> Result<(), FillError> {
        let text = value.get();
        budget.inserted = budget.inserted.checked_sub(text.len()).ok_or(FillError::TooLarge)?;
        check_readable(value).map_err(|error| FillError::Unreadable(error.to_string()))?;
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            _ if self.whole => out.push_str(text),
            Some(inner) => out.push_str(inner),
            None => push_escaped(out, text),
        }
        Ok(())
    }
}

/// Whether a text has a reference, or a `$${` that stands for `${`.
fn has_reference(text: &str) -> bool {
    let begin = text.find("${");
    begin.is_some_and(|begin| text[..begin].ends_with('$') || text[begin..].contains('}'))
}

/// The path of the reference that is the whole text.
fn whole_reference(text: &str) -> Option<&str> {
    let path = text.strip_prefix("${")?.strip_suffix('}')?;
    (!path.contains('}')).then_some(path)
}
