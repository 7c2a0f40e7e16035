//! That the hard cases were there.

use std::fmt;

/// A case worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Fault,
    DuplicateFault,
    Present,
    Partial,
    Border,
    Unregistered,
    Changing,
    /// Refused although the event has been read, because its thread has not gone on.
    ChangingAfterRead,
    RemoveAgainstCopy,
    LateUnmap,
    /// What a move has cut off is told when something else has come there.
    LateCut,
    Inversion,
    /// The first event of a call came after that of a later one.
    Overtaken,
    FixedMove,
    DontUnmap,
    PartialMove,
    Grown,
    Shrunk,
    Alias,
    Remove,
    StaleZap,
    SilentDrop,
    Unmapped,
    Fork,
    ForkOfChild,
    ForkInsideMove,
    ForkWiped,
    Exit,
    Orphan,
    OrphanPoison,
    Poison,
    Sigbus,
    Segfault,
    NoMemory,
    Huge,
    Shared,
    Written,
    Closed,
    LateDelivery,
    Lent,
    /// The daemon was killed, and another took over.
    Killed,
    Excluded,
}

/// All of them.
pub(crate) const ALL: [Case; 42] = [
    Case::Fault,
    Case::DuplicateFault,
    Case::Present,
    Case::Partial,
    Case::Border,
    Case::Unregistered,
    Case::Changing,
    Case::ChangingAfterRead,
    Case::RemoveAgainstCopy,
    Case::LateUnmap,
    Case::LateCut,
    Case::Inversion,
    Case::Overtaken,
    Case::FixedMove,
    Case::DontUnmap,
    Case::PartialMove,
    Case::Grown,
    Case::Shrunk,
    Case::Alias,
    Case::Remove,
    Case::StaleZap,
    Case::SilentDrop,
    Case::Unmapped,
    Case::Fork,
    Case::ForkOfChild,
    Case::ForkInsideMove,
    Case::ForkWiped,
    Case::Exit,
    Case::Orphan,
    Case::OrphanPoison,
    Case::Poison,
    Case::Sigbus,
    Case::Segfault,
    Case::NoMemory,
    Case::Huge,
    Case::Shared,
    Case::Written,
    Case::Closed,
    Case::LateDelivery,
    Case::Lent,
    Case::Killed,
    Case::Excluded,
];

/// How often each occurred.
#[derive(Clone)]
pub(crate) struct Coverage([u64; ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn count(&mut self, case: Case) {
        self.0[case as usize] += 1;
    }

    pub(crate) fn of(&self, case: Case) -> u64 {
        self.0[case as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(ALL.iter().map(|&case| (case, self.of(case))))
            .finish()
    }
}
