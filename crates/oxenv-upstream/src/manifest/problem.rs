//! What is wrong with a manifest, and where.
//!
//! Invariant: a problem holds no value that came from a variable or a file, and no line end.

use std::fmt;

use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The manifest cannot be used.
    Error,
    /// It can, though hardly as meant.
    Warning,
}

/// A place in a file; both numbers count from 1. Line 0 is the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct FilePosition {
    /// The line.
    pub line: usize,
    /// The character within it.
    pub column: usize,
}

/// One thing that is wrong. Its text is one line: `tools.yaml:12:7: error: unknown key …`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// Where in the file.
    #[serde(flatten)]
    pub at: FilePosition,
    /// The keys that lead there: `tools[1].mcp_server.comand`. Empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, if that is known.
    pub suggestion: Option<String>,
}

impl Problem {
    /// Whether the manifest cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.at.line > 0 {
            write!(f, ":{}", self.at)?;
        }
        write!(f, ": {}: {}", self.severity, self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, ": {suggestion}"),
            None => Ok(()),
        }
    }
}
