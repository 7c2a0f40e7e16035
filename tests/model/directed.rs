//! What schedules at random meet too seldom: a kernel that answers as it is told to.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Instant;

use snapshot_format::{PAGE_SIZE, PageNo};
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::session::{
    Block, Installer, OnFailure, Request, Session, SpaceId, Supplier, Turn, What,
};
use uffd_restore::space::{AddressSpace, Kind};
use uffd_restore::uffd::{Event, Fault, Inbox, Message, Outcome, Put, ReadError, Receipt, Stop};

const X: AddrRange = AddrRange::new(0x10_0000, 0x10_1000);
const Y: AddrRange = AddrRange::new(0x20_0000, 0x20_1000);

/// Everything fails in one way, or nothing does.
#[derive(Debug, Default)]
struct Script {
    messages: VecDeque<Message>,
    stop: Option<Stop>,
    /// Nothing is mapped here.
    hole: Option<AddrRange>,
    installed: Vec<Addr>,
}

impl Script {
    fn stop_at(&self, at: Addr) -> Option<Stop> {
        let in_hole = self.hole.is_some_and(|hole| hole.contains(at));
        self.stop.or(in_hole.then_some(Stop::Unmapped))
    }

    fn fill(&mut self, range: AddrRange) -> Outcome {
        if let Some(stop) = self.stop_at(range.start) {
            return Outcome::stopped(stop);
        }
        self.installed.push(range.start);
        Outcome::complete(range.len())
    }
}

impl Installer for Script {
    fn read(&mut self, inbox: &Inbox) -> Result<usize, ReadError> {
        let messages = self.messages.drain(..).enumerate();
        Ok(messages
            .map(|(cell, message)| inbox.put(cell, &message))
            .count())
    }
    fn number(&self) -> RawFd {
        0
    }
    fn install(&mut self, range: AddrRange, _: Put<'_>, _: &Receipt) -> Outcome {
        self.fill(range)
    }
    fn wake(&mut self, _: AddrRange) {}
    fn probe(&mut self, at: Addr, _: u64) -> Option<Stop> {
        self.stop_at(at)
    }
    fn of_child(&mut self, _: RawFd) -> Self {
        Self::default()
    }
}

struct Nothing;

impl Supplier for Nothing {
    fn fetch(&mut self, _: &Request) -> Option<&Block> {
        None
    }
}

/// X is owed a page, Y none.
fn session() -> (Session<Script>, SpaceId) {
    let mut space = AddressSpace::new();
    space.register(X, Kind::PRIVATE);
    space.register(Y, Kind::PRIVATE);
    space.owe(X, PageNo(7));
    let mut session = Session::new(OnFailure::Poison);
    let id = session.add(Script::default(), space);
    (session, id)
}

fn script(session: &mut Session<Script>, id: SpaceId) -> &mut Script {
    session.installer_mut(id).expect("a member")
}

#[test]
fn faults_that_are_read_during_a_delivery_are_answered() {
    let (mut session, id) = session();
    let now = Instant::now();
    let request = session.fill_request(id, 1).expect("a page is owed");
    let mut block = Block::default();
    block.bytes.resize(PAGE_SIZE, 1);
    block.push(7, What::Bytes(0));
    let kernel = script(&mut session, id);
    kernel.stop = Some(Stop::Unmapped);
    kernel.messages.push_back(Message::Fault(Fault {
        address: Y.start,
        ..Fault::default()
    }));
    assert_eq!(session.deliver_fill(&request, &block, now), Turn::Soon);
    script(&mut session, id).stop = None;
    assert_eq!(session.turn(id, &mut Nothing, now), Turn::Idle);
    assert_eq!(script(&mut session, id).installed, [Y.start]);
}

#[test]
fn nothing_is_finished_as_long_as_something_is_half_told() {
    let (mut session, id) = session();
    let now = Instant::now();
    let kernel = script(&mut session, id);
    kernel.stop = Some(Stop::Changing);
    // What is told first of X→Y (onto Y) and Y→X.
    kernel.messages.push_back(Message::Event(Event::Unmap(Y)));
    kernel.messages.push_back(told_remap(Y, X));
    assert_eq!(session.turn(id, &mut Nothing, now), Turn::Soon);
    assert_eq!(session.owes(), 0);
    assert!(!session.is_finished(id), "the page is at X again");
    let kernel = script(&mut session, id);
    kernel.messages.push_back(told_remap(X, Y));
    session.turn(id, &mut Nothing, now);
    assert_eq!(session.owes(), X.len());
}

/// All pages that are welcome.
struct Everything(Block);

impl Supplier for Everything {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        self.0.clear();
        self.0.bytes.resize(PAGE_SIZE, 1);
        for page in request.welcome.clone() {
            self.0.push(page, What::Bytes(0));
        }
        Some(&self.0)
    }
}

