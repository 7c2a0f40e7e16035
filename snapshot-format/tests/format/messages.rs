//! What people are told.

use crate::common::options;
use crate::common::small;
use snapshot_format::{Codec, Cursor, PageNo, Snapshot, WriteError};
use std::sync::Arc;

fn file() -> Vec<u8> {
    small::file().to_vec()
}

fn refused(bytes: &[u8]) -> String {
    Snapshot::open(bytes.to_vec()).unwrap_err().to_string()
}

#[test]
fn what_is_not_a_snapshot_is_called_so_and_told_the_way() {
    let text = "not a snapshot (the first bytes are not a snapshot's; a raw memory file is made into one by `uffd-snapshot pack`)";
    for bytes in [
        &b""[..],
        b"x",
        b"\x89UFS",
        &[0; 4096],
        &[0; 100_000],
        &[0x7f; 5000],
    ] {
        assert_eq!(refused(bytes), text);
    }
    // As if sent in text mode.
    let unix: Vec<u8> = file().into_iter().filter(|&byte| byte != b'\r').collect();
    assert_eq!(refused(&unix), text);
}

#[test]
fn a_newer_version_and_newer_features_are_named() {
    let mut newer = file();
    newer[8] = 2;
    assert_eq!(
        refused(&newer),
        "format version 2 is not known, this program reads version 1: use a newer uffd-restore"
    );
    let mut forge = crate::common::forge::Forge { bytes: file() };
    forge.set_u64(32, 5);
    forge.repair_header();
    assert_eq!(
        refused(&forge.bytes),
        "the file needs format features 0x5 that this program does not know: use a newer uffd-restore"
    );
}

#[test]
fn a_truncated_file_says_how_much_is_missing() {
    let file = file();
    let all = file.len();
    for cut in [all - 1, 4096, 5000] {
        assert_eq!(
            refused(&file[..cut]),
            format!(
                "truncated: the file has {cut} bytes of at least {all}: copy or capture it again"
            )
        );
    }
    assert_eq!(
        refused(&file[..100]),
        "truncated: the file has 100 bytes of at least 4096: copy or capture it again"
    );
}

#[test]
fn corruption_is_told_with_its_place() {
    let forge = crate::common::forge::Forge { bytes: file() };
    let with = |at: usize| {
        let mut bytes = forge.bytes.clone();
        bytes[at] ^= 4;
        match Snapshot::open(bytes) {
            Ok(snapshot) => small::everything(&Arc::new(snapshot))
                .unwrap_err()
                .to_string(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(with(16), "corrupt header: the checksum does not match");
    let section = |kind: u32| forge.section(kind).offset;
    assert_eq!(
        with(section(1) + 9),
        "corrupt region map: the checksum does not match"
    );
    assert_eq!(
        with(section(4)),
        "corrupt metadata: the checksum does not match"
    );
    assert_eq!(
        with(section(5)),
        "corrupt parent section: the checksum does not match"
    );
    assert_eq!(
        with(forge.root()),
        "corrupt root of the page index: the checksum does not match"
    );
    let leaf = forge.path(0)[2] / 4096 * 4096;
    assert_eq!(
        with(leaf),
        format!("corrupt page index node at byte {leaf}: the checksum does not match")
    );
    assert_eq!(
        with(section(3)),
        "corrupt frame at byte 4096: the content does not match its checksum"
    );
}

#[test]
fn pages_that_cannot_be_had_are_told_with_their_number() {
    let snapshot = crate::common::open(file());
    let (lost, end) = (9, snapshot.pages());
    let mut cursor = Cursor::new(snapshot);
    let mut told = |page| {
        cursor
            .read_page(PageNo(page), &mut [0; 4096])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        told(lost),
        format!("page {lost} was lost at capture time (it could not be read then)")
    );
    assert_eq!(
        told(12),
        format!(
            "page 12 lives in the parent snapshot {}, which is not open",
            "17".repeat(16)
        )
    );
    assert_eq!(
        told(end),
        format!("page {end} does not exist, the snapshot has {end} pages")
    );
}

#[test]
fn a_full_disk_is_told_in_the_system_s_words() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = small::plan()
        .write_to(full, options(Codec::Lz4, 2), &[9])
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, WriteError::Output(_)));
    assert_eq!(
        error.to_string(),
        "cannot write: No space left on device (os error 28)"
    );
}
