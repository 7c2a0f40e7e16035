//! What holds of every message that a VMM or anybody else could send.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use snapshot_format::{PAGE_BYTES, PageNo};

use super::region::HUGE;
use super::tests::{Version, written};
use super::*;
use crate::addr::Addr;
use crate::space::Found;

/// Regions one after the other in the file, and anywhere in memory.
fn regions(most: usize) -> impl Strategy<Value = Vec<Region>> {
    let sizes = vec((1_u64..5000, 0_u64..9), 1..=most);
    (
        sizes,
        prop_oneof![Just(PAGE_BYTES), Just(HUGE)],
        any::<bool>(),
    )
        .prop_map(|(sizes, page_bytes, reversed)| {
            let (mut base, mut offset) = (0x7f00_0000_0000, 0);
            let mut regions = Vec::new();
            for (pages, hole) in sizes {
                let size = pages * page_bytes;
                let at = if reversed {
                    0xfe00_0000_0000 - base - size
                } else {
                    base
                };
                regions.push(Region {
                    base: Addr(at),
                    size,
                    offset,
                    page_bytes,
                });
                offset += size;
                base += size + hole * page_bytes;
            }
            regions
        })
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![
        Just(Version::Three),
        Just(Version::Four),
        Just(Version::Five),
        Just(Version::Two)
    ]
}

/// Something a hand could have done to a message.
#[derive(Debug, Clone)]
enum Damage {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (
            index(),
            prop::sample::select(b"0123456789-.eE[]{},:\" \0".to_vec())
        )
            .prop_map(|(at, byte)| Damage::Byte(at, byte)),
        index().prop_map(Damage::Cut),
        (index(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (index(), index()).prop_map(|(a, b)| Damage::Repeat(a, b)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match damage {
            Damage::Byte(at, byte) => bytes[at.index(len)] = byte,
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Insert(at, more) => {
                let at = at.index(len);
                bytes.splice(at..at, more);
            }
            Damage::Repeat(a, b) => {
                let (a, b) = (a.index(len), b.index(len));
                let part = bytes[a.min(b)..a.max(b)].to_vec();
                bytes.splice(a..a, part);
            }
        }
    }
    bytes
}

/// What must hold of whatever is accepted.
fn sound(regions: &[Region]) {
    assert!((1..=MAX_REGIONS).contains(&regions.len()));
    for (i, a) in regions.iter().enumerate() {
        assert!(a.page_bytes == PAGE_BYTES || a.page_bytes == HUGE);
        assert_eq!(a.page_bytes, regions[0].page_bytes);
        assert!(a.size > 0 && (a.base.0 | a.size | a.offset).is_multiple_of(a.page_bytes));
        assert!(
            a.base
                .0
                .checked_add(a.size)
                .is_some_and(|end| end < 1 << 56)
        );
        assert!(a.offset.checked_add(a.size).is_some());
        for b in &regions[..i] {
            assert!(!a.addresses().overlaps(b.addresses()));
            assert!(a.offset + a.size <= b.offset || b.offset + b.size <= a.offset);
        }
    }
    let size: u64 = regions.iter().map(|region| region.size).sum();
    if let Ok(space) = address_space(regions, size / PAGE_BYTES) {
        assert_eq!(space.owes(), size);
    }
}

proptest! {
    #[test]
    fn every_version_says_the_same(regions in regions(8), version in versions()) {
        prop_assume!(matches!(version, Version::Five | Version::Four | Version::Two) || regions[0].page_bytes == PAGE_BYTES);
        let text = written(&regions, version);
        prop_assert_eq!(parse(text.as_bytes()).expect("valid"), Some(regions));
    }

    #[test]
    fn a_beginning_is_incomplete_and_nothing_else(regions in regions(3), version in versions(), pretty in any::<bool>()) {
        let mut text = written(&regions, version);
        if pretty {
            let value: Value = serde_json::from_str(&text).expect("JSON");
            text = serde_json::to_string_pretty(&value).expect("JSON");
        }
        for end in 0..text.len() {
            prop_assert!(matches!(parse(&text.as_bytes()[..end]), Ok(None)), "{}", &text[..end]);
        }
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(Some(regions)) = parse(&bytes) {
            sound(&regions);
        }
    }

    #[test]
    fn damaged_messages(regions in regions(4), version in versions(), damages in vec(damage(), 1..4)) {
        let bytes = damaged(written(&regions, version).into_bytes(), damages);
        match parse(&bytes) {
            Ok(Some(regions)) => sound(&regions),
            Ok(None) => {}
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn values_at_the_edges(values in vec((edge(), edge(), edge(), edge()), 1..4)) {
        let object = |(base, size, offset, page): &(u64, u64, u64, u64)| json!({"base_host_virt_addr": base, "size": size, "offset": offset, "page_size": page});
        let text = Value::Array(values.iter().map(object).collect()).to_string();
        if let Ok(Some(regions)) = parse(text.as_bytes()) {
            sound(&regions);
        }
    }

    #[test]
    fn every_page_is_owed_where_it_belongs(regions in regions(6), pick in any::<prop::sample::Index>()) {
        let size: u64 = regions.iter().map(|region| region.size).sum();
        let space = address_space(&regions, size / PAGE_BYTES).expect("fits");
        prop_assert_eq!(space.owes(), size);
        let region = pick.get(&regions);
        for page in [0, region.size / region.page_bytes - 1] {
            let at = region.base.plus(page * region.page_bytes);
            let number = PageNo((region.offset + page * region.page_bytes) / PAGE_BYTES);
            prop_assert_eq!(space.at(at), Found::Owed(number));
            let kind = space.kind_at(at).expect("registered");
            prop_assert!(kind.page_bytes == region.page_bytes && !kind.shared && kind.file.is_none() && !kind.wiped_on_fork);
        }
        // Touching regions of the VM are one only where the file goes on as well.
        prop_assert!(space.registered().all(|(range, _)| regions.iter().any(|region| region.addresses().overlaps(range))));
    }
}

/// Numbers around those that matter.
fn edge() -> impl Strategy<Value = u64> {
    let base = prop::sample::select(vec![
        0,
        4096,
        8192,
        HUGE,
        2 * HUGE,
        1 << 30,
        1 << 47,
        1 << 56,
        1 << 63,
        u64::MAX,
    ]);
    (
        base,
        0_u64..3,
        prop_oneof![4 => Just(0_u64), 1 => Just(1), 2 => Just(4096)],
    )
        .prop_map(|(base, times, off)| base.wrapping_mul(times).wrapping_sub(off))
}
