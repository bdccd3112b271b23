#![no_main]
//! Bytes as a stored run.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockstep::stored::survive(bytes));
