//! Files of every kind, good and bad.

use std::fs;

use snapshot_format::PageNo;

use super::*;
use crate::session::{Block, What};
use crate::source::snapshot::tests as snapshots;

/// A file with this content.
fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("space");
    fs::write(file.path(), content).expect("space");
    file
}

/// The text of why it cannot be opened, without the path.
fn refusal(path: &Path) -> String {
    let error = open(path, None).expect_err("it is not good");
    let text = error.to_string();
    let name = format!("{path:?}");
    assert!(text.contains(&name), "{text}");
    text.replace(&name, "FILE")
}

#[test]
fn a_snapshot_is_known_by_its_first_bytes() {
    let file = snapshots::file(4);
    let cache = Arc::new(FrameCache::new(u64::MAX));
    for cache in [None, Some(cache)] {
        let opened = open(file.path(), cache.clone()).expect("good");
        assert_eq!(opened.kind, FileKind::Snapshot);
        assert_eq!(opened.pages, snapshots::PAGES);
        assert!(opened.snapshot.is_some());
        assert_eq!(opened.source.granularity(), 4);
        let mut block = Block::default();
        opened.source.reader().read_all(&(2..4), &mut block);
        let expected = [snapshots::content(2), snapshots::content(3)].concat();
        assert!(block.bytes.ends_with(&expected) || block.bytes.starts_with(&expected));
        assert!(cache.is_none_or(|cache| cache.counts().decodes == 1));
    }
}

#[test]
fn everything_else_is_raw_memory() {
    let mut content = vec![0; 8192];
    content[4096] = 1;
    let file = file(&content);
    let opened = open(file.path(), None).expect("good");
    assert_eq!(opened.kind, FileKind::Raw);
    assert_eq!(opened.kind.to_string(), "raw memory file");
    assert_eq!(opened.pages, 2);
    assert!(opened.snapshot.is_none());
    let mut block = Block::default();
    opened
        .source
        .reader()
        .read(PageNo(1), 1, &(0..2), &mut block);
    assert_eq!(block.piece_of(PageNo(0)).expect("it").what, What::Zero);
    let piece = block.piece_of(PageNo(1)).expect("it");
    assert_eq!(block.bytes_of(piece, &(1..2)).expect("bytes")[0], 1);
}

#[test]
fn what_begins_like_a_snapshot_is_never_raw_memory() {
    let good = fs::read(snapshots::file(4).path()).expect("it");
    for len in [8, 9, 11, 12, 100, 4095, 4096, 8192, good.len() - 4096] {
        let file = file(&good[..len]);
        let text = refusal(file.path());
        assert!(text.starts_with("FILE: truncated: "), "{len}: {text}");
    }
    let mut other_version = good[..4096].to_vec();
    other_version[8] = 99;
    for len in [12, 4096] {
        let text = refusal(file(&other_version[..len]).path());
        assert!(text.contains("version 99 is not known"), "{text}");
    }
    let mut garbage = vec![7; 8192];
    garbage[..8].copy_from_slice(&MAGIC);
    assert!(refusal(file(&garbage).path()).starts_with("FILE: "));
}

#[test]
fn what_is_no_memory_is_refused() {
    assert_eq!(
        refusal(file(b"").path()),
        "FILE is empty: give a snapshot, or a raw memory file"
    );
    for len in [1, 7, 4095, 4097, 8190] {
        let text = refusal(file(&vec![3; len]).path());
        let expected = format!("its {len} bytes are not whole pages");
        assert!(text.contains(&expected), "{text}");
    }
    let directory = tempfile::tempdir().expect("space");
    assert_eq!(
        refusal(directory.path()),
        "cannot open FILE: is a directory"
    );
    let missing = directory.path().join("missing");
    assert!(refusal(&missing).starts_with("cannot open FILE: No such file"));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for path in [&pipe, Path::new("/dev/zero")] {
        let text = refusal(path);
        assert!(text.contains("neither a file nor a block device"), "{text}");
    }
}
