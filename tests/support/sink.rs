//! A sink that keeps everything in memory, and checks the contract while it does.

use std::collections::BTreeMap;

use snapshot_format::{PAGE_BYTES, PAGE_SIZE, Region};
use uffd_restore::capture::{self, CaptureError, Options, PageSink, Progress, Report, SinkError};

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    Content(Box<[u8]>),
    Zero,
    Lost,
}

/// Everything that was captured, by address.
pub struct MemorySink {
    pub regions: Vec<Region>,
    pages: BTreeMap<u64, Captured>,
    next: u64,
    space: Vec<u8>,
    /// Called before each region and each piece of one.
    pub disturb: Box<dyn FnMut()>,
}

impl MemorySink {
    /// `room` is the size of [`PageSink::space`] in pages.
    pub fn new(room: usize) -> Self {
        let space = vec![0xee; room * PAGE_SIZE];
        Self {
            regions: Vec::new(),
            pages: BTreeMap::new(),
            next: 0,
            space,
            disturb: Box::new(|| {}),
        }
    }

    fn end_of_region(&self) -> u64 {
        self.regions
            .last()
            .map_or(0, |region| region.start + region.len)
    }

    fn put(&mut self, page: Captured) {
        assert!(
            self.next < self.end_of_region(),
            "more pages than the region has"
        );
        self.pages.insert(self.next, page);
        self.next += PAGE_BYTES;
    }

    fn assert_complete(&self) {
        assert_eq!(
            self.next,
            self.end_of_region(),
            "fewer pages than the region has"
        );
    }

    pub fn page(&self, address: u64) -> &Captured {
        self.pages
            .get(&(address & !0xfff))
            .unwrap_or_else(|| panic!("{address:#x} was not captured"))
    }

    pub fn has(&self, address: u64) -> bool {
        self.pages.contains_key(&(address & !0xfff))
    }

    /// The first word of the page at an address.
    pub fn word(&self, address: u64) -> u64 {
        match self.page(address) {
            Captured::Content(bytes) => u64::from_le_bytes(*bytes.first_chunk().expect("a page")),
            Captured::Zero => 0,
            Captured::Lost => panic!("{address:#x} is lost"),
        }
    }

    /// The first word of each page of a range; `None` for lost ones.
    pub fn words(&self, address: u64, pages: usize) -> Vec<Option<u64>> {
        let word = |page: usize| {
            let address = address + page as u64 * PAGE_BYTES;
            (*self.page(address) != Captured::Lost).then(|| self.word(address))
        };
        (0..pages).map(word).collect()
    }
}

impl PageSink for MemorySink {
    fn begin_region(&mut self, region: &Region) -> Result<(), SinkError> {
        (self.disturb)();
        self.assert_complete();
        assert!(region.start >= self.end_of_region(), "regions in order");
        self.next = region.start;
        self.regions.push(region.clone());
        Ok(())
    }

    fn space(&mut self) -> Result<&mut [u8], SinkError> {
        (self.disturb)();
        // What was not read must not look like what was.
        self.space.fill(0xee);
        Ok(&mut self.space)
    }

    fn commit(&mut self, pages: usize) -> Result<(), SinkError> {
        assert!(pages > 0 && pages * PAGE_SIZE <= self.space.len());
        for page in 0..pages {
            let bytes = self.space[page * PAGE_SIZE..][..PAGE_SIZE].into();
            self.put(Captured::Content(bytes));
        }
        Ok(())
    }

    fn zeros(&mut self, pages: u64) -> Result<(), SinkError> {
        assert!(pages > 0);
        (0..pages).for_each(|_| self.put(Captured::Zero));
        Ok(())
    }

    fn lost(&mut self, pages: u64) -> Result<(), SinkError> {
        assert!(pages > 0);
        (0..pages).for_each(|_| self.put(Captured::Lost));
        Ok(())
    }
}

/// Options that select these regions.
pub fn only(selectors: &[&str]) -> Options {
    let selectors = selectors
        .iter()
        .map(|text| text.parse().expect("a selector"))
        .collect();
    Options {
        selectors,
        ..Options::default()
    }
}

/// Captures, and checks the sums.
pub fn capture(pid: i32, options: &Options) -> Result<(MemorySink, Report), CaptureError> {
    capture_into(MemorySink::new(16), pid, options)
}

pub fn capture_into(
    mut sink: MemorySink,
    pid: i32,
    options: &Options,
) -> Result<(MemorySink, Report), CaptureError> {
    let (mut planned, mut done) = (None, 0);
    let report = capture::run(pid, options, &mut sink, &mut |progress| match progress {
        Progress::Planned { regions, pages } => planned = Some((regions, pages)),
        Progress::Pages(pages) => done += pages,
        _ => {}
    })?;
    sink.assert_complete();
    let total: u64 = report
        .regions
        .iter()
        .map(|region| region.len / PAGE_BYTES)
        .sum();
    assert_eq!(planned, Some((report.regions.len(), total)));
    assert_eq!(done, total);
    assert_eq!(
        report.pages.content + report.pages.zero + report.pages.lost,
        total
    );
    assert_eq!(
        report.lost.iter().map(|lost| lost.pages).sum::<u64>(),
        report.pages.lost
    );
    assert_eq!(report.regions, sink.regions);
    Ok((sink, report))
}
