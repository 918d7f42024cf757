//! Exit codes, and how an error is printed.
//!
//! Invariant: an error prints no control character of what it quotes. `oxenv --help` lists the exit codes
//! (`HELP` in cli.rs).

use std::fmt;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use oxenv_server::Shutdown;

use crate::output::printable;

/// An error with an exit code other than 1.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Wrong usage or configuration.
    Usage(String),
    /// The address cannot be listened on.
    Listen(String),
    /// The server cannot be reached.
    Unreachable(String),
    /// It ends although something in it has not.
    Unfinished,
    /// A signal ended it before it was done.
    Interrupted,
    /// A record is incomplete or damaged; what could be done with the rest was done.
    Incomplete(String),
    /// A program has ended with this code, and has said what it has to say.
    Program(u8),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Usage(text)
            | Problem::Listen(text)
            | Problem::Unreachable(text)
            | Problem::Incomplete(text) => f.write_str(text),
            Problem::Program(code) => write!(f, "the program exited with code {code}"),
            Problem::Interrupted => f.write_str("a signal ended it before it was done"),
            Problem::Unfinished => f.write_str(
                "something did not end in time, such as an environment that blocks its thread or a tool \
                     server that goes on when it is told to end",
            ),
        }
    }
}

impl std::error::Error for Problem {}

/// Wrong usage or configuration.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Problem::Usage(text.into()).into()
}

/// Whether what was served has ended within the time that a signal gave it.
///
/// # Errors
/// [`Problem::Unfinished`], if it has not.
pub(crate) fn in_time(shutdown: &Shutdown) -> Result<(), Problem> {
    if shutdown.is_over() { Err(Problem::Unfinished) } else { Ok(()) }
}

/// Prints the error, if any, and gives the exit code.
pub(crate) fn code(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if let Some(Problem::Program(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    let mut stderr = std::io::stderr();
    let (red, plain) = if stderr.is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let message = format!("{error:#}");
    let text = printable(&message);
    // A closed stderr cannot be reported anywhere.
    let _ = writeln!(stderr, "{red}error:{plain} {text}");
    ExitCode::from(match error.downcast_ref::<Problem>() {
        None => 1,
        Some(Problem::Usage(_)) => 2,
        Some(Problem::Listen(_)) => 3,
        Some(Problem::Unreachable(_)) => 4,
        Some(Problem::Unfinished | Problem::Interrupted) => Shutdown::EXIT_CODE as u8,
        Some(Problem::Incomplete(_)) => 6,
        Some(Problem::Program(code)) => *code,
    })
}
