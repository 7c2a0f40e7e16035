//! Reading allocates when a cursor is made and never again.

use crate::common::plan::{Plan, What};
use crate::common::rng::Rng;
use crate::common::{CODECS, open, options};
use crate::counting::{allocated, alone};
use snapshot_format::{Content, Cursor, PageNo};

#[test]
fn ten_thousand_reads_allocate_nothing() {
    let _alone = alone();
    for codec in CODECS {
        let plan = Plan::raw(&[
            (What::Data(1), 1200),
            (What::Zeros, 70_000),
            (What::Data(2), 300),
        ]);
        let snapshot = open(plan.write(options(codec, 4)));
        let pages = snapshot.pages();
        let mut cursor = Cursor::new(snapshot);
        let mut rng = Rng(1);
        let mut out = [0; 4096];
        let mut frame_out = vec![0; 4 * 4096];
        let mut read = |rng: &mut Rng, times| {
            for _ in 0..times {
                let page = if rng.below(4) == 0 {
                    rng.below(pages)
                } else {
                    rng.below(1200)
                };
                cursor.read_page(PageNo(page), &mut out).unwrap();
                if let Content::Frame { frame, .. } = cursor.content(PageNo(page)).unwrap() {
                    cursor
                        .read_frame(&frame, &mut frame_out[..frame.content_len()])
                        .unwrap();
                }
            }
        };
        read(&mut rng, 50);
        let ((), counted) = allocated(|| read(&mut rng, 3400));
        assert_eq!(counted.calls, 0, "{codec}: {counted:?}");
    }
}

#[test]
fn errors_of_reading_allocate_nothing_but_their_own_words() {
    let _alone = alone();
    let snapshot =
        open(Plan::raw(&[(What::Lost, 10), (What::Parent(1), 10)]).write(options(CODECS[2], 4)));
    let mut cursor = Cursor::new(snapshot);
    let ((), counted) = allocated(|| {
        for page in (0..20).cycle().take(1000) {
            assert!(cursor.read_page(PageNo(page), &mut [0; 4096]).is_err());
        }
    });
    assert_eq!(counted.calls, 0, "{counted:?}");
}

#[test]
fn a_cursor_is_at_most_three_mebibytes_of_index_and_three_frames() {
    let _alone = alone();
    // 1000 leaves of pages of a parent in no order.
    let runs: Vec<(What, u64)> = (0..1000)
        .flat_map(|leaf| [(What::Zeros, 255), (What::Parent(leaf), 1)])
        .collect();
    for (plan, index_limit) in [
        (Plan::raw(&runs), 3 << 20),
        (Plan::raw(&[(What::Data(1), 300)]), 24 << 10),
    ] {
        for frame_pages in [1, 512] {
            let snapshot = open(plan.write(options(CODECS[1], frame_pages)));
            let (_cursor, counted) = allocated(|| Cursor::new(snapshot));
            let limit = index_limit + 3 * usize::from(frame_pages) * 4096 + (64 << 10);
            assert!(counted.peak < limit, "{counted:?}");
        }
    }
}
