//! See `snapshot_format_fuzz::working_set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| snapshot_format_fuzz::working_set(data));
