//! A page of a snapshot that is not what it was. Nobody ever reads it as anything else, not as zeros either.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;
use snapshot_format::{Content, Cursor, PageNo, SectionKind, Snapshot};

use super::board::{Board, Slot};
use super::case::{Case, Fill, Source};
use super::daemon::Kind;
use super::memory::{MIB, Memory, PAGE, WORDS};
use super::stage::Ended;

const MEMORY: u64 = 8 * MIB;
/// In the middle of it.
const BAD: u64 = MEMORY / PAGE / 2;

/// The words: the board. Looks at all pages but those of the wish, which are two numbers, and then at those.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(MEMORY);
    board.set(Slot::Memory, memory.start);
    for number in 0..memory.pages() {
        let page = memory.page(number);
        page.fill(page.key(0), 0..WORDS);
    }
    board.ready();
    let wish = board.get(Slot::Wish);
    let bad = wish >> 32..wish & u64::from(u32::MAX);
    let look = |number| {
        let page = memory.page(number);
        board.note(page.holds(page.key(0), 0..WORDS));
    };
    (0..memory.pages())
        .filter(|number| !bad.contains(number))
        .for_each(look);
    board.add(Slot::Step, 1);
    while board.get(Slot::Step) < 2 {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    bad.clone().for_each(look);
    board.done();
}

/// Damages the frame that has the page of an address. Returns all pages of that frame, as pages of the memory.
fn damage(path: &Path, memory: u64) -> std::ops::Range<u64> {
    let snapshot = Arc::new(Snapshot::open(File::open(path).expect("open")).expect("a snapshot"));
    let address = memory + BAD * PAGE;
    let (region, first) = find(&snapshot, address);
    let (_, frames, _) = snapshot
        .sections()
        .find(|(kind, _, _)| *kind == SectionKind::Frames)
        .expect("frames");
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let mut frame_of = |page| match cursor.content(PageNo(page)).expect("content") {
        Content::Frame { frame, .. } => Some(frame),
        _ => None,
    };
    let bad = first + (address - region) / PAGE;
    let frame = frame_of(bad).expect("a page in a frame");
    let near = bad.saturating_sub(512)..bad + 512;
    let pages: Vec<u64> = near.filter(|&page| frame_of(page) == Some(frame)).collect();
    flip(path, frames + frame.offset + 8 + 20);
    let in_memory = |page: u64| (region + (page - first) * PAGE - memory) / PAGE;
    in_memory(pages[0])..in_memory(pages[pages.len() - 1]) + 1
}

/// The region of an address: where it starts, and its first page.
fn find(snapshot: &Snapshot<File>, address: u64) -> (u64, u64) {
    let mut regions = snapshot.regions().as_slice().iter();
    let placed = regions.find(|placed| {
        (placed.region.start..placed.region.start + placed.region.len).contains(&address)
    });
    let placed = placed.expect("a region with the address");
    (placed.region.start, placed.first_page.0)
}

/// Changes one bit of a file.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("write");
}

#[test]
fn a_damaged_page_is_never_anything_else() {
    let Some(mut case) = Case::start("corrupt", "", 1) else {
        return;
    };
    case.dump("images");
    case.import();
    let bad = damage(&case.snapshot(), case.board.get(Slot::Memory));
    assert!(bad.contains(&BAD));
    for (what, signal) in [("poison", Signal::SIGBUS), ("kill", Signal::SIGKILL)] {
        for fill in [Fill::AtOnce, Fill::Never] {
            case.board.reset();
            let mut words = vec!["--on-failure", what];
            words.extend(fill.words());
            case.board.set(Slot::Wish, bad.start << 32 | bad.end);
            let daemon = case.bring_back(Kind::Ours, Source::Snapshot, &words);
            case.board.set(Slot::Go, 1);
            // With a fill at once it may be killed before it asks.
            let early = what == "kill" && fill == Fill::AtOnce;
            if !early {
                case.board.wait(Slot::Step, 1);
                let good = MEMORY / PAGE - (bad.end - bad.start);
                case.board.assert_right(good);
            }
            case.board.set(Slot::Step, 2);
            let ended = case
                .stage
                .await_end(case.root(), "who touches a damaged page");
            assert_eq!(
                ended,
                Ended::by(signal),
                "{what} {fill:?} {}",
                daemon.said()
            );
            case.board.assert_right(0);
            let done = daemon.ended(&mut case.stage);
            done.assert_failed(&["corrupt frame"]);
        }
    }
}
