//! Everything at once, at random: 32 threads, each with its own memory and an oracle of every page.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::family::{self, Kid};
use crate::kernel::{number, pipe};
use crate::memory::{
    Content, Dice, Memory, PAGE, advise, bytes_of, call, check, protect, remap, write,
};
use crate::moves::arena;
use crate::scene::{Captured, Done, REPLAY, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("tortured", tortured)];

const PAGES: usize = 768;
/// What all threads together do at least, however slow the machine is.
const LEAST_ACTS: usize = 3200;
const ALL: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A page: where it is by now, in which mapping, and what it must be.
#[derive(Debug, Clone, Copy)]
struct Page {
    address: usize,
    /// Where the mapping began when it was made. mremap takes pages of one mapping only.
    mapping: usize,
    content: Content,
}

struct Victim {
    thread: usize,
    pages: Vec<Page>,
    dice: Dice,
    next: usize,
    written: u64,
    kids: Vec<Kid>,
}

impl Victim {
    fn new(memory: &Memory, seed: u64) -> Self {
        let page = |page| Page {
            address: memory.at(page),
            mapping: memory.address,
            content: memory.captured(page),
        };
        Self {
            thread: memory.area,
            pages: (0..memory.pages).map(page).collect(),
            dice: Dice::new(seed ^ ((memory.area as u64 + 1) << 32)),
            next: arena(memory.area),
            written: 0,
            kids: Vec::new(),
        }
    }

    /// Some pages whose addresses follow each other, in one mapping as far as this thread knows.
    fn run(&mut self) -> std::ops::Range<usize> {
        let first = self.dice.below(self.pages.len());
        let most = 1 + self.dice.below(12);
        let mut end = first + 1;
        while end < self.pages.len()
            && end - first < most
            && self.pages[end].address == self.pages[end - 1].address + PAGE
            && self.pages[end].mapping == self.pages[first].mapping
        {
            end += 1;
        }
        first..end
    }

    fn act(&mut self) {
        match self.dice.below(1000) {
            0..300 => self.look(),
            300..450 => self.write(),
            450..580 => self.drop_pages(),
            580..680 => self.go(),
            680..730 => self.leave_behind(),
            730..830 => self.protect(),
            830..930 => self.look_through_the_kernel(),
            930..990 => self.go_onto_others(),
            _ => self.fork(),
        }
    }

    fn look(&mut self) {
        for page in self.run() {
            check(self.pages[page].address, self.pages[page].content);
        }
    }

    fn write(&mut self) {
        let page = self.dice.below(self.pages.len());
        self.written += 1;
        let content = Content::Own(((self.thread as u64) << 40) | self.written);
        write(self.pages[page].address, content);
        self.pages[page].content = content;
    }

    fn drop_pages(&mut self) {
        let run = self.run();
        let pages = &mut self.pages[run];
        advise(pages[0].address, pages.len(), libc::MADV_DONTNEED).expect("madvise");
        pages
            .iter_mut()
            .for_each(|page| page.content = Content::Zero);
    }

    fn place(&mut self) -> usize {
        let place = self.next;
        self.next += 32 * PAGE;
        place
    }

    fn moved(&mut self, run: std::ops::Range<usize>, to: usize) {
        for (index, page) in self.pages[run].iter_mut().enumerate() {
            page.address = to + index * PAGE;
            page.mapping = to;
        }
    }

    fn go(&mut self) {
        let (run, place) = (self.run(), self.place());
        shift(self.pages[run.start].address, run.len(), place, 0);
        self.moved(run, place);
    }

    /// The old place stays mapped, as zeros, and is not looked at any more but by what is moved onto it.
    fn leave_behind(&mut self) {
        let (run, place) = (self.run(), self.place());
        let from = self.pages[run.start].address;
        shift(from, run.len(), place, libc::MREMAP_DONTUNMAP);
        check(from, Content::Zero);
        self.moved(run, place);
    }

    /// Onto pages that get lost for it: they are what is moved there from then on, and what was moved is a new place's.
    fn go_onto_others(&mut self) {
        let (run, onto) = (self.run(), self.run());
        let pages = run.len().min(onto.len());
        let apart = run.start + pages <= onto.start || onto.start + pages <= run.start;
        if !apart {
            return;
        }
        let (from, to) = (
            self.pages[run.start].address,
            self.pages[onto.start].address,
        );
        shift(from, pages, to, 0);
        // A hole is left, which becomes memory again, of zeros, and nobody serves it.
        let place = self.place();
        crate::memory::map_at(place, pages, 0);
        let mapping = self.place();
        for index in 0..pages {
            self.pages[onto.start + index].content = self.pages[run.start + index].content;
            self.pages[onto.start + index].mapping = mapping;
            self.pages[run.start + index] = Page {
                address: place + index * PAGE,
                mapping: place,
                content: Content::Zero,
            };
        }
    }

