//! What each way notices of file I/O and of other processes: by doing it to a target, and asserting what came of it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek};
use snapshot_format::PAGE_SIZE;
use uffd_restore::uffd::{Outcome, Stop};

use crate::area::{Area, memfd};
use crate::target::{Order, Target, stamp};
use crate::way::{Seen, Server, Way};

/// How a read of the target's went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Without a message.
    Nothing,
    /// The daemon was told that a page is missing.
    Missing,
    /// The daemon was told that a page is there that is not mapped.
    Minor,
}

/// A target, somebody else with the same memory who is not registered, and what they share.
struct Scene<'a> {
    server: Server<'a>,
    other: Target<'a>,
    area: &'a Area,
    file: &'a File,
}

/// The cells of a column.
#[derive(Debug, Default)]
struct Column(Vec<&'static str>);

/// The rows.
const ROWS: [&str; 9] = [
    "pread of a hole",
    "pwrite of a part of a page before it is restored, then the target reads it",
    "another process reads a hole through a mapping of its own, then the target reads it",
    "the daemon's install where another process has just written a page",
    "another process looks while a page is being installed",
    "a page that was installed, dropped by the target with MADV_DONTNEED, read again",
    "a page that was installed, removed from the file with MADV_REMOVE, read again",
    "a second registered process reads a page that was installed for the first",
    "a page punched out of the file before it is restored, then the target reads it",
];

/// Do it all and print what came of it.
pub(crate) fn run() {
    println!("\n## Shared memory: what is noticed\n");
    println!(
        "Asserted in this run, on this kernel. \"silent\": the daemon gets no message and the target reads something else than the \
         snapshot.\n"
    );
    let columns = Way::SHARED.map(column);
    println!(
        "| what happens | {} |",
        Way::SHARED.map(Way::name).join(" | ")
    );
    println!("|---|{}", "---|".repeat(columns.len()));
    for (row, what) in ROWS.iter().enumerate() {
        let cells = columns.each_ref().map(|column| column.0[row]);
        println!("| {what} | {} |", cells.join(" | "));
    }
}

fn column(way: Way) -> Column {
    const PAGES: usize = 16;
    let (file, times) = (memfd(PAGES), Area::map(1, Some(&memfd(1))));
    let area = Area::map(PAGES, Some(&file));
    let (other, _) = Target::start(&area, &times, None);
    let mut scene = Scene {
        server: Server::start(way, &area, Some(&file), &times),
        other,
        area: &area,
        file: &file,
    };
    let minor = matches!(way, Way::CopyMinor | Way::Continue | Way::WriteContinue);
    Column(vec![
        scene.hole_is_read(),
        scene.part_is_written(minor),
        scene.hole_is_mapped_elsewhere(minor),
        scene.install_meets_content(way),
        scene.install_is_watched(way),
        scene.dropped(minor),
        scene.removed(),
        scene.second_process(way, minor, &times),
        scene.punched(),
    ])
}

impl Scene<'_> {
    /// Lets the target read a word, and says how the daemon was told. If it was, nothing has been answered yet.
    fn read(&mut self, page: usize, word: usize) -> Told {
        self.server.target.order(Order::Read(page, word));
        match self.server.next() {
            Seen::Reply => Told::Nothing,
            Seen::Fault(fault) => {
                assert_eq!(self.area.page_of(fault.address), page);
                if fault.minor {
                    Told::Minor
                } else {
                    Told::Missing
                }
            }
        }
    }

    /// What the target read.
    fn value(&mut self) -> u64 {
        assert!(matches!(self.server.next(), Seen::Reply), "it waits again");
        self.server.target.reply()[0]
    }

    fn other_reads(&mut self, page: usize, word: usize) -> u64 {
        self.other.order(Order::Read(page, word));
        self.other.reply()[0]
    }

    fn file_reads(&self, page: usize, word: usize) -> u64 {
        let mut bytes = [0; 8];
        let at = (page * PAGE_SIZE + word * 8) as u64;
        self.file.read_exact_at(&mut bytes, at).expect("pread");
        u64::from_le_bytes(bytes)
    }

    fn is_hole(&self, page: usize) -> bool {
        let at = i64::try_from(page * PAGE_SIZE).expect("short");
        lseek(self.file, at, Whence::SeekHole).expect("lseek") == at
    }

    /// Restores a page that the target waits for.
    fn install(&mut self, page: usize) {
        assert_eq!(self.read(page, 0), Told::Missing);
        self.server.install(page, 1);
        assert_eq!(self.value(), stamp(page));
    }

    fn map_cached(&self, page: usize) -> Outcome {
        let range = self.area.range_of(page, 1);
        self.server.userfaultfd.map_cached(range)
    }

    fn hole_is_read(&mut self) -> &'static str {
        assert_eq!(self.file_reads(0, 0), 0, "not the snapshot's");
        assert!(self.is_hole(0), "it left nothing behind");
        self.install(0);
        assert_eq!(self.file_reads(0, 0), stamp(0));
        "zeros, silent; nothing stays"
    }

    /// A page is in the page cache that the daemon did not bring, with this word.
    fn foreign_page(&mut self, page: usize, minor: bool) -> &'static str {
        assert_ne!(self.file_reads(page, 0), stamp(page));
        let told = self.read(page, 0);
        if !minor {
            assert_eq!((told, self.value()), (Told::Nothing, 0));
            return "silent";
        }
        assert_eq!(told, Told::Minor);
        let start = self.area.range_of(page, 1).start;
        let content = vec![1; PAGE_SIZE];
        let refused = self.server.userfaultfd.copy(start, &content);
        assert_eq!(refused.stop, Some(Stop::Present), "COPY never overwrites");
        assert_eq!(self.map_cached(page).stop, None);
        assert_eq!(self.value(), 0);
        "MINOR fault of a page still owed: noticed"
    }

    fn part_is_written(&mut self, minor: bool) -> &'static str {
        let at = PAGE_SIZE as u64 + 8;
        self.file.write_all_at(&[7; 8], at).expect("pwrite");
        self.foreign_page(1, minor)
    }

    fn hole_is_mapped_elsewhere(&mut self, minor: bool) -> &'static str {
        assert_eq!(self.other_reads(2, 0), 0, "zeros there already");
        assert!(!self.is_hole(2), "and a page of them in the file");
        self.foreign_page(2, minor)
    }

    fn install_meets_content(&mut self, way: Way) -> &'static str {
        assert_eq!(self.read(3, 0), Told::Missing);
        self.other.order(Order::Write(3, 0, 99));
        self.other.reply();
        let answer = match way {
            Way::Copy | Way::CopyMinor => {
                let start = self.area.range_of(3, 1).start;
                let content = self.server.content(3, 1).to_vec();
                let refused = self.server.userfaultfd.copy(start, &content);
                assert_eq!(refused.stop, Some(Stop::Present));
                let page = self.area.range_of(3, 1);
                self.server.userfaultfd.wake(page).expect("to wake");
                "refused, EEXIST: noticed, nothing overwritten"
            }
            _ => {
                self.server.install(3, 1);
                "overwritten, silent: the write is lost"
            }
        };
        if way == Way::CopyMinor {
            // Woken, it finds the page of somebody else.
            assert!(matches!(self.server.next(), Seen::Fault(fault) if fault.minor));
            assert_eq!(self.map_cached(3).stop, None);
        }
        let kept = matches!(way, Way::Copy | Way::CopyMinor);
        assert_eq!(self.value(), if kept { 99 } else { stamp(3) });
        answer
    }

    fn install_is_watched(&mut self, way: Way) -> &'static str {
        if way != Way::Continue {
            // The kernel makes the page known when it is whole (COPY), or lets nobody at it while it is written (pwrite): a
            // rule of the kernel's code, which no schedule can prove.
            return "sees nothing or all of it (not asserted)";
        }
        let half = self.server.content(4, 1)[..PAGE_SIZE / 2].to_vec();
        self.area.fill(4, &half);
        assert_eq!(self.other_reads(4, 0), stamp(4));
        assert_eq!(self.other_reads(4, PAGE_SIZE / 8 - 1), 0);
        assert_eq!(self.file_reads(4, PAGE_SIZE / 8 - 1), 0);
        "sees half a page"
    }

    fn dropped(&mut self, minor: bool) -> &'static str {
        self.install(5);
        self.advise(5, libc::MADV_DONTNEED);
        let told = self.read(5, 0);
        if minor {
            assert_eq!(told, Told::Minor);
            assert_eq!(self.map_cached(5).stop, None);
        } else {
            assert_eq!(told, Told::Nothing);
        }
        assert_eq!(self.value(), stamp(5));
        if minor {
            "right, after one more fault"
        } else {
            "right, no fault"
        }
    }

    fn removed(&mut self) -> &'static str {
        self.install(6);
        self.advise(6, libc::MADV_REMOVE);
        assert_eq!(self.read(6, 0), Told::Missing);
        let outcome = self.server.userfaultfd.zero(self.area.range_of(6, 1));
        assert_eq!(outcome.stop, None);
        assert_eq!(self.value(), 0);
        "MISSING fault of a page not owed: zeros, right"
    }

    fn second_process(&mut self, way: Way, minor: bool, times: &Area) -> &'static str {
        self.install(7);
        let mut second = Server::start(way, self.area, Some(self.file), times);
        second.target.order(Order::Read(7, 0));
        match second.next() {
            Seen::Reply => assert!(!minor),
            Seen::Fault(fault) => {
                assert!(minor && fault.minor);
                let mapped = second.userfaultfd.map_cached(self.area.range_of(7, 1));
                assert_eq!(mapped.stop, None);
            }
        }
        assert_eq!(second.target.reply()[0], stamp(7));
        if minor {
            "right, after a fault of its own"
        } else {
            "right, no fault"
        }
    }

    fn punched(&mut self) -> &'static str {
        // By the other process, so that nothing of it can be told to the daemon.
        self.other.order(Order::Advise(8, libc::MADV_REMOVE));
        self.other.reply();
        assert_eq!(self.read(8, 0), Told::Missing);
        self.server.install(8, 1);
        assert_eq!(self.value(), stamp(8), "zeros would have been right");
        "the snapshot's page instead of zeros, silent"
    }

    fn advise(&mut self, page: usize, advice: i32) {
        self.server.target.order(Order::Advise(page, advice));
        assert!(matches!(self.server.next(), Seen::Reply));
        self.server.target.reply();
    }
}
