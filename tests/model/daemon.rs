//! The daemon: calls the rules at any moment, with content at once or late.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Instant;

use snapshot_format::{PAGE_BYTES, PageNo};
use uffd_restore::addr::AddrRange;
use uffd_restore::session::{
    Block, Installer, Journal, Made, Notice, OnFailure, Request, Session, SpaceId, Supplier, Turn,
    What,
};
use uffd_restore::space::{AddressSpace, Kind};
use uffd_restore::uffd::Put;

use crate::coverage::Case;
use crate::image::Image;
use crate::kernel::{Descriptor, Killed};
use crate::memory::{Content, SLOTS, Truth, address, bytes};
use crate::world::World;

/// Content that was asked for and not delivered.
#[derive(Debug)]
pub(crate) enum Late {
    Wanted(Request),
    Ahead(Request),
}

#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    pub(crate) session: Session<Descriptor>,
    pub(crate) world: Rc<RefCell<World>>,
    image: &'a mut Image,
    pub(crate) late: Vec<Late>,
    /// Address spaces that need another turn.
    pub(crate) soon: BTreeSet<SpaceId>,
    /// Of four requests, this many are answered late.
    lateness: usize,
    /// Pages are fetched ahead.
    eager: bool,
    /// Turns are made only when there is something to do.
    patient: bool,
    now: Instant,
    /// What is left of a daemon that was killed.
    journal: Option<OwnedFd>,
}

/// Gives content at once or takes note of the request.
struct Source<'a> {
    image: &'a mut Image,
    late: &'a mut Vec<Late>,
    world: &'a RefCell<World>,
    lateness: usize,
}

impl Supplier for Source<'_> {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        let mut world = self.world.borrow_mut();
        world.meanwhile();
        if world.rng.below(4) < self.lateness {
            self.late.push(Late::Wanted(request.clone()));
            world.count(Case::LateDelivery);
            return None;
        }
        Some(self.image.answer(request, &mut world.rng))
    }
}

impl<'a> Daemon<'a> {
    pub(crate) fn new(world: World, image: &'a mut Image, now: Instant) -> Self {
        let space = owed(&world);
        let world = Rc::new(RefCell::new(world));
        let mut session = Session::new(OnFailure::Poison).reading_ahead(8);
        let mortal = world.borrow().mortal;
        let journal = mortal.then(|| {
            let journal = Journal::new().expect("memory");
            let file = journal.as_fd().try_clone_to_owned();
            session.keep_journal(journal);
            file.expect("a descriptor")
        });
        session.add(
            Descriptor {
                mm: 0,
                world: Rc::clone(&world),
            },
            space,
        );
        session.remember(Vec::new());
        let (lateness, eager, patient) = {
            let rng = &mut world.borrow_mut().rng;
            (rng.below(4), rng.one_in(2), rng.one_in(2))
        };
        Self {
            session,
            world,
            image,
            late: Vec::new(),
            soon: BTreeSet::new(),
            lateness,
            eager,
            patient,
            now,
            journal,
        }
    }

    pub(crate) fn mm_of(&self, id: SpaceId) -> usize {
        self.session.installer(id).expect("a member").mm
    }

    pub(crate) fn members(&self) -> Vec<SpaceId> {
        self.session.spaces().collect()
    }

    fn some_member(&mut self) -> Option<SpaceId> {
        let members = self.members();
        let count = members.len();
        (count > 0).then(|| members[self.world.borrow_mut().rng.below(count)])
    }

    /// True when the loop would do something without waiting for the target.
    pub(crate) fn has_work(&self) -> bool {
        let said = self
            .members()
            .iter()
            .any(|&id| self.world.borrow().mms[self.mm_of(id)].has_messages());
        said || !self.late.is_empty() || !self.soon.is_empty()
    }

