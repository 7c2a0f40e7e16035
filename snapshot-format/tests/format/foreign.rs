//! Files that another writer may make: pages that share slots, frames in any order, slots that nobody uses.

use crate::common::forge::Forge;
use crate::common::plan::{Model, Plan, What};
use crate::common::reading::{
    assert_bulk_reads_as, assert_pages_read_as, assert_verify_is_content,
};
use crate::common::rng::Rng;
use crate::common::{CODECS, open, options};
use snapshot_format::{Error, Snapshot, bulk, verify};
use std::sync::Arc;

const PAGES: u64 = 200;

/// A file whose page `n` is what page `from[n]` was, and what must be read from it.
fn rearranged(from: &[u64], good: &[u8], model: &Model) -> (Vec<u8>, Model) {
    let old = Forge {
        bytes: good.to_vec(),
    };
    let (mut forge, mut expected) = (old.clone(), Model::default());
    for (page, &from) in (0..).zip(from) {
        let (to, source) = (old.path(page)[0], old.path(from)[0]);
        forge.set_u64(to, old.u64(source));
        forge.set_u64(to + 8, old.u64(source + 8));
        expected.classes.push(model.class(from));
        expected.bytes.extend_from_slice(model.page(from));
    }
    forge.repair();
    (forge.bytes, expected)
}

#[test]
fn entries_in_any_order_are_read_as_they_say() {
    let plan = Plan::raw(&[(What::Data(1), PAGES)]);
    let model = plan.model();
    for codec in CODECS {
        let good = plan.write(options(codec, 8));
        let mut rng = Rng(7);
        let anyhow: Vec<u64> = (0..PAGES).map(|_| rng.below(PAGES)).collect();
        let mut orders = vec![anyhow, (0..PAGES).rev().collect(), vec![9; 200]];
        // Slot 0 twice, then on; slot 0 of one frame, slot 1 of the next.
        orders.extend([2, 8].map(|step| (0..PAGES).map(|page| page / step * step).collect()));
        orders.extend([7, 9, 17].map(|step| (0..PAGES).map(|page| page * step % PAGES).collect()));
        for order in orders {
            let (file, expected) = rearranged(&order, &good, &model);
            let snapshot = open(file);
            assert_pages_read_as(&snapshot, &expected);
            assert_bulk_reads_as(&snapshot, &expected, 0..PAGES, 2);
            assert_bulk_reads_as(&snapshot, &expected, 3..PAGES - 3, 1);
            assert_verify_is_content(&snapshot);
            let survey = verify::survey(&snapshot, 0..PAGES).unwrap();
            let pages = survey.zero_pages + survey.filled_pages + survey.content_pages;
            assert_eq!(pages, PAGES);
        }
    }
}

#[test]
fn a_bad_frame_anywhere_ends_a_bulk_read_behind_the_good_pages() {
    let plan = Plan::raw(&[(What::Data(1), 1500)]);
    let model = plan.model();
    let good = plan.write(options(CODECS[1], 4));
    for at in [4100, 50_000, 300_000] {
        let mut file = good.clone();
        file[at] ^= 0xff;
        let snapshot = Arc::new(Snapshot::open(file).unwrap());
        let mut first_bad = None;
        verify::verify(
            &snapshot,
            1,
            |bad| first_bad = first_bad.or(Some(bad.first.0)),
            |_| {},
        );
        let first_bad = first_bad.unwrap();
        for threads in 1..4 {
            let mut next = 0;
            let end = bulk::read(&snapshot, 0..1500, threads, |piece| {
                let (first, pages) = match piece {
                    bulk::Piece::Zeros(first, pages) => (first, pages),
                    bulk::Piece::Bytes(first, bytes) => {
                        let from = usize::try_from(first.0).unwrap() * 4096;
                        assert!(*bytes == model.bytes[from..from + bytes.len()]);
                        (first, bytes.len() as u64 / 4096)
                    }
                };
                assert_eq!(first.0, next);
                next += pages;
                Ok::<(), Error>(())
            });
            assert!(matches!(end, Err(Error::Corrupt { .. })));
            assert_eq!(next, first_bad, "{threads} threads, byte {at}");
        }
    }
}
