//! madvise of every kind.

use std::os::fd::AsFd;

use crate::family;
use crate::memory::{Content, Memory, advise, call, check, look, write};
use crate::scene::{Captured, REPLAY, be_rolled_back};
use crate::support::area::Area;
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("advised", advised)];

/// Pages for each kind of advice.
const PART: usize = 20;

const PAGEOUT: i32 = 21;
const COLD: i32 = 20;
const COLLAPSE: i32 = 25;
/// Since Linux 6.13.
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// A part of the memory that is advised.
struct Part(Memory, usize);

impl Part {
    fn at(&self, page: usize) -> usize {
        assert!(page < PART);
        self.0.at(self.1 * PART + page)
    }

    fn captured(&self, page: usize) -> Content {
        self.0.captured(self.1 * PART + page)
    }

    /// About the middle of it.
    fn advise(&self, advice: i32) -> bool {
        advise(self.at(4), PART - 8, advice).is_ok()
    }

    fn is_middle(page: usize) -> bool {
        (4..PART - 4).contains(&page)
    }

    /// The middle is this, the rest as captured.
    fn check(&self, middle: impl Fn(usize) -> Content) {
        for page in 0..PART {
            let content = if Self::is_middle(page) {
                middle(page)
            } else {
                self.captured(page)
            };
            check(self.at(page), content);
        }
    }

    fn check_as_captured(&self) {
        self.check(|page| self.captured(page));
    }

    fn touch_all(&self) {
        (0..PART).for_each(|page| check(self.at(page), self.captured(page)));
    }
}

fn advised(words: &[&str]) {
    let private = Memory::private(0, 16 * PART);
    let file = nix::sys::memfd::memfd_create(c"advised", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .expect("memfd");
    let pages = 4 * PART;
    nix::unistd::ftruncate(&file, i64::try_from(pages * 4096).expect("small")).expect("truncate");
    let shared = Area::map(pages, libc::MAP_SHARED, Some(file.as_fd()), 0);
    let shared = Memory::new(1, shared);
    let wiped = Memory::private(2, PART);
    assert!(advise(wiped.address, PART, libc::MADV_WIPEONFORK).is_ok());
    be_rolled_back(&[private, shared, wiped]);

    let part = |number| Part(private, number);
    dropping(&part, words == ["ahead"]);
    hinting(&part);
    guards(&part(12));
    removing(&Part(shared, 0), &Part(shared, 1));
    wiping(&Part(wiped, 0));
    (13..16).for_each(|number| part(number).check_as_captured());
    (2..4).for_each(|number| Part(shared, number).check_as_captured());
    say("right");
    end();
}

fn dropping(part: &impl Fn(usize) -> Part, ahead: bool) {
    // Never touched before.
    let dropped = part(0);
    assert!(dropped.advise(libc::MADV_DONTNEED));
    dropped.check(|_| Content::Zero);
    let freed = part(1);
    assert!(freed.advise(libc::MADV_FREE));
    freed.check(|page| match look(freed.at(page)) {
        // It may have been installed ahead, and the kernel not have done it yet.
        Content::Snapshot(_) if ahead => freed.captured(page),
        _ => Content::Zero,
    });
    // Touched, and then written again.
    let dropped = part(2);
    dropped.touch_all();
    assert!(dropped.advise(libc::MADV_DONTNEED));
    write(dropped.at(5), Content::Own(5));
    dropped.check(|page| {
        if page == 5 {
            Content::Own(5)
        } else {
            Content::Zero
        }
    });
    // Touched and freed: the kernel has not necessarily done it yet.
    let freed = part(3);
    freed.touch_all();
    assert!(freed.advise(libc::MADV_FREE));
    freed.check(|page| match look(freed.at(page)) {
        Content::Zero => Content::Zero,
        _ => freed.captured(page),
    });
}

/// What changes nothing.
fn hinting(part: &impl Fn(usize) -> Part) {
    let hints = [
        libc::MADV_WILLNEED,
        COLD,
        PAGEOUT,
        libc::MADV_POPULATE_READ,
        libc::MADV_POPULATE_WRITE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_RANDOM,
    ];
    for (number, hint) in (4..).zip(hints) {
        let part = part(number);
        // Not every kernel has all of them; what they say does not matter here but for the two that bring pages.
        let done = part.advise(hint);
        if hint == libc::MADV_POPULATE_READ || hint == libc::MADV_POPULATE_WRITE {
            assert!(done);
        }
        part.check_as_captured();
        part.advise(hint);
        part.advise(COLLAPSE);
        part.check_as_captured();
    }
}

/// Guards drop what was there.
fn guards(part: &Part) {
    part.touch_all();
    if part.advise(GUARD_INSTALL) {
        assert!(part.advise(GUARD_REMOVE));
        part.check(|_| Content::Zero);
    }
}

fn removing(untouched: &Part, touched: &Part) {
    assert!(untouched.advise(libc::MADV_REMOVE));
    untouched.check(|_| Content::Zero);
    touched.touch_all();
    assert!(touched.advise(libc::MADV_REMOVE));
    touched.check(|_| Content::Zero);
}

/// Zero in the child, as it was in the parent.
fn wiping(part: &Part) {
    check(part.at(0), part.captured(0));
    let child = family::start(|| {
        (0..PART).for_each(|page| check(part.at(page), Content::Zero));
    });
    child.join();
    part.check_as_captured();
    assert!(call(libc::SYS_getpid, [0; 6]).is_ok());
}

#[test]
fn advice_of_every_kind() {
    for words in [&[][..], &["--prefill", "all"], REPLAY] {
        let ahead = if words.is_empty() { "" } else { "ahead" };
        let captured = Captured::with("advised", ahead, &["--frame-pages", "4"]);
        let done = captured.restore(words).finish();
        if words.is_empty() {
            // DONTNEED twice, FREE twice, REMOVE twice.
            assert!(done.events("remove") >= 6, "{done:?}");
            assert_eq!(done.events("fork"), 1, "{done:?}");
            assert!(done.pages("removed") > 0, "{done:?}");
        } else {
            assert!(
                done.pages("prefill") + done.pages("replayed") > 0,
                "{done:?}"
            );
        }
    }
}