    /// Does something, and goes on as another daemon if this one is killed meanwhile.
    pub(crate) fn or_be_killed(&mut self, what: impl FnOnce(&mut Self)) {
        let Err(why) = catch_unwind(AssertUnwindSafe(|| what(self))) else {
            return;
        };
        if !why.is::<Killed>() {
            resume_unwind(why);
        }
        // Recovering may be interrupted as well.
        while let Err(why) = catch_unwind(AssertUnwindSafe(|| self.take_over())) {
            if !why.is::<Killed>() {
                resume_unwind(why);
            }
        }
    }

    fn take_over(&mut self) {
        self.late.clear();
        let file = self.journal.as_ref().expect("it is mortal");
        let file = file.try_clone().expect("a descriptor");
        let journal = Journal::open(file).expect("it was written");
        let world = Rc::clone(&self.world);
        let installer = |_, number| {
            let mm = usize::try_from(number).expect("the number of an address space");
            let world = Rc::clone(&world);
            Some(Descriptor { mm, world })
        };
        let recovered = Session::recover(journal, OnFailure::Poison, installer, self.now);
        let recovered = recovered.expect("it was written");
        self.session = recovered.session.reading_ahead(8);
        self.soon = self.session.spaces().collect();
    }

    /// Something that the daemon may do now.
    pub(crate) fn act(&mut self) {
        let what = self.world.borrow_mut().rng.below(8);
        match what {
            0..=4 => {
                if let Some(id) = self.some_member() {
                    let idle = !self.soon.contains(&id)
                        && !self.world.borrow().mms[self.mm_of(id)].has_messages();
                    if !idle || (what == 0 && !self.patient) {
                        self.turn(id);
                    }
                }
            }
            5 => self.deliver_one(),
            6 if self.eager => {
                if let Some(id) = self.some_member() {
                    self.ask_ahead(id);
                }
            }
            6 => {}
            _ => self.end_one(),
        }
    }

    pub(crate) fn turn(&mut self, id: SpaceId) {
        self.log(|| format!("  turn of {id:?}"));
        let mut source = Source {
            image: self.image,
            late: &mut self.late,
            world: &self.world,
            lateness: self.lateness,
        };
        let turn = self.session.turn(id, &mut source, self.now);
        self.after(id, turn);
    }

    fn after(&mut self, id: SpaceId, turn: Turn) {
        let ahead = self.session.ahead();
        self.late.extend(ahead.into_iter().map(Late::Ahead));
        match turn {
            Turn::Idle => {
                self.soon.remove(&id);
            }
            Turn::Soon | Turn::Later => {
                self.soon.insert(id);
            }
            Turn::Gone => self.end(id),
        }
        for notice in self.session.notices() {
            if let Notice::Broken { what, .. } = notice {
                self.world.borrow_mut().fail(|| format!("broken: {what}"));
            }
        }
    }

    /// Content comes in any order.
    pub(crate) fn deliver_one(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let count = self.late.len();
        let which = self.world.borrow_mut().rng.below(count);
        let late = self.late.swap_remove(which);
        self.log(|| format!("  delivers {late:?}"));
        match late {
            Late::Wanted(request) => {
                let block = self
                    .image
                    .answer(&request, &mut self.world.borrow_mut().rng);
                let turn = self.session.deliver(&request, block, self.now);
                if turn == Turn::Later {
                    self.late.push(Late::Wanted(request.clone()));
                }
                // A delivery that went well says nothing about what else is to be done soon.
                if turn != Turn::Idle {
                    self.after(request.space, turn);
                }
            }
            Late::Ahead(request) if self.world.borrow_mut().rng.one_in(2) => {
                self.have_installed(&request);
                // What others could not install, if anything, comes to the session.
                if self.session.space(request.space).is_some() {
                    self.deliver_ahead(&request);
                }
            }
            Late::Ahead(request) => self.deliver_ahead(&request),
        }
    }

