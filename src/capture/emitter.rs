//! The way of pages into the sink: keeps their order, counts them, and knows how far it is.

use snapshot_format::{PAGE_BYTES, PAGE_SIZE, Region};

use super::error::CaptureError;
use super::report::{LostPages, PageCounts, Progress, Report};
use super::sink::{PageSink, SinkError};

/// Hands pages to a sink, in address order.
pub(super) struct Emitter<'a> {
    sink: &'a mut dyn PageSink,
    progress: &'a mut dyn FnMut(Progress),
    /// Regions begun so far.
    regions: usize,
    /// Address of the next page.
    address: u64,
    pub(super) counts: PageCounts,
    pub(super) lost: Vec<LostPages>,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(sink: &'a mut dyn PageSink, progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            sink,
            progress,
            regions: 0,
            address: 0,
            counts: PageCounts::default(),
            lost: Vec::new(),
        }
    }

    pub(super) fn begin_region(&mut self, region: &Region) -> Result<(), CaptureError> {
        self.regions += 1;
        self.address = region.start;
        Ok(self.sink.begin_region(region)?)
    }

    /// Address of the next page.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Copies the pages up to address `end`. `read` gets an address and a buffer of whole pages, and returns how many
    /// pages it has read; if none, the first one is lost.
    pub(super) fn copy_to(
        &mut self,
        end: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, CaptureError>,
    ) -> Result<(), CaptureError> {
        while self.address < end {
            let space = self.sink.space()?;
            let left = usize::try_from(end - self.address).unwrap_or(usize::MAX);
            let room = space.len().min(left) / PAGE_SIZE * PAGE_SIZE;
            if room == 0 {
                return Err(SinkError::new("the sink has no room for a page").into());
            }
            match read(self.address, &mut space[..room])? {
                0 => self.lost_to(self.address + PAGE_BYTES)?,
                pages => {
                    self.sink.commit(pages)?;
                    let pages = pages as u64;
                    self.counts.content += pages;
                    self.advance(pages);
                }
            }
        }
        Ok(())
    }

    /// The pages up to address `end` are zero.
    pub(super) fn zeros_to(&mut self, end: u64) -> Result<(), CaptureError> {
        let pages = self.pages_to(end);
        if pages > 0 {
            self.sink.zeros(pages)?;
            self.counts.zero += pages;
            self.advance(pages);
        }
        Ok(())
    }

    /// The content of the pages up to address `end` is gone.
    pub(super) fn lost_to(&mut self, end: u64) -> Result<(), CaptureError> {
        let pages = self.pages_to(end);
        if pages > 0 {
            self.sink.lost(pages)?;
            self.counts.lost += pages;
            self.remember_lost(pages);
            self.advance(pages);
        }
        Ok(())
    }

    fn remember_lost(&mut self, pages: u64) {
        let (region, address) = (self.regions - 1, self.address);
        if let Some(last) = self.lost.last_mut()
            && last.region == region
            && last.address + last.pages * PAGE_BYTES == address
        {
            last.pages += pages;
        } else if self.lost.len() < Report::LISTED_LOST {
            self.lost.push(LostPages {
                region,
                address,
                pages,
            });
        }
    }

    fn pages_to(&self, end: u64) -> u64 {
        end.saturating_sub(self.address) / PAGE_BYTES
    }

    fn advance(&mut self, pages: u64) {
        self.address += pages * PAGE_BYTES;
        (self.progress)(Progress::Pages(pages));
    }
}
