//! Random changes with checksums made right again: never a panic, always the same answer, clear errors.

use crate::common::forge::{FRAMES, Forge, INDEX, METADATA, PARENT, REGIONS, TABLE};
use crate::common::rng::Rng;
use crate::common::small;
use crate::common::{CODECS, options};
use proptest::prelude::*;
use snapshot_format::{Cursor, Error, PageNo, Snapshot, bulk, verify};
use std::sync::{Arc, OnceLock};

/// Numbers that break arithmetic.
const EXTREMES: [u64; 14] = [
    0,
    1,
    2,
    7,
    4095,
    4096,
    65_536,
    1 << 31,
    u32::MAX as u64,
    1 << 36,
    1 << 48,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX,
];

/// Change a field of the file, chosen where it matters.
fn mutate(forge: &mut Forge, rng: &mut Rng) {
    let places: Vec<std::ops::Range<usize>> = [REGIONS, INDEX, FRAMES, METADATA, PARENT]
        .iter()
        .filter_map(|&kind| forge.find(kind).map(|at| at.range()))
        .chain([12..64, TABLE..TABLE + 5 * 32])
        .filter(|range| range.len() >= 8)
        .collect();
    let place = places[rng.position(places.len())].clone();
    let mut at = place.start + rng.position(place.len());
    // An entry that is there rather than one of the many that are not.
    for _ in 0..20 {
        if forge.bytes[at] == 0 {
            at = place.start + rng.position(place.len());
        }
    }
    let aligned = (at - at % 8).min(forge.bytes.len() - 8);
    let old = forge.u64(aligned);
    match rng.below(6) {
        0 => forge.bytes[at] ^= 1 << rng.below(8),
        1 => forge.bytes[at] = rng.next().to_le_bytes()[0],
        2 => forge.set_u64(aligned, EXTREMES[rng.position(EXTREMES.len())]),
        3 => forge.set_u64(aligned, old.wrapping_add(1)),
        4 => forge.set_u64(aligned, old.wrapping_sub(1)),
        _ => {
            // One of the file's own numbers somewhere else.
            let other = rng.position(forge.bytes.len() / 8) * 8;
            let value = forge.u64(other);
            forge.set_u64(aligned, value);
        }
    }
}

/// Read what can be read without walking 256 TiB; every error is of the file.
fn read_some(bytes: Vec<u8>, rng: &mut Rng) -> Result<u64, Error> {
    let snapshot = Arc::new(Snapshot::open(bytes)?);
    let pages = snapshot.pages();
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let mut out = [0; 4096];
    let mut good = 0;
    let ends = (0..30).chain(pages.saturating_sub(30)..pages);
    let numbers: Vec<u64> = ends
        .chain((0..60).map(|_| rng.below(pages.max(1))))
        .collect();
    for number in numbers.into_iter().filter(|&number| number < pages) {
        match cursor.read_page(PageNo(number), &mut out) {
            Ok(()) => good += 1,
            Err(Error::Lost(page) | Error::InParent { page, .. }) => assert_eq!(page, number),
            Err(error @ (Error::Corrupt { .. } | Error::Read { .. })) => {
                assert!(!error.to_string().is_empty());
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    if pages < 100_000 {
        drop(verify::survey(&snapshot, 0..pages));
        drop(bulk::read(&snapshot, 0..pages.min(600), 1, |_| {
            Ok::<(), Error>(())
        }));
    }
    Ok(good)
}

/// The small file of codec number `codec`, written once.
fn file(codec: usize) -> &'static [u8] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        CODECS
            .map(|codec| small::plan().write(options(codec, 2)))
            .into()
    });
    &files[codec]
}

fn mutated(seed: u64) -> Result<u64, Error> {
    let mut rng = Rng(seed);
    let mut forge = Forge {
        bytes: file(rng.position(3)).to_vec(),
    };
    for _ in 0..=rng.below(3) {
        mutate(&mut forge, &mut rng);
    }
    forge.repair();
    read_some(forge.bytes, &mut rng)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_repaired_file_is_read_or_refused(seed in any::<u64>()) {
        drop(mutated(seed));
    }
}

#[test]
fn repaired_files_reach_the_checks_behind_the_checksums() {
    // The helper is worth something only if many files open, and fail in many ways.
    let mut opened = 0;
    let mut errors = std::collections::BTreeSet::new();
    for seed in 0..300 {
        match mutated(seed) {
            Ok(_) => opened += 1,
            Err(error) => {
                errors.insert(error.to_string());
            }
        }
    }
    assert!(opened > 100, "{opened} opened");
    assert!(errors.len() > 12, "{errors:?}");
    assert!(
        !errors.iter().any(|error| error.contains("checksum")),
        "{errors:?}"
    );
}
