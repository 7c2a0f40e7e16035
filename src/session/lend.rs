//! Memory that others install in.
//!
//! What is owed of a request may be installed by somebody else, in parallel, while this session neither reads nor decides anything. It is told what came
//! of it before it does so again: to the rules that is the same as if it had done it itself.

use snapshot_format::{PAGE_BYTES, PageNo};

use super::fill::place_of;
use super::journal::Op;
use super::{Installer, Loan, Request, Session, SpaceId};
use crate::addr::AddrRange;

/// What somebody else has done in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Installed what was owed.
    Installed,
    /// Nothing: it is zeros that are owed, and those need not be installed.
    Zeros,
}

impl<I: Installer> Session<I> {
    /// What is owed of a request now, in order, and may be installed by others until anything is read or decided here again. Small private pages only,
    /// and nothing while it is not known whether all has been told.
    pub fn lend(&self, request: &Request) -> impl Iterator<Item = (AddrRange, PageNo)> + '_ {
        let id = request.space;
        let first = request.welcome.start;
        let may = self.members.get(&id).is_some_and(|member| {
            !(member.broken || member.may_be_behind() || member.space.is_in_doubt())
        });
        let place = place_of(request, &request.welcome).filter(|_| may && !self.answers_only);
        let mut rest = place.unwrap_or_default();
        let start = rest.start;
        std::iter::from_fn(move || {
            loop {
                let (run, kind, pages) = self.owed_part(id, rest, start, first)?;
                rest.start = run.end;
                let pages = pages.filter(|_| !kind.shared && kind.page_bytes == PAGE_BYTES);
                if let Some(pages) = pages {
                    return Some((run, PageNo(pages.start)));
                }
            }
        })
    }

    /// Where he who is to install in what is lent of a request says what he has done. Loans that are used at the same time have different
    /// numbers, from 0 on. `None` if it is more than can be lent in one go, or there are too many.
    #[must_use]
    pub fn loan(&self, number: usize, request: &Request) -> Option<Loan> {
        let place = place_of(request, &request.welcome)?;
        if place.len() > Loan::PAGES * PAGE_BYTES {
            return None;
        }
        let loan = match &self.journal {
            Some(journal) => journal.loan(number)?,
            None => Loan::default(),
        };
        loan.begin(request.space.0, place.start);
        Some(loan)
    }

    /// Somebody else has done this in a range that was lent, since the last time that anything was read or decided.
    pub fn was_made(&mut self, id: SpaceId, range: AddrRange, made: Made) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.space.settle(range);
        self.note(id, Op::Settled(range));
        let pages = range.len() / PAGE_BYTES;
        match made {
            Made::Installed => {
                self.counts.prefill += pages;
                // As after every install that was not refused.
                self.quiescent(id);
            }
            Made::Zeros => self.counts.zero += pages,
        }
    }
}
