//! An index whose nodes are referred to again and again: a few of them could describe 2^36 pages.

use crate::common::forge::Forge;
use crate::common::plan::ID;
use crate::common::{open, options};
use snapshot_format::bulk::{Piece, read};
use snapshot_format::verify::{survey, verify};
use snapshot_format::{Codec, Error, Metadata, PAGE_BYTES, Region, Writer};
use std::io::Cursor as Bytes;

const PAGES: u64 = 1 << 36;

/// The most pages that a snapshot may have. Page 0 has content; `shared`: all have, by one path through five nodes.
fn file(shared: bool) -> Vec<u8> {
    let mut writer = Writer::new(Bytes::new(Vec::new()), options(Codec::Lz4, 1)).unwrap();
    writer
        .begin_region(Region::raw(0, PAGES * PAGE_BYTES))
        .unwrap();
    writer.space().unwrap()[..4096].copy_from_slice(
        &b"abcdefg."
            .repeat(511)
            .iter()
            .copied()
            .chain(*b"the end.")
            .collect::<Vec<u8>>(),
    );
    writer.commit(1).unwrap();
    writer.zeros(PAGES - 1).unwrap();
    let (file, _) = writer.finish(ID, &Metadata::default()).unwrap();
    let mut forge = Forge {
        bytes: file.into_inner(),
    };
    if shared {
        // Page 0 is at the first entry of every node of its path.
        for node in forge.path(0) {
            for entry in 1..256 {
                forge.bytes.copy_within(node..node + 16, node + 16 * entry);
            }
        }
        forge.repair();
    }
    forge.bytes
}

#[test]
fn two_to_the_36_pages_of_which_one_has_content_are_looked_through_at_once() {
    let snapshot = open(file(false));
    assert_eq!(survey(&snapshot, 0..PAGES).unwrap().content_pages, 1);
    let mut pages = 0;
    verify(&snapshot, 2, |bad| panic!("{bad:?}"), |done| pages += done);
    assert_eq!(pages, PAGES);
    let mut seen = 0;
    read(&snapshot, 0..PAGES, 2, |piece| {
        seen += match piece {
            Piece::Zeros(_, pages) => pages,
            Piece::Bytes(_, bytes) => bytes.len() as u64 / PAGE_BYTES,
        };
        Ok::<(), Error>(())
    })
    .unwrap();
    assert_eq!(seen, PAGES);
}

#[test]
fn nodes_that_are_referred_to_again_and_again_keep_nobody_busy() {
    let snapshot = open(file(true));
    let told = "there are more pages than the index has entries for";
    let error = survey(&snapshot, 0..PAGES).unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
    let (mut bad, mut pages) = (Vec::new(), 0);
    verify(&snapshot, 2, |run| bad.push(run), |done| pages += done);
    assert_eq!(pages, PAGES);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].first.0 + bad[0].pages, PAGES);
    assert!(bad[0].error.to_string().contains(told), "{bad:?}");
    let end: Result<(), Error> = read(&snapshot, 0..PAGES, 2, |_| Ok(()));
    let error = end.unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
}
