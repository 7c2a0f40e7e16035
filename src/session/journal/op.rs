//! What was done to the model, one record each.

use crate::addr::{Addr, AddrRange};
use crate::session::SpaceId;
use crate::space::Remap;

/// Words of a record.
pub(super) const WORDS: usize = 5;

/// Something that was done to the state of a session. Done again in the same order, to the same state, it has the same effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Op {
    /// Nothing is owed there any more.
    Settled(AddrRange),
    /// Poisoned.
    Poisoned(AddrRange),
    /// The kernel said that all has been told.
    Quiescent,
    /// The oldest move that an ancestor told of late took place here, or did not.
    Echo(bool),
    /// Memory that may have been unmapped is there, or is not.
    Found(AddrRange, bool),
    /// No page can be served any more.
    Broken,
    /// The address space has ended.
    Ended,
    /// REMOVE was applied.
    Remove(AddrRange),
    /// UNMAP was applied.
    Unmap(AddrRange),
    /// REMAP was applied.
    Remap(Remap),
    /// FORK was applied: the descriptor of the child, and from which step on nothing has happened in it.
    Fork {
        descriptor: i32,
        diverged: Option<usize>,
    },
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Record {
    pub(in crate::session) space: SpaceId,
    pub(in crate::session) op: Op,
    /// Of an event: the read that brought it, and its cell.
    pub(in crate::session) origin: Option<Origin>,
}

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Origin {
    /// Reads are numbered; these are the low bits.
    pub(in crate::session) read: u32,
    pub(in crate::session) cell: u8,
}

impl Record {
    pub(super) fn encode(&self) -> [u64; WORDS] {
        let (kind, [a, b, c]) = match self.op {
            Op::Settled(range) => (1, of_range(range)),
            Op::Poisoned(range) => (2, of_range(range)),
            Op::Quiescent => (3, [0; 3]),
            Op::Echo(happened) => (4, [u64::from(happened), 0, 0]),
            Op::Found(range, there) => (11, [range.start.0, range.end.0, u64::from(there)]),
            Op::Broken => (5, [0; 3]),
            Op::Ended => (6, [0; 3]),
            Op::Remove(range) => (7, of_range(range)),
            Op::Unmap(range) => (8, of_range(range)),
            Op::Remap(Remap { from, to, len }) => (9, [from.0, to.0, len]),
            Op::Fork {
                descriptor,
                diverged,
            } => {
                // Steps are few: a list in memory.
                let diverged = diverged.map_or(0, |step| step as u64 + 1);
                (10, [u64::from(descriptor.cast_unsigned()), diverged, 0])
            }
        };
        let origin = self.origin.map_or(0, |Origin { read, cell }| {
            1 << 63 | u64::from(read) << 16 | u64::from(cell) << 8
        });
        [origin | kind, self.space.0, a, b, c]
    }

    /// `None` for what no [`Record::encode`] makes.
    pub(super) fn decode([head, space, a, b, c]: [u64; WORDS]) -> Option<Self> {
        let range = AddrRange::new(a, b);
        let op = match head & 0xff {
            1 => Op::Settled(range),
            2 => Op::Poisoned(range),
            3 => Op::Quiescent,
            4 => Op::Echo(a != 0),
            5 => Op::Broken,
            6 => Op::Ended,
            7 => Op::Remove(range),
            8 => Op::Unmap(range),
            9 => Op::Remap(Remap {
                from: Addr(a),
                to: Addr(b),
                len: c,
            }),
            10 => Op::Fork {
                descriptor: u32::try_from(a).ok()?.cast_signed(),
                diverged: match b.checked_sub(1) {
                    Some(step) => Some(usize::try_from(step).ok()?),
                    None => None,
                },
            },
            11 => Op::Found(range, c != 0),
            _ => return None,
        };
        let origin = (head >> 63 != 0).then(|| Origin {
            read: u32::try_from(head >> 16 & 0xffff_ffff).unwrap_or(0),
            cell: u8::try_from(head >> 8 & 0xff).unwrap_or(0),
        });
        Some(Self {
            space: SpaceId(space),
            op,
            origin,
        })
    }
}

const fn of_range(range: AddrRange) -> [u64; 3] {
    [range.start.0, range.end.0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let range = AddrRange::new(0x1000, 0x7fff_ffff_f000);
        let remap = Remap {
            from: Addr(0x1000),
            to: Addr(0x5000),
            len: 0x2000,
        };
        let fork = |diverged| Op::Fork {
            descriptor: -3,
            diverged,
        };
        let ops = [
            Op::Settled(range),
            Op::Poisoned(range),
            Op::Quiescent,
            Op::Echo(true),
            Op::Echo(false),
            Op::Found(range, true),
            Op::Found(range, false),
            Op::Broken,
            Op::Ended,
            Op::Remove(range),
            Op::Unmap(range),
            Op::Remap(remap),
            fork(None),
            fork(Some(0)),
        ];
        let origins = [None, Some((0, 0)), Some((u32::MAX, 63)), Some((7, 0))];
        for op in ops {
            for origin in origins {
                let record = Record {
                    space: SpaceId(u64::MAX),
                    op,
                    origin: origin.map(|(read, cell)| Origin { read, cell }),
                };
                assert_eq!(Record::decode(record.encode()), Some(record));
            }
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(Record::decode([0; WORDS]), None);
        assert_eq!(Record::decode([12, 0, 0, 0, 0]), None);
    }
}
