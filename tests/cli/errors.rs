//! Bad input gets a sentence with the object and the next step.

use super::{Workshop, memory};

/// A small snapshot, `snap`.
fn with_snapshot() -> Workshop {
    let shop = Workshop::new();
    shop.write("raw", &memory(100_000));
    shop.ok(&["pack", "raw", "-o", "snap"]);
    shop
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said:?}");
    }
    assert!(said.starts_with("uffd-snapshot: "), "{said:?}");
    assert!(!said.contains("panicked"), "{said:?}");
}

#[test]
fn bad_usage_is_status_2() {
    let shop = Workshop::new();
    shop.write("raw", b"x");
    for arguments in [
        &["pack", "raw"][..],
        &["frobnicate"],
        &["pack", "raw", "-o", "x", "--frame-pages", "0"],
        &["pack", "raw", "-o", "x", "--frame-pages", "513"],
        &["pack", "raw", "-o", "x", "--level", "23"],
        &["pack", "raw", "-o", "x", "--codec", "lz4", "--level", "1"],
        &["pack", "raw", "-o", "x", "--id", "abc"],
        &["pack", "raw", "-o", "x", "--jobs", "0"],
        &["create", "-o", "x"],
        &["create", "--pid", "1", "-o", "x", "--region", ""],
    ] {
        let said = shop.fails(2, arguments);
        assert!(!said.is_empty());
    }
    assert_eq!(shop.names(), ["raw"]);
}

#[test]
fn what_is_not_a_snapshot_is_told_so_by_every_command_that_reads_one() {
    let shop = Workshop::new();
    for (name, bytes) in [
        ("empty", vec![]),
        ("text", b"hello".to_vec()),
        ("raw", memory(50_000)),
    ] {
        shop.write(name, &bytes);
        for command in [
            &["inspect", name][..],
            &["verify", name],
            &["unpack", name, "-o", "x"],
        ] {
            let said = shop.fails(1, command);
            assert_says(&said, &[name, "not a snapshot", "uffd-snapshot pack"]);
        }
    }
}

#[test]
fn a_newer_version_a_truncated_file_and_a_corrupt_header_are_told_apart() {
    let shop = with_snapshot();
    let snap = shop.read("snap");
    let mut newer = snap.clone();
    newer[8] = 2;
    shop.write("newer", &newer);
    assert_says(
        &shop.fails(1, &["inspect", "newer"]),
        &["version 2 is not known", "newer uffd-restore"],
    );

    shop.write("short", &snap[..snap.len() - 1]);
    let len = snap.len().to_string();
    assert_says(
        &shop.fails(1, &["verify", "short"]),
        &["truncated", &len, "copy or capture it again"],
    );
    shop.write("shorter", &snap[..100]);
    assert_says(&shop.fails(1, &["verify", "shorter"]), &["truncated"]);

    let mut flipped = snap;
    flipped[40] ^= 1;
    shop.write("flipped", &flipped);
    assert_says(
        &shop.fails(1, &["inspect", "flipped"]),
        &["corrupt header", "checksum"],
    );
}

#[test]
fn verify_names_each_bad_page_and_its_place() {
    let shop = with_snapshot();
    let mut snap = shop.read("snap");
    // In the content of the first frame, behind its checksum.
    snap[4096 + 20] ^= 0x10;
    shop.write("bad", &snap);
    let said = shop.fails(1, &["verify", "bad"]);
    assert!(said.starts_with("bad page"), "{said}");
    for part in [
        "raw memory 0x",
        "corrupt frame at byte 4096",
        "pages are bad",
        "another copy",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let json = shop.json(&["verify", "bad"]);
    assert_eq!(json["good"], false);
    let listed = json["bad"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{json}");
    assert_eq!(listed[0]["pages"], json["bad_pages"]);
    assert_eq!(shop.json(&["verify", "snap"])["good"], true);
    assert_says(
        &shop.fails(1, &["unpack", "bad", "-o", "x"]),
        &["raw memory", "corrupt frame", "verify"],
    );
    assert!(!shop.path("x").exists(), "no half of the memory");
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    let shop = with_snapshot();
    for command in ["inspect", "verify"] {
        assert_says(
            &shop.fails(1, &[command, "none"]),
            &["\"none\"", "No such file"],
        );
        assert_says(&shop.fails(1, &[command, "/"]), &["\"/\"", "directory"]);
    }
    assert_says(
        &shop.fails(1, &["pack", "none", "-o", "x"]),
        &["\"none\"", "No such file"],
    );
    assert_says(
        &shop.fails(1, &["pack", "raw", "-o", "no/x"]),
        &["\"no/x\"", "No such file"],
    );
    assert_says(
        &shop.fails(1, &["pack", "raw", "-o", "/dev/null"]),
        &["/dev/null", "not a regular file"],
    );
    assert_says(
        &shop.fails(1, &["pack", "raw", "-o", "snap"]),
        &["exists", "--force"],
    );
    assert_says(
        &shop.fails(1, &["unpack", "snap", "-o", "raw"]),
        &["exists", "--force"],
    );
    assert_says(
        &shop.fails(2, &["unpack", "snap", "-o", "x", "--region", "[heap]"]),
        &["[heap]", "raw memory"],
    );
    shop.ok(&["pack", "raw", "-o", "snap", "--force"]);
}

#[test]
fn processes_that_cannot_be_captured_are_told_why() {
    let shop = Workshop::new();
    // Above the largest pid that the kernel gives, 2^22.
    assert_says(
        &shop.fails(1, &["create", "--pid", "4194305", "-o", "x"]),
        &["no process 4194305"],
    );
    assert_says(
        &shop.fails(1, &["create", "--pid", "2", "-o", "x"]),
        &["process 2", "kernel thread"],
    );
    let us = std::process::id().to_string();
    let arguments = [
        "create",
        "--pid",
        &us,
        "-o",
        "x",
        "--region",
        "no such thing",
    ];
    assert_says(
        &shop.fails(1, &arguments),
        &["no such thing", "libc.so", "largest"],
    );
    assert!(shop.names().is_empty(), "{:?}", shop.names());
}
