//! Files that are no snapshots, or not good ones. The target is not touched.

use std::fs;
use std::path::Path;

use snapshot_format::SectionKind;

use super::actor::Actor;
use super::daemon::{Ended, restoring, run};
use super::lab::{Lab, flip, section};

const PAGES: u64 = 2048;

fn refused(actor: &mut Actor, snapshot: &Path, parts: &[&str]) {
    let ended: Ended = run(restoring(snapshot, actor, &[]));
    let name = snapshot.file_name().expect("a name").to_string_lossy();
    ended.assert(1, &[&[&*name], parts].concat());
    assert!(ended.out.is_empty(), "{ended:?}");
    actor.assert_untouched();
}

#[test]
fn a_file_that_cannot_be_a_snapshot_is_named_with_what_it_is() {
    let lab = Lab::new();
    let mut actor = Actor::start(8);
    refused(&mut actor, &lab.path("none"), &["No such file"]);
    fs::create_dir(lab.path("folder")).expect("a folder");
    refused(&mut actor, &lab.path("folder"), &["directory"]);
    nix::unistd::mkfifo(&lab.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    refused(&mut actor, &lab.path("fifo"), &["pipe", "the file itself"]);
    for (name, bytes) in [
        ("empty", vec![]),
        ("text", b"hello".to_vec()),
        ("raw", vec![3; 100_000]),
    ] {
        let path = lab.write(name, &bytes);
        refused(&mut actor, &path, &["not a snapshot", "uffd-snapshot pack"]);
    }
}

#[test]
fn a_truncated_a_newer_and_a_damaged_snapshot_are_told_apart() {
    let (lab, good) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let bytes = fs::read(&good).expect("read");
    for len in [bytes.len() - 1, bytes.len() / 2, 4096, 100] {
        let path = lab.write("short", &bytes[..len]);
        refused(
            &mut actor,
            &path,
            &["truncated", "copy or capture it again"],
        );
    }
    let mut newer = bytes.clone();
    newer[8] = 2;
    let path = lab.write("newer", &newer);
    refused(&mut actor, &path, &["version 2 is not known", "newer"]);

    for (what, offset) in [
        ("header", 40),
        ("metadata", section(&good, SectionKind::Metadata).0 + 3),
        ("region map", section(&good, SectionKind::Regions).0 + 9),
    ] {
        let path = lab.write("flipped", &bytes);
        flip(&path, offset);
        refused(&mut actor, &path, &["corrupt", what]);
    }
    // The root of the index is its last node.
    let path = lab.write("flipped", &bytes);
    let (start, len) = section(&path, SectionKind::Index);
    flip(&path, start + len - 4096 + 5);
    refused(&mut actor, &path, &["corrupt", "index"]);
}

#[test]
fn a_snapshot_that_may_not_be_read_is_named() {
    let (_lab, snapshot) = Lab::with_snapshot(8);
    let mut actor = Actor::with(8, "nobody");
    fs::set_permissions(
        &snapshot,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("permissions");
    let command = super::permissions::as_nobody(&restoring(&snapshot, &actor, &[]), &[]);
    run(command).assert(1, &["snap", "Permission denied", "run as a user who may"]);
    actor.assert_untouched();
}