    /// Others install what is lent, while the target goes on and nothing is read.
    fn have_installed(&mut self, request: &Request) {
        let id = request.space;
        let lent: Vec<_> = self.session.lend(request).collect();
        let Some(loan) = self.session.loan(0, request) else {
            return;
        };
        let mut made = Vec::new();
        'all: for (run, first) in lent {
            for number in 0..run.len() / PAGE_BYTES {
                self.world.borrow_mut().meanwhile();
                let page = AddrRange::at(run.start.plus(number * PAGE_BYTES), PAGE_BYTES);
                let block = self.image.block(first.0 + number..first.0 + number + 1);
                let piece = block.pieces.first().expect("a page");
                let installer = self.session.installer_mut(id).expect("a member");
                match &piece.what {
                    What::Bytes(_) => {
                        let put = Put::Bytes(&block.bytes);
                        let outcome = installer.install(page, put, loan.receipt());
                        if outcome.stop.is_some() {
                            break 'all;
                        }
                        loan.was_made(page);
                        made.push((page, Made::Installed));
                    }
                    What::Zero => made.push((page, Made::Zeros)),
                    What::Bad(_) => break 'all,
                }
            }
        }
        self.log(|| format!("  others made {made:?}"));
        if !made.is_empty() {
            self.world.borrow_mut().count(Case::Lent);
        }
        for (range, made) in made {
            self.session.was_made(id, range, made);
        }
        loan.clear();
        if self.session.space(id).is_some() {
            self.soon.insert(id);
        }
    }

    fn deliver_ahead(&mut self, request: &Request) {
        let pages = if request.needed > 1 {
            request.page.0..request.page.0 + request.needed
        } else {
            request.welcome.clone()
        };
        let block = self.image.block(pages);
        // As pages of a working set come, each piece with a place of its own.
        let turn = if request.needed == 1 && request.page.0.is_multiple_of(2) {
            let place = |pages: &Range<u64>| {
                let at = request.at.plus((pages.start - request.page.0) * PAGE_BYTES);
                AddrRange::at(at, (pages.end - pages.start) * PAGE_BYTES)
            };
            let places: Vec<_> = block
                .pieces
                .iter()
                .map(|piece| place(&piece.pages))
                .collect();
            self.session
                .deliver_replay(request.space, block, &places, self.now)
        } else {
            self.session.deliver_fill(request, block, self.now)
        };
        if turn != Turn::Idle {
            self.after(request.space, turn);
        }
    }

    /// Asks for pages ahead. False when there are none to ask for.
    pub(crate) fn ask_ahead(&mut self, id: SpaceId) -> bool {
        let most = self.world.borrow_mut().rng.within(1..7) as u64;
        match self.session.fill_request(id, most) {
            Some(request) => {
                self.late.push(Late::Ahead(request));
                true
            }
            None => false,
        }
    }

    /// Ends what is finished or gone.
    fn end_one(&mut self) {
        let Some(id) = self.some_member() else { return };
        let gone = self.world.borrow().mms[self.mm_of(id)].dead;
        if gone || (self.session.is_finished(id) && self.world.borrow_mut().rng.one_in(4)) {
            self.end(id);
        }
    }

    pub(crate) fn end(&mut self, id: SpaceId) {
        self.soon.remove(&id);
        if let Some(descriptor) = self.session.end(id) {
            self.world.borrow_mut().close(descriptor.mm);
        }
    }

    pub(crate) fn log(&self, line: impl FnOnce() -> String) {
        self.world.borrow_mut().log(line);
    }
}

/// What is registered at first, and what the snapshot owes it.
fn owed(world: &World) -> AddressSpace {
    let mut space = AddressSpace::new();
    for index in 0..SLOTS {
        let slot = &world.mms[0].slots[index];
        let Some(mapping) = slot.mapping else {
            continue;
        };
        let range = AddrRange::at(address(index), bytes(index));
        let kind = Kind {
            page_bytes: bytes(index),
            shared: mapping.file.is_some(),
            wiped_on_fork: mapping.wiped_on_fork,
            file: None,
        };
        space.register(range, kind);
        if let Truth::Is(Content::Page(page)) = world.truth(0, index) {
            space.owe(range, PageNo(page));
        }
    }
    space
}
