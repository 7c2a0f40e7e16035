//! See `snapshot_format_fuzz::open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| snapshot_format_fuzz::open(data));
