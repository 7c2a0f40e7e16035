//! Messages as every version of Firecracker sends them, and as nobody should: by example.

use serde_json::{Map, Value, json};
use snapshot_format::PAGE_BYTES;

use super::region::HUGE;
use super::*;
use crate::addr::Addr;

/// Firecracker 1.16.1 with 128 MiB, as it was sent.
const CAPTURED: &str = r#"[{"base_host_virt_addr":140130690007040,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#;

#[derive(Debug, Clone, Copy)]
pub(super) enum Version {
    /// 1.1: three fields.
    Three,
    /// 1.7: with `page_size_kib`.
    Four,
    /// 1.12: with `page_size` too.
    Five,
    /// What 2.0 is to be.
    Two,
}

pub(super) fn written(regions: &[Region], version: Version) -> String {
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
    let text = with("page_size", json!(HUGE)).replace("7040,", "7041,");
    let error = refused(&text);
    assert!(
        error.contains("not a multiple of its page size, 2097152"),
        "{error}"
    );
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
