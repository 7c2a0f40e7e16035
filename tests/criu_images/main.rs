//! Reading directories of CRIU's images, written by hand for the purpose.
//!
//! | file          | holds                                                          |
//! |---------------|----------------------------------------------------------------|
//! | `writer.rs`   | images, byte by byte                                           |
//! | `reading.rs`  | what is read from good ones                                    |
//! | `parents.rs`  | incremental dumps                                              |
//! | `layouts.rs`  | layouts at random, against what each page must be found to be  |
//! | `refusals.rs` | everything that is refused, and in which words                 |
//! | `damage.rs`   | images that were cut off, or changed in one byte               |
//! | `pagemaps.rs` | pagemaps written again, and marked                             |
//! | `manifest.rs` | manifests                                                      |

mod damage;
mod layouts;
mod manifest;
mod pagemaps;
mod parents;
mod reading;
mod refusals;
mod writer;

use std::os::unix::fs::FileExt;

use uffd_restore::criu::{Images, LazyRun};

/// The numbers of a run's pages, as [`writer::page`] has them; an error for a page that is something else.
fn numbers_in(images: &Images, run: &LazyRun) -> Option<Vec<u64>> {
    let stored = run.stored?;
    let file = &images.files[stored.file];
    let pages = run.at.len() / writer::PAGE;
    assert!(
        stored.page + pages <= file.pages,
        "{run:?} is behind the end"
    );
    let number = |page| {
        let mut bytes = vec![0; 4096];
        let at = page * writer::PAGE;
        file.file
            .read_exact_at(&mut bytes, at)
            .expect("it is there");
        let (number, _) = bytes.split_first_chunk().expect("it is long enough");
        let number = u64::from_le_bytes(*number);
        assert!(bytes == writer::page(number), "a torn page");
        number
    };
    Some((stored.page..stored.page + pages).map(number).collect())
}
