//! The process that serves is killed as the last page of all is being installed: the next one knows that it is there.

use crate::memory::Memory;
use crate::scene::{Captured, Done, be_rolled_back, wait_for};
use crate::support::area::{Area, HUGE_PAGE, PAGE};
use crate::support::huge::HugePages;
use crate::support::last_install::kill_at_next_install;
use crate::support::service::worker_of;
use crate::support::{Role, end, hear, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("last small", small), ("last huge", huge)];

/// Pages in each of the areas.
const SMALL_IN_HUGE: usize = HUGE_PAGE / PAGE;

/// Private memory of two pages, the second of which is looked at when the test says so.
fn last(page: usize, flags: i32) {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let areas = [Memory::new(0, Area::map(2 * page, flags, None, 0))];
    be_rolled_back(&areas);
    areas[0].check(0);
    say("the first is there");
    wait_for("go on");
    (page..2 * page).for_each(|page| areas[0].check(page));
    say("right");
    // Until it may: that it ends is not to be what ends the session.
    hear();
    end();
}

fn small(_: &[&str]) {
    last(1, 0);
}

fn huge(_: &[&str]) {
    last(SMALL_IN_HUGE, libc::MAP_HUGETLB);
}

fn killed_at_the_last(role: &str) -> Done {
    let mut scene = Captured::new(role, "").restore(&[]);
    assert_eq!(scene.target.hear(), "the first is there");
    let worker = worker_of(scene.restorer.pid()).expect("a worker");
    kill_at_next_install(worker, || scene.target.tell("go on"));
    // Nobody asks for that page any more: only who knows that it is there can be through.
    scene.finish()
}

#[test]
fn nothing_is_owed_after_the_last_page() {
    let done = killed_at_the_last("last small");
    assert_eq!(done.all_pages() + done.pages("present"), 2, "{done:?}");
}

#[test]
fn nor_after_the_last_huge_page_that_there_is() {
    let _all = HugePages::reserve(2);
    let done = killed_at_the_last("last huge");
    let all = 2 * SMALL_IN_HUGE as u64;
    assert_eq!(done.all_pages() + done.pages("present"), all, "{done:?}");
}
