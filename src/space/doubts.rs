//! What an UNMAP that may have been told late is about. The kernel can be asked, when everything has been told.

use super::moves::{There, without};
use super::steps::What;
use super::{AddressSpace, Kind};
use crate::addr::AddrRange;

impl AddressSpace {
    /// A range was unmapped (UNMAP). Returns how many bytes had been owed.
    pub fn unmap(&mut self, range: AddrRange) -> u64 {
        if self.moves.awaits_tail(range) {
            return self.happened(What::Tail(range));
        }
        let before = self.owes();
        let mut cut_off = self.moves.may_have_cut_off_before(range).into_iter();
        if !cut_off.any(|step| self.put_unmap_before(step, range)) {
            self.unmap_what_was_there(range);
        }
        before.saturating_sub(self.owes())
    }

    /// A range was unmapped before something that was told first, if that explains no less. What has come there since is still there,
    /// most likely.
    fn put_unmap_before(&mut self, first: usize, range: AddrRange) -> bool {
        let otherwise = self.moves.oddity_from(first);
        let past = self.undo_from(first);
        self.happened(What::Unmap {
            range,
            may_be_move: false,
        });
        for step in &past {
            self.happened(step.what.clone());
        }
        if self.moves.oddity_from(first + 1) > otherwise {
            self.undo_from(first);
            for step in past {
                self.happened(step.what);
            }
            return false;
        }
        for (part, _) in self.registered.clone_in(range) {
            self.perhaps_unmapped.set(part, There);
        }
        true
    }

    /// A range was unmapped, but not what has come to a place that seemed to be occupied: what was there had left before, and this is
    /// what tells of it.
    fn unmap_what_was_there(&mut self, range: AddrRange) {
        let came: Vec<AddrRange> = self.moves.came_too_early(range).collect();
        for part in without(range, &came) {
            self.perhaps_unmapped.remove(part);
            self.happened(What::Unmap {
                range: part,
                may_be_move: came.is_empty(),
            });
        }
        for part in came {
            self.perhaps_unmapped.set(part, There);
        }
    }

    /// True when it makes a difference whether everything has been told: nothing must be installed before that is known.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.perhaps_unmapped.is_empty() || self.moves.overtaken_onto().is_some()
    }

    /// Where memory is taken to be that may have been unmapped, and how it is registered if it was not. Whoever finds out, when
    /// everything has been told, says so by [`AddressSpace::is_there`].
    #[must_use]
    pub fn perhaps_unmapped(&self) -> Option<(AddrRange, Kind)> {
        let (part, _) = self.perhaps_unmapped.iter().next()?;
        Some(
            self.registered
                .first_in(part)
                .unwrap_or((part, Kind::PRIVATE)),
        )
    }

    /// Everything has been told, and memory that perhaps was unmapped is there, or not. Returns how many bytes had been owed to what
    /// is not.
    pub fn is_there(&mut self, range: AddrRange, there: bool) -> u64 {
        self.perhaps_unmapped.remove(range);
        if there {
            return 0;
        }
        self.happened(What::Unmap {
            range,
            may_be_move: false,
        })
    }
}
