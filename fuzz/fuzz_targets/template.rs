//! References within arguments. The invariants are in `bodies.rs`, which the stable tests run too.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxenv_fuzz::template(data));
