//! What the daemon sees of the simulated kernel: a userfaultfd.

use std::cell::{RefCell, RefMut};
use std::os::fd::RawFd;
use std::rc::Rc;

use nix::errno::Errno;
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::session::Installer;
use uffd_restore::uffd::{
    Event, Fault, Inbox, Message, Outcome, Put, ReadError, Receipt, Stop, Userfaultfd,
};

use crate::coverage::Case;
use crate::image;
use crate::memory::{
    Content, Entry, HUGE, SLOTS, Slots, Truth, address, bytes, is_huge, range, slot_at, slots_of,
};
use crate::world::{State, Told, World};

/// The descriptor of one address space.
#[derive(Debug, Clone)]
pub(crate) struct Descriptor {
    pub(crate) mm: usize,
    pub(crate) world: Rc<RefCell<World>>,
}

impl Descriptor {
    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// An install: threads run before it and after it, but not during it.
    fn fill(&mut self, at: AddrRange, put: Put<'_>, receipt: &Receipt) -> Outcome {
        let fill = Fill(put);
        let mut world = self.world();
        world.meanwhile();
        world.may_kill();
        let outcome = match world.destination(self.mm, at) {
            Ok(slots) => world.fill(self.mm, &slots, put),
            Err(stop) => Outcome::stopped(stop),
        };
        let mm = self.mm;
        world.log(|| format!("    {fill} mm{mm} {at}: {outcome:?}"));
        // Before the call returns, and so before anybody can be killed in it.
        receipt.pretend(at, put, outcome.done);
        world.may_kill();
        outcome
    }
}

#[derive(Debug, Clone, Copy)]
struct Fill<'a>(Put<'a>);

impl std::fmt::Display for Fill<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Put::Bytes(bytes) => write!(f, "COPY {:?}..", image::content(bytes)),
            Put::Zero => write!(f, "ZEROPAGE"),
            Put::Poison => write!(f, "POISON"),
        }
    }
}

impl Installer for Descriptor {
    fn read(&mut self, inbox: &Inbox) -> Result<usize, ReadError> {
        let mut world = self.world();
        world.meanwhile();
        world.may_kill();
        let mut count = 0;
        while count < Userfaultfd::READ_AT_ONCE {
            let Some(message) = world.next_message(self.mm) else {
                break;
            };
            let mm = self.mm;
            world.log(|| format!("    mm{mm} says {message:?}"));
            inbox.put(count, &message);
            count += 1;
        }
        world.may_kill();
        Ok(count)
    }

    fn install(&mut self, range: AddrRange, put: Put<'_>, receipt: &Receipt) -> Outcome {
        self.fill(range, put, receipt)
    }

    fn wake(&mut self, range: AddrRange) {
        let mut world = self.world();
        world.meanwhile();
        let slots =
            (0..SLOTS).filter(|&slot| AddrRange::at(address(slot), bytes(slot)).overlaps(range));
        for slot in slots {
            world.wake(self.mm, &(slot..slot + 1));
        }
        let mm = self.mm;
        world.log(|| format!("    WAKE mm{mm} {range}"));
        world.may_kill();
    }

    fn probe(&mut self, at: Addr, page_bytes: u64) -> Option<Stop> {
        let mut world = self.world();
        world.meanwhile();
        let found = world
            .destination(self.mm, AddrRange::at(at, page_bytes))
            .err();
        let mm = self.mm;
        world.log(|| format!("    probe mm{mm} {at}: {found:?}"));
        world.may_kill();
        found
    }

    fn of_child(&mut self, descriptor: RawFd) -> Self {
        Self {
            mm: usize::try_from(descriptor).expect("the number of an address space"),
            world: Rc::clone(&self.world),
        }
    }

    fn number(&self) -> RawFd {
        i32::try_from(self.mm).expect("few address spaces")
    }
}

/// What a daemon unwinds with that is killed.
pub(crate) struct Killed;

impl World {
    /// At any moment somebody may kill the daemon.
    fn may_kill(&mut self) {
        if self.mortal && self.rng.one_in(60) {
            self.log(|| "    KILLED".to_owned());
            self.count(Case::Killed);
            // Without a message.
            std::panic::resume_unwind(Box::new(Killed));
        }
    }

    /// Faults come before events, however old those are.
    fn next_message(&mut self, mm: usize) -> Option<Message> {
        if let Some((thread, slot)) = self.mms[mm].faults.pop_front() {
            self.count(Case::Fault);
            let write = matches!(
                self.threads[thread].state,
                State::Waiting { write: true, .. }
            );
            return Some(Message::Fault(Fault {
                address: address(slot),
                thread: u32::try_from(thread).expect("few threads"),
                write,
                ..Fault::default()
            }));
        }
        let thread = self.mms[mm].events.pop_front()?;
        let State::Telling { events, read, .. } = &mut self.threads[thread].state else {
            unreachable!("only a thread that tells has an event queued");
        };
        *read = true;
        let told = events.front().expect("it has one").clone();
        self.note(mm, &told);
        Some(Message::Event(match told {
            Told::Remove(range) => Event::Remove(range),
            Told::Unmap(range) | Told::Tail { range, .. } | Told::Cut { range, .. } => {
                Event::Unmap(range)
            }
            Told::Remap { from, to, .. } => Event::Remap {
                from: address(from.start),
                to: address(to.start),
                len: range(&from).len(),
            },
            Told::Alias { from, to } => Event::Remap {
                from: address(from),
                to: address(to),
                len: 0,
            },
            Told::Fork { child } => {
                self.mms[child].open = true;
                Event::Fork {
                    descriptor: i32::try_from(child).expect("few address spaces"),
                }
            }
        }))
    }

