//! Going on where a process was killed that served the same session.

use std::os::fd::RawFd;
use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::journal::{Journal, JournalError, MemberState, Op, OwnedState, Record, State};
use super::member::Member;
use super::{Installer, Notice, OnFailure, Session, SpaceId};
use crate::addr::{Addr, AddrRange};
use crate::space::Remap;
use crate::uffd::{Event, Inbox, Installed, Message, Outcome, Put, ReadError, Receipt, Stop};

/// A session whose process was killed, as far as it was written down.
#[derive(Debug)]
pub struct Recovered<I> {
    /// The session: all that had been read is applied, and everybody who waits is asking again.
    pub session: Session<I>,
    /// What whoever ran it had asked to be remembered ([`Session::remember`]).
    pub about: Vec<u8>,
    /// Parents and children of whom that does not know.
    pub forks: Vec<(SpaceId, SpaceId)>,
    /// Those whose userfaultfd is lost: what they miss reads as zeros. They must not live, and the session does not know them any
    /// more after the next [`Session::remember`].
    pub lost: Vec<SpaceId>,
    /// Those that had ended since the last checkpoint. That may have been all that was done about it.
    pub ended: Vec<SpaceId>,
}

impl<I: Installer> Session<I> {
    /// Writes down everything that must not be lost from now on, in this journal. `about` is what the caller has to remember
    /// beside it.
    pub fn keep_journal(&mut self, journal: Journal) {
        self.inbox = journal.inbox();
        self.receipt = journal.receipt();
        self.journal = Some(journal);
    }

    /// The journal, if there is one.
    #[must_use]
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// What whoever runs the session has to remember beside it; also the address spaces that have been added since the last call.
    pub fn remember(&mut self, about: Vec<u8>) {
        self.about = about;
        self.forks.clear();
        self.checkpoint();
    }

    /// Writes the whole state, if the journal has grown long.
    pub(super) fn checkpoint_if_due(&mut self) {
        if self.journal.as_ref().is_some_and(Journal::wants_checkpoint) {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        let members = self.members.iter().map(|(&id, member)| MemberState {
            id,
            descriptor: member.installer.number(),
            space: &member.space,
            birth: &member.birth,
            echoes: &member.echoes,
            forked_at: member.forked_at,
            parent_may_tell: member.parent_may_tell,
            open_children: &member.open_children,
            broken: member.broken,
        });
        let state = State {
            next_id: self.next_id,
            members: members.collect(),
            about: &self.about,
            forks: &self.forks,
        };
        if let Some(journal) = &mut self.journal {
            journal.checkpoint(&state);
        }
    }

    /// Writes down what has been done.
    pub(super) fn note(&mut self, id: SpaceId, op: Op) {
        if let Some(journal) = &mut self.journal {
            journal.note(id, op);
        }
    }

    /// The session of which a journal tells. `installer` gives the installer of an address space, by its number or that of its
    /// descriptor at the time; `None` if it is lost. It is asked for each of them once, those among them of which a message tells that was
    /// read and not applied.
    ///
    /// # Errors
    /// [`JournalError`]. Nothing has been done then.
    pub fn recover(
        journal: Journal,
        on_failure: OnFailure,
        mut installer: impl FnMut(SpaceId, RawFd) -> Option<I>,
        now: Instant,
    ) -> Result<Recovered<I>, JournalError> {
        let records = journal.read_records()?;
        let past = Session::replayed(journal.read_state()?, &records, now);
        let mut session = Self::new(on_failure);
        session.counts = journal.read_counts();
        session.next_id = past.next_id;
        session.forks = past.forks;
        session.about = past.about;
        let mut lost = Vec::new();
        for (id, member) in past.members {
            match installer(id, member.installer.number()) {
                Some(installer) => {
                    session.members.insert(id, member.with(installer));
                }
                None => lost.push(id),
            }
        }
        session.keep_journal(journal);
        session.finish_installs();
        session.finish_inbox(&records, &mut installer, &mut lost, now);
        // It is among the address spaces, and in `forks`.
        let told = |notice: &Notice| !matches!(notice, Notice::Forked { .. });
        session.notices.retain(told);
        session.wake_all();
        let ended = records.iter().filter(|record| record.op == Op::Ended);
        let ended = ended.map(|record| record.space).collect();
        Ok(Recovered {
            about: session.about.clone(),
            forks: session.forks.clone(),
            session,
            lost,
            ended,
        })
    }

    /// Takes note of what was installed, and was not written down: what one process was doing when it was killed.
    fn finish_installs(&mut self) {
        let Some(journal) = &self.journal else {
            return;
        };
        let loans = journal.loans();
        for installed in [self.receipt.installed()]
            .into_iter()
            .chain(loans.iter().map(|loan| loan.receipt().installed()))
            .flatten()
        {
            self.was_installed(&installed);
        }
        self.receipt.clear();
        for loan in loans {
            for range in loan.made() {
                self.was_installed(&Installed {
                    space: loan.space(),
                    range,
                    poison: false,
                });
            }
            loan.receipt().clear();
            loan.clear();
        }
    }

    fn was_installed(&mut self, installed: &Installed) {
        let (id, range) = (SpaceId(installed.space), installed.range);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if installed.poison {
            member.space.poison(range);
            self.counts.poisoned += range.len() / PAGE_BYTES;
            self.note(id, Op::Poisoned(range));
        } else {
            // How it came to be installed is not known.
            self.counts.present += member.space.settle(range) / PAGE_BYTES;
            self.note(id, Op::Settled(range));
        }
    }

    /// Applies what was read and not done. Faults are asked again.
    fn finish_inbox(
        &mut self,
        records: &[Record],
        installer: &mut impl FnMut(SpaceId, RawFd) -> Option<I>,
        lost: &mut Vec<SpaceId>,
        now: Instant,
    ) {
        let Some(journal) = &self.journal else {
            return;
        };
        let (inbox, space) = (journal.inbox(), journal.being_read());
        let unfinished = journal.unfinished_cells(records);
        let count = inbox.count();
        for cell in 0..count {
            let Some(journal) = &mut self.journal else {
                break;
            };
            if let Some(message) = inbox.message(cell)
                && unfinished.contains(&cell)
            {
                journal.applying(Some(cell));
                match message {
                    Message::Event(Event::Fork { descriptor }) => {
                        let child = SpaceId(self.next_id);
                        match installer(child, descriptor) {
                            Some(installer) => self.apply_fork(space, descriptor, installer),
                            None => lost.push(child),
                        }
                    }
                    message => {
                        self.apply(space, &message, now);
                    }
                }
            }
            inbox.done(cell);
        }
        if let Some(journal) = &mut self.journal {
            journal.applying(None);
        }
        inbox.clear(count);
    }

    /// Whoever waits asks again: their messages may have been read by a process that is dead.
    fn wake_all(&mut self) {
        for member in self.members.values_mut() {
            member.installer.wake(AddrRange::EVERYWHERE);
        }
    }
}

/// Stands for an installer while what happened is being repeated: then the kernel is asked nothing.
#[derive(Debug)]
struct Ghost(RawFd);

impl Installer for Ghost {
    fn read(&mut self, _: &Inbox) -> Result<usize, ReadError> {
        Ok(0)
    }

