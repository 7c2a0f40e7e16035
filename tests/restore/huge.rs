//! Huge pages.

use crate::memory::{Content, Memory, PAGE, advise, check, write};
use crate::scene::{Captured, REPLAY, be_rolled_back};
use crate::support::area::{Area, HUGE_PAGE};
use crate::support::huge::HugePages;
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("huge", huge)];

const SMALL_IN_HUGE: usize = HUGE_PAGE / PAGE;
const HUGE_PAGES: usize = 5;

/// Two huge pages are looked at by two threads at once, one is dropped before it came, one is written to.
fn huge(_: &[&str]) {
    let area = |number: usize, sharing: i32| {
        let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
        Memory::new(
            number,
            Area::map(HUGE_PAGES * SMALL_IN_HUGE, flags, None, 0),
        )
    };
    let areas = [area(0, libc::MAP_PRIVATE), area(1, libc::MAP_SHARED)];
    be_rolled_back(&areas);
    for memory in &areas {
        let dropped = 3;
        let advice = if memory.area == 0 {
            libc::MADV_DONTNEED
        } else {
            libc::MADV_REMOVE
        };
        advise(memory.at(dropped * SMALL_IN_HUGE), SMALL_IN_HUGE, advice).expect("madvise");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    (0..2 * SMALL_IN_HUGE)
                        .rev()
                        .for_each(|page| memory.check(page));
                });
            }
        });
        let last = HUGE_PAGES * SMALL_IN_HUGE - 1;
        write(memory.at(last), Content::Own(1));
        for page in 0..last {
            if page / SMALL_IN_HUGE == dropped {
                check(memory.at(page), Content::Zero);
            } else {
                memory.check(page);
            }
        }
        check(memory.at(last), Content::Own(1));
    }
    say("right");
    end();
}

#[test]
fn private_and_shared_huge_pages() {
    let _reserved = HugePages::reserve(24);
    for words in [&[][..], &["--prefill", "all"], REPLAY] {
        let done = Captured::with("huge", "", &[]).restore(words).finish();
        assert!(done.events("remove") >= 2 || !words.is_empty(), "{done:?}");
        assert_eq!(done.all_pages() % SMALL_IN_HUGE as u64, 0, "{done:?}");
        assert!(done.installed() >= SMALL_IN_HUGE as u64 * 4, "{done:?}");
    }
}
