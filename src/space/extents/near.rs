//! How extents are written down: each by how far it is from the one before, and its value only where that is not what would have been
//! there of the one before. Memory that arrives page by page leaves tens of thousands of extents of one mapping, and whoever takes
//! over reads them while the target waits.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Cut, Extents};
use crate::addr::{Addr, AddrRange};

/// Bytes between the one before and this one, bytes of this one, its value.
type Near<V> = (u64, u64, Option<V>);

/// The one before: where it begins, what it has, and where it ends.
struct Before<V> {
    first: Option<(Addr, V)>,
    end: Addr,
}

impl<V: Cut> Before<V> {
    const NONE: Self = Self {
        first: None,
        end: Addr(0),
    };

    /// What would be at an address if it went on.
    fn value_at(&self, address: Addr) -> Option<V> {
        self.first
            .map(|(start, value)| value.cut(address.since(start)))
    }

    fn go_on(&mut self, range: AddrRange, value: V) {
        self.first = Some((range.start, value));
        self.end = range.end;
    }
}

impl<V: Cut + Serialize> Serialize for Extents<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = Before::NONE;
        serializer.collect_seq(self.map.iter().map(|(&start, &(end, value))| -> Near<V> {
            let gap = start.since(before.end);
            let same = before.value_at(start) == Some(value);
            before.go_on(AddrRange { start, end }, value);
            (gap, end.since(start), (!same).then_some(value))
        }))
    }
}

impl<'de, V: Cut + Deserialize<'de>> Deserialize<'de> for Extents<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(All(PhantomData))
    }
}

struct All<V>(PhantomData<V>);

impl<'de, V: Cut + Deserialize<'de>> Visitor<'de> for All<V> {
    type Value = Extents<V>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("extents in order")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        /// More room than this is not believed without seeing what it is for.
        const MOST: usize = 1 << 16;
        let mut all = Vec::with_capacity(parts.size_hint().unwrap_or(0).min(MOST));
        let (mut before, mut bytes) = (Before::NONE, 0);
        while let Some((gap, len, value)) = parts.next_element::<Near<V>>()? {
            let start = before.end.0.checked_add(gap);
            let end = start.and_then(|start| start.checked_add(len));
            let (Some(start), Some(end)) = (start.map(Addr), end.map(Addr)) else {
                return Err(A::Error::custom("an extent beyond all addresses"));
            };
            let value = value.or_else(|| before.value_at(start));
            let value = value.ok_or_else(|| A::Error::custom("an extent without a value"))?;
            before.go_on(AddrRange { start, end }, value);
            bytes += len;
            all.push((start, (end, value)));
        }
        Ok(Extents {
            // It is in order, and made in one go.
            map: all.into_iter().collect(),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::addr::AddrRange;
    use crate::space::{Debt, Extents};
    use snapshot_format::PageNo;

    #[test]
    fn what_is_written_is_read() {
        let range = |start: u64, end: u64| AddrRange::new(start << 12, end << 12);
        let mut extents = Extents::default();
        extents.set(range(16, 1 << 20), Debt::Page(PageNo(7)));
        extents.set(range(1 << 35, 1 << 36), Debt::Page(PageNo(3)));
        extents.set(range(900, 901), Debt::Poisoned);
        for page in (20..800).step_by(3) {
            extents.remove(range(page, page + 1));
        }
        let bytes = postcard::to_stdvec(&extents).expect("written");
        assert!(bytes.len() < 7 * extents.count(), "{}", bytes.len());
        let read: Extents<Debt> = postcard::from_bytes(&bytes).expect("read");
        assert_eq!(read, extents);
        let none = postcard::to_stdvec(&Extents::<Debt>::default()).expect("written");
        assert_eq!(postcard::from_bytes(&none), Ok(Extents::<Debt>::default()));
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        let page = Some(Debt::Page(PageNo(0)));
        for wrong in [
            vec![(0_u64, 4096_u64, None)],
            vec![(1, u64::MAX, page)],
            vec![(4096, 4096, page), (u64::MAX, 4096, page)],
        ] {
            let bytes = postcard::to_stdvec(&wrong).expect("written");
            assert!(postcard::from_bytes::<Extents<Debt>>(&bytes).is_err());
        }
    }
}
