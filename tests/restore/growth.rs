//! Memory that grows and shrinks: the heap of brk, and mappings that grow down as stacks do.
#![expect(unsafe_code, reason = "sbrk")]

use crate::memory::{Content, Memory, PAGE, check, map_at, write};
use crate::moves::arena;
use crate::scene::{Captured, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("heap", heap), ("stack", stack)];

const PAGES: usize = 128;

/// Moves the end of the heap. Returns where it was. This thread's malloc has another arena, and no other thread allocates.
fn sbrk(bytes: isize) -> usize {
    // SAFETY: what is given back is only what was taken by this role, which does not touch it any more.
    let before = unsafe { libc::sbrk(bytes) };
    let before = before.expose_provenance();
    assert_ne!(before, usize::MAX, "sbrk");
    before
}

fn in_bytes(pages: usize) -> isize {
    isize::try_from(pages * PAGE).expect("small")
}

fn heap(_: &[&str]) {
    let end_of_heap = sbrk(0);
    let gap = end_of_heap.next_multiple_of(PAGE) - end_of_heap;
    let start = sbrk(isize::try_from(gap).expect("small") + in_bytes(PAGES)) + gap;
    let memory = Memory {
        area: 0,
        address: start,
        pages: PAGES,
    };
    be_rolled_back(&[memory]);
    (0..PAGES / 2).for_each(|page| memory.check(page));
    // The last 32 pages go, and come back as zeros, with more.
    sbrk(-in_bytes(32));
    assert_eq!(sbrk(in_bytes(64)), memory.at(PAGES - 32));
    for page in PAGES - 32..PAGES + 32 {
        check(start + page * PAGE, Content::Zero);
    }
    write(memory.at(PAGES - 1), Content::Own(1));
    (0..PAGES - 32).for_each(|page| memory.check(page));
    check(memory.at(PAGES - 1), Content::Own(1));
    sbrk(-in_bytes(64));
    say("right");
    end();
}

#[test]
fn a_heap_that_shrinks_and_grows() {
    let done = Captured::new("heap", "").restore(&[]).finish();
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
    assert!(done.pages("removed") > 20, "{done:?}");
    assert!(done.events("unmap") >= 1, "{done:?}");
}

fn stack(_: &[&str]) {
    let memory = Memory {
        area: 0,
        address: arena(100),
        pages: PAGES,
    };
    map_at(memory.address, PAGES, libc::MAP_GROWSDOWN);
    be_rolled_back(&[memory]);
    // It grows before anything of it is there: what is new is zero, and not known to the daemon.
    for page in 1..=64 {
        let address = memory.address - page * PAGE;
        check(address, Content::Zero);
        write(address, Content::Own(page as u64));
    }
    for page in (0..PAGES).rev() {
        memory.check(page);
    }
    memory.check_all();
    for page in 1..=64 {
        check(memory.address - page * PAGE, Content::Own(page as u64));
    }
    say("right");
    end();
}

#[test]
fn a_stack_that_grows() {
    let done = Captured::new("stack", "").restore(&[]).finish();
    assert_eq!(done.all_pages(), PAGES as u64 + 64, "{done:?}");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
}
