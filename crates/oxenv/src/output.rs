//! What commands print on stdout.
//!
//! Entry point: [`print`].

use std::io::Write;

use anyhow::Context;

/// Prints a text and a line end; a reader that left is no error of ours.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}
