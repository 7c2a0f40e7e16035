//! Many threads on one open snapshot.

use crate::common::plan::Plan;
use crate::common::reading::assert_page_reads_as;
use crate::common::rng::Rng;
use crate::common::{CODECS, open, options};
use snapshot_format::{Cursor, bulk, verify};

#[test]
fn many_threads_read_random_pages_of_one_snapshot() {
    for codec in CODECS {
        let plan = Plan::random(77, 1500);
        let model = plan.model();
        let snapshot = open(plan.write(options(codec, 5)));
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (snapshot, model) = (snapshot.clone(), &model);
                scope.spawn(move || {
                    let mut rng = Rng(seed);
                    let mut cursor = Cursor::new(snapshot);
                    for _ in 0..150 {
                        assert_page_reads_as(&mut cursor, model, rng.below(model.pages()));
                    }
                });
            }
        });
    }
}

#[test]
fn a_consumer_that_stops_stops_the_bulk_read() {
    let plan = Plan::raw(&[(crate::common::plan::What::Data(1), 3000)]);
    let snapshot = open(plan.write(options(snapshot_format::Codec::Stored, 16)));
    #[derive(Debug)]
    struct Enough;
    impl From<snapshot_format::Error> for Enough {
        fn from(error: snapshot_format::Error) -> Self {
            panic!("{error}")
        }
    }
    let mut pieces = 0;
    let end = bulk::read(&snapshot, 0..3000, 3, |_| {
        pieces += 1;
        if pieces == 2 { Err(Enough) } else { Ok(()) }
    });
    assert!(matches!(end, Err(Enough)));
    assert_eq!(pieces, 2);
}

#[test]
fn verify_tells_the_same_on_any_number_of_threads() {
    let plan = Plan::raw(&[(crate::common::plan::What::Data(1), 2000)]);
    let mut file = plan.write(options(snapshot_format::Codec::Lz4, 4));
    // A few frames are hit.
    for at in [5000, 50_000, 200_000, 600_000] {
        file[at] ^= 1;
    }
    let snapshot = open(file);
    let told = |threads| {
        let (mut bad, mut done) = (Vec::new(), 0);
        verify::verify(
            &snapshot,
            threads,
            |found| bad.push((found.first, found.pages, found.error.to_string())),
            |pages| done += pages,
        );
        assert_eq!(done, 2000);
        bad
    };
    let alone = told(1);
    assert!((4..=8).contains(&alone.len()), "{alone:?}");
    assert!(
        alone
            .iter()
            .all(|(_, pages, error)| *pages <= 4 && error.starts_with("corrupt frame at byte "))
    );
    for threads in [2, 5] {
        assert_eq!(told(threads), alone);
    }
}