/// Memory that is not registered yet looks like memory that is unmapped: nothing may be tried there that nobody asked for.
#[test]
fn nothing_comes_unasked_before_all_is_registered() {
    let range = AddrRange::new(0x10_0000, 0x18_0000);
    let mut space = AddressSpace::new();
    space.register(range, Kind::PRIVATE);
    space.owe(range, PageNo(0));
    let mut session = Session::new(OnFailure::Poison).reading_ahead(64);
    session.answer_only(true);
    let id = session.add(Script::default(), space);
    let mut supplier = Everything(Block::default());
    let touched: Vec<Addr> = (0..6).map(|page| range.start.plus(page * 4096)).collect();
    for &address in &touched {
        let fault = Fault {
            address,
            ..Fault::default()
        };
        let kernel = script(&mut session, id);
        kernel.messages.push_back(Message::Fault(fault));
        assert_eq!(session.turn(id, &mut supplier, Instant::now()), Turn::Idle);
    }
    assert_eq!(script(&mut session, id).installed, touched);
    assert!(session.ahead().is_empty());
    session.answer_only(false);
    let kernel = script(&mut session, id);
    kernel.messages.push_back(Message::Fault(Fault {
        address: range.start.plus(20 * 4096),
        ..Fault::default()
    }));
    session.turn(id, &mut supplier, Instant::now());
    assert!(script(&mut session, id).installed.len() > touched.len() + 1);
}

/// With no page left in the pool the kernel says EEXIST of a huge page that is not there.
#[test]
fn a_huge_page_that_cannot_be_had_stays_owed() {
    const HUGE: u64 = 2 << 20;
    let range = AddrRange::new(0x4000_0000, 0x4000_0000 + HUGE);
    let mut space = AddressSpace::new();
    let kind = Kind {
        page_bytes: HUGE,
        ..Kind::PRIVATE
    };
    space.register(range, kind);
    space.owe(range, PageNo(0));
    let mut session = Session::new(OnFailure::Poison);
    let id = session.add(Script::default(), space);
    let now = Instant::now();
    let mut block = Block::default();
    block.bytes.resize(512 * PAGE_SIZE, 1);
    for page in 0..512 {
        block.push(
            page,
            What::Bytes(usize::try_from(page).expect("small") * PAGE_SIZE),
        );
    }
    let request = session.fill_request(id, 512).expect("a page is owed");
    script(&mut session, id).stop = Some(Stop::Present);
    session.deliver_fill(&request, &block, now);
    assert_eq!(session.owes(), HUGE, "by prefill");
    script(&mut session, id)
        .messages
        .push_back(Message::Fault(Fault {
            address: range.start,
            ..Fault::default()
        }));
    session.turn(id, &mut Nothing, now);
    assert_eq!(session.deliver(&request, &block, now), Turn::Soon);
    assert_eq!(session.owes(), HUGE, "by demand");
    assert_eq!(session.waiting(id), 1, "whoever waits, waits");
    script(&mut session, id).stop = None;
    session.deliver(&request, &block, now);
    assert_eq!((session.owes(), session.waiting(id)), (0, 0));
}

fn fault_at(address: Addr) -> Message {
    Message::Fault(Fault {
        address,
        ..Fault::default()
    })
}

fn told_remap(from: AddrRange, to: AddrRange) -> Message {
    Message::Event(Event::Remap {
        from: from.start,
        to: to.start,
        len: from.len(),
    })
}

/// A move of Z onto X, overtaken by one of X to Y: what is at Y is not certain before everything has been told.
#[test]
fn nothing_is_installed_in_doubt() {
    const Z: AddrRange = AddrRange::new(0x30_0000, 0x30_1000);
    let mut space = AddressSpace::new();
    for (range, page) in [(X, 7), (Z, 9)] {
        space.register(range, Kind::PRIVATE);
        space.owe(range, PageNo(page));
    }
    let mut session = Session::new(OnFailure::Poison);
    let id = session.add(Script::default(), space);
    let now = Instant::now();
    let unmap = |range| Message::Event(Event::Unmap(range));
    let kernel = script(&mut session, id);
    kernel.stop = Some(Stop::Changing);
    kernel.messages.extend([
        told_remap(X, Y),
        unmap(X),
        told_remap(Z, X),
        unmap(X),
        unmap(Z),
    ]);
    session.turn(id, &mut Nothing, now);
    let request = session.fill_request(id, 1).expect("a page is owed to Y");
    let mut block = Block::default();
    block.bytes.resize(PAGE_SIZE, 1);
    block.push(request.page.0, What::Bytes(0));
    script(&mut session, id).stop = None;
    assert_eq!(session.lend(&request).count(), 0, "nor by others");
    session.deliver_fill(&request, &block, now);
    assert_eq!(script(&mut session, id).installed, []);
    let request = session.fill_request(id, 1).expect("a page is owed to Y");
    assert_eq!((request.at, request.page), (Y.start, PageNo(9)));
    assert_eq!(session.lend(&request).next(), Some((Y, PageNo(9))));
}

