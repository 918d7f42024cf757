//! The supervisor as a command of its own, for users of the library and for this crate's tests.
//!
//! Invariant: it is [`supervise::main`](oxenv_process::supervise::main) and nothing else.

fn main() -> std::process::ExitCode {
    oxenv_process::supervise::main(&[])
}
