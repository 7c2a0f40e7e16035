//! Memory of files: shared mappings of one file in several places, private ones, and other instances of a program.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::memory::{Content, Memory, PAGE, check, remap, write};
use crate::scene::{Captured, REPLAY, be_rolled_back, show, wait_for};
use crate::support::area::Area;
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[
    ("twice", twice),
    ("duplicate", duplicate),
    ("private-file", private_file),
    ("instance", instance),
];

const PAGES: usize = 256;

fn file() -> OwnedFd {
    let file = memfd_create(c"ram", MFdFlags::MFD_CLOEXEC).expect("memfd");
    nix::unistd::ftruncate(&file, i64::try_from(PAGES * PAGE).expect("small")).expect("truncate");
    file
}

fn map(file: &OwnedFd, flags: i32) -> Memory {
    Memory::new(0, Area::map(PAGES, flags, Some(file.as_fd()), 0))
}

/// One file, mapped in two places: threads look at it through both at once.
fn twice(_: &[&str]) {
    let file = file();
    let places = [map(&file, libc::MAP_SHARED), map(&file, libc::MAP_SHARED)];
    be_rolled_back(&places);
    std::thread::scope(|scope| {
        for place in places.iter().cycle().take(4) {
            scope.spawn(|| place.check_all());
        }
    });
    for page in 0..PAGES {
        write(places[0].at(page), Content::Own(page as u64));
        check(places[1].at(page), Content::Own(page as u64));
    }
    say("right");
    end();
}

#[test]
fn a_file_mapped_in_two_places() {
    for words in [&[][..], &["--prefill", "all"], REPLAY] {
        let mut scene = Captured::new("twice", "").restore(words);
        assert_eq!(scene.serving["owed_bytes"], 2 * (PAGES * PAGE) as u64);
        assert_eq!(scene.target.hear(), "right");
        // What was installed through one place does not fault in the other, and stays owed there.
        scene.target.finish();
        let done = scene.restorer.finish();
        assert!(
            matches!(done.outcome(), "complete" | "target-ended"),
            "{done:?}"
        );
        assert!(done.installed() > PAGES as u64 / 2, "{done:?}");
    }
}

/// A second place that mremap makes of a shared mapping, while it is owed.
fn duplicate(_: &[&str]) {
    let file = file();
    let first = map(&file, libc::MAP_SHARED);
    be_rolled_back(&[first]);
    (0..PAGES / 4).for_each(|page| first.check(page));
    let address = remap(first.address, 0, PAGES, libc::MREMAP_MAYMOVE, 0).expect("mremap");
    let second = Memory { address, ..first };
    std::thread::scope(|scope| {
        scope.spawn(|| second.check_all());
        scope.spawn(|| (0..PAGES).rev().for_each(|page| first.check(page)));
    });
    say("right");
    wait_for("end");
    end();
}

#[test]
fn a_shared_mapping_duplicated_by_mremap() {
    let mut scene = Captured::new("duplicate", "").restore(&[]);
    assert_eq!(scene.target.hear(), "right");
    // As above: asked to end, it installs the rest.
    scene.restorer.signal(nix::sys::signal::Signal::SIGTERM);
    let done = scene.restorer.finish();
    assert_eq!(done.outcome(), "complete", "{done:?}");
    assert_eq!(done.events("remap"), 1, "{done:?}");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
    scene.target.tell("end");
    scene.target.finish();
}

fn private_file(_: &[&str]) {
    let memory = map(&file(), libc::MAP_PRIVATE);
    be_rolled_back(&[memory]);
    memory.check_all();
    say("right");
    end();
}

#[test]
fn a_private_mapping_of_a_file_is_there_at_once() {
    let scene = Captured::new("private-file", "").restore(&[]);
    assert_eq!(scene.serving["owed_bytes"], 0);
    assert_eq!(scene.serving["eager_bytes"], (PAGES * PAGE) as u64);
    let done = scene.finish();
    assert_eq!(done.faults(), 0, "{done:?}");
}

/// Another instance of a program, with a file of the same name.
fn instance(words: &[&str]) {
    let memory = map(&file(), libc::MAP_SHARED);
    if words == ["first"] {
        memory.fill();
    } else {
        memory.spoil();
    }
    show(std::process::id(), &[memory]);
    wait_for("go");
    memory.check_all();
    say("right");
    end();
}

#[test]
fn another_instance_by_the_name_of_its_memory() {
    let first = Captured::only_started("instance", "first");
    first.capture(&["--frame-pages", "1"]);
    for with_address in [true, false] {
        let second = Captured::only_started("instance", "second");
        std::fs::copy(first.snapshot(), second.snapshot()).expect("copy");
        let name = if with_address {
            format!("memfd:ram={:#x}", second.areas[0].0)
        } else {
            "memfd:ram".to_owned()
        };
        let mut scene = second.restore_with(&["--region", &name]);
        scene.target.tell("go");
        let done = scene.finish();
        assert_eq!(done.all_pages(), PAGES as u64, "{done:?}");
        assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
    }
}
