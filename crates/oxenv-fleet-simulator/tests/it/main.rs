//! The simulator over real sockets, by hand: what Fleet's SDK does not reach.
//!
//! Invariant: no test waits for time to pass; it lets time pass.

mod caller;
mod control;
mod ends;
mod faults;
mod instance;
mod mcp;
