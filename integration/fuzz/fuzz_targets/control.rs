#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| squadron_fuzz::judge("control", bytes));