    fn install(&mut self, _: AddrRange, _: Put<'_>, _: &Receipt) -> Outcome {
        Outcome::stopped(Stop::Gone)
    }

    fn wake(&mut self, _: AddrRange) {}

    fn probe(&mut self, _: Addr, _: u64) -> Option<Stop> {
        Some(Stop::Gone)
    }

    fn of_child(&mut self, descriptor: RawFd) -> Self {
        Self(descriptor)
    }

    fn number(&self) -> RawFd {
        self.0
    }
}

impl Session<Ghost> {
    /// The session as it was when the last record was written.
    fn replayed(state: OwnedState, records: &[Record], now: Instant) -> Self {
        let mut session = Self::new(OnFailure::default());
        session.next_id = state.next_id;
        session.forks = state.forks;
        session.about = state.about;
        for its in state.members {
            let mut member = Member::new(Ghost(its.descriptor), its.space);
            member.birth = its.birth;
            member.echoes = its.echoes;
            member.forked_at = its.forked_at;
            member.parent_may_tell = its.parent_may_tell;
            member.open_children = its.open_children;
            member.broken = its.broken;
            session.members.insert(its.id, member);
        }
        for record in records {
            session.repeat(record, now);
        }
        session
    }

    fn repeat(&mut self, record: &Record, now: Instant) {
        let id = record.space;
        let event = match record.op {
            Op::Fork {
                descriptor,
                diverged,
            } => {
                self.forked(id, Ghost(descriptor), |_, _| diverged);
                return;
            }
            Op::Remove(range) => Event::Remove(range),
            Op::Unmap(range) => Event::Unmap(range),
            Op::Remap(Remap { from, to, len }) => Event::Remap { from, to, len },
            Op::Quiescent => return self.quiescent(id),
            Op::Ended => {
                self.end(id);
                return;
            }
            Op::Settled(_) | Op::Poisoned(_) | Op::Found(..) | Op::Broken | Op::Echo(_) => {
                return self.repeat_in_space(id, record.op);
            }
        };
        self.apply(id, &Message::Event(event), now);
    }

    fn repeat_in_space(&mut self, id: SpaceId, op: Op) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        match op {
            Op::Settled(range) => {
                member.space.settle(range);
            }
            Op::Poisoned(range) => member.space.poison(range),
            Op::Broken => member.broken = true,
            Op::Echo(happened) => member.hear_echo(happened),
            Op::Found(range, there) => {
                member.space.is_there(range, there);
            }
            _ => {}
        }
    }
}
