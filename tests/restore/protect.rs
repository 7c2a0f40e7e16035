//! mprotect, of which no event tells, and which cuts mappings.

use crate::memory::{Memory, protect};
use crate::scene::{Captured, Done, REPLAY, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("split", split), ("fenced", fenced)];

const PAGES: usize = 1024;
const ALL: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Every third page may not be written, so that each piece of a frame has a border in it.
fn split(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    for page in (0..PAGES).step_by(3) {
        protect(memory.at(page), 1, libc::PROT_READ);
    }
    for page in (0..PAGES).rev() {
        memory.check(page);
    }
    for page in (0..PAGES).step_by(3) {
        protect(memory.at(page), 1, ALL);
    }
    memory.check_all();
    say("right");
    end();
}

/// Half of the pages may not be touched at all while their neighbours are brought, and then may be again.
fn fenced(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    for first in (0..PAGES).step_by(8) {
        protect(memory.at(first), 4, libc::PROT_NONE);
    }
    for first in (0..PAGES).step_by(8) {
        (first + 4..first + 8).for_each(|page| memory.check(page));
    }
    for first in (0..PAGES).step_by(8) {
        protect(memory.at(first), 4, ALL);
    }
    memory.check_all();
    say("right");
    end();
}

fn run(role: &str, words: &[&str]) -> Done {
    let how = ["--frame-pages", "16"];
    let done = Captured::with(role, "", &how).restore(words).finish();
    assert_eq!(done.installed(), Memory::content_in(PAGES), "{done:?}");
    assert!(done.all_pages() >= PAGES as u64, "{done:?}");
    done
}

#[test]
fn copies_over_borders_that_mprotect_made() {
    let done = run("split", &[]);
    assert!(done.pages("demand") > 20, "{done:?}");
    assert!(done.pages("neighbours") > PAGES as u64 / 2, "{done:?}");
}

#[test]
fn memory_that_may_not_be_touched_for_a_while() {
    let done = run("fenced", &[]);
    assert!(done.pages("demand") > 20, "{done:?}");
    assert!(done.pages("neighbours") > PAGES as u64 / 2, "{done:?}");
}

#[test]
fn the_same_while_all_is_being_installed() {
    for role in ["split", "fenced"] {
        let done = run(role, &["--prefill", "all"]);
        assert!(done.pages("prefill") > 0, "{done:?}");
        let done = run(role, REPLAY);
        assert!(done.pages("replayed") > 0, "{done:?}");
    }
}
