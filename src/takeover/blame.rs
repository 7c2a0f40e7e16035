//! Which page is to blame when a process dies of decoding it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use snapshot_format::PageNo;

use super::Directory;
use super::directory::THREADS;
use crate::session::{Block, What};
use crate::source::{PageReader, PageSource};

/// Why pages are not served at which workers have died.
const DEADLY: &str =
    "this program died of decoding it, again and again (please report it, with the snapshot)";

/// Another source, of which a directory says at any moment which pages are being read. When workers have died of that, pages are read
/// one at a time, so that the right one is found; and those that are known are bad.
#[expect(
    missing_debug_implementations,
    reason = "a source has nothing to look at"
)]
pub struct Blaming {
    source: Arc<dyn PageSource>,
    shared: Arc<Shared>,
}

struct Shared {
    directory: Directory,
    /// Numbers of readers that are in use.
    taken: [AtomicBool; THREADS],
    /// Somebody has died: whoever reads holds this.
    careful: Option<Mutex<()>>,
    bad: Vec<u64>,
}

impl Blaming {
    /// To be made by each worker for itself.
    #[must_use]
    pub fn new(source: Arc<dyn PageSource>, directory: &Directory) -> Self {
        let shared = Shared {
            directory: directory.clone(),
            taken: [const { AtomicBool::new(false) }; THREADS],
            careful: directory.is_careful().then(Mutex::default),
            bad: directory.bad_pages(),
        };
        let shared = Arc::new(shared);
        Self { source, shared }
    }
}

impl PageSource for Blaming {
    fn reader(&self) -> Box<dyn PageReader> {
        let taken = &self.shared.taken;
        let number = taken
            .iter()
            .position(|taken| !taken.swap(true, Ordering::Relaxed));
        Box::new(Reader {
            reader: self.source.reader(),
            shared: Arc::clone(&self.shared),
            // What the others read is not known.
            number: number.unwrap_or(THREADS),
            part: Block::default(),
        })
    }

    fn granularity(&self) -> u64 {
        self.source.granularity()
    }

    fn around(&self) -> u64 {
        self.source.around()
    }
}

struct Reader {
    reader: Box<dyn PageReader>,
    shared: Arc<Shared>,
    number: usize,
    part: Block,
}

impl PageReader for Reader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        let shared = Arc::clone(&self.shared);
        let Some(careful) = &shared.careful else {
            let _at = At::begin(&shared, self.number, page.0);
            self.reader.read(page, needed, welcome, block);
            return;
        };
        let pages = page.0..page.0.saturating_add(needed.max(1));
        if shared.bad.iter().any(|bad| pages.contains(bad)) {
            block.clear();
            pages.for_each(|page| block.push(page, What::Bad(DEADLY.into())));
            return;
        }
        let _one_at_a_time = careful.lock().unwrap_or_else(PoisonError::into_inner);
        let _at = At::begin(&shared, self.number, page.0);
        // And nothing else.
        self.reader.read(page, needed, &pages, block);
    }

    fn announce(&mut self, pages: &Range<u64>) {
        self.reader.announce(pages);
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        let shared = Arc::clone(&self.shared);
        if shared.careful.is_none() {
            let _at = At::begin(&shared, self.number, pages.start);
            self.reader.read_all(pages, block);
            return;
        }
        block.clear();
        let mut part = std::mem::take(&mut self.part);
        for page in pages.clone() {
            self.read(PageNo(page), 1, &(page..page + 1), &mut part);
            block.append(&mut part);
        }
        self.part = part;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(taken) = self.shared.taken.get(self.number) {
            taken.store(false, Ordering::Relaxed);
        }
    }
}

/// A page is being read.
struct At<'a>(&'a Shared, usize);

impl<'a> At<'a> {
    fn begin(shared: &'a Shared, number: usize, page: u64) -> Self {
        shared.directory.working_at(number, Some(page));
        Self(shared, number)
    }
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        self.0.directory.working_at(self.1, None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Default, Clone)]
    struct Announced(Arc<AtomicU64>);

    impl PageSource for Announced {
        fn reader(&self) -> Box<dyn PageReader> {
            Box::new(self.clone())
        }

        fn granularity(&self) -> u64 {
            16
        }

        fn around(&self) -> u64 {
            4
        }
    }

    impl PageReader for Announced {
        fn read(&mut self, _: PageNo, _: u64, _: &Range<u64>, _: &mut Block) {}

        fn announce(&mut self, pages: &Range<u64>) {
            self.0.store(pages.end, Ordering::Relaxed);
        }

        fn read_all(&mut self, _: &Range<u64>, _: &mut Block) {}
    }

    /// Both have another meaning where a source says nothing of them.
    #[test]
    fn what_is_said_of_the_source_and_to_it_is_passed_on() {
        let source = Announced::default();
        let directory = Directory::new().expect("memory");
        let blaming = Blaming::new(Arc::new(source.clone()), &directory);
        assert_eq!((blaming.granularity(), blaming.around()), (16, 4));
        blaming.reader().announce(&(3..9));
        assert_eq!(source.0.load(Ordering::Relaxed), 9);
    }
}
