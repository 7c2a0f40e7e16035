//! Manifests of directories whose lazy pages are in a snapshot.

use std::fs;

use uffd_restore::criu::manifest::{Manifest, StrippedProcess, VERSION};

fn manifest() -> Manifest {
    Manifest {
        version: VERSION,
        snapshot: "000102030405060708090a0b0c0d0eff".parse().expect("an id"),
        snapshot_header: u64::MAX,
        snapshot_path: "dump.snap".into(),
        inventory: 0x12,
        processes: vec![StrippedProcess {
            pid: 7,
            pagemap: 1 << 63,
            original_pages: 1,
            original_len: 1 << 40,
            new_pages: 9,
        }],
    }
}

#[test]
fn what_was_written_is_found() {
    let folder = tempfile::tempdir().expect("space");
    assert_eq!(Manifest::find(folder.path()).expect("no manifest"), None);
    let mut manifest = manifest();
    manifest.write(folder.path()).expect("space");
    let found = Manifest::find(folder.path()).expect("good");
    assert_eq!(found.as_ref(), Some(&manifest));
    // It may be replaced, and it goes with all that is beside it.
    manifest.processes.clear();
    manifest.write(folder.path()).expect("space");
    let found = Manifest::find(folder.path()).expect("good");
    assert_eq!(found, Some(manifest));
    fs::write(Manifest::original_pagemap(folder.path(), 7), "original").expect("space");
    Manifest::remove(folder.path()).expect("it is there");
    assert_eq!(Manifest::find(folder.path()).expect("no manifest"), None);
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
}

#[test]
fn checksums_are_text() {
    let text = serde_json::to_string(&manifest()).expect("JSON");
    assert!(
        text.contains(r#""snapshot":"000102030405060708090a0b0c0d0eff""#),
        "{text}"
    );
    assert!(
        text.contains(r#""snapshot_header":"ffffffffffffffff""#),
        "{text}"
    );
    assert!(text.contains(r#""inventory":"0000000000000012""#), "{text}");
}

#[test]
fn one_that_cannot_be_used_is_never_taken_for_none() {
    let folder = tempfile::tempdir().expect("space");
    manifest().write(folder.path()).expect("space");
    let path = Manifest::folder(folder.path()).join("manifest.json");
    let good = fs::read_to_string(&path).expect("it is there");
    let refused = |text: &str| {
        fs::write(&path, text).expect("space");
        let error = Manifest::find(folder.path()).expect_err(text).to_string();
        assert!(error.contains("manifest.json\""), "{error}");
        error
    };
    let newer = r#"{"version": 2, "other": []}"#;
    assert!(refused(newer).contains("version 2, this program knows 1"));
    for text in ["", "{}", "[]", "{\"version\":1}", &good[..good.len() / 2]] {
        assert!(refused(text).contains("damaged"));
    }
    for (from, to) in [
        ("ffffffffffffffff", "fffffffffffffffg"),
        ("0c0d0eff", "0c0d0e"),
        ("\"pid\"", "\"who\""),
    ] {
        refused(&good.replace(from, to));
    }
    fs::remove_file(&path).expect("it is there");
    fs::create_dir(&path).expect("space");
    Manifest::find(folder.path()).expect_err("a folder");
}
