#![no_main]
//! Bytes as a recording.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recorder::survive::recording(bytes));
