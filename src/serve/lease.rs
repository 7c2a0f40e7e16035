//! Memory that a thread of the pool installs what it has read, without handing it to the loop.
//!
//! What is owed there the loop says anew whenever it has read something, and it takes note of what was installed before it reads again; both while the
//! [`Gate`] is closed. Whatever the kernel answers but "installed" is for the loop to understand: the pages are handed to it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapshot_format::{PAGE_BYTES, PAGE_SIZE, PageNo};

use super::gate::Gate;
use crate::addr::AddrRange;
use crate::session::{Block, Loan, Made, Request, Session, SpaceId, What};
use crate::uffd::{Put, Userfaultfd};

/// See above.
#[derive(Debug)]
pub(super) struct Lease {
    gate: Arc<Gate>,
    /// Of the loop while the gate is closed, and otherwise of the thread that has the lease.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None when the lease is over.
    userfaultfd: Option<Arc<Userfaultfd>>,
    /// What is owed, in order.
    owed: Vec<(AddrRange, PageNo)>,
    /// Pages before this one have been dealt with.
    next: u64,
    made: Vec<(AddrRange, Made)>,
    /// The same, where whoever takes over finds it.
    loan: Loan,
}

/// How far a slice brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There may be more.
    On,
    /// All of the pages have been dealt with.
    Done,
    /// The rest is for the loop.
    Stopped,
}

impl Lease {
    /// Installs those of some pages that are owed. False if some of them are for the loop.
    pub(super) fn install(&self, block: &Block, pages: &Range<u64>) -> bool {
        loop {
            let inside = self.gate.enter();
            let step = self.lock().install_slice(block, pages, self.gate.slice());
            drop(inside);
            match step {
                Step::On => {}
                Step::Done => return true,
                Step::Stopped => return false,
            }
        }
    }

    /// True when something is owed of some pages.
    pub(super) fn wants(&self, pages: &Range<u64>) -> bool {
        first_owed(&self.lock().owed, pages).is_some()
    }

    /// True while the target asks: what it waits for is to be read first.
    pub(super) fn is_asked(&self) -> bool {
        self.gate.is_asked()
    }

    /// The core where the thread that has the lease should not run.
    pub(super) fn kept_off(&self) -> Option<usize> {
        self.gate.kept_off()
    }

    /// True when nothing is to be installed any more.
    pub(super) fn is_over(&self) -> bool {
        self.lock().userfaultfd.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Installs the first slice of what is owed of some pages.
    fn install_slice(&mut self, block: &Block, pages: &Range<u64>, most: usize) -> Step {
        let Some(userfaultfd) = &self.userfaultfd else {
            return Step::Done;
        };
        let from = self.next.max(pages.start);
        let Some((mut range, mut slice)) = first_owed(&self.owed, &(from..pages.end)) else {
            self.next = pages.end;
            return Step::Done;
        };
        // Whatever comes of it, the rest of the pages is not tried twice.
        self.next = pages.end;
        let Some(piece) = block.piece_of(PageNo(slice.start)) else {
            return Step::Stopped;
        };
        let most = (most / PAGE_SIZE).max(1) as u64;
        slice.end = slice.end.min(piece.pages.end).min(slice.start + most);
        range = AddrRange::at(range.start, (slice.end - slice.start) * PAGE_BYTES);
        let made = match (&piece.what, block.bytes_of(piece, &slice)) {
            (What::Zero, _) => Made::Zeros,
            (What::Bytes(_), Some(bytes)) => {
                let outcome = userfaultfd.install(range, Put::Bytes(bytes), self.loan.receipt());
                range = AddrRange::at(range.start, outcome.done);
                self.loan.was_made(range);
                if outcome.stop.is_some() {
                    self.note(range, Made::Installed);
                    return Step::Stopped;
                }
                Made::Installed
            }
            _ => return Step::Stopped,
        };
        self.note(range, made);
        self.next = slice.end;
        Step::On
    }

    fn note(&mut self, range: AddrRange, made: Made) {
        if let Some((last, its)) = self.made.last_mut()
            && (last.end, *its) == (range.start, made)
        {
            last.end = range.end;
        } else if !range.is_empty() {
            self.made.push((range, made));
        }
    }
}

/// The first of some pages that are owed in one go, and where.
fn first_owed(owed: &[(AddrRange, PageNo)], pages: &Range<u64>) -> Option<(AddrRange, Range<u64>)> {
    owed.iter().find_map(|&(run, first)| {
        let from = first.0.max(pages.start);
        let end = (first.0 + run.len() / PAGE_BYTES).min(pages.end);
        let at = run.start.plus((from.saturating_sub(first.0)) * PAGE_BYTES);
        (from < end).then(|| (AddrRange::at(at, (end - from) * PAGE_BYTES), from..end))
    })
}

/// All leases of a session.
#[derive(Debug)]
pub(super) struct Leases {
    gate: Arc<Gate>,
    out: Vec<Out>,
}

/// A lease that somebody has.
#[derive(Debug)]
struct Out {
    request: Request,
    lease: Arc<Lease>,
    /// The number of its loan.
    number: usize,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            gate: Arc::new(Gate::new()),
            out: Vec::new(),
        }
    }
}

