//! Messages as every version of Firecracker sends them, as nobody should, and what follows for a snapshot.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use snapshot_format::{PAGE_BYTES, PageNo};

use super::region::HUGE;
use super::*;
use crate::addr::Addr;
use crate::space::Found;

/// Firecracker 1.16.1 with 128 MiB, as it was sent.
const CAPTURED: &str = r#"[{"base_host_virt_addr":140130690007040,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#;

#[derive(Debug, Clone, Copy)]
enum Version {
    /// 1.1: three fields.
    Three,
    /// 1.7: with `page_size_kib`.
    Four,
    /// 1.12: with `page_size` too.
    Five,
    /// What 2.0 is to be.
    Two,
}

fn written(regions: &[Region], version: Version) -> String {
    let object = |region: &Region| {
        let mut object = Map::new();
        let mut put = |name: &str, value: u64| object.insert(name.to_owned(), value.into());
        put("base_host_virt_addr", region.base.0);
        put("size", region.size);
        put("offset", region.offset);
        if matches!(version, Version::Five | Version::Two) {
            put("page_size", region.page_bytes);
        }
        if matches!(version, Version::Four | Version::Five) {
            put("page_size_kib", region.page_bytes);
        }
        Value::Object(object)
    };
    Value::Array(regions.iter().map(object).collect()).to_string()
}

fn region(base: u64, size: u64, offset: u64) -> Region {
    Region {
        base: Addr(base),
        size,
        offset,
        page_bytes: PAGE_BYTES,
    }
}

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

