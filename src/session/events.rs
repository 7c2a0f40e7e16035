//! Reading messages and applying them.

use std::os::fd::RawFd;
use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::journal::Op;
use super::member::{Echo, Member};
use super::notice::Notice;
use super::{Installer, Session, SpaceId};
use crate::space::{Order, Remap};
use crate::uffd::{Event, Message, ReadError, Userfaultfd};

impl<I: Installer> Session<I> {
    /// Reads everything there is, applies its events in order and takes note of its faults. True if an event was among it:
    /// then nothing decided before holds.
    pub(super) fn drain(&mut self, id: SpaceId, now: Instant) -> bool {
        let mut changed = false;
        loop {
            self.checkpoint_if_due();
            let Some(member) = self.members.get_mut(&id) else {
                break;
            };
            if let Some(journal) = &mut self.journal {
                journal.begin_read(id);
            }
            match member.installer.read(&self.inbox) {
                Ok(0) => break,
                Ok(count) => {
                    changed |= self.apply_inbox(id, count, now);
                    // Fewer than fit: that was all.
                    if count < Userfaultfd::READ_AT_ONCE {
                        break;
                    }
                }
                Err(ReadError::NoDescriptor(_)) => {
                    self.notices.push(Notice::NoDescriptor(id));
                    break;
                }
                Err(ReadError::Other(errno)) => {
                    self.break_down(id, format!("cannot read its messages: {errno}"));
                    break;
                }
            }
        }
        changed
    }

    /// Applies what was read. True if an event was among it.
    fn apply_inbox(&mut self, id: SpaceId, count: usize, now: Instant) -> bool {
        let mut changed = false;
        for cell in 0..count {
            let Some(message) = self.inbox.message(cell) else {
                continue;
            };
            if let Some(journal) = &mut self.journal {
                journal.applying(Some(cell));
            }
            if self.apply(id, &message, now) {
                changed = true;
                self.inbox.done(cell);
            }
        }
        if let Some(journal) = &mut self.journal {
            journal.applying(None);
        }
        self.inbox.clear(count);
        changed
    }

    /// Applies one message. True for an event.
    pub(super) fn apply(&mut self, id: SpaceId, message: &Message, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        match *message {
            Message::Fault(fault) => {
                self.counts.faults += 1;
                if fault.write_protect {
                    let what =
                        "its memory is registered for write protection, which is not supported";
                    self.break_down(id, what.to_owned());
                    return true;
                }
                let page = fault.address.page(member.page_bytes(fault.address));
                member.waiting.note(page, &fault, now);
                let thread = match fault.thread {
                    0 => member.only_thread,
                    thread => thread,
                };
                self.faulter.note(id, thread);
                return false;
            }
            Message::Event(Event::Remove(range)) => {
                self.counts.removes += 1;
                let files = member.space.files_in(range);
                self.counts.removed += member.space.remove(range) / PAGE_BYTES;
                // Shared memory is removed for all who map it.
                for member in self.members.values_mut() {
                    for &(at, len) in &files {
                        self.counts.removed += member.space.remove_from_file(at, len) / PAGE_BYTES;
                    }
                }
                self.note(id, Op::Remove(range));
            }
            Message::Event(Event::Unmap(range)) => {
                self.counts.unmaps += 1;
                self.counts.removed += member.space.unmap(range) / PAGE_BYTES;
                self.note(id, Op::Unmap(range));
            }
            Message::Event(Event::Remap { from, to, len }) => {
                self.counts.remaps += 1;
                let remap = Remap { from, to, len };
                let (removed, order) = member.space.remap(remap);
                self.counts.removed += removed / PAGE_BYTES;
                self.echo(id, order, remap);
                self.note(id, Op::Remap(remap));
            }
            Message::Event(Event::Fork { descriptor }) => {
                let installer = member.installer.of_child(descriptor);
                self.apply_fork(id, descriptor, installer);
            }
            Message::Unknown(event) => {
                let what = format!("its userfaultfd sent an event of unknown type {event:#x}");
                self.break_down(id, what);
            }
        }
        true
    }

    /// A child was forked, as the kernel says, which opened this descriptor.
    pub(super) fn apply_fork(&mut self, id: SpaceId, descriptor: RawFd, installer: I) {
        let diverged = self.forked(id, installer, Member::diverged);
        let fork = Op::Fork {
            descriptor,
            diverged,
        };
        self.note(id, fork);
    }

    /// A child was forked. `diverged` says from which step of what is known on nothing has happened in it; returned is what it said.
    pub(super) fn forked(
        &mut self,
        id: SpaceId,
        mut installer: I,
        diverged: impl FnOnce(&Member<I>, &mut I) -> Option<usize>,
    ) -> Option<usize> {
        let member = self.members.get(&id)?;
        self.counts.forks += 1;
        let diverged = diverged(member, &mut installer);
        let child = member.fork(installer, diverged);
        let child = self.add_member(child);
        if let Some(parent) = self.members.get_mut(&id) {
            parent.open_children.push(child);
        }
        self.forks.push((id, child));
        self.notices.push(Notice::Forked { parent: id, child });
        diverged
    }

    /// Tells the children of a move that took effect before it was told. It may have done so before they were forked, even if
    /// nobody said so: a fork may overtake it before its first word.
    fn echo(&mut self, id: SpaceId, order: Option<Order>, remap: Remap) {
        let open = self
            .members
            .get(&id)
            .map(|member| member.open_children.clone());
        for child in open.unwrap_or_default() {
            let Some(member) = self.members.get_mut(&child) else {
                continue;
            };
            let forked_at = member.forked_at;
            let echo = match order {
                Some(order) if order.is_before(forked_at) => Echo {
                    order,
                    remap,
                    overtaken: false,
                },
                // Nothing that the child has done itself since must look like it.
                None if member.space.now() == forked_at => Echo {
                    order: Order::just_before(forked_at),
                    remap,
                    overtaken: true,
                },
                _ => continue,
            };
            member.echoes.push_back(echo);
            if !echo.overtaken {
                self.echo(child, order, remap);
            }
        }
    }

    /// The kernel answered an install otherwise than "changing": whatever was begun has been told.
    pub(super) fn quiescent(&mut self, id: SpaceId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let journal = &mut self.journal;
        let note = |op| {
            if let Some(journal) = journal {
                journal.note(id, op);
            }
        };
        let Some(unmapped) = member.ask_what_is_there(note) else {
            return;
        };
        self.counts.removed += unmapped / PAGE_BYTES;
        if !member.is_to_be_told() {
            return;
        }
        self.note(id, Op::Quiescent);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.may_be_behind() {
            // As far as it knows. Its children may be behind in the same things.
            member.space.own_is_told();
            return;
        }
        member.space.quiescent();
        for child in std::mem::take(&mut member.open_children) {
            if let Some(child) = self.members.get_mut(&child) {
                child.born();
            }
        }
    }

    /// Takes note that an address space cannot be served any more.
    pub(super) fn break_down(&mut self, id: SpaceId, what: String) {
        if let Some(member) = self.members.get_mut(&id)
            && !member.broken
        {
            member.broken = true;
            self.note(id, Op::Broken);
            self.notices.push(Notice::Broken { space: id, what });
        }
    }
}
