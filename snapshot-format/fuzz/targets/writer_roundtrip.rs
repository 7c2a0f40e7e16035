//! See `snapshot_format_fuzz::writer_roundtrip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: snapshot_format_fuzz::Input| {
    snapshot_format_fuzz::writer_roundtrip(&input)
});
