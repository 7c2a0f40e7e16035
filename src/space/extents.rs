//! An ordered map from address ranges to values, of which every part is worth as much as the whole.

mod near;

use std::collections::BTreeMap;

use crate::addr::{Addr, AddrRange};

/// A value of a range of addresses, which can be cut.
pub trait Cut: Copy + PartialEq {
    /// The value of what is left when `bytes` are cut off at the front.
    #[must_use]
    fn cut(self, bytes: u64) -> Self;
}

/// Ranges that do not overlap, each with a value. Neighbours that continue each other are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents<V> {
    /// By start: end and value.
    map: BTreeMap<Addr, (Addr, V)>,
    bytes: u64,
}

impl<V> Default for Extents<V> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<V: Cut> Extents<V> {
    /// Bytes in all ranges.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when there is no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Number of ranges.
    #[must_use]
    pub fn count(&self) -> usize {
        self.map.len()
    }

    /// The range that `address` lies in, and its value.
    #[must_use]
    pub fn at(&self, address: Addr) -> Option<(AddrRange, V)> {
        let (&start, &(end, value)) = self.map.range(..=address).next_back()?;
        (address < end).then_some((AddrRange { start, end }, value))
    }

    /// The first part of a range inside `within`, and its value.
    #[must_use]
    pub fn first_in(&self, within: AddrRange) -> Option<(AddrRange, V)> {
        let (range, value) = match self.at(within.start) {
            Some(found) => found,
            None => {
                let (&start, &(end, value)) = self.map.range(within.start..).next()?;
                (AddrRange { start, end }, value)
            }
        };
        let part = range.common(within);
        (!part.is_empty()).then(|| (part, value.cut(part.start.since(range.start))))
    }

    /// True when a range overlaps `within`.
    #[must_use]
    pub fn any_in(&self, within: AddrRange) -> bool {
        self.first_in(within).is_some()
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (AddrRange, V)> + '_ {
        self.map
            .iter()
            .map(|(&start, &(end, value))| (AddrRange { start, end }, value))
    }