/// A fork may have overtaken a move: until its parent has told everything, memory that nobody knows of is not taken for new.
#[test]
fn a_child_does_not_get_zeros_before_its_parent_has_told_everything() {
    let (mut session, id) = session();
    let now = Instant::now();
    let unknown = Addr(0x50_0000);
    let kernel = script(&mut session, id);
    kernel.stop = Some(Stop::Changing);
    kernel
        .messages
        .push_back(Message::Event(Event::Fork { descriptor: 3 }));
    session.turn(id, &mut Nothing, now);
    let child = session.spaces().find(|&space| space != id).expect("one");
    let kernel = script(&mut session, child);
    kernel.messages.push_back(fault_at(unknown));
    assert_eq!(session.turn(child, &mut Nothing, now), Turn::Soon);
    assert_eq!(script(&mut session, child).installed, []);
    script(&mut session, id).stop = None;
    session.turn(id, &mut Nothing, now);
    assert_eq!(session.turn(child, &mut Nothing, now), Turn::Idle);
    assert_eq!(script(&mut session, child).installed, [unknown]);
}

/// X, which has grown in silence, moves away as it was; what has come to where it grew may be there, or have been unmapped since. The
/// kernel knows.
#[test]
fn the_kernel_is_asked_what_is_still_there() {
    const Z: AddrRange = AddrRange::new(0x30_0000, 0x30_1000);
    let beside = AddrRange::at(X.end, Z.len());
    for hole in [None, Some(beside)] {
        let mut space = AddressSpace::new();
        for (range, page) in [(X, 7), (Z, 9)] {
            space.register(range, Kind::PRIVATE);
            space.owe(range, PageNo(page));
        }
        let mut session = Session::new(OnFailure::Poison);
        let id = session.add(Script::default(), space);
        let now = Instant::now();
        let unmap = |range| Message::Event(Event::Unmap(range));
        let kernel = script(&mut session, id);
        kernel.stop = Some(Stop::Changing);
        kernel.hole = hole;
        kernel.messages.extend([
            told_remap(X, Y),
            told_remap(Z, beside),
            unmap(beside),
            unmap(X),
            unmap(Z),
        ]);
        session.turn(id, &mut Nothing, now);
        script(&mut session, id).stop = None;
        let mut supplier = Everything(Block::default());
        for place in [beside, Y] {
            let kernel = script(&mut session, id);
            kernel.messages.push_back(fault_at(place.start));
            while session.turn(id, &mut supplier, now) == Turn::Soon {}
        }
        let installed = &script(&mut session, id).installed;
        match hole {
            None => assert_eq!(*installed, [beside.start, Y.start]),
            Some(_) => assert_eq!(*installed, [Y.start]),
        }
        // Nothing is tried where nothing is.
        assert_eq!(session.counts().untracked, 0);
        assert_eq!(session.owes(), 0);
        assert!(session.is_finished(id));
    }
}

/// While the kernel refuses one page, it refuses all: each turn is one try, for one page, and always the same.
#[test]
fn a_refused_page_is_tried_alone_until_it_is_there() {
    struct Asked(Everything, Vec<PageNo>);
    impl Supplier for Asked {
        fn fetch(&mut self, request: &Request) -> Option<&Block> {
            self.1.push(request.page);
            self.0.fetch(request)
        }
    }
    let range = AddrRange::new(0x10_0000, 0x10_8000);
    let mut space = AddressSpace::new();
    space.register(range, Kind::PRIVATE);
    space.owe(range, PageNo(0));
    let mut session = Session::new(OnFailure::Poison);
    session.answer_only(true);
    let id = session.add(Script::default(), space);
    let kernel = script(&mut session, id);
    kernel.stop = Some(Stop::Changing);
    for page in 0..8 {
        let message = fault_at(range.start.plus(page * 4096));
        kernel.messages.push_back(message);
    }
    let mut supplier = Asked(Everything(Block::default()), Vec::new());
    for _ in 0..10 {
        assert_eq!(session.turn(id, &mut supplier, Instant::now()), Turn::Soon);
    }
    assert_eq!(session.counts().refused, 10);
    assert_eq!(supplier.1, [PageNo(0); 10]);
    script(&mut session, id).stop = None;
    assert_eq!(session.turn(id, &mut supplier, Instant::now()), Turn::Idle);
    assert_eq!(session.counts().demand, 8);
}

/// Content that was fetched elsewhere, and is refused, is delivered again as it is.
#[test]
fn refused_content_is_not_asked_for_again() {
    let (mut session, id) = session();
    let now = Instant::now();
    let mut block = Block::default();
    block.bytes.resize(PAGE_SIZE, 1);
    block.push(7, What::Bytes(0));
    let kernel = script(&mut session, id);
    kernel.messages.push_back(fault_at(X.start));
    struct Taken(Option<Request>);
    impl Supplier for Taken {
        fn fetch(&mut self, request: &Request) -> Option<&Block> {
            assert_eq!(self.0.replace(request.clone()), None, "asked for once");
            None
        }
    }
    let mut taken = Taken(None);
    session.turn(id, &mut taken, now);
    let request = taken.0.clone().expect("asked for");
    script(&mut session, id).stop = Some(Stop::Changing);
    for _ in 0..5 {
        assert_eq!(session.deliver(&request, &block, now), Turn::Later);
        session.turn(id, &mut taken, now);
    }
    script(&mut session, id).stop = None;
    assert_eq!(session.deliver(&request, &block, now), Turn::Idle);
    assert_eq!((session.owes(), session.waiting(id)), (0, 0));
}
