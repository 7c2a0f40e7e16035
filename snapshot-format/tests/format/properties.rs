//! Random inputs, handed over in random steps, against the model.

use crate::common::plan::{PARENT_PAGES, Plan, Planned, What};
use crate::common::reading::assert_reads_as;
use crate::common::{open, options};
use proptest::prelude::*;
use snapshot_format::{Codec, Region, RegionKind, WriterOptions};

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        6 => (0u64..1 << 40).prop_map(What::Data),
        1 => Just(What::Zeros),
        1 => Just(What::ZeroBytes),
        1 => Just(What::Lost),
        1 => (0..PARENT_PAGES - 4096).prop_map(What::Parent),
        3 => any::<u64>().prop_map(What::Again),
    ]
}

/// A region of 1 to about `most` pages.
fn planned(most: u64) -> impl Strategy<Value = Planned> {
    let runs = prop::collection::vec((what(), 1..=most.div_ceil(4)), 1..5);
    (runs, 0u64..4096, 0u64..1 << 30, any::<bool>()).prop_map(|(runs, tail, start, raw)| {
        let pages: u64 = runs.iter().map(|&(_, pages)| pages).sum();
        let mut region = Region::raw(start << 12, pages * 4096);
        if raw {
            region.len -= tail;
        } else {
            region.kind = RegionKind::Private;
        }
        Planned { region, runs }
    })
}

fn plan(most_regions: usize, most: u64) -> impl Strategy<Value = Plan> {
    prop::collection::vec(planned(most), 0..=most_regions).prop_map(|mut regions| {
        let mut given = 0;
        for (what, pages) in regions.iter_mut().flat_map(|planned| &mut planned.runs) {
            // Any page at first; one from which on so many have been given, if there is one.
            match what {
                What::Again(_) if given < *pages => *what = What::ZeroBytes,
                What::Again(first) => *first %= given - *pages + 1,
                _ => {}
            }
            given += *pages;
        }
        Plan { regions }
    })
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Stored), Just(Codec::Lz4), Just(Codec::Zstd)]
}

fn frame_pages() -> impl Strategy<Value = u16> {
    prop_oneof![
        1u16..=5,
        Just(16),
        Just(100),
        Just(511),
        Just(512),
        1u16..=512
    ]
}

fn steps() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![1u64..10, 1u64..600], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn small_layouts_read_back(
        plan in plan(5, 40), codec in codec(), frame_pages in frame_pages(), steps in steps(), jobs in 1usize..4,
    ) {
        let options = WriterOptions { jobs, ..options(codec, frame_pages) };
        let file = plan.write_in_steps(options, &steps);
        assert_reads_as(&open(file), &plan.model());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn layouts_of_thousands_of_pages_read_back(
        plan in plan(3, 2000), codec in codec(), frame_pages in frame_pages(), steps in steps(), jobs in 1usize..4,
    ) {
        let options = WriterOptions { jobs, ..options(codec, frame_pages) };
        let file = plan.write_in_steps(options, &steps);
        assert_reads_as(&open(file), &plan.model());
    }
}
