//! Selection by example.

use super::super::smaps;
use super::*;

fn candidates() -> Vec<Candidate> {
    let text = "\
10000-20000 rw-p 00001000 fe:01 9 /usr/bin/app
20000-28000 rw-p 00000000 00:00 0
28000-30000 rw-p 00000000 00:00 0 [heap]
30000-31000 ---p 00000000 00:00 0
40000-90000 ---p 00000000 00:00 0
100000-140000 rw-s 00003000 00:01 7 /memfd:ram (deleted)
140000-150000 r--s 00000000 00:01 8 /memfd:ro (deleted)
150000-160000 rw-p 00002000 00:01 7 /memfd:ram (deleted)
200000-600000 rw-s 00200000 00:10 9 /dev/hugepages/x
KernelPageSize: 2048 kB
VmFlags: ht
700000-701000 rw-p 00000000 00:00 0
VmFlags: rd wr dp
7f0000-7f8000 rw-p 00000000 00:00 0 [stack]
7fa000-7fb000 r-xp 00000000 00:00 0 [vdso]
";
    let backing = |mapping: &Mapping| match mapping.line.name.as_str() {
        "/usr/bin/app" => Backing::File,
        "[vdso]" => Backing::Special,
        name if name.starts_with('/') => Backing::Memory,
        _ => Backing::Anonymous,
    };
    let mappings = smaps::parse(text.as_bytes()).expect("test data is good");
    mappings
        .into_iter()
        .map(|mapping| Candidate {
            backing: backing(&mapping),
            mapping,
        })
        .collect()
}

fn selected(selectors: &[&str], private_files: bool) -> Result<Vec<(u64, u64)>, SelectError> {
    let selectors: Vec<RegionSelector> = selectors
        .iter()
        .map(|text| text.parse().expect("test data is good"))
        .collect();
    let pieces = select(&candidates(), &selectors, private_files)?;
    Ok(pieces
        .iter()
        .map(|piece| (piece.start, piece.end))
        .collect())
}

const DEFAULT: [(u64, u64); 6] = [
    (0x20000, 0x28000),
    (0x28000, 0x30000),
    (0x10_0000, 0x14_0000),
    (0x15_0000, 0x16_0000),
    (0x20_0000, 0x60_0000),
    (0x7f_0000, 0x7f_8000),
];

#[test]
fn by_default_all_writable_memory() {
    assert_eq!(selected(&[], false).expect("test data is good"), DEFAULT);
    let with_files = selected(&[], true).expect("test data is good");
    assert_eq!(with_files[0], (0x10000, 0x20000));
    assert_eq!(with_files[1..], DEFAULT);
    assert!(matches!(
        select(&[], &[], false),
        Err(SelectError::NothingByDefault { .. })
    ));
}

#[test]
fn names_select_every_mapping_of_that_name_writable_or_not() {
    assert_eq!(
        selected(&["memfd:ram"], false).expect("test data is good"),
        [(0x10_0000, 0x14_0000), (0x15_0000, 0x16_0000)]
    );
    assert_eq!(
        selected(&["/memfd:ro"], false).expect("test data is good"),
        [(0x14_0000, 0x15_0000)]
    );
    assert_eq!(
        selected(&["[stack]"], true).expect("test data is good"),
        [(0x10000, 0x20000), (0x7f_0000, 0x7f_8000)]
    );
}

#[test]
fn largest_is_the_largest_that_is_in_use() {
    assert_eq!(
        selected(&["largest"], false).expect("test data is good"),
        [(0x20_0000, 0x60_0000)]
    );
    let without_hugetlb: Vec<Candidate> = candidates()
        .into_iter()
        .filter(|candidate| !candidate.mapping.flags.hugetlb)
        .collect();
    let pieces =
        select(&without_hugetlb, &[RegionSelector::Largest], false).expect("test data is good");
    assert_eq!(
        pieces[0].start, 0x10_0000,
        "the bigger one at 0x40000 is only reserved"
    );
}

#[test]
fn largest_is_not_translated_code() {
    let mut candidates = candidates();
    let largest = candidates
        .iter_mut()
        .find(|candidate| candidate.mapping.line.start == 0x20_0000);
    largest
        .expect("test data has it")
        .mapping
        .line
        .protection
        .exec = true;
    let pieces = select(&candidates, &[RegionSelector::Largest], false);
    assert_eq!(pieces.expect("test data is good")[0].start, 0x10_0000);
}