    fn protect(&mut self) {
        let run = self.run();
        let (address, pages) = (self.pages[run.start].address, run.len());
        let rights = [libc::PROT_READ, libc::PROT_NONE][self.dice.below(2)];
        protect(address, pages, rights);
        if rights == libc::PROT_READ {
            check(address, self.pages[run.start].content);
        } else {
            self.look_outside(&run);
        }
        protect(address, pages, ALL);
    }

    fn look_outside(&mut self, forbidden: &std::ops::Range<usize>) {
        let page = self.dice.below(self.pages.len());
        if !forbidden.contains(&page) {
            check(self.pages[page].address, self.pages[page].content);
        }
    }

    fn look_through_the_kernel(&mut self) {
        let page = self.dice.below(self.pages.len());
        let Page {
            address, content, ..
        } = self.pages[page];
        let (mut read, write) = pipe();
        let arguments = [number(&write), address, PAGE, 0, 0, 0];
        assert_eq!(call(libc::SYS_write, arguments).expect("write"), PAGE);
        let mut got = vec![0; PAGE];
        read.read_exact(&mut got).expect("read");
        assert!(got == bytes_of(content), "{address:#x} is not {content:?}");
    }

    /// The child looks at some of this thread's pages, and changes some.
    fn fork(&mut self) {
        if self.kids.len() >= 2 {
            self.kids.remove(0).join();
        }
        let kid = family::start(|| {
            for _ in 0..24 {
                self.look();
                self.drop_pages();
                self.go();
                self.look();
            }
        });
        self.kids.push(kid);
    }

    fn finish(&mut self) {
        for page in &self.pages {
            check(page.address, page.content);
        }
        self.kids.drain(..).for_each(Kid::join);
    }
}

/// Moves pages of one mapping. mprotect may have cut it, and a fork keeps its pieces apart: then mremap refuses, where a
/// userfaultfd serves them, to move them together.
fn shift(from: usize, pages: usize, to: usize, more_flags: i32) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | more_flags;
    match remap(from, pages, pages, flags, to) {
        Ok(moved) => assert_eq!(moved, to),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) && pages > 1 => {
            for offset in (0..pages).map(|page| page * PAGE) {
                shift(from + offset, 1, to + offset, more_flags);
            }
        }
        Err(error) => panic!("mremap: {error}"),
    }
}

fn tortured(words: &[&str]) {
    let seed: u64 = words[0].parse().expect("a seed");
    let time = Duration::from_millis(words[1].parse().expect("milliseconds"));
    let areas: Vec<Memory> = (0..words[2].parse().expect("threads"))
        .map(|number| Memory::private(number, PAGES))
        .collect();
    be_rolled_back(&areas);
    let (until, least) = (Instant::now() + time, LEAST_ACTS / areas.len());
    std::thread::scope(|scope| {
        for memory in &areas {
            scope.spawn(move || {
                let mut victim = Victim::new(memory, seed);
                let mut acts = 0;
                while acts < least || Instant::now() < until {
                    victim.act();
                    acts += 1;
                }
                victim.finish();
            });
        }
    });
    say("right");
    end();
}

/// The seed from the environment, or another one each time.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("UFFD_RESTORE_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("after 1970");
        u64::from(now.subsec_nanos())
    })
}

fn torture(words: &[&str]) -> Done {
    let seed = seed();
    eprintln!("UFFD_RESTORE_TEST_SEED={seed}");
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let captured = Captured::with("tortured", &format!("{seed} 3000 32"), &how);
    let mut scene = captured.restore(words);
    assert_eq!(scene.target.hear(), "right");
    let done = scene.restorer.finish();
    scene.target.finish();
    for event in ["fork", "remap", "remove", "unmap"] {
        assert!(done.events(event) > 10, "{done:?}");
    }
    done
}

#[test]
fn thirty_two_threads_at_random() {
    let done = torture(&[]);
    assert!(done.pages("demand") > 1000, "{done:?}");
}

#[test]
fn thirty_two_threads_at_random_while_all_is_being_installed() {
    let done = torture(&["--prefill", "all"]);
    // The target asks all the time, and comes first.
    assert!(done.pages("prefill") > 100, "{done:?}");
}

#[test]
fn thirty_two_threads_at_random_while_a_working_set_is_being_installed() {
    let done = torture(REPLAY);
    assert!(done.pages("replayed") > 1000, "{done:?}");
}
