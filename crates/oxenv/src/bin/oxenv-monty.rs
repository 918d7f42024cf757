//! The worker of the code engine `monty`, which `oxenv` starts and speaks to.
//!
//! Invariant: it is [`worker::main`] with the allocator that bounds its memory, and nothing else.

use oxenv_code::worker;

#[global_allocator]
static ALLOCATOR: worker::LimitedAllocator = worker::LimitedAllocator;

fn main() -> std::process::ExitCode {
    worker::main()
}
