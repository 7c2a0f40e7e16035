//! Giving up without turning anything into zeros.

use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::notice::{Notice, OnFailure};
use super::{Installer, Session, SpaceId, Turn};
use crate::addr::{Addr, AddrRange};
use crate::space::Kind;
use crate::uffd::{Put, Stop};

impl<I: Installer> Session<I> {
    /// Whoever was to be killed for this page cannot be: from now on pages that cannot be served are poisoned, this one first.
    pub fn poison_instead(&mut self, id: SpaceId, page: Addr) {
        self.on_failure = OnFailure::Poison;
        if let Some(member) = self.members.get_mut(&id) {
            member.waiting.ask_again(page);
        }
    }

    /// Poisons everything that is still owed to an address space, so that its descriptor can be closed: pages that are there
    /// stay, and whoever touches one that never came gets SIGBUS. [`Turn::Soon`] means that it is not done yet.
    pub fn abandon(&mut self, id: SpaceId, why: &str, now: Instant) -> Turn {
        self.drain(id, now);
        let mut from = Addr(0);
        let mut poisoned = 0;
        let mut first = None;
        let turn = loop {
            if !self.members.contains_key(&id) {
                return Turn::Gone;
            }
            if !self.is_up_to_date(id) {
                break Turn::Soon;
            }
            let Some(member) = self.members.get_mut(&id) else {
                return Turn::Gone;
            };
            let rest = AddrRange {
                start: from,
                end: Addr(u64::MAX),
            };
            let Some((run, page)) = member.space.next_run(rest) else {
                break if member.space.owes() > 0 {
                    Turn::Soon
                } else {
                    Turn::Idle
                };
            };
            let kind = member.space.kind_at(run.start).unwrap_or(Kind::PRIVATE);
            first.get_or_insert((run.start, page));
            let (installed, stopped) = self.put_run(id, run, kind, Put::Poison);
            poisoned += installed;
            match stopped {
                None => from = run.end,
                Some((_, Stop::Gone)) => {
                    self.notices.push(Notice::Gone(id));
                    return Turn::Gone;
                }
                Some((at, Stop::Unmapped | Stop::Fault)) => {
                    let page = AddrRange::at(at, kind.page_bytes);
                    self.page_is_unmapped(id, page, now);
                    from = page.end;
                }
                Some(_) => break Turn::Soon,
            }
        };
        if let (Some((start, page)), 1..) = (first, poisoned) {
            let range = AddrRange::at(start, poisoned * PAGE_BYTES);
            self.note_poison(id, range, page, why);
        }
        turn
    }
}