#[test]
fn ranges_cut_and_span_but_do_not_jump() {
    assert_eq!(
        selected(&["21000-22000"], false).expect("test data is good"),
        [(0x21000, 0x22000)]
    );
    let spanning = selected(&["27000-31000"], false).expect("test data is good");
    assert_eq!(
        spanning,
        [(0x27000, 0x28000), (0x28000, 0x30000), (0x30000, 0x31000)]
    );
    let gap = selected(&["30000-41000"], false).expect_err("must be refused");
    assert!(
        matches!(
            gap,
            SelectError::Gap {
                address: 0x31000,
                ..
            }
        ),
        "{gap}"
    );
    let ends_outside = selected(&["150000-161000"], false).expect_err("must be refused");
    assert!(
        matches!(
            ends_outside,
            SelectError::Gap {
                address: 0x16_0000,
                ..
            }
        ),
        "{ends_outside}"
    );
    for nothing in ["1000-2000", "31000-33000", "3f000-41000"] {
        let error = selected(&[nothing], false).expect_err("must be refused");
        assert!(
            matches!(error, SelectError::NothingMatches { .. }),
            "{nothing}: {error}"
        );
    }
}

#[test]
fn ranges_keep_pages_whole() {
    for (range, size) in [
        ("20800-21000", 0x1000),
        ("20000-20001", 0x1000),
        ("200000-201000", 0x20_0000),
    ] {
        let error = selected(&[range], false).expect_err("must be refused");
        assert!(
            matches!(error, SelectError::CutsAPage { page_size, .. } if page_size == size),
            "{error}"
        );
    }
    assert_eq!(
        selected(&["400000-600000"], false).expect("test data is good"),
        [(0x40_0000, 0x60_0000)]
    );
}

#[test]
fn overlapping_selectors_take_every_page_once() {
    let merged = selected(
        &[
            "22000-24000",
            "23000-25000",
            "[heap]",
            "20000-21000",
            "[heap]",
        ],
        false,
    )
    .expect("test data is good");
    assert_eq!(
        merged,
        [(0x20000, 0x21000), (0x22000, 0x25000), (0x28000, 0x30000)]
    );
}

#[test]
fn what_is_not_memory_is_refused_by_name() {
    for selector in ["[vdso]", "7fa000-7fb000"] {
        let error = selected(&[selector], false).expect_err("must be refused");
        assert!(error.to_string().contains("[vdso]"), "{error}");
    }
}

#[test]
fn a_selector_that_fits_nothing_lists_what_there_is() {
    let text = selected(&["nonsense"], false)
        .expect_err("must be refused")
        .to_string();
    assert!(
        text.contains("nonsense") && text.contains("4.0 MiB shared  /dev/hugepages/x"),
        "{text}"
    );
    assert!(text.contains("and 1 smaller ones"), "{text}");
}

#[test]
fn regions_say_what_they_are() {
    let region = |text: &str| {
        let pieces = select(
            &candidates(),
            &[text.parse().expect("test data is good")],
            false,
        )
        .expect("test data is good");
        pieces[0].region()
    };
    let ram = region("110000-120000");
    assert_eq!(
        (ram.start, ram.len, ram.offset),
        (0x11_0000, 0x1_0000, 0x1_3000)
    );
    assert_eq!(
        (ram.kind, ram.shared, ram.name.as_str()),
        (RegionKind::Shared, true, "/memfd:ram (deleted)")
    );
    let private = region("150000-160000");
    assert_eq!(
        (private.kind, private.shared, private.offset),
        (RegionKind::Private, false, 0x2000)
    );
    let huge = region("400000-600000");
    assert_eq!(
        (huge.kind, huge.page_size, huge.offset),
        (RegionKind::Hugetlb, PageSize::Huge2M, 0x40_0000)
    );
    assert_eq!(region("[stack]").kind, RegionKind::Stack);
    assert_eq!(
        (region("[heap]").kind, region("[heap]").offset),
        (RegionKind::Private, 0)
    );
}