    /// Gives `range` this value, whatever parts of it had before.
    pub fn set(&mut self, range: AddrRange, value: V) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        let (mut range, mut value) = (range, value);
        if let Some((before, its)) = range
            .start
            .0
            .checked_sub(1)
            .and_then(|last| self.at(Addr(last)))
            && before.end == range.start
            && its.cut(before.len()) == value
        {
            self.take_out(before);
            range.start = before.start;
            value = its;
        }
        if let Some((after, its)) = self.at(range.end)
            && value.cut(range.len()) == its
        {
            self.take_out(after);
            range.end = after.end;
        }
        self.put(range, value);
    }

    /// Takes the value from `range`. Returns how many bytes had one.
    pub fn remove(&mut self, range: AddrRange) -> u64 {
        let before = self.bytes;
        self.remove_each(range, |_, _| {});
        before - self.bytes
    }

    /// The same. `part` is called with each part that had one, and with the value, the last part first. That is done for every page that
    /// arrives: one look at the map, and one change, where the range lies in one part.
    pub fn remove_each(&mut self, range: AddrRange, mut part: impl FnMut(AddrRange, V)) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, entry)) = self.map.range_mut(..range.end).next_back() {
            let (end, value) = *entry;
            let gone = AddrRange { start, end }.common(range);
            if gone.is_empty() {
                return;
            }
            part(gone, value.cut(gone.start.since(start)));
            self.bytes -= gone.len();
            let is_first = start < range.start;
            if is_first {
                entry.0 = gone.start;
            } else {
                self.map.remove(&start);
            }
            if gone.end < end {
                let tail = value.cut(gone.end.since(start));
                self.map.insert(gone.end, (end, tail));
            }
            if is_first {
                return;
            }
        }
    }

    /// Takes everything out of `range` and returns it, cut to it, in order.
    pub fn take(&mut self, range: AddrRange) -> Vec<(AddrRange, V)> {
        let taken = self.clone_in(range);
        self.remove(range);
        taken
    }

    /// Everything in `range`, cut to it, in order.
    #[must_use]
    pub fn clone_in(&self, range: AddrRange) -> Vec<(AddrRange, V)> {
        let mut found = Vec::new();
        let mut rest = range;
        while let Some((part, value)) = self.first_in(rest) {
            found.push((part, value));
            rest.start = part.end;
        }
        found
    }

    fn put(&mut self, range: AddrRange, value: V) {
        if !range.is_empty() {
            self.bytes += range.len();
            self.map.insert(range.start, (range.end, value));
        }
    }

    fn take_out(&mut self, range: AddrRange) {
        self.bytes -= range.len();
        self.map.remove(&range.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A number that grows with the address, or one that does not.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Value {
        Grows(u64),
        Same(u8),
    }

    impl Cut for Value {
        fn cut(self, bytes: u64) -> Self {
            match self {
                Self::Grows(number) => Self::Grows(number + bytes),
                same => same,
            }
        }
    }

    fn index(address: u64) -> usize {
        usize::try_from(address).expect("small")
    }

    fn range(start: u64, end: u64) -> AddrRange {
        AddrRange::new(start, end)
    }

    #[test]
    fn neighbours_that_continue_each_other_are_one() {
        let mut extents = Extents::default();
        extents.set(range(10, 20), Value::Grows(100));
        extents.set(range(30, 40), Value::Grows(120));
        extents.set(range(20, 30), Value::Grows(110));
        assert_eq!(
            extents.iter().collect::<Vec<_>>(),
            [(range(10, 40), Value::Grows(100))]
        );
        extents.set(range(40, 50), Value::Grows(0));
        assert_eq!((extents.count(), extents.bytes()), (2, 40));
    }

    #[test]
    fn a_hole_cuts_and_the_tail_keeps_its_value() {
        let mut extents = Extents::default();
        extents.set(range(0, 100), Value::Grows(0));
        assert_eq!(extents.remove(range(40, 60)), 20);
        assert_eq!(
            extents.iter().collect::<Vec<_>>(),
            [
                (range(0, 40), Value::Grows(0)),
                (range(60, 100), Value::Grows(60))
            ]
        );
        assert_eq!(
            extents.take(range(30, 70)),
            [
                (range(30, 40), Value::Grows(30)),
                (range(60, 70), Value::Grows(60)),
            ]
        );
        assert_eq!(extents.bytes(), 60);
        assert_eq!(extents.at(Addr(60)), None);
    }

    proptest! {
        /// Against an array with a value for each address.
        #[test]
        fn like_an_array(steps in prop::collection::vec((0..64_u64, 1..20_u64, 0..5_u8), 1..60)) {
            let mut extents = Extents::default();
            let mut array = [None; 96];
            for (start, len, what) in steps {
                let here = range(start, start + len);
                match what {
                    0 => {
                        let expected = array[index(start)..index(start + len)].iter().flatten().count();
                        prop_assert_eq!(extents.remove(here), expected as u64);
                        array[index(start)..index(start + len)].fill(None);
                    }
                    1 | 2 => {
                        let first = start * u64::from(what);
                        extents.set(here, Value::Grows(first));
                        for i in 0..len { array[index(start + i)] = Some(Value::Grows(first + i)); }
                    }
                    same => {
                        extents.set(here, Value::Same(same));
                        for i in 0..len { array[index(start + i)] = Some(Value::Same(same)); }
                    }
                }
                for (address, expected) in array.iter().enumerate() {
                    let address = Addr(address as u64);
                    let found = extents.at(address).map(|(range, value)| value.cut(address.since(range.start)));
                    prop_assert_eq!(found, *expected);
                }
                let bytes = array.iter().flatten().count() as u64;
                prop_assert_eq!(extents.bytes(), bytes);
                let ranges: Vec<_> = extents.iter().collect();
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].0.end <= pair[1].0.start);
                    let joined = pair[0].0.end == pair[1].0.start && pair[0].1.cut(pair[0].0.len()) == pair[1].1;
                    prop_assert!(!joined, "neighbours that should be one");
                }
            }
        }
    }
}
