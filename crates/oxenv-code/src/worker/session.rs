//! [`Session`]: an interpreter between programs, and how it is saved.
//!
//! Invariant: the limit of memory is that of the allocator, and holds while programs run; saving and
//! restoring are the server's doing, and are not counted.

use monty::{Dump, MontyRepl, SessionRef, dump};
use monty_types::{CompileOptions, ResourceLimits, ResourceTracker};
use oxenv_core::derive_seed;

use crate::protocol::OpenRequest;
use crate::signature::Signature;

/// What tracebacks call a program that has no other name.
const SCRIPT: &str = "program.py";
/// Bytes of the state of the randomness, before the dump.
const RANDOM_BYTES: usize = 16;

/// An interpreter with its variables.
pub(crate) struct Session {
    pub(crate) repl: MontyRepl,
    pub(crate) random: Random,
    /// The tools of the last program.
    pub(crate) tools: Vec<Signature>,
}

/// Randomness that comes from a seed alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random {
    seed: u64,
    /// How many numbers were drawn.
    drawn: u64,
}

impl Random {
    /// Bits of each number.
    pub(crate) const BITS: u32 = 53;

    /// The next number, of [`Random::BITS`] bits.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        derive_seed(self.seed, self.drawn)
    }

    fn to_bytes(self) -> [u8; RANDOM_BYTES] {
        let mut bytes = [0; RANDOM_BYTES];
        bytes[..8].copy_from_slice(&self.seed.to_be_bytes());
        bytes[8..].copy_from_slice(&self.drawn.to_be_bytes());
        bytes
    }

    fn of_bytes(bytes: [u8; RANDOM_BYTES]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, d0, d1, d2, d3, d4, d5, d6, d7] = bytes;
        Random {
            seed: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            drawn: u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]),
        }
    }
}

impl Session {
    pub(crate) fn open(open: &OpenRequest) -> Self {
        let limits = ResourceLimits::default().max_memory(open.memory).max_recursion_depth(open.recursion);
        let repl = MontyRepl::new(SCRIPT, ResourceTracker::new(limits), CompileOptions::default());
        Self::with(repl, Random { seed: open.seed, drawn: 0 })
    }

    /// Goes on from what [`Session::save`] gave. The server has authenticated the bytes.
    pub(crate) fn restore(saved: &[u8]) -> Result<Self, String> {
        unlimited(|| {
            let (random, saved) = saved.split_first_chunk().ok_or("the saved variables are cut")?;
            let dump = Dump::load(saved).map_err(|error| error.to_string())?;
            let monty::Session::Idle(repl) = dump.state else {
                return Err("what was saved is a program that still ran".to_owned());
            };
            Ok(Self::with(*repl, Random::of_bytes(*random)))
        })
    }

    fn with(repl: MontyRepl, random: Random) -> Self {
        let session = Session { repl, random, tools: Vec::new() };
        session.limit();
        session
    }

    /// Holds it to its limit of memory again.
    fn limit(&self) {
        // It fails only without the allocator, and then the worker has not started.
        let _ = monty_alloc::set_limit(self.repl.tracker().max_memory(), false);
    }

    /// The variables and the randomness as bytes.
    pub(crate) fn save(&self, room: u64) -> Result<Vec<u8>, String> {
        let saved = unlimited(|| {
            let dump = dump(SCRIPT, None, SessionRef::Idle(&self.repl)).map_err(|error| error.to_string())?;
            let mut saved = Vec::with_capacity(RANDOM_BYTES + dump.len());
            saved.extend(self.random.to_bytes());
            saved.extend(dump);
            match saved.len() as u64 {
                size if size > room => Err(format!(
                    "the variables of the session's programs have {size} bytes, and a snapshot has room for \
                     {room} of them"
                )),
                _ => Ok(saved),
            }
        });
        self.limit();
        saved
    }
}

/// Work of the server's own, which the limit of memory does not count.
fn unlimited<T>(work: impl FnOnce() -> T) -> T {
    let _ = monty_alloc::set_limit(None, false);
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_goes_on_where_it_was_saved() {
        let mut random = Random { seed: 7, drawn: 0 };
        let first = random.draw();
        let mut copy = Random::of_bytes(random.to_bytes());
        assert_eq!(random.draw(), copy.draw());
        assert_ne!(first, random.draw());
        assert!(first < 1 << Random::BITS);
    }
}