impl Leases {
    /// A lease of what is owed of a request; `None` if nothing of it can be lent now. The gate must be closed.
    pub(super) fn grant(
        &mut self,
        session: &Session<Arc<Userfaultfd>>,
        request: &Request,
    ) -> Option<Arc<Lease>> {
        let owed: Vec<_> = session.lend(request).collect();
        let userfaultfd = session.installer(request.space);
        let userfaultfd = userfaultfd.filter(|_| !owed.is_empty())?;
        let is_free = |number: &usize| self.out.iter().all(|out| out.number != *number);
        let number = (0..).find(is_free)?;
        let loan = session.loan(number, request)?;
        let lease = Arc::new(Lease {
            gate: Arc::clone(&self.gate),
            state: Mutex::new(State {
                userfaultfd: Some(Arc::clone(userfaultfd)),
                owed,
                next: request.welcome.start,
                made: Vec::new(),
                loan,
            }),
        });
        self.out.push(Out {
            request: request.clone(),
            lease: Arc::clone(&lease),
            number,
        });
        Some(lease)
    }

    /// Closes the gate, and takes note of what was installed.
    pub(super) fn close(&mut self, session: &mut Session<Arc<Userfaultfd>>) {
        self.gate.close();
        for out in &self.out {
            let mut state = out.lease.lock();
            if state.made.is_empty() {
                continue;
            }
            for (range, made) in state.made.drain(..) {
                session.was_made(out.request.space, range, made);
            }
            state.loan.clear();
        }
    }

    /// Others may install what is owed now, until the gate is closed; in short slices while the target asks.
    pub(super) fn open(&self, session: &Session<Arc<Userfaultfd>>, asked: bool) {
        for out in &self.out {
            let mut state = out.lease.lock();
            state.owed.clear();
            state.owed.extend(session.lend(&out.request));
        }
        self.gate.set_asked(asked);
        self.gate.open();
    }

    /// Those who have leases are to leave a core to the loop and whoever it answers.
    pub(super) fn keep_off(&self, core: Option<usize>) {
        self.gate.keep_off(core);
    }

    /// A lease has come back.
    pub(super) fn returned(&mut self, lease: &Arc<Lease>) {
        self.out.retain(|out| !Arc::ptr_eq(&out.lease, lease));
    }

    /// The leases of an address space are over. The gate must be closed.
    pub(super) fn revoke(&mut self, space: SpaceId) {
        self.out.retain(|out| {
            if out.request.space == space {
                out.lease.lock().userfaultfd = None;
            }
            out.request.space != space
        });
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.gate.close();
        for out in self.out.drain(..) {
            out.lease.lock().userfaultfd = None;
        }
        // Who waits there has other sessions to work for.
        self.gate.open();
    }
}
