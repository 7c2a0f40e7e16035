//! Working sets of version 1, kept for ever, as the snapshots are (golden.rs).

use crate::common::plan::ID;
use crate::common::set::{everything, file};
use crate::common::{CODECS, small};
use snapshot_format::working_set::WorkingSet;
use snapshot_format::{Codec, Cursor, PageNo};
use std::path::Path;
use std::sync::Arc;

fn golden(codec: Codec) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = folder.join(format!("v1-{codec}.ws"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, file(codec, 2)).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn golden_sets_of_version_1_read_for_ever() {
    let mut cursor = Cursor::new(crate::common::open(small::file().to_vec()));
    for codec in CODECS {
        let old = golden(codec);
        let set = Arc::new(WorkingSet::open(old.clone()).unwrap());
        let read = everything(&set).unwrap();
        assert_eq!((read.snapshot, set.recordings()), (ID, 3));
        for (runs, content) in &read.frames {
            let mut content = content.as_chunks::<4096>().0.iter();
            for page in runs
                .iter()
                .filter(|run| !run.zero)
                .flat_map(|run| run.pages.clone())
            {
                let mut expected = [0; 4096];
                cursor.read_page(PageNo(page), &mut expected).unwrap();
                assert!(content.next() == Some(&expected), "{codec}: page {page}");
            }
        }
        let new = file(codec, 2);
        let now = everything(&Arc::new(WorkingSet::open(new.clone()).unwrap())).unwrap();
        assert!(read == now, "{codec}");
        assert!(
            codec != Codec::Stored || old == new,
            "without a codec the whole file is the same"
        );
        assert!(set.zero_pages() > 0 && set.faded_pages() > 0);
    }
}
