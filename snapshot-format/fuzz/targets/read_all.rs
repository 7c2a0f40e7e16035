//! See `snapshot_format_fuzz::read_all`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| snapshot_format_fuzz::read_all(data));
