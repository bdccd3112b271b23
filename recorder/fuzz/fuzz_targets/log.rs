#![no_main]
//! Bytes as a log of QEMU's.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recorder::survive::log(bytes));
