//! Python's JSON: the diagnosis of what is none, and writing what is some. The invariants are in `bodies.rs`,
//! which the stable tests run too.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxenv_fuzz::json(data));