    /// Counts events that come in an order that misleads.
    fn note(&mut self, mm: usize, told: &Told) {
        match told {
            Told::Tail { range, .. } => {
                let slots = slots_of(*range).expect("whole slots");
                if self.any_registered(mm, &slots) {
                    self.count(Case::LateUnmap);
                }
            }
            Told::Cut { range, .. } => {
                let slots = slots_of(*range).expect("whole slots");
                if self.any_registered(mm, &slots) {
                    self.count(Case::LateCut);
                }
            }
            Told::Remap { from, number, .. } => {
                let overtaken = self.threads.iter().any(|thread| match &thread.state {
                    State::Telling { events, .. } if thread.mm == mm => {
                        events.iter().skip(1).any(|event| {
                            matches!(event, Told::Remap { to, number: other, .. }
                            if other < number && to.start < from.end && from.start < to.end)
                        })
                    }
                    _ => false,
                });
                if overtaken {
                    self.count(Case::Inversion);
                }
            }
            _ => {}
        }
    }

    /// Where an install goes, or what stands against it, in the order in which the kernel looks.
    fn destination(&mut self, mm: usize, at: AddrRange) -> Result<Slots, Stop> {
        if self.mms[mm].changing > 0 {
            self.note_changing(mm, at);
            return Err(Stop::Changing);
        }
        if self.mms[mm].dead {
            return Err(Stop::Gone);
        }
        // Between the first look at the count and the mapping there is time for a change to begin.
        if self.rng.one_in(8) {
            self.step();
        }
        if self.mms[mm].dead {
            return Err(Stop::Gone);
        }
        let start = slot_at(at.start).ok_or(Stop::Unmapped)?;
        if !self.mms[mm].slots[start].is_registered() {
            self.count(Case::Unregistered);
            return Err(Stop::Unmapped);
        }
        let Some(slots) = slots_of(at) else {
            let aligned = !is_huge(start)
                || (at.start.page(HUGE) == at.start && at.len().is_multiple_of(HUGE));
            let stop = if aligned {
                Stop::Unmapped
            } else {
                Stop::Other(Errno::EINVAL)
            };
            return Err(stop);
        };
        if self.mapping_around(mm, start).end < slots.end {
            self.count(Case::Border);
            return Err(Stop::Unmapped);
        }
        if self.mms[mm].changing > 0 {
            return Err(Stop::Changing);
        }
        Ok(slots)
    }

    fn note_changing(&mut self, mm: usize, at: AddrRange) {
        self.count(Case::Changing);
        let (mut after_read, mut remove) = (true, false);
        for thread in self.threads.iter().filter(|thread| thread.mm == mm) {
            if let State::Telling { events, read, .. } = &thread.state {
                after_read &= *read;
                remove |= matches!(events.front(), Some(Told::Remove(range)) if range.overlaps(at));
            }
        }
        if after_read {
            self.count(Case::ChangingAfterRead);
        }
        if remove {
            self.count(Case::RemoveAgainstCopy);
        }
    }

    /// Page by page, until one is in the way.
    fn fill(&mut self, mm: usize, slots: &Slots, fill: Put<'_>) -> Outcome {
        let mut done = 0;
        let mut stop = None;
        for slot in slots.clone() {
            stop = self.fill_slot(mm, slot, fill, done).err();
            if stop.is_some() {
                break;
            }
            self.wake(mm, &(slot..slot + 1));
            done += bytes(slot);
        }
        match stop {
            Some(Stop::Present) => self.count(Case::Present),
            Some(Stop::NoMemory) => self.count(Case::NoMemory),
            _ => {}
        }
        if done > 0 && stop.is_some() {
            self.count(Case::Partial);
            stop = Some(Stop::Partial);
        }
        Outcome { done, stop }
    }

    fn fill_slot(
        &mut self,
        mm: usize,
        slot: usize,
        fill: Put<'_>,
        offset: u64,
    ) -> Result<(), Stop> {
        if self.rng.one_in(400) {
            return Err(Stop::NoMemory);
        }
        if is_huge(slot) {
            self.count(Case::Huge);
        }
        let entry = self.entry(mm, slot);
        let content = match fill {
            Put::Zero if is_huge(slot) => return Err(Stop::Other(Errno::EINVAL)),
            // A copy replaces a marker, nothing else does.
            Put::Bytes(_) if matches!(entry, Entry::Holds(_)) => return Err(Stop::Present),
            Put::Zero | Put::Poison if entry != Entry::Missing => return Err(Stop::Present),
            Put::Zero => Content::Zero,
            Put::Bytes(all) => {
                let from = usize::try_from(offset).expect("small");
                image::content(&all[from..])
            }
            Put::Poison => {
                self.count(Case::Poison);
                self.check(mm, slot, Entry::Poison, "poison");
                self.mms[mm].slots[slot].entry = Entry::Poison;
                return Ok(());
            }
        };
        if self.mms[mm].slots[slot].is_shared() {
            self.count(Case::Shared);
        }
        let new = Entry::Holds(content);
        if entry == Entry::Poison && self.truth(mm, slot) != Truth::PoisonOrZero {
            self.fail(|| format!("{new:?} over poison in mm{mm} slot {slot}"));
        }
        self.check(mm, slot, new, "install");
        self.mms[mm].slots[slot].entry = Entry::Missing;
        self.set_content(mm, slot, content);
        Ok(())
    }
}