fn refused(text: &str) -> String {
    match parse(text.as_bytes()) {
        Err(error) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

fn with(field: &str, value: Value) -> String {
    let mut message: Value = serde_json::from_str(CAPTURED).expect("JSON");
    message[0][field] = value;
    message.to_string()
}

#[test]
fn what_a_firecracker_sent() {
    let regions = parse(CAPTURED.as_bytes())
        .expect("valid")
        .expect("complete");
    assert_eq!(regions, [region(140_130_690_007_040, 128 << 20, 0)]);
}

#[test]
fn the_size_in_kib_is_in_bytes_and_gives_way_to_the_other() {
    let size_of =
        |text: &str| parse(text.as_bytes()).expect("valid").expect("complete")[0].page_bytes;
    let huge = |more: &str| {
        format!(r#"[{{"base_host_virt_addr":{HUGE},"size":{HUGE},"offset":0{more}}}]"#)
    };
    assert_eq!(size_of(&huge("")), 4096);
    assert_eq!(size_of(&huge(r#","page_size_kib":2097152"#)), HUGE);
    assert_eq!(
        size_of(&huge(r#","page_size_kib":4096,"page_size":2097152"#)),
        HUGE
    );
    assert_eq!(
        size_of(&huge(r#","page_size":null,"page_size_kib":2097152"#)),
        HUGE
    );
}

#[test]
fn fields_of_branches_and_space_do_not_matter() {
    let text = with("gpa_start", json!({"a": [1, "]", {}]})).replace(',', " ,\n\t ");
    assert!(parse(text.as_bytes()).expect("valid").is_some());
    let text = format!(" \n{CAPTURED}\n\0\0 ");
    assert!(parse(text.as_bytes()).expect("valid").is_some());
}

#[test]
fn what_follows_the_regions_is_named() {
    let error = refused(&format!("{CAPTURED}no_exitless_apf\u{1b}"));
    assert!(
        error.contains(r#"16 bytes more, "no_exitless_apf\u{1b}""#),
        "{error}"
    );
}

#[test]
fn what_is_no_message() {
    for text in [
        "{}",
        "7",
        "[7]",
        "[[1,2,3]]",
        "GET / HTTP/1.1",
        "]",
        "[{]",
        "\0",
        "[{\"size\":1e999}]",
    ] {
        assert!(refused(text).contains("not Firecracker's"), "{text}");
    }
    assert!(refused("[]").contains("no regions"));
}

#[test]
fn a_field_that_is_wrong_is_named_with_its_value_and_region() {
    for (field, value, text) in [
        ("size", json!(0), "region 1: size is 0"),
        (
            "size",
            json!(5000),
            "region 1: size is 5000, which is not a multiple of its page size, 4096",
        ),
        (
            "offset",
            json!(1),
            "region 1: offset is 1, which is not a multiple",
        ),
        (
            "base_host_virt_addr",
            json!(4097),
            "region 1: base_host_virt_addr is 4097, which is not a multiple",
        ),
        (
            "size",
            json!(-1),
            "region 1: size is -1, which is not a number",
        ),
        (
            "size",
            json!(4096.5),
            "region 1: size is 4096.5, which is not a number",
        ),
        (
            "offset",
            json!("0"),
            "region 1: offset is \"0\", which is not a number",
        ),
        ("offset", json!(null), "region 1: offset is missing"),
        (
            "page_size",
            json!(8192),
            "region 1: page_size is 8192: pages have",
        ),
        (
            "page_size",
            json!(0),
            "region 1: page_size is 0: pages have",
        ),
        (
            "page_size",
            json!(1 << 30),
            "pages of 1 GiB cannot be restored lazily",
        ),
        (
            "page_size",
            json!(HUGE),
            "base_host_virt_addr is 140130690007040, which is not a multiple of its page size, 2097152",
        ),
        (
            "base_host_virt_addr",
            json!(1_u64 << 56),
            "no process has memory behind",
        ),
        (
            "base_host_virt_addr",
            json!(u64::MAX - 4095),
            "no process has memory behind",
        ),
        (
            "size",
            json!(u64::MAX - 4095),
            "no process has memory behind",
        ),
        ("offset", json!(u64::MAX - 4095), "no file is that long"),
        ("offset", json!(i64::MAX - 4095), "no file is that long"),
    ] {
        let error = refused(&with(field, value.clone()));
        assert!(error.contains(text), "{field} {value}: {error}");
    }
    let text = CAPTURED
        .replace("\"page_size\":4096,", "")
        .replace(":4096}", ":4}");
    assert!(refused(&text).contains("region 1: page_size_kib is 4:"));
    let long = refused(&with("size", json!("x".repeat(4000))));
    assert!(long.len() < 200 && long.contains('…'), "{long}");
}

#[test]
fn the_address_space_ends_where_it_ends() {
    let last = (1 << 56) - 2 * PAGE_BYTES;
    assert_eq!(check(&[region(last, PAGE_BYTES, 0)]), Ok(()));
    assert!(check(&[region(last, 2 * PAGE_BYTES, 0)]).is_err());
}

#[test]
fn regions_that_do_not_go_together() {
    let (a, b) = (
        region(0x10_0000, 0x3000, 0),
        region(0x10_3000, 0x2000, 0x3000),
    );
    assert_eq!(check(&[b, a]), Ok(()), "they touch");
    let error = |regions: &[Region]| check(regions).expect_err("wrong").to_string();
    let over = region(0x10_2000, 0x2000, 0x3000);
    let text = format!(
        "regions 2 and 1 overlap: base_host_virt_addr {} and {}, sizes 12288 and 8192",
        0x10_0000, 0x10_2000
    );
    assert_eq!(error(&[over, a]), text);
    let twice = region(0x20_0000, 0x2000, 0x2000);
    assert_eq!(
        error(&[a, twice]),
        "regions 1 and 2 overlap: offset 0 and 8192, sizes 12288 and 8192"
    );
    let huge = Region {
        page_bytes: HUGE,
        ..region(HUGE, HUGE, HUGE)
    };
    assert!(
        error(&[a, huge])
            .starts_with("region 2: its pages have 2097152 bytes, those of region 1 have 4096")
    );
}

#[test]
fn so_many_regions_and_no_more() {
    let many = |count: u64| {
        let regions: Vec<Region> = (1..=count)
            .map(|n| region(n << 20, 4096, n << 12))
            .collect();
        written(&regions, Version::Five)
    };
    let most = MAX_REGIONS as u64;
    assert_eq!(
        parse(many(most).as_bytes())
            .expect("valid")
            .expect("complete")
            .len(),
        MAX_REGIONS
    );
    assert!(refused(&many(most + 1)).contains("257 regions"));
    assert!(many(most).len() < crate::handover::receive::MAX_MESSAGE);
}

#[test]
fn a_snapshot_of_another_size_is_not_of_this_vm() {
    let vm = [
        region(0x10_0000, 0x3000, 0),
        region(0x20_0000, 0x2000, 0x3000),
    ];
    assert!(address_space(&vm, 5).is_ok());
    let error = address_space(&vm, 1 << 18).expect_err("1 GiB").to_string();
    assert!(
        error.contains("20480 bytes of memory (20.0 KiB)")
            && error.contains("1073741824 (1.0 GiB)"),
        "{error}"
    );
    assert!(address_space(&vm, 4).is_err() && address_space(&vm, 6).is_err());
    let outside = [vm[0], region(0x20_0000, 0x2000, 0x4000)];
    let error = address_space(&outside, 5).expect_err("a hole").to_string();
    assert!(
        error.contains("region 2 of the VM ends at byte 24576"),
        "{error}"
    );
    assert!(address_space(&[vm[0], vm[0]], 6).is_err(), "overlap");
    assert!(address_space(&[region(0, 1 << 20, 0)], u64::MAX).is_err());
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
