//! A hostile file gets no more memory than it has bytes, and a constant.

use crate::common::forge::{Forge, METADATA, PROCESSES, REGIONS, SECTION_COUNT};
use crate::common::options;
use crate::common::rng::Rng;
use crate::common::small;
use crate::counting::{Allocated, allocated, alone};
use snapshot_format::{Codec, Cursor, PageNo, Snapshot};
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// Open the file, read its first pages, and say what that took.
fn reading(bytes: Vec<u8>) -> Allocated {
    let ((), counted) = allocated(|| {
        let Ok(snapshot) = Snapshot::open(bytes) else {
            return;
        };
        let mut cursor = Cursor::new(Arc::new(snapshot));
        for page in 0..20 {
            drop(cursor.read_page(PageNo(page), &mut [0; 4096]));
        }
    });
    counted
}

#[test]
fn random_changes_of_any_number_ask_for_no_memory() {
    let _alone = alone();
    let mut rng = Rng(2);
    let mut most = 0;
    for _ in 0..800 {
        let mut forge = Forge {
            bytes: small::file().to_vec(),
        };
        let at = match rng.below(4) {
            0 => 12 + rng.position(52),
            1 => 128 + rng.position(5 * 32),
            2 => forge.section(REGIONS).offset + rng.position(8 + 5 * 64),
            _ => rng.position(forge.bytes.len() - 8),
        };
        let at = at - at % 4;
        let value = [u64::MAX, 1 << 63, 1 << 36, 1 << 20, 1 << 31, rng.next()][rng.position(6)];
        forge.set_u64(at, value);
        forge.repair();
        most = most.max(reading(forge.bytes).peak);
    }
    // Two frames of 512 pages, the nodes of a cursor.
    assert!(most < 5 * MIB, "{most}");
}

#[test]
fn names_that_share_bytes_do_not_multiply_them() {
    let _alone = alone();
    // 4096 regions that all claim the same 8 KiB: 32 MiB from a file of 300 KiB.
    let mut forge = Forge {
        bytes: small::file().to_vec(),
    };
    let count = 4096_usize;
    let record = |number: u64| {
        let mut record = Vec::new();
        for field in [number << 20, 4096, number, 0, 0] {
            record.extend_from_slice(&field.to_le_bytes());
        }
        record.extend_from_slice(&8192_u32.to_le_bytes());
        record.extend_from_slice(&[5, 3, 12, 0]);
        record.resize(64, 0);
        record
    };
    let mut map = (count as u64).to_le_bytes().to_vec();
    (0..count as u64).for_each(|number| map.extend(record(number)));
    map.extend_from_slice(&[b'n'; 8192]);
    forge.move_to_end(REGIONS, &map);
    forge.set_u64(40, count as u64);
    forge.repair();
    let len = forge.bytes.len();
    let counted = reading(forge.bytes);
    assert!(counted.peak < 2 * len + MIB, "{counted:?} for {len} bytes");
}

#[test]
fn counts_without_bytes_behind_them_reserve_nothing() {
    let _alone = alone();
    for (at, value) in [(0, 1 << 20), (0, u64::MAX), (0, 1 << 40)] {
        let mut forge = Forge {
            bytes: small::file().to_vec(),
        };
        let map = forge.section(REGIONS).offset;
        forge.set_u64(map + at, value);
        forge.repair();
        assert!(reading(forge.bytes).peak < MIB / 2);
    }
    let mut forge = Forge {
        bytes: small::file().to_vec(),
    };
    forge.set_u32(SECTION_COUNT, u32::MAX);
    forge.repair();
    assert!(reading(forge.bytes).peak < MIB / 2);
}

#[test]
fn processes_without_bytes_behind_them_reserve_nothing() {
    let _alone = alone();
    let good = small::tree_file(options(Codec::Lz4, 2));
    for count in [1 << 20, u64::MAX, 1 << 40, 5] {
        let mut forge = Forge {
            bytes: good.clone(),
        };
        let at = forge.section(PROCESSES).offset;
        forge.set_u64(at, count);
        forge.repair();
        assert!(reading(forge.bytes).peak < MIB / 2);
    }
}

#[test]
fn a_mebibyte_of_metadata_takes_some_mebibytes_at_most() {
    let _alone = alone();
    for json in [
        [
            &b"{\"source\":"[..],
            &b"[".repeat(100),
            &b"0,".repeat(500_000),
        ]
        .concat(),
        [
            &b"{\"source\":{\"x\":["[..],
            &b"0,".repeat(500_000),
            b"0],\"type\":\"raw\"}}",
        ]
        .concat(),
        [
            &b"{\"source\":{\"x\":["[..],
            &b"{},".repeat(340_000),
            b"0],\"type\":\"raw\"}}",
        ]
        .concat(),
        [&b"{\"x\":["[..], &b"0,".repeat(500_000), b"0]}"].concat(),
    ] {
        let mut forge = Forge {
            bytes: small::file().to_vec(),
        };
        forge.move_to_end(METADATA, &json);
        forge.repair();
        let counted = reading(forge.bytes);
        assert!(
            counted.peak < 64 * MIB,
            "{counted:?} for {} bytes",
            json.len()
        );
    }
}
